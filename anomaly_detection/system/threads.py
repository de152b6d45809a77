"""How the threads of one process wait for each other."""

import os


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep where they wait, unless the environment says otherwise. For a program's start: torch's OpenMP looks once, when torch
    is imported.

    By themselves they spin, for milliseconds behind every one of a step's many short pieces. As soon as any other process wants the cores, a thread
    spins away the time in which the one that it waits for could run: steps on two cores took five times the processor time and were six times as
    slow as with threads that sleep, and four times as slow as with one thread.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
