"""Split files and datasets.yaml keep what they say of other datasets."""

import errno
import re
from dataclasses import replace

import pytest

from anomaly_detection.data.catalog import read_catalog
from anomaly_detection.data.prepare import lists
from anomaly_detection.data.prepare.lists import begin_splits, catalog_entry, write_entry, write_splits
from anomaly_detection.data.splits import Splits
from anomaly_detection.system.errors import UserError

CATALOG = """# mine
one:
  label: 1
  organ: liver
  modality: ct
  root: one  # here
two:
  label: 2
  organ: lung
  modality: xray
  root: two
"""
SPLITS = {
    ("normal", "train"): ["normal/a 10.png", "normal/a 9.png"],
    ("normal", "val"): ["normal/b.png"],
    ("normal", "test"): ["normal/c.png"],
    ("anomaly", "test"): ["abnormal/d.png"],
}


@pytest.fixture
def catalog(tmp_path):
    (tmp_path / "datasets.yaml").write_text(CATALOG)
    return read_catalog(tmp_path / "datasets.yaml")


def test_lines_of_other_datasets_stay(tmp_path, catalog):
    train = tmp_path / "train_test_split" / "normal" / "train"
    train.parent.mkdir(parents=True)
    train.write_text("# a note of mine\nx.png two\nold.png one\nolder.png 1\n# one: old counts\n\ny.png 2\n")
    assert write_splits(tmp_path, catalog["one"], SPLITS, "as I like it", catalog)
    lines = train.read_text().splitlines()
    assert lines[:4] == ["# a note of mine", "x.png two", "", "y.png 2"]
    assert re.fullmatch("# one: 2 normal train, 1 normal val, 1 normal test, 1 anomaly test; as I like it; [0-9a-f]{12}", lines[4])
    assert lines[5:] == ["normal/a 9.png one", "normal/a 10.png one"]
    assert [entry.image for entry in Splits(tmp_path, catalog).select("one", "anomaly", "test")] == ["abnormal/d.png"]


def test_lists_that_are_there_are_left_alone_until_the_split_is_another(tmp_path, catalog):
    write_splits(tmp_path, catalog["one"], SPLITS, "seed 0", catalog)
    train = tmp_path / "train_test_split" / "normal" / "train"
    edited = train.read_text().replace("normal/a 9.png one\n", "")
    train.write_text(edited)
    assert not write_splits(tmp_path, catalog["one"], SPLITS, "seed 0", catalog)
    assert train.read_text() == edited
    assert write_splits(tmp_path, catalog["one"], SPLITS, "seed 1", catalog)
    assert "a 9.png" in train.read_text()


def test_another_split_that_was_half_written_is_written_again(tmp_path, catalog, monkeypatch):
    """Images stand in two files then, which is refused where lists stay."""
    write_splits(tmp_path, catalog["one"], SPLITS, "seed 0", catalog)
    other = {**SPLITS, ("normal", "train"): SPLITS["normal", "test"], ("normal", "test"): SPLITS["normal", "train"]}
    with monkeypatch.context() as patch:
        full_disk(patch, 2)
        with pytest.raises(OSError, match="No space left"):
            write_splits(tmp_path, catalog["one"], other, "seed 5", catalog)
    with pytest.raises(UserError, match="already; take one line out"):
        Splits(tmp_path, catalog)
    for splits, origin in ((other, "seed 5"), (SPLITS, "seed 0")):
        assert write_splits(tmp_path, catalog["one"], splits, origin, catalog)
        assert [entry.image for entry in Splits(tmp_path, catalog).select("one", "normal", "val")] == ["normal/b.png"]
    test = tmp_path / "train_test_split/normal/test"
    test.write_text(test.read_text() + "normal/b.png one\n")
    with pytest.raises(UserError, match="already; take one line out"):
        write_splits(tmp_path, catalog["one"], SPLITS, "seed 0", catalog)


@pytest.mark.parametrize("change", ["renamed", "renamed the last", "moved", "kind"])
def test_lists_of_other_images_are_rebuilt_though_the_counts_are_the_same(tmp_path, catalog, change):
    write_splits(tmp_path, catalog["one"], SPLITS, "seed 0", catalog)
    other = {key: list(images) for key, images in SPLITS.items()}
    if change == "renamed":
        other["normal", "val"] = ["normal/no_b.png"]
    elif change == "renamed the last":
        other["normal", "train"][-1] = "normal/a 8.png"
    elif change == "moved":  # another patient validates
        other["normal", "val"], other["normal", "test"] = other["normal", "test"], other["normal", "val"]
    else:
        other["normal", "test"], other["anomaly", "test"] = ["normal/d.png"], ["abnormal/c.png"]
    assert write_splits(tmp_path, catalog["one"], other, "seed 0", catalog)
    entries = Splits(tmp_path, catalog).entries
    assert {(entry.kind, entry.part, entry.image) for entry in entries} == {(*key, image) for key, images in other.items() for image in images}
    assert not write_splits(tmp_path, catalog["one"], other, "seed 0", catalog)


def test_a_line_that_stays_must_name_an_image(tmp_path, catalog):
    folder = tmp_path / "data"
    for images in SPLITS.values():
        for image in images:
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / image).touch()
    write_splits(tmp_path, catalog["one"], SPLITS, "", catalog, folder)
    assert not write_splits(tmp_path, catalog["one"], SPLITS, "", catalog, folder)
    (folder / "normal/b.png").unlink()
    with pytest.raises(UserError, match=r"val:2: normal/b\.png: no such image in .*data; take the line out, or delete .*data to prepare it anew"):
        write_splits(tmp_path, catalog["one"], SPLITS, "", catalog, folder)
    val = tmp_path / "train_test_split/normal/val"
    val.write_text(val.read_text().replace("b.png", "of_mine.png"))
    with pytest.raises(UserError, match=r"of_mine\.png: no such image in .*data; take the line out, or all of one to have them written anew"):
        write_splits(tmp_path, catalog["one"], SPLITS, "", catalog, folder)
    val.write_text("")  # to have it written anew: with an image that is gone it would be wrong again
    with pytest.raises(UserError, match=r"data: 1 of its images are gone, the first: normal/b\.png; delete the folder to prepare it anew"):
        write_splits(tmp_path, catalog["one"], SPLITS, "", catalog, folder)
    assert val.read_text() == ""


def full_disk(monkeypatch, files):
    """A disk that has room for so many more split files."""
    write, room = lists._write, iter(range(files))

    def write_or_fail(*arguments):
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(lists, "_write", write_or_fail)


def test_the_split_files_of_a_data_root_begin_with_all_lines_or_none(tmp_path, catalog, monkeypatch):
    """Files of which some are there are taken for all: the lines of the others would be lost."""
    write_splits(tmp_path / "project", catalog["two"], SPLITS, "", catalog)
    with monkeypatch.context() as patch:
        full_disk(patch, 2)
        with pytest.raises(OSError, match="No space left"):
            begin_splits(tmp_path / "data" / "folds", tmp_path / "project", [catalog["two"]])
    assert not list((tmp_path / "data").iterdir())
    begin_splits(tmp_path / "data" / "folds", tmp_path / "project", [catalog["two"]])
    assert len(Splits(tmp_path / "data" / "folds", catalog).entries) == 5


def test_the_split_files_of_a_data_root_begin_with_what_was_read_so_far(tmp_path, catalog):
    write_splits(tmp_path / "project", catalog["one"], SPLITS, "", catalog)
    write_splits(tmp_path / "project", catalog["two"], SPLITS, "", catalog)
    before = (tmp_path / "project/train_test_split/normal/train").read_text()
    begin_splits(tmp_path / "data", tmp_path / "project", [catalog["two"]])
    entries = Splits(tmp_path / "data", catalog).entries
    assert {entry.dataset for entry in entries} == {"two"}
    assert len(entries) == 5
    begin_splits(tmp_path / "empty", tmp_path / "project", [])
    assert not (tmp_path / "empty").exists()
    assert (tmp_path / "project/train_test_split/normal/train").read_text() == before


def test_wrong_split_files_are_not_rewritten(tmp_path, catalog):
    train = tmp_path / "train_test_split" / "normal" / "train"
    train.parent.mkdir(parents=True)
    train.write_text("x.png three\n")
    with pytest.raises(UserError, match=r"train:1: no dataset 'three'"):
        write_splits(tmp_path, catalog["one"], SPLITS, "", catalog)
    assert train.read_text() == "x.png three\n"


def test_an_entry_is_added_to_what_is_there(tmp_path, catalog):
    root = tmp_path / "data"
    spec = replace(catalog_entry(catalog, "brain_mri", "brain", "mri"), window=[40.0, 80.0], size=300)
    write_entry(root, tmp_path / "datasets.yaml", spec)
    assert (root / "datasets.yaml").read_text().startswith(CATALOG.rstrip())
    assert read_catalog(root / "datasets.yaml") == {**catalog, "brain_mri": spec}
    assert spec.label == 3
    write_entry(root, tmp_path / "nowhere", catalog_entry(read_catalog(root / "datasets.yaml"), "knee", "knee", "mri"))
    assert list(read_catalog(root / "datasets.yaml")) == ["one", "two", "brain_mri", "knee"]
    before = (root / "datasets.yaml").read_text()
    write_entry(root, tmp_path / "nowhere", spec)
    assert (root / "datasets.yaml").read_text() == before


LISTED = """one:
  window:   # two lines
    - 40
    - 400
  # what it is
  label: 1
  organ: liver
  modality: ct
  root: one
  size:
# of the second
two:
  label: 2
  organ: lung
  modality: xray
  root: two
"""


@pytest.mark.parametrize(
    "text",
    [
        CATALOG,
        CATALOG.replace("two:", "two: # the second\n  # of the lung"),
        CATALOG.replace("  root: one  # here", "  root: one\n  size: 200 # pixels\n  window: auto   # of each"),
        LISTED,
        "# mine\none: {label: 1, organ: liver, modality: ct, root: one, size: 200}\ntwo: {label: 2, organ: lung, modality: xray, root: two}",
    ],
)
def test_an_entry_that_is_there_gets_other_values_and_nothing_else_changes(tmp_path, text):
    (tmp_path / "datasets.yaml").write_text(text)
    catalog = read_catalog(tmp_path / "datasets.yaml")
    for changed in (
        replace(catalog["one"], window=[1064.0, 400.0], aspect="pad", size=300),
        replace(catalog["two"], window="auto", size=300),
        replace(catalog["one"], window=None, aspect="stretch", size=48),
    ):
        write_entry(tmp_path, tmp_path / "nowhere", changed)
        catalog[changed.name] = changed
        assert read_catalog(tmp_path / "datasets.yaml") == catalog
    after = (tmp_path / "datasets.yaml").read_text()
    comments = [piece.split("\n")[0] for piece in text.split("#")[1:]]
    assert [piece.split("\n")[0] for piece in after.split("#")[1:]] == comments


def test_an_entry_that_says_something_else_is_not_changed(catalog):
    assert catalog_entry(catalog, "one", "liver", "ct") == catalog["one"]
    with pytest.raises(UserError, match=r"one is liver ct, not lung ct"):
        catalog_entry(catalog, "one", "lung", "ct")
    with pytest.raises(UserError, match="a dataset's name begins with a letter"):
        catalog_entry(catalog, "my set", "lung", "ct")


@pytest.mark.parametrize("name", ["One", "TWO", "Folds"])
def test_a_name_that_a_file_system_takes_for_another_is_refused(catalog, name):
    with pytest.raises(UserError, match=f"prepare: {name}: some systems take it for"):
        catalog_entry(catalog, name, "liver", "ct")


@pytest.mark.parametrize("name", ["folds", "datasets.yaml"])
def test_a_name_of_something_else_in_the_data_root_is_refused(catalog, name):
    with pytest.raises(UserError, match=f"prepare: {name}: is the name of something else"):
        catalog_entry(catalog, name, "liver", "ct")
