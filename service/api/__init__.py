"""The routes, one module for each resource. Nothing here knows of torch."""
