"""From settings to a network."""

import pickle
from dataclasses import replace

import pytest
import torch

from anomaly_detection.build import build_baseline, checkpoint_facts, load_trained
from anomaly_detection.config.layers import to_plain
from anomaly_detection.data.dataset import Domains
from anomaly_detection.registry import BASELINES
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.checkpoint import load_checkpoint, save_checkpoint
from anomaly_detection.training.loop import train
from anomaly_detection.training.seed import seed_everything
from tests.helpers import die_at, toy_images
from tests.test_baselines import settings_of

DOMAINS = Domains(("liver", "lung"), ("ct", "xray"))


def united_and_maddr(model, **options):
    """The two of one seed, and a number drawn after each."""
    settings = settings_of(model, 16, **options)
    pair, drawn = [], []
    for enabled in (False, True):
        seed_everything(3)
        pair.append(build_baseline(replace(settings, maddr=replace(settings.maddr, enabled=enabled)), DOMAINS))
        drawn.append(torch.rand(()).item())
    return settings, pair, drawn


def without_heads(state):
    """Without what the constraint brings: its heads."""
    return {name: value for name, value in state.items() if not name.startswith("maddr.")}


@pytest.mark.parametrize("model", BASELINES)
def test_settings_reach_other_processes_as_they_are(model):
    settings = replace(settings_of(model, 16), seed=7)
    received = pickle.loads(pickle.dumps(settings))
    assert to_plain(received) == to_plain(settings)
    assert type(received.baseline) is type(settings.baseline)


@pytest.mark.parametrize("model", BASELINES)
def test_with_one_seed_united_and_maddr_start_alike(model):
    _, (united, maddr), drawn = united_and_maddr(model)
    assert maddr.heads()
    assert not united.heads()
    state, other = united.state_dict(), without_heads(maddr.state_dict())
    assert state.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    assert drawn[0] == drawn[1], "what is drawn in training is the same, too"


def test_the_first_phase_of_f_anogan_is_the_same_in_both(tmp_path):
    settings, pair, _ = united_and_maddr("f_anogan")
    states = []
    for number, baseline in enumerate(pair):
        seed_everything(3)
        die_at(baseline, 5)  # in the second phase
        with pytest.raises(KeyboardInterrupt):
            train(baseline, toy_images(20, side=16), toy_images(6, side=16), settings, tmp_path / str(number))
        states.append(without_heads(load_checkpoint(tmp_path / str(number) / "checkpoint.pt")["model"]))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_heads_of_another_seed_are_others():
    settings = settings_of("memae", 16)
    settings = replace(settings, maddr=replace(settings.maddr, enabled=True))
    weights = []
    for seed in (3, 4):
        seed_everything(seed)
        weights.append(build_baseline(settings, DOMAINS).maddr.heads["organ"].weight)
    assert not torch.equal(*weights)


def test_class_weights_by_inverse_frequency_give_every_class_the_same_total():
    """Of 10 images four are of livers and six of lungs, seven of CT and three X-rays."""
    settings, images = settings_of("memae", 16), toy_images(10, side=16)
    settings = replace(settings, maddr=replace(settings.maddr, enabled=True, focal_alpha="inverse_frequency"))
    focal = build_baseline(settings, DOMAINS, images).maddr.focal
    assert focal["organ"].alpha == pytest.approx([10 / (2 * 4), 10 / (2 * 6)])
    assert focal["modality"].alpha == pytest.approx([10 / (2 * 7), 10 / (2 * 3)])


def test_what_no_network_can_have_is_told():
    settings = settings_of("memae", 16)
    with pytest.raises(UserError, match="^memae: organ_dim 40 and modality_dim 10 must be >= 1 and leave a content part of a latent of 32"):
        build_baseline(replace(settings, maddr=replace(settings.maddr, enabled=True, organ_dim=40)), DOMAINS)


def test_a_checkpoint_needs_no_file_of_feature_statistics(tmp_path):
    """It holds them; the file has those of a layer more than is used."""
    file = tmp_path / "statistics.pt"
    torch.save({layer: (torch.randn(width), torch.rand(width) + 1) for layer, width in (("b0", 16), ("b2", 24))}, file)
    own = {"rec_loss": {"relative_perceptual_L1": 1.0}, "features": {"feature_weights": {"b2": 1.0}}, "feature_statistics": str(file)}
    settings = settings_of("MADDR_dpa", own={**own, "backbone": "efficientnet_lite0", "backbone_weights": "random:0"})
    baseline, x = build_baseline(settings, DOMAINS).eval(), toy_images(3, side=32).batch(torch.arange(3)).image
    training = {"finished": True, "best": {"iteration": 1, "validation": {}}}
    facts = checkpoint_facts(settings, "united", DOMAINS, {})
    save_checkpoint(tmp_path / "checkpoint.pt", {**facts, "model": baseline.state_dict(), "training": training})
    file.unlink()
    loaded = load_trained(tmp_path, torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(loaded.baseline.anomaly_score(x), baseline.anomaly_score(x))
    assert loaded.baseline.describe() == baseline.describe()
    assert loaded.baseline.settings.baseline.feature_statistics == loaded.settings.baseline.feature_statistics == str(file)
    with pytest.raises(UserError, match="no such file of feature statistics"):
        build_baseline(settings, DOMAINS)
