import hashlib
import io
import logging
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data import arrays
from anomaly_detection.data.arrays import load_images
from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import SplitEntry
from anomaly_detection.system.errors import UserError

SPEC = DatasetSpec(name="lits", label=0, organ="liver", modality="ct", root="liver")
READ = Preprocessing.read
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)


def write_images(root: Path) -> list[SplitEntry]:
    (root / SPEC.root).mkdir(parents=True)
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(root / SPEC.root / f"{i}.png")
    return [SplitEntry(f"{i}.png", "lits", "normal", "train", f"folds/train:{i + 1}") for i in range(len(PIXELS))]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def entries(root):
    return write_images(root)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that were decoded, as they are."""
    names = []

    def counted(self, path):
        names.append(path.name)
        return READ(self, path)

    monkeypatch.setattr(Preprocessing, "read", counted)
    return names


def load(entries, spec, root, size, channels, **options) -> np.ndarray:
    return load_images(entries, spec, root, Preprocessing(image_size=size, channels=channels, **options)).array


def as_npy(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def kept(folder: Path) -> list[str]:
    """The arrays in a folder, without what lies beside them."""
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".lock", ".hashes"))


def refusal(*arguments) -> str:
    with pytest.raises(UserError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_images_come_in_the_order_of_the_entries(root, entries):
    order = np.random.default_rng(1).permutation(len(entries))
    got = load([entries[i] for i in order], SPEC, root, 8, 1)
    assert (got.shape, got.dtype) == ((12, 1, 8, 8), np.uint8)
    assert np.array_equal(got[:, 0], PIXELS[order])
    colour = load(entries, SPEC, root, 8, 3)
    assert np.array_equal(colour, np.repeat(PIXELS[:, None], 3, axis=1))


def test_the_second_time_nothing_is_decoded(root, entries, reads):
    first = load(entries, SPEC, root, 8, 1)
    assert len(reads) == 12
    assert np.array_equal(load(entries, SPEC, root, 8, 1), first)
    assert len(reads) == 12


def test_a_change_of_the_array_does_not_reach_the_file(root, entries):
    first = load(entries, SPEC, root, 8, 1)
    first[:] = 7
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[:, 0], PIXELS)


def touch(root, entries):
    os.utime(root / SPEC.root / "3.png", ns=(1, 1))
    return entries, {}


def overwrite(root, entries):
    Image.fromarray(PIXELS[0]).resize((9, 9)).save(root / SPEC.root / "3.png")
    return entries, {}


def drop(root, entries):
    return entries[1:], {}


def turn_round(root, entries):
    return entries[::-1], {}


def crop(root, entries):
    return entries, {"crop_size": 4}


def equalize(root, entries):
    return entries, {"equalize_hist": True}


def new_version(root, entries):
    arrays.PIPELINE_VERSION += 1
    return entries, {}


@pytest.mark.parametrize("change", [touch, overwrite, drop, turn_round, crop, equalize, new_version])
def test_what_changes_is_read_again_and_the_stale_array_goes(root, entries, reads, monkeypatch, change):
    monkeypatch.setattr(arrays, "PIPELINE_VERSION", arrays.PIPELINE_VERSION)
    load(entries, SPEC, root, 8, 1)
    stale = kept(root / ".cache")
    reads.clear()
    now, options = change(root, entries)
    got = load(now, SPEC, root, 8, 1, **options)
    assert sorted(reads) == sorted(entry.image for entry in now)
    paths = [root / SPEC.root / entry.image for entry in now]
    assert np.array_equal(got, [READ(Preprocessing(image_size=8, **options), path) for path in paths])
    assert len(kept(root / ".cache")) == len(stale) == 1
    assert kept(root / ".cache") != stale


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_read_again(root, entries):
    """As archives and copies leave them."""
    path = root / SPEC.root / "3.png"
    for name, pixels in (("3.png", PIXELS[3]), ("other.png", 255 - PIXELS[3])):
        Image.fromarray(pixels).save(root / SPEC.root / name, format="BMP")
        os.utime(root / SPEC.root / name, ns=(10**18, 10**18))
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[3, 0], PIXELS[3])
    before = path.stat()
    os.replace(root / SPEC.root / "other.png", path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[3, 0], 255 - PIXELS[3])


def test_two_folders_of_a_dataset_are_not_taken_for_each_other(root, entries):
    """Files of the same names, sizes and times in another folder: `root` in datasets.yaml was changed, or leads elsewhere now."""
    other = replace(SPEC, root="v2")
    (root / "v2").mkdir()
    for i, pixels in enumerate(PIXELS):
        Image.fromarray(255 - pixels).save(root / "v2" / f"{i}.png")
        for folder in (SPEC.root, "v2"):
            os.utime(root / folder / f"{i}.png", ns=(10**18, 10**18))
    digests = [load_images(entries, spec, root, Preprocessing(image_size=8)).digest for spec in (SPEC, other)]
    assert digests[0] != digests[1]
    assert np.array_equal(load(entries, other, root, 8, 1)[:, 0], 255 - PIXELS)


def test_files_with_every_time_alike_are_told_apart_by_their_numbers(root, entries, monkeypatch):
    """On a disk that keeps no time of the entry, or as a file replaced within the same tick of its clock."""

    class Status:
        st_mtime_ns = st_ctime_ns = 10**18

        def __init__(self, status):
            self.st_size, self.st_ino, self.st_mode = 142, status.st_ino, status.st_mode

    true = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: Status(true(self)) if self.suffix == ".png" else true(self, **options))
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[3, 0], PIXELS[3])
    Image.fromarray(255 - PIXELS[3]).save(root / SPEC.root / "other.png")
    os.replace(root / SPEC.root / "other.png", root / SPEC.root / "3.png")
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[3, 0], 255 - PIXELS[3])


def test_images_that_change_while_they_are_read_are_refused(root, entries, monkeypatch):
    def changing(self, path):
        if path.name == "11.png":
            os.utime(path.with_name("0.png"), ns=(1, 1))
        return READ(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Preprocessing, "read", changing)
        assert "images changed while they were read; run the same command again" in refusal(entries, SPEC, root, 8, 1)
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[:, 0], PIXELS)
    assert len(kept(root / ".cache")) == 1


def test_each_image_has_a_hash_of_its_pixels(root, entries):
    for name in ("2.png", "9.png"):
        Image.new("L", (8, 8), 30).save(root / SPEC.root / name)
    Image.fromarray(PIXELS[4]).save(root / SPEC.root / "7.png")
    for _ in range(2):
        hashes = load_images(entries, SPEC, root, Preprocessing(image_size=8)).hashes
        expected = [hashlib.sha256(np.asarray(Image.open(root / SPEC.root / entry.image)).tobytes()).digest()[:16] for entry in entries]
        assert [bytes(each) for each in hashes] == [bytes(16) if i in (2, 9) else expected[i] for i in range(12)]


@pytest.mark.parametrize("damaged", [None, b"", as_npy(np.zeros((12, 15), np.uint8))], ids=["gone", "empty", "other shape"])
def test_hashes_that_are_damaged_are_made_again(root, entries, damaged):
    first = load_images(entries, SPEC, root, Preprocessing(image_size=8)).hashes
    (path,) = (root / ".cache").glob("*.hashes")
    path.write_bytes(damaged) if damaged is not None else path.unlink()
    assert np.array_equal(load_images(entries, SPEC, root, Preprocessing(image_size=8)).hashes, first)


def test_the_digest_is_of_the_pixels_alone(root, entries, tmp_path):
    kept_images = load_images(entries, SPEC, root, Preprocessing(image_size=8))
    assert kept_images.digest == hashlib.sha256(PIXELS.tobytes()).hexdigest()[:32]
    os.utime(root / SPEC.root / "3.png", ns=(1, 1))
    assert load_images(entries, SPEC, root, Preprocessing(image_size=8)).digest == kept_images.digest
    moved = tmp_path / "moved"
    root.rename(moved)
    assert load_images(entries, SPEC, moved, Preprocessing(image_size=8)).digest == kept_images.digest


def test_arrays_of_other_sizes_channels_and_splits_stay(root, entries, reads):
    test = [replace(entry, part="test") for entry in entries]
    calls = [(entries, SPEC, root, 8, 1), (entries, SPEC, root, 4, 1), (entries, SPEC, root, 8, 3), (test, SPEC, root, 8, 1)]
    for call in calls:
        load(*call)
    assert (len(reads), len(kept(root / ".cache"))) == (48, 4)
    for call in calls:
        load(*call)
    assert len(reads) == 48


WHOLE = as_npy(PIXELS[:, None])


@pytest.mark.parametrize(
    "damaged",
    [WHOLE[:-1], WHOLE[:40], b"", b"garbage" * 200, as_npy(PIXELS[1:, None]), as_npy(PIXELS[:, None].astype(np.int16))],
    ids=["cut short", "half a header", "empty", "garbage", "other shape", "other type"],
)
def test_a_damaged_array_is_made_again(root, entries, damaged):
    load(entries, SPEC, root, 8, 1)
    (path,) = (root / ".cache").glob("*.npy")
    assert path.read_bytes() == WHOLE
    path.write_bytes(damaged)
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[:, 0], PIXELS)


def test_missing_images_are_counted_and_the_first_is_named(root, entries):
    for i in (5, 7):
        (root / SPEC.root / f"{i}.png").unlink()
    text = refusal(entries, SPEC, root, 8, 1)
    assert all(part in text for part in ["folds/train:6", "2 of 12 images of lits", str(root / "liver" / "5.png"), "datasets.yaml"]), text


def test_an_unreadable_image_is_named_and_nothing_is_left(root, entries):
    path = root / SPEC.root / "6.png"
    path.write_bytes(path.read_bytes()[:50])
    assert str(path) in refusal(entries, SPEC, root, 8, 1)
    assert kept(root / ".cache") == []


def test_a_dataset_that_comes_out_black_is_warned_of(root, entries, caplog):
    load(entries, SPEC, root, 8, 1)
    assert caplog.records == []
    for entry in entries:  # 12 bits in a 16-bit file
        Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(root / SPEC.root / entry.image)
    assert (load(entries, SPEC, root, 8, 1) == 16).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "lits normal train" in caplog.text


def test_a_data_root_that_cannot_be_written_sends_the_arrays_to_the_user(root, entries, reads, monkeypatch, caplog, tmp_path):
    (root / ".cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    caplog.set_level(logging.INFO)
    for size in (8, 4, 8):
        got = load(entries, SPEC, root, size, 1)
    assert np.array_equal(got[:, 0], PIXELS)
    assert len(reads) == 24
    assert len([*(tmp_path / "own" / "anomaly_detection").glob("*/lits-normal-train-*.npy")]) == 2
    assert len([record for record in caplog.records if "are kept in" in record.message]) == 1


def test_no_place_to_write_at_all_is_told(root, entries, monkeypatch, tmp_path):
    (root / ".cache").write_text("")
    (tmp_path / "own").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    text = refusal(entries, SPEC, root, 8, 1)
    assert all(part in text for part in [str(root / ".cache"), "XDG_CACHE_HOME", str(tmp_path / "own")]), text


def test_a_full_disk_is_told_and_nothing_is_left(root, entries):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # a file may have 500 bytes; the array has 896
    try:
        text = refusal(entries, SPEC, root, 8, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert all(part in text for part in [str(root / ".cache"), "cannot be written", "MiB"]), text
    assert kept(root / ".cache") == []


@pytest.fixture
def processes():
    """Processes that begin as copies of this one, so that they need no imports."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork")
    return multiprocessing.get_context("fork")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_of_two_processes_one_reads_and_both_have_the_images(root, entries, reads, monkeypatch, processes):
    def slow(self, path):
        time.sleep(0.05)  # long enough for the other to come to the lock
        return read_counted(self, path)

    def load_elsewhere(results):
        start.wait()
        array = load(entries, SPEC, root, 8, 1)
        results.send((len(reads), hashlib.sha256(array).hexdigest()))

    read_counted = Preprocessing.read
    monkeypatch.setattr(Preprocessing, "read", slow)
    start = processes.Barrier(2)
    pipes = [processes.Pipe(duplex=False) for _ in range(2)]
    children = [processes.Process(target=load_elsewhere, args=(sender,), daemon=True) for _, sender in pipes]
    for child in children:
        child.start()
    assert all(receiver.poll(20) for receiver, _ in pipes)
    digest = hashlib.sha256(PIXELS).hexdigest()
    assert sorted(receiver.recv() for receiver, _ in pipes) == [(0, digest), (12, digest)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_killed_build_leaves_no_half_array_and_its_rest_is_cleared_away(root, entries, monkeypatch, processes):
    def killed(self, path):
        if path.name == "11.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return READ(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Preprocessing, "read", killed)
        child = processes.Process(target=load, args=(entries, SPEC, root, 8, 1), daemon=True)
        child.start()
        child.join(20)
    assert child.exitcode == -signal.SIGKILL
    (left,) = kept(root / ".cache")  # it was killed while it wrote
    assert left.endswith(".partial")
    assert np.array_equal(load(entries, SPEC, root, 8, 1)[:, 0], PIXELS)
    (name,) = kept(root / ".cache")
    assert name.endswith(".npy")


@pytest.mark.parametrize("count", [0, 3, 5, 40])
def test_files_are_read_in_order_and_no_further_ahead_than_is_kept(count, monkeypatch):
    monkeypatch.setattr(arrays, "AHEAD", 4)
    begun = []

    def read(path):
        begun.append(path)
        return path * path

    with ThreadPoolExecutor(3) as pool:
        for place, value in enumerate(arrays._in_order(pool, read, range(count))):
            assert value == place**2
            time.sleep(0.002)
            assert len(begun) <= place + 1 + 4
    assert sorted(begun) == list(range(count))
