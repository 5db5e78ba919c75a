"""How fast the store answers when it is full."""
