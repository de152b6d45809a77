"""What docs/performance.md quotes, and the picture of the README: each module is a command, `python -m benchmarks.NAME --help`."""

from anomaly_detection.system.threads import sleep_while_waiting

sleep_while_waiting()  # as the project's commands have it; to be said before torch is imported
