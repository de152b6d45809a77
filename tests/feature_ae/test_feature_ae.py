"""The feature autoencoder against loops in float64 and torch's own schedule."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly_detection.feature_ae.feature_ae import one_cycle
from anomaly_detection.feature_ae.networks import Decoder, Encoder
from anomaly_detection.training.loop import Progress, steps, train, validate
from tests.helpers import toy_images
from tests.test_baselines import batch_of, built, settings_of


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 800])
def test_one_cycle_is_that_of_torch(steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], 0.002)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=steps + 1, cycle_momentum=False)
    if steps > 7:  # torch gives one more value than there are steps unless it is told their number
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=steps, cycle_momentum=False)
        for step in range(steps):
            assert 0.002 * one_cycle(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
            optimizer.step()
            if step < steps - 1:
                schedule.step()
    assert 0 < one_cycle(steps - 1, steps) <= 1


def test_the_first_step_of_training_is_the_first_of_the_cycle():
    baseline, images = built(settings_of("feature_ae", 16)), toy_images(16, side=16)
    baseline.prepare(images.batches(16))
    progress = Progress()
    rates = [progress.optimizers["autoencoder"].param_groups[0]["lr"] for _ in steps(baseline, images, baseline.settings, progress)]
    assert rates == pytest.approx([0.002 * one_cycle(step, 6) for step in range(6)])


@pytest.mark.parametrize("grid", [2, 5, 8])
def test_networks_keep_the_grid(grid):
    x = torch.rand(3, 10, grid, grid)
    encoder, decoder = Encoder(10, grid, 6, 4, 0.3).eval(), Decoder(10, grid, 6, 4).eval()
    z = encoder(x)
    assert z.shape == (3, 4)
    assert decoder(z).shape == x.shape


def test_dropout_takes_whole_channels_in_training_alone():
    encoder = Encoder(40, 4, 6, 4, 0.5)
    seen = []
    encoder.layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.ones(8, 40, 4, 4)
    encoder.train()(x)
    dropped = (seen[0] == 0).flatten(2)
    assert torch.equal(dropped.any(dim=2), dropped.all(dim=2))
    assert 0.3 < dropped.float().mean() < 0.7
    encoder.eval()(x)
    assert torch.equal(seen[1], x)


def vectors(baseline, x):
    """Features and reconstructions (B, C, H, W) in float64."""
    with torch.no_grad():
        features = baseline.frozen(x)
        return features.double().numpy(), baseline.decoder(baseline.encoder(features)).double().numpy()


def angles(features: np.ndarray, made: np.ndarray) -> np.ndarray:
    found = np.empty((len(features), *features.shape[2:]))
    for b, i, j in np.ndindex(found.shape):
        f, g = features[b, :, i, j], made[b, :, i, j]
        found[b, i, j] = 1 - f @ g / np.sqrt((f @ f) * (g @ g))
    return found


def test_score_and_map_are_the_float64_loop():
    baseline = built(settings_of("feature_ae")).eval()
    images = toy_images(6, side=32)
    baseline.prepare(images.batches(4))
    x = images.batch(torch.arange(6)).image
    expected = angles(*vectors(baseline, x))
    assessment = baseline.assess(x, with_map=True)
    np.testing.assert_allclose(assessment.score.detach(), expected.mean(axis=(1, 2)), rtol=1e-4)
    resized = torch.nn.functional.interpolate(torch.from_numpy(expected)[:, None], (32, 32), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(assessment.map.detach(), resized, rtol=1e-4, atol=1e-5)


def test_the_score_of_a_share_is_that_of_the_highest_positions_and_training_does_not_see_it():
    settings = settings_of("feature_ae")
    plain, share = (built(replace(settings, baseline=replace(settings.baseline, score_share=value))).eval() for value in (1.0, 0.1))
    images = toy_images(6, side=32)
    for baseline in (plain, share):
        baseline.prepare(images.batches(6))
    x = images.batch(torch.arange(6)).image
    rows = angles(*vectors(share, x)).reshape(6, -1)
    count = round(0.1 * rows.shape[1])
    assert 1 < count < rows.shape[1]
    with torch.no_grad():
        told = share.assess(x, with_map=True)
        np.testing.assert_allclose(told.score, [np.mean(sorted(row)[-count:]) for row in rows], rtol=1e-4)
        np.testing.assert_array_equal(told.map, plain.assess(x, with_map=True).map)
        np.testing.assert_allclose(share.validation_loss(x, told), plain.anomaly_score(x), rtol=1e-6)
    assert share.describe()["score"] == "angle of the highest 0.1 of the positions"


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_the_formula(weight):
    baseline = built(settings_of("feature_ae", own={"mse_weight": weight, "dropout": 0.0}))
    images = toy_images(8, side=32)
    baseline.prepare(images.batches(8))
    baseline.phase, baseline.progress = baseline.phases()[0], 0.5
    baseline.train()
    features, made = vectors(baseline, images.batch(torch.arange(8)).image)  # batch norms see the same batch again
    loss = baseline.training_step(batch_of(images, 8), baseline.optimizers(baseline.phase))
    mse = sum(float(d) ** 2 for d in (features - made).ravel()) / features.size
    assert loss["mse"].item() == pytest.approx(mse, rel=1e-4)
    assert loss["angle"].item() == pytest.approx(angles(features, made).mean(), rel=1e-4)
    assert loss["loss"].item() == pytest.approx(angles(features, made).mean() + weight * mse, rel=1e-4)


def test_the_statistics_are_those_of_the_training_images():
    baseline = built(settings_of("feature_ae")).eval()
    images = toy_images(20, side=32)
    baseline.prepare(images.batches(6))
    features = vectors(baseline, images.batch(torch.arange(20)).image)[0]
    np.testing.assert_allclose(features.mean(axis=(0, 2, 3)), 0, atol=1e-3)
    assert features.std(axis=(0, 2, 3)).max() < 1.01  # 1 at most: means of areas vary less


def test_it_learns_to_reconstruct_features(tmp_path):
    settings = replace(settings_of("feature_ae", 32), iterations=150, val_iter=50, log_iter=50, early_stopping_patience=None)
    baseline = built(settings)
    images, held_out = toy_images(48, side=32), toy_images(24, seed=1, side=32)
    baseline.prepare(images.batches(48))
    before = validate(baseline, held_out)["val_loss"]
    train(baseline, images, held_out, settings, tmp_path)
    assert validate(baseline, held_out)["val_loss"] < 0.5 * before


def test_residuals_are_judged_by_the_density_of_those_of_training_images(tmp_path):
    """One domain; the loop is over the directions in float64. Training does not depend on what is scored."""
    images = toy_images(12, side=32)
    scored = {}
    for score in ("angle", "residual_density"):
        settings = settings_of("feature_ae")
        settings = replace(settings, iterations=30, val_iter=10, baseline=replace(settings.baseline, score=score))
        baseline = built(settings)
        train(baseline, images, toy_images(6, seed=1, side=32), settings, tmp_path / score)
        scored[score] = baseline.eval()
    angle, density = scored.values()
    assert all(torch.equal(value, density.state_dict()[name]) for name, value in angle.state_dict().items())

    def residuals(x):
        features, made = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors(density, x))
        return (features - made).transpose(0, 2, 3, 1)

    rows = np.concatenate([residuals(batch.image).reshape(-1, density.frozen.channels) for batch in images.batches(5)])
    center, covariance = rows.mean(axis=0), np.cov(rows.T, bias=True)
    covariance = 0.99 * covariance + 0.01 * np.trace(covariance) / len(center) * np.eye(len(center))
    x = toy_images(4, seed=2, side=32).batch(torch.arange(4)).image
    offset = residuals(x) - center
    expected = np.einsum("bijc,cd,bijd->bij", offset, np.linalg.inv(covariance), offset)
    with torch.no_grad():
        told = density.assess(x, with_map=True)
        np.testing.assert_allclose(told.by_domain.unused.numpy(), expected.mean(axis=(1, 2)), rtol=2e-3)
        np.testing.assert_allclose(density.validation_loss(x, told).numpy(), angle.assess(x, with_map=False).score.numpy(), rtol=1e-5)
    assert told.map.shape == (4, 1, 32, 32)


def test_another_schedule_is_refused():
    with pytest.raises(ValueError, match="lr_step must be null: the learning rate of this model follows one cycle"):
        built(settings_of("feature_ae", lr_step=100))


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"dropout": 1.0}, "dropout must be at least 0"),
        ({"grid": 1}, "grid must be at least 2"),
        ({"mse_weight": -1.0}, "must not be negative"),
        ({"score_share": 0.0}, "score_share must be above 0"),
    ],
)
def test_settings_that_no_network_has(own, words):
    with pytest.raises(Exception, match=words):
        settings_of("feature_ae", own=own)
