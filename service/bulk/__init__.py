"""Certifying whole data sets: the engine without a service around it."""
