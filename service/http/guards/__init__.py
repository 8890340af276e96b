"""Checks that a request must pass before work is done for it: keys, limits, overload, sites."""
