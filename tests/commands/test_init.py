"""`init`: copies to edit, and nothing lost that is there."""

from pathlib import Path

import pytest

import anomaly_detection
from anomaly_detection.__main__ import main
from anomaly_detection.system.errors import UserError

CLONE = Path(__file__).parents[2]


def test_all_that_is_edited_is_written(tmp_path, capsys):
    assert main(["init", str(tmp_path / "new" / "work")]) == 0
    work = tmp_path / "new" / "work"
    written = [path for path in work.rglob("*") if path.is_file()]
    assert {path.relative_to(work).parts[0] for path in written} == {"configs", "folds", "examples"}
    assert all(path.read_bytes() == (CLONE / path.relative_to(work)).read_bytes() for path in written)
    assert (work / "configs" / "MADDR_dpa" / "paper.yaml") in written
    assert (work / "folds" / "train_test_split" / "normal" / "train") in written
    assert f"{len(written)} files written to {work / 'configs'}, " in capsys.readouterr().out


def test_what_is_there_is_kept_and_named(tmp_path, capsys):
    main(["init", str(tmp_path)])
    (tmp_path / "configs" / "common.yaml").write_text("seed: 8\n")
    (tmp_path / "configs" / "memae" / "lits.yaml").unlink()
    (tmp_path / "mine.txt").write_text("mine")
    capsys.readouterr()
    assert main(["init", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert (tmp_path / "configs" / "common.yaml").read_text() == "seed: 8\n"
    assert (tmp_path / "configs" / "memae" / "lits.yaml").read_bytes() == (CLONE / "configs" / "memae" / "lits.yaml").read_bytes()
    assert told.startswith(f"kept as they are, unlike those of version {anomaly_detection.__version__} ")
    assert told.splitlines()[0].endswith(f"anew): {tmp_path / 'configs' / 'common.yaml'}")
    assert "1 files written" in told
    main(["init", str(tmp_path)])
    assert "nothing to do" in capsys.readouterr().out


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="notes: is a file; name a folder"):
        main(["init", str(tmp_path / "notes")])
    assert (tmp_path / "notes").read_text() == "mine"
