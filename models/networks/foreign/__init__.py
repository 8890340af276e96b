"""Networks that were made elsewhere, and the proof that their rows do not mix."""
