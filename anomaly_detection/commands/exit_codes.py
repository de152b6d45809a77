"""How a command begins and ends: what it prints to and imports from; errors told in one line, and the exit code."""

import errno
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from anomaly_detection.commands.verbosity import begin_logging
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory

logger = logging.getLogger(__name__)

# the errors of paths where nothing can ever be written: to try again is no use
NO_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.EACCES, errno.EPERM)

AGAIN = "run the same command again for what is left to do"  # of some commands everything, of training what comes after its last checkpoint
UNREAD = 128 + 13  # as a shell tells of programs that SIGPIPE ends


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a command and leave the process: 0 well, 1 something failed, 2 the user can mend it, 130 interrupted, 141 nobody reads its output."""
    begin_logging()
    for stream in (sys.stdout, sys.stderr):  # names that are no UTF-8, and consoles that know few characters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    keep_memory()
    try:
        _import_from_working_folder()
        code = main(None)
        print(end="", flush=True)  # here, where it is known what to do if that fails
        sys.exit(code)
    except UserError as error:
        logger.debug("raised here:", exc_info=error)
        sys.exit(_told(str(error)))
    except OSError as error:
        logger.debug("raised here:", exc_info=error)
        advice = "name another place" if error.errno in NO_PLACE else f"mend that, then {AGAIN}"
        place = error.filename or ("another process" if isinstance(error, ConnectionError) else "a file")
        if isinstance(error, BrokenPipeError) and (_is_unread(sys.stdout) or _is_unread(sys.stderr)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python has yet to write when it ends
            sys.exit(UNREAD)
        sys.exit(_told(f"{place}: {error.strerror or error}; {advice}"))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what Python does at its end, without a word
        print(f"\ninterrupted; {AGAIN}", file=sys.stderr)
        sys.exit(130)


def _is_unread(stream: TextIO) -> bool:
    """Whether who read a stream has gone, as `| head` when it has had enough; also where the system does not tell."""
    if not hasattr(select, "poll"):
        return True
    try:
        poll = select.poll()
        poll.register(stream, 0)  # of its end it tells in any case
        return bool(poll.poll(0))
    except (OSError, ValueError):  # no file of the system
        return False


def _import_from_working_folder() -> None:
    """Let --models my_module:MyBaseline name a file of the working folder however the command was started: `python -m` does so, a console command
    looks beside itself. Behind everything else, so that no random.py there is taken for Python's."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise UserError("the working folder is gone; change to another") from None
    if folder not in sys.path and not getattr(sys.flags, "safe_path", False):
        sys.path.append(folder)


def _told(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
