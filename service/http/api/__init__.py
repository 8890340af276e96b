"""Routes of the service's own API, and the schemas of their requests and answers."""
