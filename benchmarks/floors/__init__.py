"""Programs that do the same system calls and bytes as a message of perdure's, and nothing else.

`floor_figures.py` runs them beside what they are the floor of.
"""
