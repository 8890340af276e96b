"""Bundles from classifiers that were made elsewhere, and why one may be refused."""
