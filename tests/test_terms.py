"""Measures of a latent, on a linear autoencoder of which the answers are known."""

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from anomaly_detection.baseline import Assessment, Baseline, Phase, minimise
from anomaly_detection.build import load_trained
from anomaly_detection.config.layers import Layer
from anomaly_detection.data.catalog import mark_phantom
from anomaly_detection.data.dataset import DataSource, to_floats
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.registry import build_settings
from anomaly_detection.study.experiment import Experiment, locked_folder
from anomaly_detection.study.train_and_score import train_experiment
from anomaly_detection.system.errors import UserError
from benchmarks import terms
from benchmarks.latents import BASE, compared, domain_means, domains_of, exchanged, named_by, partners, pulls, seen, variances
from tests.helpers import toy_images, toy_settings

DIM, PIXELS = 8, 64
SIZES = (2, 3, 3)


@dataclass(frozen=True)
class Nothing:
    """No settings."""


class Linear(Baseline):
    """``z = W x``, ``y = V z``, scored and trained by mean (x - y)^2; one optimizer for all."""

    Settings = Nothing
    latent_dim = DIM

    def __init__(self):
        super().__init__(toy_settings())
        generator = torch.Generator().manual_seed(1)
        self.encoder, self.decoder = nn.Linear(PIXELS, DIM, bias=False), nn.Linear(DIM, PIXELS, bias=False)
        self.calm = nn.BatchNorm1d(PIXELS)  # moves its statistics in every step of training
        for layer in (self.encoder, self.decoder):
            layer.weight.data = 0.1 * torch.randn(layer.weight.shape, generator=generator)

    def phases(self):
        return [Phase("linear", 1, 4)]

    def optimizers(self, phase):
        return {"all": torch.optim.SGD(self.parameters(), 1.0)}

    def training_step(self, batch, optimizers):
        x = batch.image.flatten(1)
        self.calm(x)
        z = self.encoder(x)
        loss = (self.decoder(z) - x).square().mean() + self.constraint(z, batch)[0]
        minimise(loss, optimizers["all"])
        return {"loss": loss.detach()}

    def assess(self, x, with_map):
        x = x.flatten(1)
        z = self.encoder(x)
        return Assessment(z, (self.decoder(z) - x).square().mean(dim=1))


@pytest.fixture
def network():
    baseline = Linear()
    baseline.attach(MADDRConstraint(DIM, 2, 3, organ_weight=0.5, modality_weight=0.0, center_weight=0.25, focal_alpha=None, focal_gamma=0))
    return baseline.eval()


def test_a_part_that_is_replaced_changes_what_is_decoded_as_linear_algebra_has_it(network):
    images = toy_images(9)
    other = torch.randn(9, DIM, generator=torch.Generator().manual_seed(2))
    plain = seen(network, images)
    after = seen(network, images, exchanged(plain.code, other, "modality", SIZES))
    w, v = (layer.weight.detach().double().numpy() for layer in (network.encoder, network.decoder))
    x = images.images.double().numpy().reshape(9, PIXELS) / 127.5 - 1
    z = x @ w.T
    np.testing.assert_allclose(plain.code, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain.target, x, atol=1e-6)
    np.testing.assert_allclose(after.made - plain.made, (other.numpy() - z)[:, 2:5] @ v[:, 2:5].T, rtol=1e-3, atol=1e-5)
    z[:, 2:5] = other[:, 2:5]
    np.testing.assert_allclose(after.score, ((x - z @ v.T) ** 2).mean(axis=1), rtol=1e-4)
    assert not network.encoder._forward_hooks
    assert torch.equal(exchanged(plain.code, other, "all", SIZES), other)


def test_a_latent_with_places_is_refused(network):
    network.latent_dim = DIM // 2
    with pytest.raises(UserError, match="gives 8 numbers for a latent of 4"):
        seen(network, toy_images(3))


def test_pulls_are_the_gradients_that_are_worked_out_by_hand(network):
    images = toy_images(6)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (phase,) = network.phases()
    gradients = pulls(network, network.maddr, images.batch(torch.arange(6)), phase, seed=0)
    assert set(gradients) == {BASE, "organ", "center"}

    x = to_floats(images.images.float()).double().numpy().reshape(6, PIXELS)
    w, v = (layer.weight.detach().double().numpy() for layer in (network.encoder, network.decoder))
    z = x @ w.T
    by_hand = {BASE: 2 / (6 * PIXELS) * ((z @ v.T - x) @ v).T @ x}
    content = np.zeros((6, DIM))
    for i in range(6):  # d/dz of the mean over images and numbers of (z_i - mean of the others)^2, which is (6/5)^2 (z_i - mean)^2
        content[i, 5:] = 0.25 * 2 / (6 * 3) * (6 / 5) ** 2 * (z[i, 5:] - z[:, 5:].mean(axis=0))
    by_hand["center"] = content.T @ x
    head = network.maddr.heads["organ"]
    h, b = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    logits = z[:, :2] @ h.T + b
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    organ = np.zeros((6, DIM))
    organ[:, :2] = 0.5 / 6 * (p - np.eye(2)[images.organ]) @ h
    by_hand["organ"] = organ.T @ x
    for name, expected in by_hand.items():
        np.testing.assert_allclose(gradients[name], expected.flatten(), rtol=1e-3, atol=1e-5, err_msg=name)

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (network.training, network.phase) == (False, None)
    assert network.constraint(torch.zeros(2, DIM), images.batch(torch.arange(2)))[1]  # is that of the class again

    constraint, network.maddr = network.maddr, None
    without = pulls(network, constraint, images.batch(torch.arange(6)), phase, seed=0)
    assert network.maddr is None
    assert all(torch.equal(gradients[name], without[name]) for name in gradients)


def test_cosines_and_norms_are_means_over_batches():
    batches = [{"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 2.0])}, {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 1.0])}]
    assert compared(batches, "a", "b") == pytest.approx(((0.8 + 0) / 2, (2.5 + 1) / 2))


def test_variance_between_domains_is_that_of_their_means():
    # two domains at 0 and 10 with a spread of +-1 each: total 25 + 1, between 25; a second number that is noise alone
    part = torch.tensor([[-1.0, 2.0], [1.0, -2.0], [9.0, 2.0], [11.0, -2.0]])
    domain = torch.tensor([0, 0, 3, 3])
    assert variances(part, domain) == pytest.approx((26 + 4, 25))
    assert domain_means(part, domain, torch.tensor([3, 0])).tolist() == [[10, 0], [0, 0]]


def test_a_part_names_the_domain_if_it_holds_it():
    train, val = toy_images(90), toy_images(30, seed=1)
    noise = torch.Generator().manual_seed(0)
    parts = [torch.randn(len(each), 3, generator=noise) for each in (train, val)]
    assert named_by(*parts, train, val) < 0.7
    assert named_by(*(part + 20 * torch.eye(4)[domains_of(each), 1:] for part, each in zip(parts, (train, val), strict=True)), train, val) == 1


@pytest.mark.parametrize("same", [True, False])
def test_partners_are_others_of_the_domain_or_of_another(same):
    domain = torch.tensor([0, 0, 0, 1, 1, 2])
    for seed in range(20):
        chosen = partners(domain, same, torch.Generator().manual_seed(seed))
        if same:
            assert (domain[chosen] == domain).all()
            assert (chosen != torch.arange(6)).tolist() == [True] * 5 + [False]  # who is alone stays
        else:
            assert (domain[chosen] != domain).all()


@pytest.fixture
def run(twinned, tmp_path):
    """Folders of united and maddr, trained for a few steps."""
    mark_phantom(twinned, "test")
    source, folders = DataSource(twinned), []
    for constrained in (False, True):
        plain = {"model": "memae", "datasets": source.available(), "image_size": 16, "iterations": 3, "batch_size": 6}
        plain |= {"baseline": {"width": 4, "slots": 8}, "maddr": {"enabled": constrained}}
        experiment = Experiment.place(build_settings([Layer("test", plain)]), tmp_path / "toy")
        with locked_folder(experiment, source):
            train_experiment(experiment, source, torch.device("cpu"))
        folders.append(experiment.folder)
    return folders


def test_the_program_tells_of_both_networks_in_four_tables(run, twinned, tmp_path, capsys):
    terms.main([*map(str, run), "--batches", "2", "--json", str(tmp_path / "rows.json")])
    tables = json.loads((tmp_path / "rows.json").read_text())
    assert {title: len(rows) for title, rows in tables.items()} == {"latent": 6, "decoder": 32, "gradients": 12, "lesions": 10}
    assert {row["network"] for rows in tables.values() for row in rows} == {"toy united", "toy maddr"}
    # one seed: the two start from the same networks, and are pulled alike
    drawn = [[row for row in tables["gradients"] if row["network"] == name and row["when"] == "as drawn"] for name in ("toy united", "toy maddr")]
    assert [{**row, "network": ""} for row in drawn[0]] == [{**row, "network": ""} for row in drawn[1]]
    # the network as it is, on the files themselves
    (told,) = (row["twin rate"] for row in tables["lesions"] if row["lesion in"] == "all" and row["network"] == "toy maddr")
    images = sorted(twinned.glob("*/twins/*.png"))
    pixels = [np.stack([np.asarray(Image.open(each)) for each in (path.parents[1] / "anomaly" / path.name, path)]) for path in images]
    score = load_trained(run[1], torch.device("cpu")).baseline.anomaly_score
    with torch.no_grad():
        assert told == np.mean([bool(torch.sub(*score(torch.from_numpy(pair)[:, None] / 127.5 - 1)) > 0) for pair in pixels])
    assert "| toy maddr | content |" in capsys.readouterr().out


def test_a_score_that_decodes_nothing_says_nothing_of_what_the_decoder_gets(network, monkeypatch):
    images = toy_images(9)
    subject = terms.Subject("toy", SimpleNamespace(baseline=network), network.maddr, None, images, images, (images, images))
    assert [len(list(rows(subject))) for rows in (terms.decoder_rows, terms.lesion_rows)] == [16, 5]
    monkeypatch.setattr(network, "assess", lambda x, with_map: Assessment(network.encoder(x.flatten(1)), x.flatten(1).square().mean(dim=1)))
    assert [list(rows(subject)) for rows in (terms.decoder_rows, terms.lesion_rows)] == [[], []]


def test_networks_that_differ_in_more_are_refused():
    networks = [SimpleNamespace(trained=SimpleNamespace(settings=SimpleNamespace(model="memae", seed=seed, datasets=["a"]))) for seed in (0, 1)]
    terms.check_alike([networks[0]] * 2)
    with pytest.raises(UserError, match="several models, seeds or datasets"):
        terms.check_alike(networks)


def test_what_is_no_experiment_is_said(tmp_path, capsys):
    with pytest.raises(SystemExit):
        terms.main([str(tmp_path)])
    assert "holds no experiment" in capsys.readouterr().err
