"""What a user would take instead of this project, on the same images and splits: `python -m benchmarks.peers --help`."""
