"""Gaussians of vectors, against numpy in float64 and known distances."""

import numpy as np
import pytest
import torch

from anomaly_detection.components.density import Densities, DomainDensities, Moments, mean_of_highest, shrunk, standardised
from anomaly_detection.system.errors import UserError


def cloud(count: int, channels: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, channels)) @ random.normal(size=(channels, channels)) + 10 * random.normal(size=channels)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_streamed_moments_are_those_of_numpy(cut):
    rows = cloud(1000, 6)
    moments = Moments()
    for part in torch.from_numpy(rows).split(cut):
        moments.add(part)
    mean, covariance = moments.gaussian()
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), rtol=1e-9, atol=1e-10)


def test_moments_add_up_and_follow_a_standardisation():
    rows, others = cloud(50, 4), cloud(30, 4, seed=1)
    both = Moments()
    for part in (rows, others):
        moments = Moments()
        moments.add(torch.from_numpy(part))
        both = both + moments
    every = np.concatenate([rows, others])
    shift, scale = np.array([1.0, -2.0, 0.0, 30.0]), np.array([0.5, 2.0, 1.0, 9.0])
    mean, covariance = standardised(both.gaussian(), torch.from_numpy(shift), torch.from_numpy(scale))
    np.testing.assert_allclose(mean, ((every - shift) / scale).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(covariance, np.cov(((every - shift) / scale).T, bias=True), rtol=1e-8)


def test_shrinking_keeps_the_trace_and_lifts_the_smallest_direction():
    covariance = np.diag([4.0, 2.0, 0.0])
    found = shrunk(torch.from_numpy(covariance), 0.1).numpy()
    np.testing.assert_allclose(np.diag(found), [0.9 * 4 + 0.2, 0.9 * 2 + 0.2, 0.2])
    assert np.trace(found) == pytest.approx(6)


def test_known_distances_of_a_gaussian():
    densities = Densities(3, 2)
    densities.fit(1, torch.tensor([1.0, 2.0]).double(), torch.tensor([[4.0, 0.0], [0.0, 0.25]]).double())
    angle = torch.tensor(0.3).double()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    densities.fit(2, torch.zeros(2).double(), turn @ torch.diag(torch.tensor([9.0, 1.0]).double()) @ turn.T)
    turned = (turn @ torch.tensor([3.0, 2.0]).double()).float()
    rows = torch.stack([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), torch.tensor([1.0, 3.0]), turned])
    distances = densities.distances(rows[None])
    torch.testing.assert_close(distances[0, 1, :3], torch.tensor([0.0, 1.0, 4.0]))
    assert distances[0, 2, 3].item() == pytest.approx(1 + 4, rel=1e-5)
    assert not distances[0, 0].any(), "one that is not known"


def test_distances_of_normal_vectors_are_chi_squared():
    rows = cloud(20000, 5).astype(np.float32)
    moments = Moments()
    moments.add(torch.from_numpy(rows).double())
    densities = Densities(1, 5)
    densities.fit(0, *moments.gaussian())
    distances = densities.distances(torch.from_numpy(rows)[None])[0, 0]
    assert distances.mean().item() == pytest.approx(5, rel=1e-3)  # exactly the number of dimensions
    assert distances.var().item() == pytest.approx(10, rel=0.05)


def test_what_does_not_vary_has_no_density():
    with pytest.raises(UserError, match="do not vary, so no density of them can be told; give more images, or a finer grid"):
        Densities(1, 3).fit(0, torch.zeros(3).double(), torch.zeros(3, 3).double())


class Names:
    """Says of every image what it was told."""

    def __init__(self, organ: list[list[float]], modality: list[list[float]]):
        self.said = {"organ": torch.tensor(organ), "modality": torch.tensor(modality)}

    def predict(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.said


def test_the_named_domain_judges_and_all_images_where_nobody_is_sure():
    """Two organs of one modality, vectors of 2 numbers on a grid of 3 x 3; the distances are numpy's."""
    random = np.random.default_rng(0)
    spread = np.array([1.0, 3.0])[None, :, None, None], np.array([2.0, 0.5])[None, :, None, None]
    vectors = np.concatenate([random.normal(5 * organ, spread[organ], (20, 2, 3, 3)) for organ in (0, 1)])
    organ, modality = torch.tensor([0] * 20 + [1] * 20), torch.zeros(40, dtype=torch.int64)
    densities = DomainDensities(2, 0.5)
    densities.expect_domains(3, 1)  # the third is never met
    moments = densities.moments()
    for part in (slice(0, 15), slice(15, 40)):
        moments.add(torch.from_numpy(vectors[part]), organ[part], modality[part])
    densities.fit(moments, 1e-9)

    def loop(vector: np.ndarray, normal: np.ndarray) -> np.ndarray:
        rows = normal.transpose(0, 2, 3, 1).reshape(-1, 2)
        inverse = np.linalg.inv(np.cov(rows.T, bias=True))
        return np.array([[(d := vector[:, y, x] - rows.mean(axis=0)) @ inverse @ d for x in range(3)] for y in range(3)])

    new = random.normal(0, 4, (4, 2, 3, 3))
    namer = Names([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.4, 0.3, 0.3], [0.0, 0.1, 0.9]], [[1.0]] * 4)
    said = densities(torch.from_numpy(new).float(), torch.zeros(4, 1), namer)
    judges = vectors[:20], vectors[20:], vectors, vectors  # not sure; never met
    expected = np.stack([loop(vector, normal) for vector, normal in zip(new, judges, strict=True)])
    np.testing.assert_allclose(said.map.numpy(), expected, rtol=1e-3)
    np.testing.assert_allclose(said.score.numpy(), expected.mean(axis=(1, 2)), rtol=1e-3)
    everything = np.array([loop(vector, vectors).mean() for vector in new])
    np.testing.assert_allclose(said.by_domain.unused.numpy(), everything, rtol=1e-3)
    told = np.stack([[loop(vector, normal).mean() for normal in (vectors[:20], vectors[20:])] for vector in new])
    np.testing.assert_allclose(said.by_domain.told[:, :2, 0].numpy(), told, rtol=1e-3)
    np.testing.assert_allclose(said.by_domain.told[:, 2, 0].numpy(), everything, rtol=1e-3)
    np.testing.assert_allclose(densities(torch.from_numpy(new).float(), torch.zeros(4, 1), None).score.numpy(), everything, rtol=1e-3)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.125, 1), (0.25, 2), (0.3, 3), (0.95, 9), (1.0, 9)])
def test_the_highest_positions_make_a_score(share, count):
    values = np.random.default_rng(0).normal(size=(4, 3, 9))
    expected = [[np.mean(sorted(row)[-count:]) for row in rows] for rows in values]
    np.testing.assert_allclose(mean_of_highest(torch.from_numpy(values), share).numpy(), expected, rtol=1e-12)


def test_scores_of_every_domain_are_of_the_highest_positions():
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 2, 3, 3)))
    organ, modality = torch.tensor([0, 1] * 4), torch.zeros(8, dtype=torch.int64)
    densities = DomainDensities(2, 0.5, share=0.25)
    densities.expect_domains(2, 1)
    moments = densities.moments()
    moments.add(vectors, organ, modality)
    densities.fit(moments, 0.01)
    namers = [Names([[1.0, 0.0]] * 8, [[1.0]] * 8), Names([[0.0, 1.0]] * 8, [[1.0]] * 8), None]
    said = [densities(vectors.float(), torch.zeros(8, 1), namer) for namer in namers]
    expected = [np.sort(each.map.numpy().reshape(8, 9), axis=1)[:, -2:].mean(axis=1) for each in said]
    for each, score in zip(said, expected, strict=True):
        np.testing.assert_allclose(each.score.numpy(), score, rtol=1e-6)
    np.testing.assert_allclose(said[0].by_domain.told[:, :, 0].numpy(), np.stack(expected[:2], axis=1), rtol=1e-6)
    np.testing.assert_allclose(said[0].by_domain.unused.numpy(), expected[2], rtol=1e-6)
