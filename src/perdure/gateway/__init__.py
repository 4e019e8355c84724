"""The HTTP interface for real agents."""
