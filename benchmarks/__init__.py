"""What docs/performance.md, protocol.md, results.md and statistics.md quote, and the picture of the README.

Modules that ask whether they are `__main__` are commands, `python -m benchmarks.NAME --help`; the others are what these share.
"""
