"""What docs/performance.md quotes, and the picture of the README: each module is a command, `python -m benchmarks.NAME --help`."""
