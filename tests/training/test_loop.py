import csv
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from anomaly_detection.baseline import Assessment, Baseline, Phase
from anomaly_detection.config.settings import MixupSettings
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.study.experiment import FREE_KEYS
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.system import distributed
from anomaly_detection.system.errors import UserError
from anomaly_detection.training import loop
from anomaly_detection.training.checkpoint import FirstPhases, load_checkpoint, save_checkpoint
from anomaly_detection.training.loop import Progress, steps, train, validate
from anomaly_detection.training.seed import random_state, seed_everything, set_random_state
from tests.helpers import ToyBaseline, die_at, toy_baseline, toy_images, toy_settings


def run(folder: Path, stop_at: int | None = None, maddr: bool = True, **options) -> ToyBaseline:
    """Train the toy in a folder; with `stop_at` die in that call of training_step, as a killed process would."""
    settings = toy_settings(**options)
    seed_everything(settings.seed)
    baseline = toy_baseline(settings, maddr)
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


def test_a_run_that_goes_on_by_other_intervals_ends_as_an_uninterrupted_one(tmp_path):
    """And its log has every row once, in order."""
    whole = run(tmp_path / "whole", warm_up=8)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=11, warm_up=8)
    others = {"log_iter": 1, "sample_iter": 2, "checkpoint_iter": 5}
    assert others.keys() <= set(FREE_KEYS)
    assert_same_weights(whole, run(tmp_path / "cut", warm_up=8, **others))
    steps = {"warm_up": [2, 3, 4, 6, 8], "main": [2, *range(3, 13)]}
    assert [(row["phase"], int(row["iteration"])) for row in log_of(tmp_path / "cut")] == [(name, step) for name in steps for step in steps[name]]


MIXED = {"warm_up": 8, "iterations": 12, "mixup": MixupSettings(5, 8)}


@pytest.mark.parametrize("stop_at", [12, 13, 14, 15, 16, 17, 18])
def test_a_run_interrupted_around_mixup_ends_as_an_uninterrupted_one(tmp_path, stop_at):
    """Mixup is in calls 13 to 16; a checkpoint follows every other call."""
    whole = run(tmp_path / "whole", **MIXED)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=stop_at, **MIXED)
    assert_same_weights(whole, run(tmp_path / "cut", **MIXED))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "cut")


@pytest.mark.parametrize("of", ["all", "domain"])
@pytest.mark.parametrize("stop_at", [6, 13, 16])
def test_moving_centers_and_balanced_groups_continue_where_they_were(tmp_path, stop_at, of):
    """Mixup among them; the centers of the best weights are theirs, too."""

    def trained(folder, stop_at=None):
        settings = toy_settings(**MIXED, balanced=True)
        seed_everything(settings.seed)
        baseline = toy_baseline(settings, maddr=False)
        baseline.attach(MADDRConstraint(baseline.latent_dim, center_of=of, center_momentum=0.9, heads_train_encoder=False))
        die_at(baseline, stop_at)
        images = replace(toy_images(30), datasets=[["a", "b", "c"][place % 3 if place < 20 else 0] for place in range(30)])
        train(baseline, images, toy_images(9, seed=1), settings, folder)
        return baseline

    whole = trained(tmp_path / "whole")
    assert whole.maddr.centers_seen.sum() == {"all": 1, "domain": 3}[of]
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", stop_at)
    assert_same_weights(whole, trained(tmp_path / "cut"))
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
    baseline = Watching(settings)
    if maddr:
        baseline.attach(MADDRConstraint(baseline.latent_dim))
    train(baseline, images, toy_images(9), settings, tmp_path)
    assert [batch.partner is not None for _, batch in seen] == [False] * 12 + [True] * 4 + [False] * 4
    assert [name for name, _ in seen] == ["bias"] * 8 + ["autoencoder"] * 12
    shares = [batch.share for _, batch in seen[12:16]]
    assert len(set(shares)) == 4
    for _, batch in seen[12:16]:
        partner = batch.partner
        assert torch.equal(partner.image, images.batch(partner.index).image)
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
    while process.poll() is None and not (checkpoint.exists() and load_checkpoint(checkpoint)["training"]["progress"]["iteration"] > 100):
        time.sleep(0.01)
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
    assert load_checkpoint(tmp_path / "checkpoint.pt")["training"]["best"]["iteration"] == best


def test_what_is_lower_by_less_than_the_least_difference_is_not_better(tmp_path):
    run(tmp_path, iterations=12, early_stopping_min_delta=1e6)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["training"]["best"]["iteration"] == 4, "that of the first validation"


def test_the_best_weights_from_before_an_interruption_are_kept(tmp_path):
    options = {"iterations": 40, "lr": 0.02, "lr_step": 2, "lr_gamma": 1.5}
    whole = run(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at=35, **options)
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["training"]["progress"]["iteration"] == 34
    assert_same_weights(whole, run(tmp_path / "cut", **options))
    assert load_checkpoint(tmp_path / "cut" / "checkpoint.pt")["training"]["best"]["iteration"] < 34


def test_an_earlier_phase_has_no_best_weights(tmp_path):
    """Whatever its validation loss is: it may be another one than that of the last phase."""

    class Incomparable(ToyBaseline):
        def validation_loss(self, x, assessment):
            return assessment.score * (self.phase.name == "main")

    settings = toy_settings(warm_up=8, iterations=12)
    train(Incomparable(settings), toy_images(30), toy_images(9, seed=1), settings, tmp_path)
    best = load_checkpoint(tmp_path / "checkpoint.pt")["training"]["best"]
    losses = {int(row["iteration"]): float(row["val_loss"]) for row in log_of(tmp_path) if row["val_loss"] and row["phase"] == "main"}
    assert best["validation"]["val_loss"] == pytest.approx(min(losses.values()))
    assert min(losses.values()) > 0


def test_the_validation_loss_is_the_mean_over_images(monkeypatch):
    monkeypatch.setattr("anomaly_detection.training.loop.EVALUATION_BATCH", 4)  # 4, 4 and 1
    baseline, images = toy_baseline(toy_settings()), toy_images(9)
    images.images[8] = 255
    with torch.inference_mode():
        losses = [baseline.anomaly_score(images.batch(torch.tensor([i])).image).item() for i in range(9)]
    assert validate(baseline, images)["val_loss"] == pytest.approx(sum(losses) / 9, rel=1e-6)


def test_steps_are_done_in_training_mode_and_images_judged_in_evaluation_mode(tmp_path):
    modes = {"step": [], "judge": []}

    class Watching(ToyBaseline):
        def training_step(self, batch, optimizers):
            modes["step"].append(self.training)
            return super().training_step(batch, optimizers)

        def assess(self, x, with_map):
            modes["judge"].append(self.training)
            return super().assess(x, with_map)

    train(Watching(toy_settings()), toy_images(30), toy_images(9), toy_settings(), tmp_path)
    assert modes["step"] == [True] * 12
    assert modes["judge"] == [False] * 6, "once before training, three validations and two pictures of samples"


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
    assert load_checkpoint(tmp_path / "checkpoint.pt")["training"]["progress"]["iteration"] == 6


def test_weights_that_are_no_numbers_are_named_and_not_saved(tmp_path):
    settings = toy_settings(iterations=4)
    baseline = ToyBaseline(settings)
    baseline.register_buffer("unused", torch.tensor([0.0, float("inf")]))  # no loss tells of it
    with pytest.raises(UserError, match="the weights unused are no longer finite numbers; lower lr"):
        train(baseline, toy_images(30), toy_images(9), settings, tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_heads_move_and_learn_on_the_validation_images(tmp_path):
    seed_everything(0)
    fresh = toy_baseline(toy_settings()).maddr.state_dict()
    baseline = run(tmp_path, iterations=600, lr_step=300, val_iter=300, log_iter=300, checkpoint_iter=600)
    for name, weights in baseline.maddr.state_dict().items():
        assert not torch.equal(weights, fresh[name])
    result = validate(baseline, toy_images(60, seed=5))
    assert result["val_organ_accuracy"] > 0.98
    assert result["val_modality_accuracy"] > 0.98


def test_a_step_knows_its_phase_and_how_far_it_is(tmp_path):
    settings = toy_settings(warm_up=3, iterations=4)
    baseline = toy_baseline(settings)
    step, seen = baseline.training_step, []
    baseline.training_step = lambda *arguments: (seen.append((baseline.phase.name, baseline.progress)), step(*arguments))[1]
    train(baseline, toy_images(30), toy_images(9), settings, tmp_path)
    assert seen == [("warm_up", 1 / 3), ("warm_up", 2 / 3), ("warm_up", 1), ("main", 0.25), ("main", 0.5), ("main", 0.75), ("main", 1)]
    assert (baseline.phase, baseline.progress) == (None, 1), "trained"


class Forgetful(ToyBaseline):
    """It does not give the heads to an optimizer, as the published code does not."""

    def optimizers(self, phase):
        parameters = [*self.encoder.parameters(), *self.decoder.parameters(), self.maddr.heads["organ"].weight]
        return {"autoencoder": torch.optim.Adam(parameters, self.settings.lr)}


def test_a_constraint_whose_heads_no_optimizer_holds_is_refused(tmp_path):
    baseline = Forgetful(toy_settings())
    baseline.attach(toy_baseline(toy_settings()).maddr)
    line = r"^Forgetful: no optimizer holds maddr\.heads\.organ\.bias, maddr\.heads\.modality\.weight, .*self\.heads\(\)"
    with pytest.raises(UserError, match=line) as caught:
        train(baseline, toy_images(30), toy_images(9), toy_settings(), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


class MeanImages(Baseline):
    """Never trained: it knows the mean training image of every organ, and scores by the distance to the nearest; it reconstructs nothing."""

    latent_dim = 2

    def __init__(self, settings):
        super().__init__(settings)
        self.register_buffer("means", torch.zeros(2, 1, settings.image_size, settings.image_size))

    def phases(self):
        return []

    def prepare(self, batches):
        batches = list(batches)
        images, organ = torch.cat([batch.image for batch in batches]), torch.cat([batch.organ for batch in batches])
        for number in range(2):
            self.means[number] = images[organ == number].mean(dim=0)

    def assess(self, x, with_map):
        difference = (x[:, None] - self.means[None]).abs()
        distance = difference.mean(dim=(2, 3, 4))
        score, nearest = distance.min(dim=1)
        return Assessment(distance, score, difference[torch.arange(len(x)), nearest] if with_map else None)


def test_a_baseline_without_phases_ends_with_a_finished_checkpoint(tmp_path, monkeypatch):
    settings, images, held_out = toy_settings(), toy_images(300), toy_images(9, seed=1)
    train(MeanImages(settings), images, held_out, settings, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt"}, "no losses, and no reconstructions to show"
    baseline = MeanImages(settings)
    with monkeypatch.context() as patch:
        patch.setattr(MeanImages, "prepare", lambda *_: pytest.fail("prepared again"))
        train(baseline, images, held_out, settings, tmp_path)
    for number in range(2):
        chosen = [image.double() / 127.5 - 1 for image, organ in zip(images.images, images.organ, strict=True) if organ == number]
        torch.testing.assert_close(baseline.means[number], (sum(chosen) / len(chosen)).float())
    training = load_checkpoint(tmp_path / "checkpoint.pt")["training"]
    assert training["finished"]
    assert training["best"]["validation"]["val_loss"] == pytest.approx(validate(baseline, held_out)["val_loss"])
    constrained = MeanImages(settings)
    constrained.attach(toy_baseline(settings).maddr)
    possible = " ".join(name for name, regime in REGIMES.items() if not regime.terms)
    with pytest.raises(UserError, match=f"^MeanImages has no phases of training, .*; leave maddr off, in a study by --regimes {possible}$"):
        train(constrained, images, held_out, settings, tmp_path / "constrained")


def test_steps_are_the_steps_of_training_and_go_on_from_where_they_stood(tmp_path):
    settings = toy_settings(warm_up=5, iterations=7, lr_step=3)
    seed_everything(0)
    whole = toy_baseline(settings)
    told = [(phase.name, iteration) for phase, iteration, _ in steps(whole, toy_images(30), settings, Progress())]
    assert told == [("warm_up", i) for i in range(1, 6)] + [("main", i) for i in range(1, 8)]

    for count in (2, 5, 8):
        seed_everything(0)
        cut = toy_baseline(settings)
        progress = Progress()
        stream = steps(cut, toy_images(30), settings, progress)
        for _ in range(count):
            next(stream)
        saved, random = progress.to_plain(), random_state(torch.device("cpu"))
        resumed = toy_baseline(settings)
        resumed.load_state_dict(cut.state_dict())
        set_random_state(random, torch.device("cpu"))
        rest = [(phase.name, iteration) for phase, iteration, _ in steps(resumed, toy_images(30), settings, Progress.from_plain(saved))]
        assert rest == told[count:]
        assert_same_weights(whole, resumed)


def test_a_phase_that_is_behind_is_not_begun_again(tmp_path, monkeypatch):
    settings = toy_settings(warm_up=2, iterations=4)
    baseline = toy_baseline(settings)
    begun = []
    monkeypatch.setattr(ToyBaseline, "begin_phase", lambda self, phase, batches, count: begun.append((phase.name, count, len(list(batches)))))
    for _ in steps(baseline, toy_images(30), settings, Progress(phase=0, iteration=2)):
        pass
    assert begun == [("main", 30, 1)]


class SharingToy(ToyBaseline):
    """Its warm-up, which trains the decoder's bias alone, is the same with and without MADDR."""

    def phases(self):
        return [replace(phase, shared=phase.name == "warm_up") for phase in super().phases()]


def test_a_shared_first_phase_is_gone_on_from_to_the_same_weights(tmp_path):
    def run(folder, maddr, shared):
        settings = toy_settings(warm_up=5, iterations=7, checkpoint_iter=3)
        seed_everything(0)
        baseline = SharingToy(settings)
        if maddr:
            baseline.attach(MADDRConstraint(baseline.latent_dim))
        seed_everything(1)  # for the noise of the steps, with heads and without
        step, calls = baseline.training_step, []
        baseline.training_step = lambda *arguments: (calls.append(baseline.phase.name), step(*arguments))[1]
        with nullcontext() if shared is None else FirstPhases(shared) as first_phases:
            train(baseline, toy_images(30), toy_images(9, seed=1), settings, tmp_path / folder, shared=first_phases)
        return baseline, calls

    alone, _ = run("alone", True, None)
    _, calls = run("united", False, tmp_path / "shared.pt")
    assert calls == ["warm_up"] * 5 + ["main"] * 7
    assert not [name for name in load_checkpoint(tmp_path / "shared.pt")["model"] if "maddr" in name]
    together, calls = run("maddr", True, tmp_path / "shared.pt")
    assert calls == ["main"] * 7
    assert_same_weights(alone, together)
    logs = [[row for row in log_of(tmp_path / name) if row["phase"] == "main"] for name in ("alone", "maddr")]
    assert logs[0] == logs[1]
    assert [row["phase"] for row in log_of(tmp_path / "maddr")].count("warm_up") == 3, "the rows of the shared phase are kept"


@pytest.mark.parametrize(("stop_at", "locks"), [(4, 1), (6, 0), (9, 0), (None, 0)], ids=["within", "at the end", "past", "finished"])
def test_who_has_done_the_shared_phases_keeps_nobody_from_them(stop_at, locks, tmp_path, monkeypatch):
    locked = []

    class Counting(FileLock):
        def acquire(self, *arguments, **options):
            locked.append(self.lock_file)
            return super().acquire(*arguments, **options)

    monkeypatch.setattr("anomaly_detection.training.checkpoint.FileLock", Counting)
    for shared, call in ((None, stop_at), (tmp_path / "shared.pt", None)):
        settings = toy_settings(warm_up=5, iterations=7, checkpoint_iter=3)
        seed_everything(0)
        baseline = SharingToy(settings)
        die_at(baseline, call)
        with suppress(KeyboardInterrupt), nullcontext() if shared is None else FirstPhases(shared) as first_phases:
            train(baseline, toy_images(30), toy_images(9, seed=1), settings, tmp_path, shared=first_phases)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["training"]["finished"]
    assert len(locked) == locks


@pytest.mark.parametrize(
    ("batch_size", "processes", "told"),
    [(3, 2, "choose 2 or 4"), (8, 3, "choose 6 or 9"), (1, 4, "choose 4"), (8, 2, None), (6, 3, None)],
)
def test_what_cannot_be_shared_out_is_refused_before_the_first_step(batch_size, processes, told, monkeypatch):
    """A phase of 2 x 3 images would be shared out to two processes, but its chunks would not: one of 2 images and one of 1."""
    monkeypatch.setattr(distributed, "processes", lambda: processes)

    class Adversarial(ToyBaseline):
        def phases(self):
            return [Phase("main", 4, 2 * self.settings.batch_size, chunks=2)]

        def training_step(self, batch, optimizers):
            sizes = {len(chunk.image) for chunk in batch.chunks(2)}
            assert sizes == {batch_size // processes}
            return {"loss": torch.zeros(())}

    settings = toy_settings(batch_size=batch_size, lr_step=None)
    stream = steps(Adversarial(settings), toy_images(40), settings, Progress())
    monkeypatch.setattr(distributed, "broadcast", lambda module: None)
    monkeypatch.setattr("anomaly_detection.training.loop.broadcast", lambda module: None)
    if told is None:
        next(stream)
    else:
        with pytest.raises(UserError, match=rf"batch_size of {batch_size} cannot be shared out evenly to {processes} processes; {told}"):
            next(stream)


def test_a_group_of_processes_that_others_have_formed_is_not_joined(tmp_path, monkeypatch):
    """As in a program of the user's own, one process of which trains here."""
    alone = run(tmp_path / "alone")
    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    for name in ("all_reduce", "broadcast", "broadcast_object_list", "all_gather_object"):
        monkeypatch.setattr(torch.distributed, name, lambda *_: pytest.fail("the other processes are waited for"))
    within = run(tmp_path / "within")
    assert_same_weights(alone, within)
    assert log_of(tmp_path / "within") == log_of(tmp_path / "alone")


def test_each_process_draws_noise_of_its_own_also_when_it_goes_on(tmp_path, monkeypatch):
    def begin(*_):
        raise KeyboardInterrupt

    def drawn(number):
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(loop, "rank", lambda: number)
            patch.setattr(loop, "steps", begin)
            run(tmp_path)
        return torch.rand(1).item()

    assert len({drawn(number) for number in range(3)}) == 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=5)
    content, states = load_checkpoint(tmp_path / "checkpoint.pt"), [torch.Generator().manual_seed(seed).get_state() for seed in (7, 8)]
    content["training"]["random"] = [{"cpu": each} for each in states]
    save_checkpoint(tmp_path / "checkpoint.pt", content)
    expected = [torch.rand(1, generator=torch.Generator().manual_seed(seed)).item() for seed in (7, 8, 7)]
    assert [drawn(number) for number in range(3)] == expected, "one more than were saved has that of the first"


def test_preparing_a_phase_is_no_time_of_its_steps(tmp_path):
    class Slow(ToyBaseline):
        def begin_phase(self, phase, batches, count):
            time.sleep(0.5)

    settings = toy_settings(iterations=2, log_iter=2)
    train(Slow(settings), toy_images(30), toy_images(9), settings, tmp_path)
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        assert float(next(csv.DictReader(file))["images_per_second"]) > 2 * 8 / 0.5


@pytest.mark.parametrize(("seconds", "terminal"), [(0, False), (3600, False), (0, True)])
def test_a_redirected_log_has_lines_now_and_then(tmp_path, monkeypatch, caplog, capfd, seconds, terminal):
    monkeypatch.setattr("anomaly_detection.system.progress.SECONDS_BETWEEN_LINES", seconds)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    caplog.set_level("INFO")
    run(tmp_path, iterations=12, log_iter=2, val_iter=12, checkpoint_iter=12)
    told = [record.message for record in caplog.records if record.message.startswith("training main: ")]
    if seconds or terminal:
        assert not told
    else:
        assert re.fullmatch(r"training main: 3 of 12 it, .* left, rec=0\.\d+.*", told[2]), told
    assert ("\r" in capfd.readouterr().err) == terminal
