"""provenance.json of an experiment: which one it is, which data it saw, and which versions trained and scored it on what."""

import functools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anomaly_detection.system.files import read_json, write_json
from anomaly_detection.system.version import __version__

FILE = "provenance.json"
ROOT = Path(__file__).resolve().parents[2]  # of the clone, where the package lies in one
_REMEDY = "delete the folder"
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # of the environment in which git runs a program, as a hook: not of this clone


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what stays true of an experiment however often it is continued."""
    write_json(folder / FILE, {**facts, "runs": []})


def read(folder: Path) -> dict[str, Any]:
    """What `begin` and `add_run` wrote.

    Raises:
        UserError: it is missing, damaged or of an older version: nobody knows what the results in the folder are of.
    """
    return read_json(folder / FILE, dict.fromkeys(("regime", "data", "data_root"), str), _REMEDY)


def is_older(folder: Path) -> bool:
    """Whether an older version of this package began the experiment in a folder: its regime is not told.

    Raises:
        UserError: provenance.json is missing or damaged.
    """
    return read_json(folder / FILE, remedy=_REMEDY).get("regime") is None


def add_run(folder: Path, device: torch.device) -> None:
    """Note what trains or scores the experiment now, unless the same did before: a number can depend on every one of them."""
    origin, run = read(folder), surroundings(device)
    if run not in origin.get("runs", []):
        write_json(folder / FILE, {**origin, "runs": [*origin.get("runs", []), run]})


def surroundings(device: torch.device) -> dict[str, Any]:
    """Versions, commit (None of an installed package) and device, with the number of threads of a CPU: sums are rounded by it."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}, {torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"
    return {"package": __version__, "commit": commit(), "torch": torch.__version__, "device": name}


@functools.cache
def commit() -> str | None:
    """Of the clone that the package lies in, with a + where its files were changed since; None where it lies in none."""
    try:
        top, head = _git(ROOT, "rev-parse", "--short", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != ROOT:
            return None  # an environment in somebody's repository
        return head + ("+" if _git(ROOT, "status", "--porcelain", "--", "anomaly_detection", "configs") else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=environment).stdout


def runs_line(origin: Mapping[str, Any]) -> str:
    """The runs of an experiment in words; of one that knew of no runs, its versions."""
    return "; ".join(_run_words(run) for run in origin.get("runs") or [origin])


def _run_words(run: Mapping[str, Any]) -> str:
    revision = f" (commit {run['commit']})" if run.get("commit") else ""
    device = f" on {run['device']}" if run.get("device") else ""
    return f"version {run['package']}{revision}, torch {run['torch']}{device}"
