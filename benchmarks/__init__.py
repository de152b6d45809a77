"""What the README's performance section quotes: each module is a command, `python -m benchmarks.NAME --help`."""
