"""The tools of MCP servers: which a caller has, and how they are called."""
