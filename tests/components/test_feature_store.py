"""Features looked up are those computed, rounded to float16; computed once, whoever asks, and never those of another image, backbone or layer."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection.components import feature_store
from anomaly_detection.components.feature_store import FeatureStore
from anomaly_detection.data import mapped
from anomaly_detection.data.arrays import KeptImages, load_images
from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.dataset import to_floats
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import SplitEntry
from anomaly_detection.system.errors import UserError

CPU = torch.device("cpu")
SPEC = DatasetSpec(name="lits", label=0, organ="liver", modality="ct", root="liver")


def kept_pictures(root: Path, seed: int = 0, pixels=None) -> list[KeptImages]:
    """Nine images of a dataset, five in one split and four in another, as a data source keeps them; or these of one split."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 8), dtype=np.uint8) if pixels is None else pixels
    folder = root / SPEC.root
    if not folder.exists():
        folder.mkdir(parents=True)
        for i, each in enumerate(pixels):
            Image.fromarray(each).save(folder / f"{i}.png")
    parts = ["train" if i < 5 else "val" for i in range(len(pixels))]
    entries = [SplitEntry(f"{i}.png", "lits", "normal", part, f"folds/{part}:{i + 1}") for i, part in enumerate(parts)]
    splits = [[entry for entry in entries if entry.part == part] for part in dict.fromkeys(parts)]
    return [load_images(split, SPEC, root, Preprocessing(image_size=8)) for split in splits]


def numbers(x: torch.Tensor) -> torch.Tensor:
    """(B, 5) that tell images apart."""
    return torch.stack([x.mean(dim=(1, 2, 3)) * k + x[:, 0, 0, 0] for k in range(1, 6)], dim=1)


def counted(calls: list):
    def features_of(x):
        calls.append(len(x))
        return numbers(x)

    return features_of


def floats(kept: KeptImages) -> torch.Tensor:
    return to_floats(torch.from_numpy(np.array(kept.array)))


def opened(kept, root, calls=None, identity=("one",)):
    return FeatureStore.of(kept, root, identity, counted([] if calls is None else calls), CPU)


def test_features_are_computed_once_and_found_by_what_images_show(tmp_path):
    kept, calls = kept_pictures(tmp_path), []
    x = torch.cat([floats(each) for each in kept])
    for _ in range(2):
        store = opened(kept, tmp_path, calls)
        order = torch.tensor([4, 0, 6, 0])
        assert torch.equal(store.look_up(x[order]), numbers(x[order]).half())
    assert sum(calls) == len(x)


def test_what_is_not_known_is_not_looked_up(tmp_path):
    kept = kept_pictures(tmp_path)
    store, x = opened(kept, tmp_path), floats(kept[0])
    assert store.look_up(x) is not None
    assert store.look_up(torch.cat([x, 1 - x[:1]])) is None
    mixture = x.clone()
    mixture[0, 0, 0, 0] += 1e-4  # rounds to the pixel of a known image
    assert store.look_up(mixture) is None


def test_images_of_one_grey_are_told_apart(tmp_path):
    kept = kept_pictures(tmp_path, pixels=[np.full((8, 8), grey, np.uint8) for grey in (0, 90, 200)])
    x = floats(kept[0])
    assert not kept[0].hashes.any()
    assert torch.equal(opened(kept, tmp_path).look_up(x), numbers(x).half())


@pytest.mark.parametrize("place", [0, 7, 15])
def test_hashes_with_zeros_anywhere_are_told_apart(place, tmp_path, monkeypatch):
    """All but one of their 16 bytes are zeros."""
    kept = kept_pictures(tmp_path)
    pixels = [image.tobytes() for each in kept for image in each.array]
    digests = {each: bytes(1 + i if byte == place else 0 for byte in range(16)) for i, each in enumerate(pixels)}
    monkeypatch.setattr(feature_store, "pixel_hash", lambda image: digests.get(image, bytes(16)))
    rehashed = [each._replace(hashes=np.stack([np.frombuffer(digests[image.tobytes()], np.uint8) for image in each.array])) for each in kept]
    store, x = opened(rehashed, tmp_path), torch.cat([floats(each) for each in kept])
    order = torch.tensor([8, 3, 3, 0, 5])
    assert torch.equal(store.look_up(x[order]), numbers(x[order]).half())
    assert store.look_up(1 - x[:1]) is None


def test_other_features_and_other_images_have_files_of_their_own(tmp_path):
    kept, calls = kept_pictures(tmp_path), []
    opened(kept, tmp_path, calls)
    opened(kept, tmp_path, calls, identity=["two"])
    assert sum(calls) == 2 * sum(len(each.array) for each in kept)
    other = kept_pictures(tmp_path / "other", seed=1)
    x = floats(other[0])
    assert torch.equal(opened(other, tmp_path, calls).look_up(x), numbers(x).half())


DAMAGES = (lambda path: path.write_bytes(b"x"), lambda path: path.write_bytes(path.read_bytes()[:-2]), lambda path: path.unlink())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_again(tmp_path, damage):
    kept = kept_pictures(tmp_path)
    opened(kept, tmp_path)
    files = [path for path in (tmp_path / ".cache").glob("*.npy") if np.load(path).dtype == np.float16]
    assert len(files) == len(kept)
    damage(files[0])
    calls = []
    store = opened(kept, tmp_path, calls)
    assert sum(calls) in {len(each.array) for each in kept}
    x = torch.cat([floats(each) for each in kept])
    assert torch.equal(store.look_up(x), numbers(x).half())


def test_a_killed_process_leaves_no_file_and_its_rest_is_cleared(tmp_path):
    kept = kept_pictures(tmp_path)

    def dies(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureStore.of(kept, tmp_path, ["one"], dies, CPU)
    x = floats(kept[0])
    assert torch.equal(opened(kept, tmp_path).look_up(x), numbers(x).half())
    assert not list((tmp_path / ".cache").glob(".*.partial"))
    for path in [path for path in (tmp_path / ".cache").glob("*.npy") if np.load(path).dtype == np.float16]:
        path.rename(path.with_name(f".{path.name}.0123abcd.partial"))  # as a signal leaves it
    opened(kept, tmp_path)
    assert not list((tmp_path / ".cache").glob(".*.partial"))


def test_numbers_that_float16_does_not_hold_are_its_largest(tmp_path):
    kept = kept_pictures(tmp_path)
    store = FeatureStore.of(kept, tmp_path, ["one"], lambda x: numbers(x) * 1e9, CPU)
    assert store.look_up(floats(kept[0])).isfinite().all()


def test_pages_are_let_go(tmp_path, monkeypatch):
    kept = kept_pictures(tmp_path)
    store, x = opened(kept, tmp_path), torch.cat([floats(each) for each in kept])
    let_go = []
    monkeypatch.setattr(mapped, "release", lambda array: let_go.append(len(array)))
    monkeypatch.setattr(mapped, "MAPPED", 2 * 5 * 2)  # two rows
    for _ in range(7):
        store.look_up(x)
    assert let_go == 7 * [5, 5, 5, 4, 4]


def compute(root, marks, barrier):
    def features_of(x):
        with open(marks, "a") as file:
            file.write("x" * len(x))
        return numbers(x)

    kept = kept_pictures(root)
    barrier.wait()
    FeatureStore.of(kept, root, ["one"], features_of, CPU)


def test_of_two_processes_one_computes(tmp_path):
    kept = kept_pictures(tmp_path)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [context.Process(target=compute, args=(tmp_path, tmp_path / "marks", barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len((tmp_path / "marks").read_text()) == sum(len(each.array) for each in kept)


def test_a_file_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    kept = kept_pictures(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_store, "_write", full)
    with pytest.raises(UserError, match=r"\.npy: cannot be written \(No space left on device\); space and write access are needed"):
        opened(kept, tmp_path)
