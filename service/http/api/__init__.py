"""Routes of the service's own API and the schemas of what they take and answer."""
