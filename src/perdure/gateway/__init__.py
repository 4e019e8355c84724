"""The place of the HTTP interface for real agents; nothing is here yet."""
