"""The picture of the README shows what its rule says, whoever makes it."""

import csv
import importlib.util
from pathlib import Path

import pytest

from tests.documents import PROJECT


@pytest.fixture(scope="module")
def picture():
    spec = importlib.util.spec_from_file_location("picture", PROJECT / "docs" / "picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_of_the_stratum_by_name_is_shown(picture, tmp_path):
    lines = [("b", "abnormal/3.png", "obvious"), ("b", "abnormal/2.png", "obvious"), ("b", "abnormal/1.png", "subtle"), ("a", "x/9.png", "obvious")]
    with open(tmp_path / "phantoms.csv", "w", newline="") as file:
        csv.writer(file).writerows([("dataset", "image", "stratum"), *lines])
    with open(tmp_path / "twins.csv", "w", newline="") as file:
        csv.writer(file).writerows([("dataset", "image", "twin"), *((name, image, f"twins/{Path(image).name}") for name, image, _ in lines)])
    assert [(pair.dataset, pair.image.name, pair.twin) for pair in picture.pairs(tmp_path)] == [
        ("b", "2.png", tmp_path / "b" / "twins" / "2.png"),
        ("a", "9.png", tmp_path / "a" / "twins" / "9.png"),
    ]
