"""The laws of noise."""
