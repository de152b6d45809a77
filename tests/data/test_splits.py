import os
from pathlib import Path

import pytest

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.splits import Splits, aliases, linked_outside, missing_images, parse_line
from anomaly_detection.system.errors import UserError

CATALOG = {name: DatasetSpec(name=name, label=label, organ="lung", modality="ct", root=name) for label, name in enumerate(["lits", "covid_ct"], 3)}


def write(folds: Path, split: str, content: str | bytes) -> Path:
    path = folds / "train_test_split" / split
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def message(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_lines_are_split_at_the_last_space(tmp_path):
    lines = "volume 1_005.png lits\n2020.02.17-p17-61%0.png covid_ct\n./a//%s %d.png 3\n"
    path = write(tmp_path, "normal/train", lines)
    splits = Splits(tmp_path, CATALOG)
    lits = splits.select("lits", "normal", "train")
    assert [entry.image for entry in lits] == ["volume 1_005.png", "a/%s %d.png"]
    assert [entry.where for entry in lits] == [f"{path}:1", f"{path}:3"]
    assert [entry.image for entry in splits.select("covid_ct", "normal", "train")] == ["2020.02.17-p17-61%0.png"]


def test_comments_blank_lines_and_foreign_line_ends_count_for_nothing(tmp_path):
    write(tmp_path, "anomaly/test", b"\xef\xbb\xbf# image dataset\r\n\r\n  \r\na.png  lits \r\n#b.png lits\r\nc.png\tlits")
    entries = Splits(tmp_path, CATALOG).select("lits", "anomaly", "test")
    assert [(entry.image, entry.dataset, entry.kind, entry.part) for entry in entries] == [
        ("a.png", "lits", "anomaly", "test"),
        ("c.png", "lits", "anomaly", "test"),
    ]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("b.png", ["'b.png' names no dataset", "image dataset"]),
        ("b.png covid_tc", ["'covid_tc'", "did you mean covid_ct?"]),
        ("b.png 9", ["'9'", "lits, covid_ct"]),
        ("b c.png", ["'c.png'", "lits, covid_ct"]),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, parts):
    path = write(tmp_path, "normal/val", f"a.png lits\n{line}\n")
    text = message(lambda: Splits(tmp_path, CATALOG))
    assert all(part in text for part in [f"{path}:2:", *parts]), text


@pytest.mark.parametrize("split", ["normal/val", "normal/test", "anomaly/test"])
def test_an_image_in_two_splits_is_refused(tmp_path, split):
    first = write(tmp_path, "normal/train", "b.png lits\na.png lits\n")
    second = write(tmp_path, split, "c.png lits\na.png covid_ct\n./a.png 3\n")
    text = message(lambda: Splits(tmp_path, CATALOG))
    assert all(part in text for part in [f"{first}:2 ", f"{second}:3:", "a.png of lits", "already"]), text


def test_an_image_twice_in_one_split_is_refused(tmp_path):
    path = write(tmp_path, "normal/train", "a.png lits\nb.png lits\na.png lits\n")
    text = message(lambda: Splits(tmp_path, CATALOG))
    assert all(part in text for part in [f"{path}:3:", f"{path}:1 ", "a.png of lits", "already"]), text


def test_the_same_name_in_two_datasets_is_two_images(tmp_path):
    write(tmp_path, "normal/train", "a.png lits\na.png covid_ct\n")
    assert len(Splits(tmp_path, CATALOG).entries) == 2


def test_a_missing_and_an_empty_split_are_told_when_asked_for(tmp_path):
    path = write(tmp_path, "normal/train", "a.png lits\n")
    splits = Splits(tmp_path, CATALOG)
    text = message(lambda: splits.select("lits", "normal", "val"))
    assert all(part in text for part in [str(path.with_name("val")), "no such split file", "image lits"]), text
    text = message(lambda: splits.select("covid_ct", "normal", "train"))
    assert all(part in text for part in [str(path), "no image of covid_ct", "image covid_ct"]), text
    text = message(lambda: splits.select("lits", "normal", "test"))
    assert all(part in text for part in [str(path.with_name("test")), "no such split file", "nothing is known of false alarms"]), text
    assert splits.select("lits", "anomaly", "test") == []


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = write(tmp_path, "normal/train", b"\xff\xfe\x00\x81")
    assert str(path) in message(lambda: Splits(tmp_path, CATALOG))


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("a b.png lits", ("a b.png", "lits")),
        ("a.png,lits", ("a.png", "lits")),
        ("a.png;lits;;", ("a.png", "lits")),
        ("a.png\t 3 ", ("a.png", "3")),
        ('"a, b.png",lits', ("a, b.png", "lits")),
        ('"a, b.png lits"', ("a, b.png", "lits")),
        ('"a, b.png","lits"', ("a, b.png", "lits")),
        ('"a.png";"3";', ("a.png", "3")),
        ('a.png\t"lits"', ("a.png", "lits")),
        ('"say ""a"".png";lits,', ('say "a".png', "lits")),
        ('"a".png lits', ('"a".png', "lits")),
        ("a, lits", ("a", "lits")),
        ('"# lits: 1 normal, 2"', ("# lits: 1 normal, 2", None)),
        ("# lits a,b", ("# lits a,b", None)),
        (" , ;", ("", None)),
        ("a.png", ("a.png", None)),
    ],
)
def test_a_line_is_read_as_people_and_spreadsheets_write_it(line, parsed):
    assert parse_line(line) == parsed


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_file_is_read_as_notepad_saves_it(tmp_path, encoding):
    path = write(tmp_path, "normal/train", "# Käse\r\nä 1.png lits  \r\n\r\nb.png\tcovid_ct".encode(encoding))
    assert [(entry.image, entry.where) for entry in Splits(tmp_path, CATALOG).entries] == [("ä 1.png", f"{path}:2"), ("b.png", f"{path}:4")]


OUTSIDE = ["/etc/a.png", "../covid_ct/a.png", "x/../../a.png", "a/../b.png", "C:\\x.png", "c:/x.png", "\\\\host\\x.png", "x\\..\\y.png"]


@pytest.mark.parametrize("image", OUTSIDE)
def test_a_path_that_leads_out_of_the_dataset_is_refused(tmp_path, image):
    path = write(tmp_path, "normal/train", f"a.png lits\n{image} lits\n")
    text = message(lambda: Splits(tmp_path, CATALOG))
    assert text.startswith(f"{path}:2: {image} leads out of the folder of lits"), text


def images(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def hard(source: Path, target: Path) -> None:
    os.link(source, target)


def soft(source: Path, target: Path) -> None:
    target.symlink_to(source)


def folder(source: Path, target: Path) -> None:
    target.parent.rmdir()
    target.parent.symlink_to(source.parent)


@pytest.mark.parametrize("link", [hard, soft, folder])
@pytest.mark.parametrize(
    ("split", "dataset", "refused"),
    [("normal/test", "lits", True), ("anomaly/test", "covid_ct", True), ("normal/val", "covid_ct", True), ("normal/train", "covid_ct", False)],
)
def test_one_file_under_two_names_is_known(tmp_path, link, split, dataset, refused):
    images(tmp_path, "lits/n/a.png", "lits/n/b.png")
    target = tmp_path / dataset / "m" / ("b.png" if link is folder else "c.png")
    target.parent.mkdir(parents=True)
    link(tmp_path / "lits" / "n" / "b.png", target)
    write(tmp_path / "folds", "normal/train", "n/a.png lits\nn/b.png lits\ngone.png lits\n")
    with open(write(tmp_path / "folds", split, "") if split != "normal/train" else tmp_path / "folds/train_test_split/normal/train", "a") as file:
        file.write(f"m/{target.name} {dataset}\n")
    pairs = list(aliases(Splits(tmp_path / "folds", CATALOG).entries, CATALOG, tmp_path))
    assert [{entry.image for entry in pair} for pair in pairs] == [{"n/b.png", f"m/{target.name}"}] * refused


def test_one_file_among_the_normals_and_the_anomalies_of_one_part_is_known(tmp_path):
    images(tmp_path, "lits/n/a.png", "covid_ct/m/b.png")
    hard(tmp_path / "lits" / "n" / "a.png", tmp_path / "covid_ct" / "m" / "c.png")
    write(tmp_path / "folds", "normal/test", "n/a.png lits\n")
    write(tmp_path / "folds", "anomaly/test", "m/b.png covid_ct\nm/c.png covid_ct\n")
    assert len(list(aliases(Splits(tmp_path / "folds", CATALOG).entries, CATALOG, tmp_path))) == 1


@pytest.mark.parametrize(("link", "refused"), [(hard, False), (soft, True), (folder, True)])
def test_a_file_twice_in_one_split_by_a_link_is_known_and_hard_links_may_stand(tmp_path, link, refused):
    images(tmp_path, "lits/n/b.png")
    target = tmp_path / "lits" / "m" / ("b.png" if link is folder else "c.png")
    target.parent.mkdir(parents=True)
    link(tmp_path / "lits" / "n" / "b.png", target)
    write(tmp_path / "folds", "normal/train", f"n/b.png lits\nm/{target.name} lits\n")
    assert len(list(aliases(Splits(tmp_path / "folds", CATALOG).entries, CATALOG, tmp_path))) == refused


def test_images_behind_links_to_elsewhere_are_told(tmp_path):
    data = tmp_path / "data"
    images(tmp_path, "data/lits/a.png", "data/lits/store/b.png", "private/c.png", "private/d.png")
    (data / "lits" / "b.png").symlink_to("store/b.png")
    write(data / "folds", "normal/train", "a.png lits\nb.png lits\nc.png lits\n")
    entries = Splits(data / "folds", CATALOG).entries
    assert linked_outside(entries, CATALOG, data) is None
    (data / "lits" / "c.png").symlink_to(tmp_path / "private" / "c.png")
    told = linked_outside(entries, CATALOG, data)
    assert f"1 images lie outside of it, behind links, the first: {data / 'lits' / 'c.png'} is {tmp_path / 'private' / 'c.png'}" in told
    (data / "covid_ct").symlink_to(tmp_path / "private")
    write(data / "folds", "normal/test", "d.png covid_ct\n")
    assert "2 images lie outside" in linked_outside(Splits(data / "folds", CATALOG).entries, CATALOG, data)


@pytest.mark.parametrize(
    ("there", "listed", "words"),
    [
        ([], "a.png", ["put the images there", "prepare lits ... --data-root"]),
        (["manifest.csv"], "a.png", ["the list is of other images than `prepare` has made there", "prepare lits"]),
        (["n/007.png", "n/8.png"], "n/7.png", ["007.png is there: correct the list (did a spreadsheet take zeros away?)"]),
        (["n/000.png", "n/x.png"], "n/0.png", ["000.png is there"]),
        (["n/A\u0308 1.PNG"], "n/\u00e4 1.png", ["A\u0308 1.PNG is there"]),
        (["n/07.jpg", "n/70.png"], "n/7.png", ["put the images there"]),
    ],
)
def test_missing_images_come_with_what_mends_it(tmp_path, there, listed, words):
    images(tmp_path / "lits", *there)
    write(tmp_path / "folds", "normal/train", f"{listed} lits\n")
    entries = Splits(tmp_path / "folds", CATALOG).entries
    text = missing_images(entries, 3, CATALOG["lits"], tmp_path)
    assert all(word in text for word in [entries[0].where, "1 of 3 images of lits are missing", str(tmp_path / "lits" / listed), *words]), text
