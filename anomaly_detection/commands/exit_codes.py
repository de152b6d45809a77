"""How a command ends: errors told in one line, and the exit code."""

import io
import logging
import sys
from collections.abc import Callable

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.memory import keep_memory


def run(main: Callable[[list[str] | None], int]) -> None:
    """Run a command and leave the process: 0 well, 1 something failed, 2 the user can mend it, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):  # names that are no UTF-8, and consoles that know few characters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    keep_memory()
    try:
        sys.exit(main(None))
    except UserError as error:
        sys.exit(_told(str(error)))
    except OSError as error:
        sys.exit(
            _told(f"{error.filename or 'a file'}: {error.strerror or error}; nothing that was saved is lost, run the same command again to continue")
        )
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _told(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
