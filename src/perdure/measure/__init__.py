"""Where instructions, pages and cycles go: benchmarks, profiles, reports.

`bench` runs what was made with canbench.
"""
