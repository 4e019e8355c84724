"""The rules of the Internet Computer, one message at a time."""
