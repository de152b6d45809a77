"""What `phantom` says to do next."""

import shlex
from pathlib import Path

from anomaly_detection.__main__ import main
from anomaly_detection.data.phantom import downloads


def test_the_command_it_names_leaves_the_splits_of_the_project_alone(monkeypatch, tmp_path, capsys):
    small = downloads.write_downloads
    monkeypatch.setattr(downloads, "write_downloads", lambda out, seed: small(out, patients=6, seed=seed, size=64, workers=2))
    project = Path(__file__).resolve().parents[2] / "folds"
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert main(["phantom", str(tmp_path / "downloads"), "--as-downloads"]) == 0
    words = shlex.split(capsys.readouterr().out.partition("python -m anomaly_detection ")[2])
    try:
        assert main([*words, "--workers", "2"]) == 0
        assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert (tmp_path / "downloads" / "data" / "folds" / "train_test_split" / "normal" / "train").read_text().count(" lits\n") > 0
