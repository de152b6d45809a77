"""Two processes that share every batch train as one does."""

import csv
import os
import subprocess
import sys

import pytest
import yaml

from anomaly_detection.__main__ import main
from anomaly_detection.data.phantom.datasets import write_phantoms

OWN = {
    "MADDR_dpa": {
        "rec_loss": {"l1": 1.0},
        "enc": {"type": "residual9", "inner_dims": [4, 4, 4, 4]},
        "dec": {"type": "residual9", "inner_dims": [4, 4, 4, 4]},
    },
    "f_anogan": {"width": 4, "gan_iterations": 4, "critic_steps": 2},
    "ganomaly": {"width": 4},
    "memae": {"width": 4, "slots": 20},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "phantom"
    write_phantoms(root, images=60, size=64, workers=1)
    return root


def trained(model: str, processes: int | None, data, folder, device: str = "cpu", **changes) -> list[dict[str, str]]:
    """The rows of log.csv, of so many processes of torchrun, or of this one; a GPU is one process's alone."""
    folder.mkdir()
    values = {"model": model, "datasets": ["lits", "covid_ct", "covid_xray"], "image_size": 32, "iterations": 8, "batch_size": 8, "bf16": False}
    values |= {"log_iter": 2, "val_iter": 4, "sample_iter": 8, "checkpoint_iter": 4, "maddr": {"enabled": True}, "baseline": OWN[model]}
    values["mixup"] = {"first": 3, "last": 6}
    values |= {key: value for key, value in changes.items() if key != "maddr"}
    values["maddr"] |= changes.get("maddr", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = ["train", str(folder / "config.yaml"), "--data-root", str(data), "--results", str(folder / "results"), "--device", device]
    if processes is None:
        assert main(command) == 0
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "anomaly_detection"]
        as_here = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums are rounded as by the single thread of the tests
        done = subprocess.run([*torchrun, *command], env=as_here, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("results in") == 1
    (log,) = (folder / "results").rglob("log.csv")
    with open(log, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("changes", [{}, {"balanced": True, "maddr": {"center_of": "domain", "center_momentum": 0.5}}], ids=["batch", "moving"])
def test_the_loss_curve_with_the_center_of_the_whole_batch_is_that_of_one_process(changes, data, tmp_path):
    one, two = (trained("MADDR_dpa", processes, data, tmp_path / str(processes), **changes) for processes in (None, 2))
    assert len(one) == len(two) == 4
    for row, other in zip(one, two, strict=True):
        for name, value in row.items():
            if name not in ("phase", "images_per_second") and value:
                assert float(other[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


def test_a_single_process_of_torchrun_trains_as_one_without(data, tmp_path):
    """Nothing is exchanged, so that on a GPU its steps may be replayed."""
    alone, one = (trained("memae", processes, data, tmp_path / str(processes), "auto") for processes in (None, 1))
    assert [{**row, "images_per_second": ""} for row in alone] == [{**row, "images_per_second": ""} for row in one]


def test_an_adversarial_baseline_trains_in_two_processes(data, tmp_path):
    rows = trained("f_anogan", 2, data, tmp_path / "two")
    assert {row["phase"] for row in rows} == {"gan", "encoder"}
