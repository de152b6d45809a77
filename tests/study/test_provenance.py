"""What trained and scored an experiment is known, also where several did."""

import subprocess

import pytest
import torch

from anomaly_detection.study import provenance
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json
from anomaly_detection.system.version import __version__

CPU = torch.device("cpu")


def test_each_way_to_run_an_experiment_is_noted_once(tmp_path, monkeypatch):
    provenance.begin(tmp_path, {"regime": "maddr", "data": "abc", "data_root": "d"})
    for _ in range(2):
        provenance.add_run(tmp_path, CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    provenance.add_run(tmp_path, CPU)
    origin = read_json(tmp_path / "provenance.json")
    assert origin["data"] == "abc"
    assert [run["package"] for run in origin["runs"]] == [__version__] * 2
    assert "threads: 77" not in origin["runs"][0]["device"]
    assert "threads: 77" in origin["runs"][1]["device"]
    assert provenance.runs_line(origin).count(f"torch {torch.__version__} on cpu") == 2


def test_an_experiment_that_knew_of_no_runs_tells_its_versions():
    assert provenance.runs_line({"package": "0.1.0", "torch": "2.0"}) == "version 0.1.0, torch 2.0"


def test_a_program_called_git_that_is_another_tells_no_commit(tmp_path, monkeypatch):
    other = tmp_path / "git"
    other.write_text("#!/bin/sh\nexit 0\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() is None


@pytest.mark.parametrize(
    "text", ["[]", '{"regime": "maddr"}', '{"regime": "maddr", "data": 3, "data_root": "d"}', '{"regime": 3, "data": "a", "data_root": "d"}', ""]
)
def test_a_damaged_file_is_told(tmp_path, text):
    """It says of which experiment the folder is: without it nobody knows, so that it is not the file alone that must go."""
    (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(UserError, match=r"provenance\.json: damaged .*; delete the folder and run the same command again"):
        provenance.read(tmp_path)


def test_an_older_version_told_no_regime(tmp_path):
    (tmp_path / "provenance.json").write_text('{"data": "abc", "data_root": "d"}')
    assert provenance.is_older(tmp_path)
    provenance.begin(tmp_path, {"regime": "maddr", "data": "abc", "data_root": "d"})
    assert not provenance.is_older(tmp_path)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(UserError, match="damaged .*; delete the folder and"):
        provenance.is_older(tmp_path)


@pytest.mark.parametrize("changed", [False, True])
def test_the_commit_is_that_of_the_clone(tmp_path, monkeypatch, changed):
    module = tmp_path / "anomaly_detection" / "__init__.py"
    module.parent.mkdir()
    module.write_text("")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    if changed:
        module.write_text("1")
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    provenance.commit.cache_clear()
    told = provenance.commit()
    assert told.endswith("+") == changed
    assert head.startswith(told.rstrip("+"))
    # as in a hook of another repository
    provenance.commit.cache_clear()
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit() == told
    # as an environment inside somebody's repository has it
    monkeypatch.setattr(provenance, "ROOT", module.parent)
    provenance.commit.cache_clear()
    assert provenance.commit() is None


@pytest.fixture(autouse=True)
def forget():
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()
