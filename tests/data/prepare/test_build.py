"""Making a dataset's folder: whole or not at all, resumable, the same with any number of processes."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from anomaly_detection.data.formats.sources import SourceFile, list_source
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.manifest import read_manifest
from anomaly_detection.data.prepare import build as module
from anomaly_detection.data.prepare.build import Picture, build_dataset
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError


@dataclass(frozen=True)
class NumberJob:
    """A text file with a number becomes two images of that grey, one of them abnormal."""

    sources: tuple[SourceFile, ...]
    seconds: float = 0

    def pictures(self, paths) -> Iterator[Picture]:
        text = paths[0].read_text()
        time.sleep(self.seconds)
        name = self.sources[0].stem
        grey = int(text) if text.isdigit() else 0
        yield Picture(name, name, False, np.full((20, 30), grey, np.uint8))
        if not text.isdigit():
            raise UserError(f"{self.sources[0]}: {text!r} is no number; write one")
        mask = np.zeros((20, 30), bool)
        mask[:10] = True
        yield Picture(f"{name}%b", name, True, np.full((20, 30), grey + 1, np.uint8), mask)


@pytest.fixture
def jobs(tmp_path):
    for number in range(6):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / f"n{number}.txt").write_text(str(10 * number))
    return [NumberJob((file,)) for file in list_source(tmp_path / "source")]


def make(folder, jobs, workers=1, skip_bad=False, settings=None, size=20, window=None):
    return build_dataset(folder, jobs, Preprocessing(window, size=size), settings or {}, workers, skip_bad)


def digest(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def test_images_masks_and_manifest(tmp_path, jobs):
    rows, bad, made = make(tmp_path / "data" / "set", jobs)
    assert (bad, made, len(rows)) == ([], True, 12)
    assert read_manifest(tmp_path / "data" / "set" / "manifest.csv") == rows
    row = next(row for row in rows if row.image == "abnormal/n3%b.png")
    assert np.asarray(Image.open(tmp_path / "data" / "set" / row.image)).tolist() == [[31] * 20] * 20
    mask = np.asarray(Image.open(tmp_path / "data" / "set" / "masks" / "n3%b.png"))
    assert (mask[:10] == 255).all()
    assert not mask[10:].any()
    assert (row.abnormal, row.patient, row.source, row.mask_pixels) == (1, "n3", "n3.txt", 200)
    assert row.source_sha256 == hashlib.sha256(b"30").hexdigest()
    assert len({row.pixels_sha256 for row in rows}) == 12
    assert sorted(os.listdir(tmp_path / "data")) == ["set"]


@dataclass(frozen=True)
class ColourJob:
    """A text file becomes a picture that is red in one place."""

    sources: tuple[SourceFile, ...]

    def pictures(self, paths) -> Iterator[Picture]:
        pixels = np.full((20, 20, 3), 90, np.uint8)
        pixels[:10] = 200, int(paths[0].read_text()), 0
        yield Picture(self.sources[0].stem, "p", False, pixels)


def test_images_with_the_same_pixels_have_one_hash_but_blank_ones_do_not(tmp_path, jobs):
    """Two patients with the same image are one; all have blank slices that look alike."""
    for name in ("n0", "n1", "n4", "n5"):
        (tmp_path / "source" / f"{name}.txt").write_text("70")
    rows, _, _ = make(tmp_path / "set", [*jobs[:2], *(ColourJob(job.sources) for job in jobs[3:])])
    hashes = {row.image: row.pixels_sha256 for row in rows}
    assert len({value for image, value in hashes.items() if image.startswith(("normal/n0", "normal/n1", "abnormal/"))}) == 4
    assert hashes["normal/n4.png"] == hashes["normal/n5.png"] != hashes["normal/n3.png"]


@pytest.mark.parametrize("workers", [1, 2])
def test_colour_that_is_turned_grey_is_told(tmp_path, jobs, caplog, workers):
    jobs = [jobs[0], *(ColourJob(job.sources) for job in jobs[1:4])]
    build_dataset(tmp_path / "set", jobs, Preprocessing(size=20), {}, workers, False)
    assert [record.message for record in caplog.records] == ["set: 3 colour images were turned grey; --channels 3 keeps their colours"]
    assert Image.open(tmp_path / "set" / "normal" / "n1.png").mode == "L"
    caplog.clear()
    build_dataset(tmp_path / "set", jobs, Preprocessing(size=20), {}, workers, False)
    build_dataset(tmp_path / "colour", jobs, Preprocessing(size=20, stored_channels=3), {}, workers, False)
    assert not caplog.records
    image = np.asarray(Image.open(tmp_path / "colour" / "normal" / "n1.png"))
    assert image[0, 0].tolist() == [200, 10, 0]
    assert image[19, 0].tolist() == [90, 90, 90]
    assert Image.open(tmp_path / "colour" / "normal" / "n0.png").mode == "L"
    with pytest.raises(UserError, match="was prepared with another channels; delete it"):
        build_dataset(tmp_path / "set", jobs, Preprocessing(size=20, stored_channels=3), {}, workers, False)


def test_colours_of_a_run_that_was_stopped_are_counted(tmp_path, jobs, caplog, monkeypatch):
    jobs = [ColourJob(job.sources) for job in jobs]
    convert = module._convert
    monkeypatch.setattr(module, "_convert", lambda job, **options: convert(job, **options) if job in jobs[:4] else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_dataset(tmp_path / "set", jobs, Preprocessing(size=20), {}, 1, False)
    monkeypatch.setattr(module, "_convert", convert)
    build_dataset(tmp_path / "set", jobs, Preprocessing(size=20), {}, 1, False)
    assert [record.message for record in caplog.records] == ["set: 6 colour images were turned grey; --channels 3 keeps their colours"]


def test_the_number_of_processes_changes_nothing(tmp_path, jobs):
    make(tmp_path / "a" / "set", jobs)
    make(tmp_path / "b" / "set", jobs, workers=3)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_second_run_does_nothing(tmp_path, jobs):
    first = make(tmp_path / "set", jobs)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    assert make(tmp_path / "set", jobs) == (first[0], [], False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_a_link(tmp_path, jobs, there):
    """To another disk, say, and to an empty folder or to none yet."""
    (tmp_path / "disk" / "mine").mkdir(parents=True)
    (tmp_path / "set").symlink_to(tmp_path / "disk" / "mine")
    if not there:
        (tmp_path / "disk" / "mine").rmdir()
    make(tmp_path / "whole" / "set", jobs)
    make(tmp_path / "set", jobs)
    assert (tmp_path / "set").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["mine"]
    assert digest(tmp_path / "set") == digest(tmp_path / "whole" / "set")


def test_a_folder_that_cannot_be_replaced_is_told_before_the_work(tmp_path, jobs, monkeypatch):
    def busy(path):
        raise OSError(errno.EBUSY, "Device or resource busy", path)

    (tmp_path / "set").mkdir()
    monkeypatch.setattr(os, "rmdir", busy)
    monkeypatch.setattr(module, "_convert", lambda job, **options: 1 / 0)
    with pytest.raises(OSError, match="busy"):
        make(tmp_path / "set", jobs)


def test_other_settings_and_other_files_are_refused(tmp_path, jobs):
    make(tmp_path / "set", jobs, window=Window(40, 400))
    with pytest.raises(UserError, match=r"set: was prepared with another window; delete it"):
        make(tmp_path / "set", jobs, window=Window(50, 400))
    with pytest.raises(UserError, match="with another size, window"):
        make(tmp_path / "set", jobs, size=30)
    with pytest.raises(UserError, match="with other source files"):
        make(tmp_path / "set", jobs[1:], window=Window(40, 400))
    (tmp_path / "source" / "n3.txt").write_text("31")  # as long as before
    with pytest.raises(UserError, match="with other source files"):
        make(tmp_path / "set", jobs, window=Window(40, 400))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.png").touch()
    with pytest.raises(UserError, match="was not made by this command"):
        make(tmp_path / "mine", jobs)
    assert (tmp_path / "mine" / "precious.png").exists()


def test_a_bad_file_stops_everything_or_is_left_out(tmp_path, jobs):
    (tmp_path / "source" / "n2.txt").write_text("two")
    jobs = [NumberJob((file,)) for file in list_source(tmp_path / "source")]
    for workers in (1, 2):
        with pytest.raises(UserError, match=r"n2\.txt: 'two' is no number"):
            make(tmp_path / "set", jobs, workers)
        assert not (tmp_path / "set").exists()
    rows, bad, _ = make(tmp_path / "set", jobs, skip_bad=True)
    assert len(bad) == 1
    assert "n2.txt" in bad[0]
    assert len(rows) == 10
    assert not (tmp_path / "set" / "normal" / "n2.png").exists(), "a file counts whole or not at all"
    assert make(tmp_path / "set", jobs) == (rows, bad, False)


def test_a_file_that_may_not_be_read_is_a_bad_one(tmp_path, jobs):
    place = tmp_path / "source" / "n2.txt"
    place.unlink()
    place.mkdir()  # root may read any file
    with pytest.raises(UserError, match=r"n2\.txt: cannot be read \(Is a directory\); allow it, or leave it out with --skip-bad"):
        make(tmp_path / "set", jobs)
    rows, (bad,), _ = make(tmp_path / "set", jobs, skip_bad=True)
    assert "n2.txt" in bad
    assert len(rows) == 10


@pytest.mark.parametrize(
    ("sizes", "groups"), [([], []), ([0], [1]), ([0, 0, 5], [3]), ([10, 1], [1, 1]), ([9, 1, 1], [2, 1]), ([99, 99, 1, 1, 99], [1, 1, 2, 1])]
)
def test_large_files_are_compared_one_by_one_and_small_ones_together(sizes, groups, monkeypatch):
    monkeypatch.setattr(module, "AT_A_TIME", 10)
    assert module._groups([SourceFile("a", Path("a"), None, size) for size in sizes]) == groups


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"none of 1 files gave an image; the first: .*a\.txt"):
        make(tmp_path / "set", [NumberJob((file,)) for file in list_source(tmp_path / "source")], skip_bad=True)


@pytest.mark.parametrize("end", [b'["n3.txt", [["half a li', b"\0\0\0\n\0\0", b"\xff\n[4]\n"], ids=["cut", "zeros", "other bytes"])
def test_what_is_done_is_not_done_again(tmp_path, jobs, monkeypatch, end):
    make(tmp_path / "whole" / "set", jobs)
    converted, convert = [], module._convert

    def stopping(job, **options):
        converted.append(job)
        if len(converted) == 4:
            raise KeyboardInterrupt
        return convert(job, **options)

    monkeypatch.setattr(module, "_convert", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut" / "set", jobs)
    journal = tmp_path / "cut" / ".set.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + end)
    converted.clear()
    monkeypatch.setattr(module, "_convert", lambda job, **options: converted.append(job) or convert(job, **options))
    make(tmp_path / "cut" / "set", jobs)
    assert converted == jobs[3:]
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def test_the_disk_is_waited_for_by_many_images_together_before_they_count_as_done(tmp_path, jobs, monkeypatch):
    journal, synced, safe = tmp_path / ".set.partial" / "journal.jsonl", [], set()
    monkeypatch.setattr(os, "fsync", synced.append)

    def noted() -> set[str]:
        return {row[0] for line in journal.read_text().splitlines()[1:] for row in json.loads(line)[1]}

    def wait():
        assert noted() <= safe, "what is noted was waited for"
        safe.update(path.relative_to(journal.parent).as_posix() for path in journal.parent.rglob("*.png"))

    monkeypatch.setattr(module, "wait_for_disk", wait)
    make(tmp_path / "set", jobs)
    images = {path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set").rglob("*.png")}
    assert images <= safe
    assert len(synced) <= 4, "the journal, the manifest and the record: none for an image"


def test_unfinished_work_with_other_settings_is_thrown_away(tmp_path, jobs, monkeypatch):
    convert = module._convert
    monkeypatch.setattr(module, "_convert", lambda job, **options: convert(job, **options) if job is jobs[0] else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "set", jobs, size=20)
    monkeypatch.setattr(module, "_convert", convert)
    make(tmp_path / "set", jobs[1:], size=30)
    assert not (tmp_path / "set" / "normal" / "n0.png").exists()
    assert json.loads((tmp_path / "set" / "prepared.json").read_text())["size"] == 30


SCRIPT = """
import sys
from pathlib import Path
from tests.data.prepare.test_build import NumberJob, make
from anomaly_detection.data.formats.sources import list_source
jobs = [NumberJob((file,), 0.3) for file in list_source(Path(sys.argv[1]) / "source")]
make(Path(sys.argv[1]) / "killed" / "set", jobs, workers=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_and_run_again(tmp_path, jobs):
    make(tmp_path / "whole" / "set", jobs)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[3], start_new_session=True, stderr=subprocess.DEVNULL)
    journal = tmp_path / "killed" / ".set.partial" / "journal.jsonl"
    while not (journal.exists() and journal.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "set").exists()
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True, stderr=subprocess.DEVNULL)
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_two_at_once_and_names_with_line_breaks_are_refused(tmp_path, jobs):
    with FileLock(tmp_path / ".set.lock"), pytest.raises(UserError, match="another process prepares it"):
        make(tmp_path / "set", jobs)
    (tmp_path / "source" / "a\nb.txt").write_text("5")
    with pytest.raises(UserError, match=r"'a\\nb\.txt': a name that no line"):
        make(tmp_path / "set", [NumberJob((file,)) for file in list_source(tmp_path / "source")])


def test_a_folder_whose_name_is_no_utf_8_is_told(tmp_path, jobs, monkeypatch):
    """The image's name need not hold that of the folder, as of LiTS; the manifest does."""
    jobs = [NumberJob((replace(jobs[0].sources[0], name="caf\udce9/n0.txt"),)), *jobs[1:]]
    with pytest.raises(UserError, match=r"^'caf\\udce9/n0\.txt': a name that is no UTF-8, .* rename the file or its folder"):
        make(tmp_path / "set", jobs)
    rows, bad, _ = make(tmp_path / "set", jobs, skip_bad=True)
    assert (len(rows), len(bad)) == (10, 1)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(UserError, match=r"^'caf\\udce9/n0\.txt': a name that the locale .*; set PYTHONUTF8=1$"):
        make(tmp_path / "another", jobs)


def test_what_was_skipped_is_tried_again_unless_it_may_be(tmp_path, jobs, monkeypatch):
    (tmp_path / "source" / "n0.txt").write_text("zero")
    convert = module._convert
    monkeypatch.setattr(module, "_convert", lambda job, **options: convert(job, **options) if job is jobs[0] else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "set", jobs, skip_bad=True)
    monkeypatch.setattr(module, "_convert", convert)
    with pytest.raises(UserError, match=r"n0\.txt: 'zero' is no number"):
        make(tmp_path / "set", jobs)
    assert len(make(tmp_path / "set", jobs, skip_bad=True)[1]) == 1
