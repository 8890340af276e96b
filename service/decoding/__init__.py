"""From picture files to what workers take: small ones at once, large ones in processes apart."""
