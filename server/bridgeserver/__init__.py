"""The gateway: HTTP in front, providers behind, a record of every request."""
