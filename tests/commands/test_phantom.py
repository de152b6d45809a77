"""What `phantom` says to do next."""

import csv
import shlex
from pathlib import Path

import pytest

from anomaly_detection.__main__ import main
from anomaly_detection.data.phantom import datasets, downloads
from anomaly_detection.system.errors import UserError


def test_the_command_it_names_leaves_the_splits_of_the_project_alone(monkeypatch, tmp_path, capsys):
    small = downloads.write_downloads
    monkeypatch.setattr(downloads, "write_downloads", lambda out, seed: small(out, patients=6, seed=seed, size=64, workers=2))
    project = Path(__file__).resolve().parents[2] / "folds"
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert main(["phantom", str(tmp_path / "downloads"), "--as-downloads"]) == 0
    words = shlex.split(capsys.readouterr().out.partition("try: maddr ")[2])
    try:
        assert main([*words, "--workers", "2"]) == 0
        assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert (tmp_path / "downloads" / "data" / "folds" / "train_test_split" / "normal" / "train").read_text().count(" lits\n") > 0


@pytest.mark.parametrize(("words", "lesions"), [([], "strata"), (["--lesions", "strata"], "strata"), (["--lesions", "clinical"], "clinical")])
def test_lesions_are_those_asked_for(monkeypatch, tmp_path, words, lesions):
    small = datasets.write_phantoms
    monkeypatch.setattr(datasets, "write_phantoms", lambda out, seed, lesions: small(out, images=12, seed=seed, size=64, workers=1, lesions=lesions))
    assert main(["phantom", str(tmp_path / "out"), *words]) == 0
    assert f"lesions {lesions}" in (tmp_path / "out" / "PHANTOM").read_text()
    with open(tmp_path / "out" / "phantoms.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3
    with open(tmp_path / "out" / "twins.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.parametrize("more", [[], ["--as-downloads"]])
def test_a_negative_seed_is_told(tmp_path, more):
    with pytest.raises(UserError, match="--seed -1: must be 0 or more"):
        main(["phantom", str(tmp_path / "out"), "--seed", "-1", *more])
    assert not (tmp_path / "out").exists()


def test_downloads_have_no_strata(tmp_path):
    with pytest.raises(UserError, match="--lesions strata"):
        main(["phantom", str(tmp_path / "out"), "--as-downloads", "--lesions", "strata"])
    assert not (tmp_path / "out").exists()
