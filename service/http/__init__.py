"""HTTP: the application, its routes, and what guards them. Nothing here knows of torch."""
