"""The probe names domains as scikit-learn's regression does, and works where there is nothing to tell apart."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anomaly_detection.components.probe import Probe


def latents(organs: int, count: int = 90, overlap: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents of several organs and two modalities, on a scale far from 1."""
    rng = np.random.default_rng(organs)
    organ, modality = np.arange(count) % organs, np.arange(count) // organs % 2
    z = rng.normal(size=(count, 5))
    z[:, 0] += overlap * organ
    z[:, 3] -= overlap * modality
    z = 200 * z * np.array([0.3, 1.0, 2.0, 1.5, 0.0]) + np.array([5.0, 0.0, -1e4, 3.0, 7.0])  # the last never varies
    return torch.from_numpy(z).float(), torch.from_numpy(organ), torch.from_numpy(modality)


@pytest.mark.parametrize("organs", [2, 3, 5])
def test_probabilities_are_those_of_scikit_learn(organs):
    z, organ, modality = latents(organs)
    probe = Probe(5, organs, 2)
    probe.fit(z, organ, modality)
    for name, labels in (("organ", organ), ("modality", modality)):
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(z.double().numpy(), labels.numpy())
        np.testing.assert_allclose(probe.predict(z)[name], regression.predict_proba(z.double().numpy()), atol=2e-3)
        assert probe.accuracy(z, organ, modality)[name].item() == pytest.approx(regression.score(z.double().numpy(), labels.numpy()))


def test_what_is_far_apart_is_named_rightly():
    z, organ, modality = latents(3, overlap=200.0)
    probe = Probe(5, 3, 2)
    probe.fit(z[:45], organ[:45], modality[:45])
    assert probe.accuracy(z[45:], organ[45:], modality[45:]) == {"organ": 1, "modality": 1}


@pytest.mark.parametrize("count", [20, 40, 64, 80])
def test_principal_components_of_few_images_name_new_images(count):
    """Beyond the number of images they are noise of rounding, on which weights as large as its inverse would drown the others in new images."""
    rng = np.random.default_rng(count)
    organ = np.arange(count + 200) % 2
    features = rng.normal(size=(len(organ), 64)) * 0.9 ** np.arange(64)
    features[:, 1] += 8 * organ
    center = features[:count].mean(axis=0)
    axes = np.linalg.svd(features[:count] - center)[2]
    z, organ = torch.from_numpy(((features - center) @ axes.T).astype(np.float32)), torch.from_numpy(organ)
    probe = Probe(64, 2, 1)
    probe.fit(z[:count], organ[:count], torch.zeros(count, dtype=torch.int64))
    assert probe.accuracy(z[count:], organ[count:], torch.zeros(200, dtype=torch.int64))["organ"] >= 0.9
    assert probe.organ_weight.abs().max() <= 10


def test_a_single_class_is_named_surely():
    z, organ, _ = latents(3)
    probe = Probe(5, 3, 1)
    probe.fit(z, organ, torch.zeros_like(organ))
    assert probe.predict(z)["modality"].tolist() == [[1.0]] * len(z)


def test_nothing_of_the_latent_is_for_a_domain():
    z, *_ = latents(2)
    assert Probe(5, 2, 2).split(z)["content"] is z
    assert not list(Probe(5, 2, 2).parameters()), "no optimizer may ever hold it"
