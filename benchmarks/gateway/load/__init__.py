"""The load generator: a process of its own that does what it is told, a line of JSON at a time."""
