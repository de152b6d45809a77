"""From jobs to a finished dataset folder: images, masks and a manifest, made by several processes.

A dataset is built in a folder beside its place, `.NAME.partial`, with a journal of the jobs that are done, and moved into its place when it
is complete. A run that was stopped goes on from the journal; what lies under the dataset's name is always whole.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from filelock import FileLock, Timeout

from anomaly_detection.data.formats.header import Header
from anomaly_detection.data.formats.pictures import write_png
from anomaly_detection.data.formats.sources import SourceFile, same_name
from anomaly_detection.data.manifest import MANIFEST, Key, Row, pixels_hash, read_manifest, write_manifest
from anomaly_detection.data.masks import mask_path
from anomaly_detection.data.prepare.identity import settle_patients
from anomaly_detection.data.prepare.scans import masks_elsewhere_warning, other_windows_warning
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.record import RECORD, STORED
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, wait_for_disk, whole_file
from anomaly_detection.system.processes import map_jobs

logger = logging.getLogger(__name__)

VERSION = 5  # raise it when the same files and settings come to give other images
WAITING = 0.05  # of the time, at most, is spent on waiting for the disk
TOLD = ("name", "patient", "abnormal")  # what jobs are told of their images beside the settings, as far as it does not follow from the files
AT_A_TIME = 2**23  # bytes that a process compares: files of some kB are read faster than they are given to it one by one
LONGEST = 200  # bytes of a file's name; file systems take 255, and unfinished files have longer ones


class Picture(NamedTuple):
    """One image of a dataset before it gets its size.

    Attributes:
        name: of its file, "/" between folders, without suffix.
        patient: whose it is; images of one patient are never on two sides of a split. "" where that follows from header, folder or file.
        abnormal: whether it shows disease.
        pixels: (H, W) or (H, W, 3) uint8.
        mask: (H, W) bool, where the lesion is; None where that is not known.
        header: what the file says of whose it is, and how it was taken.
        apart: by how many mm the files of image and mask say that they lie apart in the patient, see `Volume.apart`; 0 where they do not.
        windows: of the file's header, see `read_windows`, where images are shown through these.
    """

    name: str
    patient: str
    abnormal: bool
    pixels: np.ndarray
    mask: np.ndarray | None = None
    header: Header = Header()
    apart: float = 0.0
    windows: frozenset[str] = frozenset()


class NoImage(UserError):
    """A sound file that gives no image, such as a volume without a marked slice: it is left out and listed, never a reason to stop."""


class Job(Protocol):
    """Some files of a download that become images together; can be pickled. What it is told of them has the names in `TOLD`."""

    @property
    def sources(self) -> tuple[SourceFile, ...]: ...

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """The images in the sources, which can be read at `paths`; raises UserError where they cannot."""


class _Result(NamedTuple):
    rows: list[Row]
    bad: str | None
    turned_grey: int = 0
    apart: float = 0.0
    windows: Sequence[str] = ()


def build_dataset(
    folder: Path,
    jobs: Sequence[Job],
    preprocessing: Preprocessing,
    settings: dict,
    workers: int | None,
    skip_bad: bool,
    told_by: Key = "name",
    accept: Callable[[list[Row]], object] = len,
) -> tuple[list[Row], list[str], bool]:
    """Make the images of a dataset in `folder`, or find that they are made.

    Args:
        folder: the dataset's folder; its parent is the data root.
        jobs: what it is made of.
        preprocessing: how images are shown and stored; its `size` is not None.
        settings: whatever else the images depend on; JSON.
        workers: processes; None: one for each processor.
        skip_bad: leave out what cannot be read; otherwise the first such file ends it.
        told_by: by what the jobs know the patients that they name, see `settle_patients`.
        accept: is given the rows before the images take their place, and raises UserError where they are no dataset. They stay unfinished work then,
            which the same command takes up, and another one begins anew.

    Returns:
        the rows of the manifest in order of `image`, one line for each file that was left out, and whether anything was done.

    Raises:
        UserError: a file cannot be read, no image is left, two files would get one name, `folder` holds something else, or another process is at it.
    """
    stored = {key: preprocessing.to_plain()[key] for key in STORED}
    settings = {"channels": preprocessing.stored_channels, **settings}
    record = {"version": VERSION, **stored, **settings, "sources": _fingerprint(jobs, workers)}
    if folder.exists() and any(folder.iterdir()):
        return _made_before(folder, record)
    lock = _beside(folder, "lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            try:
                return *_make(folder, jobs, preprocessing, record, workers, skip_bad, told_by, accept), True
            finally:
                with contextlib.suppress(OSError):  # Windows keeps a file that is in use
                    lock.unlink()
    except Timeout:
        raise UserError(f"{folder}: another process prepares it; wait for it to end") from None


def _make(
    folder: Path,
    jobs: Sequence[Job],
    preprocessing: Preprocessing,
    record: dict,
    workers: int | None,
    skip_bad: bool,
    told_by: Key,
    accept: Callable[[list[Row]], object],
) -> tuple[list[Row], list[str]]:
    if folder.exists():  # before the work: a mount point, for one, cannot be replaced
        os.rmdir(os.path.realpath(folder))
    unfinished = _beside(folder, "partial")
    unfinished.mkdir(exist_ok=True)
    for stale in unfinished.rglob(".*.partial"):  # of a process that was killed
        stale.unlink()
    journal = _Journal(unfinished / "journal.jsonl", record)
    left = [place for place in range(len(jobs)) if not journal.has(place, skip_bad)]
    work = functools.partial(_convert, folder=unfinished, preprocessing=preprocessing, skip_bad=skip_bad)
    with journal:
        for place, result in zip(left, map_jobs(work, [jobs[place] for place in left], workers, f"preparing {folder.name}", "file"), strict=True):
            journal.add(place, result)
    results = [journal.done[place] for place in range(len(jobs))]
    rows, bad = sorted((row for result in results for row in result.rows), key=lambda row: row.image), [r.bad for r in results if r.bad]
    if turned_grey := sum(result.turned_grey for result in results):
        logger.warning("%s: %d colour images were turned grey; --channels 3 keeps their colours", folder.name, turned_grey)
    if line := masks_elsewhere_warning({job.sources[1]: result.apart for job, result in zip(jobs, results, strict=True) if result.apart}):
        logger.warning("WARNING: %s: %s", folder.name, line)
    if line := other_windows_warning((result.rows[0], result.windows) for result in results if result.windows):
        logger.warning("WARNING: %s: %s", folder.name, line)
    _refuse_one_name_for_two(rows)
    rows = settle_patients(rows, told_by)
    if not rows:
        raise UserError(f"{folder.name}: none of {len(jobs)} files gave an image" + (f"; the first: {bad[0]}" if bad else ""))
    accept(rows)
    write_manifest(unfinished / MANIFEST, rows)
    with whole_file(unfinished / RECORD) as partial:
        partial.write_text(json.dumps({**record, "skipped": bad}, indent=1), encoding="utf-8")
    os.replace(unfinished, os.path.realpath(folder))
    (folder / "journal.jsonl").unlink()
    return rows, bad


def _beside(folder: Path, what: str) -> Path:
    """A hidden name beside a dataset's folder; where that is a link, beside what it leads to."""
    place = Path(os.path.realpath(folder))
    return place.with_name(f".{place.name}.{what}")


def _made_before(folder: Path, record: dict) -> tuple[list[Row], list[str], bool]:
    try:
        made = read_json(folder / RECORD)
        bad = made.pop("skipped")
    except (UserError, KeyError):
        raise UserError(f"{folder}: exists and was not made by this command; move it away, or name another --data-root") from None
    differ = [key for key in {**made, **record} if made.get(key) != record.get(key)]
    if differ:
        what = "other source files" if differ == ["sources"] else f"another {', '.join(differ)}"
        what = "an older version of this program" if "version" in differ else what
        raise UserError(f"{folder}: was prepared with {what}; delete it to prepare it anew, or name another --data-root")
    return read_manifest(folder / MANIFEST), bad, False


def _fingerprint(jobs: Sequence[Job], workers: int | None) -> str:
    """What changes with the names and contents of the files, and with what jobs are told of them.

    A file that was replaced by another of its size is another, and one that was moved among the abnormal images has another label.
    """
    sources = [source for job in jobs for source in job.sources]
    few = sum(source.size for source in sources) < 2**30  # bytes, which are read before processes would have started
    sums = map_jobs(SourceFile.checksum, sources, 1 if few else workers, "comparing", "file", groups=_groups(sources))
    files = [(source.name, source.size, value) for source, value in zip(sources, sums, strict=True)]
    told = [(len(job.sources), *(getattr(job, name, None) for name in TOLD)) for job in jobs]
    return hashlib.sha256(json.dumps([files, told]).encode()).hexdigest()[:16]


def _groups(sources: Sequence[SourceFile]) -> list[int]:
    """How many of the next files are compared at a time: as many as have AT_A_TIME bytes together, or a larger one alone."""
    counts, size = [], float("inf")
    for source in sources:
        size += source.size
        if size > AT_A_TIME:
            counts.append(0)
            size = source.size
        counts[-1] += 1
    return counts


def _refuse_one_name_for_two(rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(same_name(row.image), row)
        if other is not row:
            raise UserError(f"{other.source} and {row.source}: both would give the image {row.image}; rename one of them")


def _convert(job: Job, folder: Path, preprocessing: Preprocessing, skip_bad: bool) -> _Result:
    """Write the images of one job; runs in a worker."""
    rows: list[Row] = []
    turned_grey, apart, windows = 0, 0.0, set()
    try:
        with contextlib.ExitStack() as stack:
            paths = [stack.enter_context(source.on_disk()) for source in job.sources]
            digest = _sha256(paths[0], job.sources[0])
            for picture in job.pictures(paths):
                rows.append(_write(picture, job.sources[0].name, digest, folder, preprocessing))
                turned_grey += preprocessing.loses_colour(picture.pixels)
                apart = max(apart, picture.apart)
                windows |= picture.windows
    except UserError as error:
        if not (skip_bad or isinstance(error, NoImage)):
            raise
        for row in rows:  # a file counts whole or not at all
            (folder / row.image).unlink()
        return _Result([], str(error))
    return _Result(rows, None, turned_grey, apart, sorted(windows))


def _write(picture: Picture, source: str, digest: str, folder: Path, preprocessing: Preprocessing) -> Row:
    try:
        source.encode()
    except UnicodeEncodeError:
        if sys.getfilesystemencoding() != "utf-8":
            raise UserError(f"{source!r}: a name that the locale of this command has no letters for; set PYTHONUTF8=1") from None
        raise UserError(f"{source!r}: a name that is no UTF-8, as {MANIFEST} is; rename the file or its folder") from None
    if not picture.name.isprintable():
        raise UserError(f"{source!r}: a name that no line of a split file can hold; rename the file")
    if max(len(os.fsencode(part)) for part in picture.name.split("/")) > LONGEST:
        raise UserError(f"{source}: a name of more than {LONGEST} bytes; rename the file")
    pixels = preprocessing.store(picture.pixels)
    image = f"{'abnormal' if picture.abnormal else 'normal'}/{picture.name}.png"
    _save(pixels, folder / image)
    mask_pixels = None
    if picture.mask is not None:
        mask = preprocessing.store_mask(picture.mask)
        _save(mask.astype(np.uint8) * 255, folder / mask_path(image))
        mask_pixels = int(np.count_nonzero(mask))
    content = _content(pixels, image)
    return Row(image, int(picture.abnormal), picture.patient, source, digest, content, mask_pixels, **picture.header._asdict())


def _content(pixels: np.ndarray, image: str) -> str:
    """What is the same of the same image under two names; empty slices look alike in all patients, so they count as different."""
    return pixels_hash(pixels) if pixels.min() < pixels.max() else hashlib.sha256(image.encode()).hexdigest()[:16]


def _save(pixels: np.ndarray, path: Path) -> None:
    with whole_file(path, await_disk=False) as partial:  # the journal waits
        write_png(pixels, partial)


def _sha256(path: Path, source: SourceFile) -> str:
    """Of a file; raises UserError where it cannot be read, by the name of its source."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); allow it, or leave it out with --skip-bad") from None
    return digest.hexdigest()


class _Journal:
    """The jobs that are done, a line each, by their place among all jobs, so that a run that was stopped need not do them again.

    Lines are written in groups, once the images they tell of are on disk, for which all of a group wait together.
    What lies beside a journal of other settings, or of an older version, is deleted: it is this module's own unfinished work.
    """

    def __init__(self, path: Path, record: dict):
        self.done: dict[int, _Result] = {}
        self._waiting: list[str] = []
        self._noted, self._waited = 0.0, 0.0  # when, and how long the disk took
        self._path, self._first = path, json.dumps(record)
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        if lines and lines[0] == self._first:
            with contextlib.suppress(ValueError):  # from here on a machine that stopped has left what the disk held before
                for line in lines[1:-1]:  # the last one is empty, or was cut short
                    place, rows, *rest = json.loads(line)
                    self.done[place] = _Result([Row(*row) for row in rows], *rest)
        else:
            shutil.rmtree(path.parent)
            path.parent.mkdir()

    def has(self, place: int, skip_bad: bool) -> bool:
        """Whether the job at a place is done; what was left out for being bad is tried again unless that may be."""
        return place in self.done and (skip_bad or self.done[place].bad is None)

    def __enter__(self):
        text = "".join(f"{line}\n" for line in (self._first, *(self._line(*item) for item in self.done.items())))
        with whole_file(self._path) as partial:
            partial.write_text(text, encoding="utf-8")
        self._file = open(self._path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_):
        self._note()
        self._file.close()

    def add(self, place: int, result: _Result) -> None:
        """Note soon that a job is done: what was done since the last note is done again after a run was killed."""
        self.done[place] = result
        self._waiting.append(self._line(place, result) + "\n")
        if time.monotonic() - self._noted >= self._waited / WAITING:
            self._note()

    def _note(self) -> None:
        began = time.monotonic()
        wait_for_disk()
        self._file.writelines(self._waiting)
        self._file.flush()
        self._waiting.clear()
        self._noted = time.monotonic()
        self._waited = self._noted - began

    @staticmethod
    def _line(place: int, result: _Result) -> str:
        return json.dumps([place, [list(vars(row).values()) for row in result.rows], *result[1:]])
