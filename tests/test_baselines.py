"""What every registered baseline owes by the contract, whatever its networks: learning, MADDR, independence of images, exact resume."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from anomaly_detection.baseline import Batch
from anomaly_detection.config.layers import Layer
from anomaly_detection.data.dataset import to_floats
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.registry import BASELINES, build_settings, find_baseline
from anomaly_detection.training.checkpoint import load_checkpoint
from anomaly_detection.training.loop import Progress, steps, train, validate
from anomaly_detection.training.seed import seed_everything
from tests.helpers import die_at, toy_images

SMALL = {
    "MADDR_dpa": {"rec_loss": {"l1": 1.0}},
    "f_anogan": {"width": 4, "gan_iterations": 4, "critic_steps": 2, "encoder_lr": 0.002},
    "ganomaly": {"width": 4},
    "memae": {"width": 4, "slots": 20},
    "gaussian": {"grid": 3, "layers": ["b2", "b4"], "backbone_weights": "random:1"},
    "feature_ae": {"width": 8, "grid": 4, "layers": ["b2", "b4"], "backbone_weights": "random:1"},
}
RECONSTRUCTS = [model for model in BASELINES if model not in ("gaussian", "feature_ae")]  # the others look at features
PHASES = [(model, call) for model in BASELINES for call in ((3, 7) if model == "f_anogan" else (5,))]


def settings_of(model, image_size=32, channels=1, **options):
    own = {**SMALL[model], "latent_dim": 32}
    if model == "MADDR_dpa":
        dims = [8] * (image_size.bit_length() - 2)
        own |= {part: {"type": "residual18", "inner_dims": dims} for part in ("enc", "dec")}
    values = {"model": model, "datasets": ["toy"], "image_size": image_size, "channels": channels, "baseline": own | options.pop("own", {})}
    values |= {"iterations": 6, "batch_size": 8, "bf16": False, "lr": 0.002, "checkpoint_iter": 2, "val_iter": 2, "log_iter": 2, "sample_iter": 4}
    return build_settings([Layer("test", values | options)])


def built(settings, maddr=False):
    seed_everything(settings.seed)
    baseline = find_baseline(settings.model)(settings)
    baseline.expect_domains(2, 2)
    if maddr:
        baseline.attach(MADDRConstraint(baseline.latent_dim, organ_dim=6, modality_dim=6))
    return baseline


def batch_of(images, count):
    index = torch.arange(count) % len(images)
    return images.batch(index)


def count_passes(encoder):
    """A list that receives the number of images of each pass through a network."""
    passed = []
    encoder.register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))
    return passed


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("model", ["gaussian", "feature_ae"])
def test_steps_for_which_everything_was_taken_read_no_image(model, monkeypatch):
    """The weights are the same where they are read, and where nothing could be kept they are."""
    read = []
    monkeypatch.setattr("anomaly_detection.data.dataset.to_floats", lambda pixels: read.append(len(pixels)) or to_floats(pixels))

    def trained(**options):
        settings, images = settings_of(model, **options), toy_images(24, side=32)
        baseline = built(settings, maddr=True)
        baseline.prepare(images.batches(24))
        stream = steps(baseline, images, settings, Progress())
        next(stream)
        read.clear()
        assert [iteration for _, iteration, _ in stream] == [2, 3, 4, 5, 6]
        return baseline.state_dict(), list(read)

    weights, without = trained()
    assert without == []
    assert trained(feature_cache_mib=0)[1] == [8] * 5
    monkeypatch.setattr(find_baseline(model), "looks_at_images", True)
    same, read_too = trained()
    assert read_too == [8] * 5
    assert same_weights(weights, same)


@pytest.mark.parametrize(
    ("model", "option", "value"),
    [
        ("ganomaly", "adversarial_weight", 0.0),
        ("f_anogan", "gradient_penalty", 0.0),
        ("feature_ae", "weight_decay", 10.0),
    ],
)
def test_an_option_has_a_part_in_training(model, option, value):
    def trained(**own):
        baseline, images = built(settings_of(model, 16, own=own)), toy_images(16, side=16)
        baseline.prepare(images.batches(16))
        for _ in steps(baseline, images, baseline.settings, Progress()):
            pass
        return baseline.state_dict()

    assert not same_weights(trained(), trained(**{option: value}))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [64, 128])
@pytest.mark.parametrize("model", BASELINES)
def test_shapes_at_every_size_and_number_of_channels(model, image_size, channels):
    baseline = built(settings_of(model, image_size, channels)).eval()
    x = torch.rand(2, channels, image_size, image_size) * 2 - 1
    with torch.inference_mode():
        assert baseline.encode(x).shape == (2, 32)
        for made in (baseline.reconstruct(x), baseline.sample(x)):
            assert made.shape == x.shape if model in RECONSTRUCTS else made is None
        assert baseline.anomaly_score(x).shape == (2,)
        assert baseline.anomaly_map(x).shape == (2, 1, image_size, image_size)
        assessment = baseline.assess(x, with_map=False)
        assert assessment.map is None
        assert baseline.validation_loss(x, assessment).shape == (2,)
    for phase in baseline.phases():
        baseline.train()
        baseline.phase = phase
        images = torch.rand(phase.batch_size, channels, image_size, image_size) * 2 - 1
        labels = torch.zeros(phase.batch_size, dtype=torch.int64)
        losses = baseline.training_step(Batch(images, labels, labels, labels), baseline.optimizers(phase))
        assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in losses.values())


@pytest.mark.parametrize("model", BASELINES)
def test_an_assessment_holds_all_views_and_encodes_each_image_once(model):
    baseline = built(settings_of(model, own=CACHING.get(model, {})), maddr=True).eval()
    batch = batch_of(toy_images(9, side=32), 9)
    x = batch.image
    baseline.prepare([batch])
    passed = count_passes(baseline.encoder)
    with torch.inference_mode():
        assessment = baseline.assess(x, with_map=True)
        assert sum(passed) == 9
        torch.testing.assert_close(assessment.latent, baseline.encode(x))
        torch.testing.assert_close(assessment.score, baseline.anomaly_score(x))
        torch.testing.assert_close(assessment.map, baseline.anomaly_map(x))
        if model in RECONSTRUCTS:
            torch.testing.assert_close(assessment.reconstruction, baseline.reconstruct(x))


@pytest.mark.parametrize("model", BASELINES)
def test_a_score_depends_on_its_image_alone(model):
    baseline = built(settings_of(model))
    images = toy_images(24, side=32)
    baseline.prepare([batch_of(images, 24)])
    for phase in baseline.phases():
        baseline.train()
        baseline.phase = phase
        baseline.training_step(batch_of(images, phase.batch_size), baseline.optimizers(phase))
    baseline.eval()
    x = images.batch(torch.arange(9)).image
    before = {name: value.clone() for name, value in baseline.state_dict().items()}
    with torch.inference_mode():
        together = baseline.anomaly_score(x)
        alone = torch.cat([baseline.anomaly_score(each[None]) for each in x])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(baseline.anomaly_score(x.flip(0)).flip(0), together, rtol=1e-5, atol=1e-6)
    assert same_weights(before, baseline.state_dict())


@pytest.mark.parametrize("model", BASELINES)
def test_the_constraint_reaches_encoder_and_both_heads(model):
    baseline = built(settings_of(model), maddr=True)
    phase = baseline.phases()[-1]
    optimizers = baseline.optimizers(phase)
    trained = {id(p) for optimizer in optimizers.values() for group in optimizer.param_groups for p in group["params"]}
    assert all(id(p) in trained for p in [*baseline.maddr.parameters(), *baseline.encoder.parameters()])
    images = toy_images(24, side=32)
    value, log = baseline.constraint(baseline.encode(images.batch(torch.arange(24)).image), batch_of(images, 24))
    value.backward()
    assert {"organ_accuracy", "modality_accuracy"} <= log.keys()
    assert sum(p.grad.abs().sum() for p in baseline.encoder.parameters() if p.grad is not None) > 0
    assert all(p.grad.abs().sum() > 0 for p in baseline.maddr.parameters())
    before = [p.detach().clone() for p in baseline.maddr.parameters()]
    baseline.train()
    baseline.phase, baseline.progress = phase, 0.5
    assert "maddr_center" in baseline.training_step(batch_of(images, phase.batch_size), optimizers)
    assert all((p != q).any() for p, q in zip(baseline.maddr.parameters(), before, strict=True))


@pytest.mark.parametrize("model", BASELINES)
def test_it_learns_images_organs_and_modalities(model, tmp_path):
    options = {"iterations": 250, "val_iter": 50, "early_stopping_patience": None, "log_iter": 50, "checkpoint_iter": 150}
    own = {"f_anogan": {"gan_iterations": 200}, "MADDR_dpa": {"rec_loss": {"l1": 0.2}}}.get(model, {})
    settings = settings_of(model, 16, **options, own=own)
    baseline = built(settings, maddr=True)
    images, held_out = toy_images(48, side=16), toy_images(24, seed=1, side=16)
    train(baseline, images, held_out, settings, tmp_path)
    x = held_out.batch(torch.arange(24)).image
    if model in RECONSTRUCTS:
        with torch.inference_mode():
            error = (baseline.reconstruct(x) - x).square().mean()
        # Always answering the mean training image is what a network that has learned nothing of the image does best.
        mean = images.batch(torch.arange(48)).image.mean(dim=0)
        assert error < 0.5 * (x - mean).square().mean()
    result = validate(baseline, held_out)
    assert result["val_organ_accuracy"] > 0.95
    assert result["val_modality_accuracy"] > 0.95


MIXUP = {"first": 2, "last": 4}


@pytest.mark.parametrize("mixup", [None, MIXUP])
@pytest.mark.parametrize(("model", "call"), PHASES)
def test_a_killed_run_ends_with_the_weights_of_a_whole_one(model, call, mixup, tmp_path):
    settings = settings_of(model, mixup=mixup)
    images, held_out = toy_images(20, side=32), toy_images(6, seed=1, side=32)
    weights = []
    for folder, killed in (("whole", None), ("killed", call)):
        baseline = built(settings, maddr=True)
        die_at(baseline, killed)
        if killed:
            with pytest.raises(KeyboardInterrupt):
                train(baseline, images, held_out, settings, tmp_path / folder)
            baseline = built(replace(settings, seed=5), maddr=True)
        train(baseline, images, held_out, settings, tmp_path / folder)
        weights.append(load_checkpoint(tmp_path / folder / "checkpoint.pt")["model"])
    assert same_weights(*weights)


CACHING = {
    "MADDR_dpa": {
        "rec_loss": {"relative_perceptual_L1": 1.0, "l1": 0.1},
        "backbone": "vgg19",
        "backbone_weights": "random:1",
        "features": {"feature_weights": {"r22": 1.0}},
        "initial_image_res": 16,
        "trns_iter": 3,
    },
    "f_anogan": {},
    "gaussian": {},
    "feature_ae": {},
}


@pytest.mark.parametrize("mixup", [None, {"first": 1, "last": 6}])
@pytest.mark.parametrize("model", CACHING)
def test_features_taken_once_train_as_features_taken_in_every_step(model, mixup, tmp_path):
    images, held_out = toy_images(20, side=32), toy_images(6, seed=1, side=32)
    rows, used = [], []
    for budget in (0, 64):
        settings = settings_of(model, own=CACHING[model], feature_cache_mib=budget, mixup=mixup)
        baseline = built(settings, maddr=True)
        train(baseline, images, held_out, settings, tmp_path / str(budget))
        used.append(baseline.targets is not None)
        rows.append(load_checkpoint(tmp_path / str(budget) / "checkpoint.pt")["training"]["rows"])
    assert used == [False, True]
    for row, other in zip(*rows, strict=True):
        name = "loss" if "loss" in row else "critic_gap"
        assert row[name] == pytest.approx(other[name], rel=2e-3)  # rounding, grown over the steps


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ("f_anogan", None),
        ("MADDR_dpa", {"type": "wasserstein"}),
        ("MADDR_dpa", {"type": "nnl", "use_reg": True, "reg_type": "real_fake"}),
    ],
)
def test_what_a_critic_learns_does_not_depend_on_what_autograd_did_before(model, loss, monkeypatch):
    """On a GPU gradients to derive again are made in a thread of autograd's own. Each thread numbers its nodes, and the highest number goes first."""
    adversarial = {"loss": loss, "ddis": {"type": "residual9", "inner_dims": [4] * 4}}
    settings = settings_of(model, own={} if loss is None else {"adversarial": adversarial})
    grad = torch.autograd.grad
    number = torch.ones(1, requires_grad=True)

    def use_up(count):
        for _ in range(count):
            number * 1

    def learned():
        baseline = built(settings).train()
        batch, optimizers = toy_images(8, side=32).batch(torch.arange(8)), baseline.optimizers(baseline.phases()[0])
        step, critic = (baseline._discriminator_step, "discriminator") if loss else (baseline._critic_step, "critic")
        step(batch, optimizers[critic])
        return [parameter.grad for parameter in getattr(baseline, critic).parameters()]

    with ThreadPoolExecutor(1) as beside:
        monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: beside.submit(grad, *args, **options).result())
        use_up(5_000)
        ahead = learned()
        beside.submit(use_up, 20_000).result()
        behind = learned()
    assert all(map(torch.equal, ahead, behind))
