"""provenance.json of an experiment: which one it is, which data it saw, and which versions trained and scored it on what."""

import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anomaly_detection.system.files import read_json, write_json
from anomaly_detection.system.version import __version__

FILE = "provenance.json"
ROOT = Path(__file__).resolve().parents[2]  # of the clone, where the package lies in one


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what stays true of an experiment however often it is continued."""
    write_json(folder / FILE, {**facts, "runs": []})


def add_run(folder: Path, device: torch.device) -> None:
    """Note what trains or scores the experiment now, unless the same did before: a number can depend on every one of them."""
    origin, run = read_json(folder / FILE), surroundings(device)
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
        head = _git(ROOT, "rev-parse", "--short", "--show-toplevel", "HEAD").splitlines()
        if Path(head[0]).resolve() != ROOT:
            return None  # an environment in somebody's repository
        return head[1] + ("+" if _git(ROOT, "status", "--porcelain", "--", "anomaly_detection", "configs") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10).stdout


def runs_line(origin: Mapping[str, Any]) -> str:
    """The runs of an experiment in words; of one that knew of no runs, its versions."""
    return "; ".join(_run_words(run) for run in origin.get("runs") or [origin])


def _run_words(run: Mapping[str, Any]) -> str:
    revision = f" (commit {run['commit']})" if run.get("commit") else ""
    device = f" on {run['device']}" if run.get("device") else ""
    return f"version {run['package']}{revision}, torch {run['torch']}{device}"
