"""Checkpoints: all that training needs to go on as if it had not stopped, and all that scoring needs."""

import errno
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import delete_partials, whole_file

logger = logging.getLogger(__name__)

VERSION = 2  # of the layout; raise it when what a checkpoint holds comes to be named or meant otherwise


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, whole or not at all, marked with `VERSION`."""
    # Through memory: torch tells a full disk in a way of its own, a plain write as the OSError it is.
    buffer = BytesIO()
    torch.save({**content, "version": VERSION}, buffer)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


class FirstPhases:
    """The file of first phases that several experiments share. A context, in which who has yet to train them waits for the file or is to write it, so
    that of experiments that begin together one trains them.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path.with_suffix(".lock"))

    def __enter__(self) -> "FirstPhases":
        return self

    def wait(self) -> None:
        """Until the file is there, or nobody is at it: then it is this one's to write, and the others wait until it is there, or the context ends."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                logger.info("waiting for the first phases of training, which another experiment does for this one, too")
                self._lock.acquire()
            if self.path.exists():
                self._lock.release()
                return
            delete_partials(self.path.parent, self.path.name, alone=True)

    def save(self, content: dict[str, Any]) -> None:
        """Write the file, and let the others go on from it."""
        save_checkpoint(self.path, content)
        self._lock.release()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU: networks and optimizers copy it to where they are. Only tensors and plain values are unpickled.

    Raises:
        UserError: the file is missing, cannot be read, is larger than the memory that is left, is damaged, or is of another version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; train first") from None
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise UserError(f"{path}: {_reason(error)}") from None
    version = content.get("version", 1) if isinstance(content, dict) else None
    if version != VERSION:
        remedy = "train again into another --results, or use the version of this package that wrote it"
        raise UserError(f"{path}: a checkpoint of layout {version}, where {VERSION} is read; {remedy}")
    return content


def _reason(error: Exception) -> str:
    """Why a checkpoint that is there was not read, and what to do: the file is whole unless it is damaged."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # with that ends the search for a place that a file cut short does not have
        return f"cannot be read ({error.strerror or error}); it is left as it is: allow it or look to the disk, and try again"
    if isinstance(error, MemoryError) or "you tried to allocate" in str(error):  # torch has no error of its own for a CPU's memory
        return "does not fit into the memory that is left; end other programs or use a machine with more, and try again"
    return f"damaged checkpoint ({type(error).__name__}); delete it to train again from the start"
