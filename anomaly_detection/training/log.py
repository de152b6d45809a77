"""log.csv: the losses along training, a row every log interval; and the same numbers for TensorBoard."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anomaly_detection.system.distributed import averaged
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

SHORTEST = time.get_clock_info("monotonic").resolution  # seconds; a coarse clock may stand still during a few quick steps


class Means:
    """Of the losses since the last row: sums, which stay on their device."""

    def __init__(self):
        self._restart()

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps, self._started = 0, time.monotonic()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Those of a step."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def take(self, images: int, since: float = 0.0) -> dict[str, float]:
        """The means, over all processes, and images_per_second with so many images a step; then begin anew.

        What was before `since` (of `time.monotonic`), such as the preparation of a phase, is no time of the steps.
        """
        means = averaged({name: value / self._steps for name, value in self._sums.items()})
        seconds = time.monotonic() - max(since, self._started)
        means["images_per_second"] = self._steps * images / max(seconds, SHORTEST)
        self._restart()
        return means


class TrainingLog:
    """Rows of named numbers, in memory and in a CSV file that is rewritten whole (a run has hundreds of rows, not millions)."""

    def __init__(self, folder: Path, tensorboard: bool, rows: list[dict[str, Any]]):
        """`rows` are those of the checkpoint that training continues from; whatever the file holds beyond them is forgotten."""
        self.path = folder / "log.csv"
        self.rows = rows
        self._writer = tensorboard_writer()(folder / "tensorboard", purge_step=self._step() + 1) if tensorboard else None

    def _step(self) -> int:
        """Iterations up to the last row, over all phases: TensorBoard wants steps that never go back."""
        last = {row["phase"]: row["iteration"] for row in self.rows}
        return sum(last.values())

    def add(self, row: dict[str, Any]) -> None:
        """Append a row and write the file. No disk is awaited before `close`: a run that goes on begins with the rows of its checkpoint."""
        self.rows.append(row)
        self._write(await_disk=False)
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{row['phase']}/{name}", value, self._step())

    def _write(self, await_disk: bool) -> None:
        columns = list(dict.fromkeys(column for each in self.rows for column in each))
        with whole_file(self.path, await_disk) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def close(self) -> None:
        """Put the file on the disk, and flush what TensorBoard has not written yet."""
        if self.rows:
            self._write(await_disk=True)
        if self._writer is not None:
            self._writer.close()


def tensorboard_writer() -> type:
    """TensorBoard's SummaryWriter.

    Raises:
        UserError: the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard: true needs the package: pip install tensorboard, or --set tensorboard=false") from None
    return SummaryWriter
