import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from anomaly_detection.errors import UserError
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.settings import MixupSettings
from anomaly_detection.training.checkpoint import load_checkpoint
from anomaly_detection.training.loop import train, validate
from anomaly_detection.training.reproducibility import seed_everything
from tests.toy import ToyBaseline, die_at, toy_images, toy_settings


def run(folder: Path, stop_at: int | None = None, maddr: bool = True, **options) -> ToyBaseline:
    """Train the toy in a folder; with `stop_at` die in that call of training_step, as a killed process would."""
    settings = toy_settings(**options)
    seed_everything(settings.seed)
    baseline = ToyBaseline(settings, MADDRConstraint(24) if maddr else None)
    die_at(baseline, stop_at)
    train(baseline, toy_images(30), toy_images(9, seed=1), settings, folder)
    return baseline


def log_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "log.csv", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "images_per_second"} for row in csv.DictReader(file)]


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_same_seed_same_weights_other_seed_other_weights(tmp_path):
    one = run(tmp_path / "one")
    assert_same_weights(one, run(tmp_path / "two"))
    other = run(tmp_path / "three", seed=1)
    assert not torch.equal(one.encoder.weight, other.encoder.weight)


@pytest.mark.parametrize("stop_at", [1, 2, 5, 8, 9, 14, 18, 19, 20])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, stop_at):
    """20 steps in two phases, a checkpoint every other step: also across phases, at their ends, before the first and after the last checkpoint."""
    options = {"warm_up": 8, "iterations": 12}
    whole = run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=stop_at, **options)
    resumed = run(tmp_path / "cut", **options)
    assert_same_weights(whole, resumed)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")


MIXED = {"warm_up": 8, "iterations": 12, "mixup": MixupSettings(5, 8)}


@pytest.mark.parametrize("stop_at", [12, 13, 14, 15, 16, 17, 18])
def test_a_run_interrupted_around_mixup_ends_as_an_uninterrupted_one(tmp_path, stop_at):
    """Mixup is in calls 13 to 16; a checkpoint follows every other call."""
    whole = run(tmp_path / "whole", **MIXED)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=stop_at, **MIXED)
    assert_same_weights(whole, run(tmp_path / "cut", **MIXED))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")


@pytest.mark.parametrize("maddr", [True, False])
def test_images_are_mixed_in_the_given_iterations_of_the_last_phase(tmp_path, maddr):
    seen = []
    step = ToyBaseline.training_step

    class Watching(ToyBaseline):
        def training_step(self, batch, optimizers):
            seen.append((next(iter(optimizers)), batch))
            return step(self, batch, optimizers)

    settings = toy_settings(**MIXED)
    images = toy_images(30)
    train(Watching(settings, MADDRConstraint(24) if maddr else None), images, toy_images(9), settings, tmp_path)
    assert [batch.partner is not None for _, batch in seen] == [False] * 12 + [True] * 4 + [False] * 4
    assert [name for name, _ in seen] == ["bias"] * 8 + ["autoencoder"] * 12
    shares = [batch.share for _, batch in seen[12:16]]
    assert len(set(shares)) == 4
    for _, batch in seen[12:16]:
        partner = batch.partner
        assert torch.equal(partner.image, images.pixels(partner.index))
        assert torch.equal(partner.organ, images.organ[partner.index])
        assert sorted(partner.organ.tolist()) == sorted(batch.organ.tolist()), "partners are of the same batch"


def test_the_learning_rate_does_not_fall_meanwhile(tmp_path):
    run(tmp_path, iterations=16, lr=0.01, lr_step=10, lr_gamma=0.8, log_iter=1, mixup=MixupSettings(8, 10))
    rates = [float(row["lr"]) for row in log_of(tmp_path)]
    assert rates == pytest.approx([0.01] * 12 + [0.008] * 4), "the tenth step that counts is that of iteration 13"


def test_a_killed_process_continues_to_the_same_weights(tmp_path):
    """SIGKILL in the middle of training, from outside: no handler, no cleaning up."""
    program = (
        "import sys, pathlib\n"
        "from tests.training.test_loop import run\n"
        "run(pathlib.Path(sys.argv[1]), iterations=1000, val_iter=250, log_iter=250, sample_iter=1000, checkpoint_iter=50)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    while process.poll() is None and not (checkpoint.exists() and load_checkpoint(checkpoint)["state"]["iteration"] > 100):
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    options = {"iterations": 1000, "val_iter": 250, "log_iter": 250, "sample_iter": 1000, "checkpoint_iter": 50}
    resumed = run(tmp_path / "killed", **options)
    assert_same_weights(resumed, run(tmp_path / "whole", **options))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, stop_at=1)
    assert_same_weights(first, again)


def test_the_weights_of_the_lowest_validation_loss_are_kept(tmp_path):
    """A learning rate that grows out of bounds: the end is worse than the middle."""
    baseline = run(tmp_path, iterations=40, lr=0.02, lr_step=2, lr_gamma=1.5)
    losses = {int(row["iteration"]): float(row["val_loss"]) for row in log_of(tmp_path) if row["val_loss"]}
    best = min(losses, key=losses.get)
    assert best < 40
    assert validate(baseline, toy_images(9, seed=1))["val_loss"] == pytest.approx(losses[best], rel=1e-6)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["state"]["best"]["iteration"] == best


def test_patience_ends_training(tmp_path):
    run(tmp_path, iterations=400, lr=0.02, lr_step=2, lr_gamma=1.5, early_stopping_patience=2)
    rows = [row for row in log_of(tmp_path) if row["val_loss"]]
    losses = [float(row["val_loss"]) for row in rows]
    assert int(rows[-1]["iteration"]) < 400
    assert losses.index(min(losses)) == len(losses) - 1 - 3, "ends at the first validation more than two after the best"


def test_learning_rate_falls_in_steps(tmp_path):
    run(tmp_path, iterations=12, lr=0.01, lr_step=5, lr_gamma=0.5)
    rates = {int(row["iteration"]): float(row["lr"]) for row in log_of(tmp_path)}
    assert (rates[4], rates[6], rates[12]) == (0.01, 0.005, 0.0025)


def test_the_log_holds_means_of_the_losses_and_validation_accuracies(tmp_path):
    run(tmp_path)
    rows = log_of(tmp_path)
    assert [int(row["iteration"]) for row in rows] == [2, 3, 4, 6, 8, 9, 10, 12]
    for name in ("rec", "maddr_organ", "maddr_modality", "maddr_center", "organ_accuracy", "modality_accuracy"):
        assert all(row[name] for row in rows)
    assert all(0 <= float(row["val_organ_accuracy"]) <= 1 for row in rows if row["val_loss"])
    assert [row["iteration"] for row in rows if row["val_loss"]] == ["4", "8", "12"]


def test_without_maddr_nothing_of_it_is_logged(tmp_path):
    run(tmp_path, maddr=False)
    assert not [name for name in log_of(tmp_path)[0] if "maddr" in name or "accuracy" in name]


def test_samples_show_images_above_reconstructions(tmp_path):
    run(tmp_path)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["main_000006.png", "main_000012.png"]
    with Image.open(tmp_path / "samples" / "main_000012.png") as picture:
        assert picture.size == (8 * 10 + 2, 2 * 10 + 2)


def test_a_loss_that_is_no_number_ends_with_one_line_and_keeps_the_checkpoint(tmp_path):
    settings = toy_settings(iterations=12)
    baseline = ToyBaseline(settings)
    step, calls = baseline.training_step, []

    def diverging(*arguments):
        calls.append(1)
        losses = step(*arguments)
        return {"rec": losses["rec"] * float("nan")} if len(calls) == 7 else losses

    baseline.training_step = diverging
    with pytest.raises(UserError, match=r"rec became nan by iteration 8 of main; lower lr .*last good weights") as caught:
        train(baseline, toy_images(30), toy_images(9), settings, tmp_path)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["state"]["iteration"] == 6


def test_heads_move_and_learn_on_the_validation_images(tmp_path):
    seed_everything(0)
    fresh = MADDRConstraint(24).state_dict()
    baseline = run(tmp_path, iterations=600, lr_step=300, val_iter=300, log_iter=300, checkpoint_iter=600)
    for name, weights in baseline.maddr.state_dict().items():
        assert not torch.equal(weights, fresh[name])
    result = validate(baseline, toy_images(60, seed=5))
    assert result["val_organ_accuracy"] > 0.98
    assert result["val_modality_accuracy"] > 0.98
