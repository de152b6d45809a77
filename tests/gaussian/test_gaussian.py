"""Gaussians of patch features, against numpy in float64 and known distances."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly_detection.components.probe import Probe
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.training.loop import train, validate
from tests.helpers import toy_images
from tests.test_baselines import built, settings_of


def prepared(maddr: bool, **own):
    baseline = built(settings_of("gaussian", own=own), maddr)
    images = toy_images(30, side=32)
    baseline.prepare(images.batches(7))
    return baseline.eval(), images


def grid_of(baseline, images) -> np.ndarray:
    """(N, positions, C) in float64, standardised with a loop over channels."""
    with torch.no_grad():
        raw = baseline.frozen.compute(images.batch(torch.arange(len(images))).image)
    layers = []
    for value in raw.values():
        value = value.double().numpy()
        deviation = value.std(axis=(0, 2, 3))
        deviation = np.maximum(deviation, 0.01 * deviation.mean())
        value = (value - value.mean(axis=(0, 2, 3))[:, None, None]) / deviation[:, None, None]
        layers.append(torch.nn.functional.interpolate(torch.from_numpy(value), (3, 3), mode="area").numpy())
    return np.concatenate(layers, axis=1).reshape(len(images), -1, 9).transpose(0, 2, 1)


def loop(rows: np.ndarray, training: np.ndarray, shrinkage: float) -> np.ndarray:
    """(N, positions) squared Mahalanobis distances, one after another."""
    flat = training.reshape(-1, training.shape[2])
    covariance = np.cov(flat.T, bias=True)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse, mean = np.linalg.inv(covariance), flat.mean(axis=0)
    return np.array([[(row - mean) @ inverse @ (row - mean) for row in image] for image in rows])


@pytest.mark.parametrize("shrinkage", [0.01, 0.3])
def test_score_and_map_are_the_float64_loop(shrinkage):
    baseline, images = prepared(maddr=False, shrinkage=shrinkage)
    x = images.batch(torch.arange(30)).image
    rows = grid_of(baseline, images)
    expected = loop(rows, rows, shrinkage)
    assessment = baseline.assess(x, with_map=True)
    np.testing.assert_allclose(assessment.score, expected.mean(axis=1), rtol=2e-4)
    pixels = torch.from_numpy(expected.reshape(30, 1, 3, 3))
    resized = torch.nn.functional.interpolate(pixels, (32, 32), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(assessment.map, resized, rtol=1e-3, atol=1e-3 * expected.max())


def test_without_maddr_nothing_is_trained_and_the_latent_is_the_principal_components(tmp_path):
    baseline, images = prepared(maddr=False)
    assert baseline.phases() == []
    pooled = grid_of(baseline, images).mean(axis=1)
    values = np.linalg.svd(pooled - pooled.mean(axis=0), compute_uv=False)[:32] ** 2 / 30
    z = baseline.encode(images.batch(torch.arange(30)).image).detach().double().numpy()
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(z.var(axis=0)[:10], values[:10], rtol=1e-2)
    train(baseline, images, images, baseline.settings, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()


class Names(torch.nn.Module):
    """Stands in for the heads: says of every image what it is told to, so surely."""

    def __init__(self, organ, modality, sure):
        super().__init__()
        self.classes = self.heads = {"organ": 2, "modality": 2}
        self.said = {"organ": organ, "modality": modality}
        self.sure = sure

    def predict(self, z):
        def table(places):
            return torch.full((len(places), 2), 1 - self.sure).scatter(1, places[:, None], self.sure)

        return {name: table(places) for name, places in self.said.items()}


@pytest.mark.parametrize(("sure", "certainty"), [(0.9, 0.5), (0.6, 0.5), (0.9, 0.9), (0.6, 0.3)])
def test_the_heads_choose_the_gaussian_where_they_are_sure(sure, certainty):
    baseline, images = prepared(maddr=True, certainty=certainty)
    batch = images.batch(torch.arange(30))
    rows = grid_of(baseline, images)
    organ, modality = images.organ.clone(), images.modality.clone()
    organ[0], modality[0] = 0, 1  # a pair that is not in the images: liver, X-ray
    baseline.maddr = Names(organ, modality, sure)
    expected = loop(rows, rows, 0.01).mean(axis=1)
    if sure**2 >= certainty:
        for pair in ((0, 0), (1, 0), (1, 1)):
            places = (images.organ == pair[0]) & (images.modality == pair[1])
            expected[places] = loop(rows[places], rows[places], 0.01).mean(axis=1)
        expected[0] = loop(rows[:1], rows, 0.01).mean()
    np.testing.assert_allclose(baseline.anomaly_score(batch.image), expected, rtol=5e-4)


def test_it_says_what_the_score_is_in_every_domain_whoever_names_it():
    baseline, images = prepared(maddr=False)
    rows = grid_of(baseline, images)
    by_domain = baseline.assess(images.batch(torch.arange(30)).image, with_map=False).by_domain
    everything = loop(rows, rows, 0.01).mean(axis=1)
    np.testing.assert_allclose(by_domain.unused, everything, rtol=5e-4)
    for pair in ((0, 0), (1, 0), (1, 1)):
        places = ((images.organ == pair[0]) & (images.modality == pair[1])).numpy()
        np.testing.assert_allclose(by_domain.told[:, pair[0], pair[1]], loop(rows, rows[places], 0.01).mean(axis=1), rtol=2e-3)
    np.testing.assert_allclose(by_domain.told[:, 0, 1], everything, rtol=5e-4, err_msg="a pair that is not in the images")


def test_a_probe_chooses_the_gaussian_as_heads_do():
    baseline, images = prepared(maddr=False)
    x = images.batch(torch.arange(30)).image
    alone = baseline.assess(x, with_map=True)
    baseline.probe = Probe(32, 2, 2)
    baseline.probe.fit(alone.latent, images.organ, images.modality)
    assert baseline.probe.accuracy(alone.latent, images.organ, images.modality) == {"organ": 1, "modality": 1}
    chosen = baseline.assess(x, with_map=True)
    sure = torch.stack([values.max(dim=1).values for values in baseline.probe.predict(alone.latent).values()]).prod(dim=0) >= 0.5
    assert sure.any()
    expected = torch.where(sure, alone.by_domain.told[torch.arange(30), images.organ, images.modality], alone.score)
    torch.testing.assert_close(chosen.score, expected)
    assert torch.equal(chosen.latent, alone.latent)


def test_loaded_weights_score_as_those_that_were_fitted():
    baseline, images = prepared(maddr=False)
    loaded = built(settings_of("gaussian")).eval()
    loaded.load_state_dict(baseline.state_dict())
    one, other = (each.assess(images.batch(torch.arange(4)).image, with_map=False) for each in (baseline, loaded))
    torch.testing.assert_close(other.score, one.score)
    torch.testing.assert_close(other.by_domain.told, one.by_domain.told)


def test_a_missing_head_leaves_the_gaussian_of_all_images():
    baseline = built(settings_of("gaussian"))  # knows of domains, but has a head for organs alone
    baseline.attach(MADDRConstraint(32, organ_dim=6, modality_dim=6, modality_weight=0.0))
    images = toy_images(30, side=32)
    baseline.prepare(images.batches(30))
    alone, _ = prepared(maddr=False)
    x = images.batch(torch.arange(5)).image
    torch.testing.assert_close(baseline.eval().anomaly_score(x), alone.anomaly_score(x))


def test_training_teaches_the_heads_and_leaves_the_gaussians_alone(tmp_path):
    settings = replace(settings_of("gaussian"), iterations=250, val_iter=250, lr=0.002)
    images = toy_images(30, side=32)
    baseline = built(settings, maddr=True)
    train(baseline, images, toy_images(12, seed=1, side=32), settings, tmp_path)
    fresh, _ = prepared(maddr=True)
    for name in ("densities.everything.whitening", "densities.pairs.whitening", "frozen.mean"):
        torch.testing.assert_close(baseline.state_dict()[name], fresh.state_dict()[name], rtol=1e-3, atol=1e-3)
    result = validate(baseline, toy_images(24, seed=2, side=32))
    assert result["val_organ_accuracy"] == result["val_modality_accuracy"] == 1


@pytest.mark.parametrize(
    ("own", "words"),
    [({"shrinkage": 0.0}, "shrinkage must be above 0"), ({"certainty": 1.5}, "certainty must be between"), ({"grid": 0}, "grid must be at least 1")],
)
def test_settings_that_no_gaussian_has(own, words):
    with pytest.raises(Exception, match=words):
        settings_of("gaussian", own=own)


def test_a_latent_longer_than_the_features_is_refused():
    with pytest.raises(ValueError, match="latent_dim 65 must not be above the 64 channels of b2 b4"):
        built(settings_of("gaussian", own={"latent_dim": 65}))
