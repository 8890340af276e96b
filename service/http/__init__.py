"""HTTP: the application, its routes, and their guards. Nothing here imports torch."""
