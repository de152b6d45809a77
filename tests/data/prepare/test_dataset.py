"""Datasets of one data root that are prepared at once: each is in the lists in the end, as if one had been after the other."""

from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock, Timeout
from PIL import Image

from anomaly_detection.data.catalog import mark_phantom, read_catalog
from anomaly_detection.data.prepare import dataset
from anomaly_detection.data.prepare.dataset import LOCK, prepare
from anomaly_detection.data.prepare.options import Shares
from anomaly_detection.data.prepare.work import FolderSources, of_covid_xray, of_folder
from anomaly_detection.data.splits import Splits
from anomaly_detection.system.errors import UserError


@pytest.fixture
def catalog(tmp_path):
    """Of the data root, which has one dataset already."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "datasets.yaml"
    path.write_text("one:\n  label: 4\n  organ: liver\n  modality: ct\n  root: one\n")
    return read_catalog(path)


def work(tmp_path, name, catalog, phantom=False):
    """To make a dataset of ten images that are no other's."""
    place = tmp_path / name
    place.mkdir()
    for number in range(10):
        pixels = np.random.default_rng([ord(letter) for letter in name] + [number]).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    if phantom:
        mark_phantom(place, "rendered")
    return of_folder(FolderSources(place, None, None), catalog, (name, "liver", "ct"), None, None, 1).stored(16, "stretch", 1)


def test_a_public_dataset_comes_to_a_catalog_that_has_others_alone(tmp_path, catalog):
    """By its shipped entry; its label is none that is there, and its words may not differ from theirs in upper and lower case alone."""
    (tmp_path / "src").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "src" / f"CHNCXR_{number:04d}_{number // 10}.png")
    prepare(of_covid_xray(tmp_path / "src", catalog).stored(16, "stretch", 1), tmp_path / "data", None, Shares(), workers=1)
    one, xray = read_catalog(tmp_path / "data" / "datasets.yaml").values()
    assert one == catalog["one"]
    assert (xray.name, xray.label, xray.organ, xray.modality, xray.root) == ("covid_xray", 5, "lung", "xray", "covid_xray")
    shouted = {"one": replace(catalog["one"], organ="Lung")}
    with pytest.raises(UserError, match="^prepare: covid_xray: organ: 'lung' and the 'Lung' of one differ in upper and lower case"):
        of_covid_xray(tmp_path / "src", shouted)


def while_images_are_made(monkeypatch, act):
    """Let something happen when the images of the next dataset are made and its lists not yet written."""
    build = dataset.build_dataset

    def build_and_act(*arguments, **options):
        monkeypatch.setattr(dataset, "build_dataset", build)
        made = build(*arguments, **options)
        act()
        return made

    monkeypatch.setattr(dataset, "build_dataset", build_and_act)


def test_what_another_process_has_listed_meanwhile_stays(tmp_path, catalog, monkeypatch):
    slow, quick = work(tmp_path, "slow", catalog), work(tmp_path, "fast", catalog)
    assert slow.spec.label == quick.spec.label == 5
    while_images_are_made(monkeypatch, lambda: prepare(quick, tmp_path / "data", None, Shares(), workers=1))
    done = prepare(slow, tmp_path / "data", None, Shares(), workers=1)
    listed = read_catalog(tmp_path / "data" / "datasets.yaml")
    assert {name: spec.label for name, spec in listed.items()} == {"one": 4, "fast": 5, "slow": 6}
    entries = Splits(tmp_path / "data" / "folds", listed).entries
    for name in ("fast", "slow"):
        assert sorted(entry.image for entry in entries if entry.dataset == name) == [f"normal/{number}.png" for number in range(10)]
    assert sum(done.counts.values()) == 10


def test_phantoms_that_came_meanwhile_are_not_mixed_with_real_images(tmp_path, catalog, monkeypatch):
    real, phantom = work(tmp_path, "real", catalog), work(tmp_path, "rendered", catalog, phantom=True)
    while_images_are_made(monkeypatch, lambda: prepare(phantom, tmp_path / "data", None, Shares(), workers=1))
    with pytest.raises(UserError, match=r"real images among phantoms \(rendered\)"):
        prepare(real, tmp_path / "data", None, Shares(), workers=1)
    assert "real" not in read_catalog(tmp_path / "data" / "datasets.yaml")


def test_lines_never_name_a_dataset_that_has_no_entry_yet(tmp_path, catalog, monkeypatch):
    """With such lines no dataset of the data root could be read, after a run that was stopped."""
    write = dataset.write_splits

    def stopped(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "write_splits", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare(work(tmp_path, "new", catalog), tmp_path / "data", None, Shares(), workers=1)
    listed = read_catalog(tmp_path / "data" / "datasets.yaml")
    assert len(Splits(tmp_path / "data" / "folds", listed).entries) == 10


@pytest.mark.parametrize("writer", ["begin_splits", "write_splits", "write_entry"])
def test_lists_are_written_by_one_process_at_a_time(tmp_path, catalog, monkeypatch, writer):
    write, called = getattr(dataset, writer), []

    def write_alone(*arguments):
        with pytest.raises(Timeout):
            FileLock(tmp_path / "data" / LOCK).acquire(timeout=0)
        called.append(writer)
        return write(*arguments)

    monkeypatch.setattr(dataset, writer, write_alone)
    prepare(work(tmp_path, "new", catalog), tmp_path / "data", None, Shares(), workers=1)
    assert called == [writer]
    FileLock(tmp_path / "data" / LOCK).acquire(timeout=0).lock.release()
