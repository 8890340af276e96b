"""From picture files to workers' input: small ones at once, large ones in separate processes."""
