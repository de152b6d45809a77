from pathlib import Path

import pytest

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.splits import Splits
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


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = write(tmp_path, "normal/train", b"\xff\xfe\x00\x81")
    assert str(path) in message(lambda: Splits(tmp_path, CATALOG))
