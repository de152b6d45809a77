"""How far some work is: a bar on a terminal; in a file, where a bar would be thousands of carriage returns, a line now and then."""

import io
import logging
import os
import sys
from collections.abc import Iterable
from threading import RLock
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60
HIDDEN = "TQDM_DISABLE"  # in the environment, so that worker processes inherit it


def is_quiet() -> bool:
    """Whether warnings and results alone are to be told: what `--quiet` says to the package's logger."""
    return logging.getLogger("anomaly_detection").level > logging.INFO


def progress_bar(iterable: Iterable | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """A progress bar, as tqdm takes and gives it; lines of the log where stderr is no terminal.

    Args:
        iterable: what is gone through; None: whoever has the bar calls `update`.
        shown: False: neither bar nor lines, as in all processes but one that work together, where it is quiet, and where `HIDDEN` is set.
        options: desc, total, unit, unit_scale, initial, leave: as tqdm has them.
    """
    hidden = not shown or is_quiet() or os.environ.get(HIDDEN, "0") not in ("", "0")
    if hidden or sys.stderr.isatty():
        return _Bar(iterable, dynamic_ncols=True, disable=hidden, **options)
    return _Lines(iterable, **options)


class _Bar(tqdm):
    """No two processes write bars at once. By itself tqdm takes a lock of the system for that case, of which Python complains when a process is
    stopped that has not given it back, as workers are by Ctrl-C."""

    _lock = RLock()


class _Lines(_Bar):
    """The text of a bar as lines of the log."""

    monitor_interval = 0  # no thread: processes are forked meanwhile

    def __init__(self, iterable: Iterable | None, **options: Any):
        text = "{desc}: {n_fmt} of {total_fmt} {unit}, {remaining} left{postfix}"
        seconds = dict.fromkeys(("mininterval", "maxinterval", "delay"), SECONDS_BETWEEN_LINES)
        super().__init__(iterable, **{**options, "file": io.StringIO(), "bar_format": text, "leave": False}, **seconds)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm when there is something to show; an empty text would clear it."""
        if msg is None:
            logger.info(str(self))
