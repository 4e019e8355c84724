"""Wasmtime, fenced: compile, cache, instantiate, run; memories as private file mappings."""
