"""Wires rules, engine and files together; the one mutable reference."""
