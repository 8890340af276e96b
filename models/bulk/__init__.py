"""Certifying whole data sets: where pictures come from, and what is kept of their answers."""
