import re
from dataclasses import replace

import pytest
import torch

from anomaly_detection.__main__ import main
from anomaly_detection.config.layers import Layer, read_layers
from anomaly_detection.config.paths import CONFIGS
from anomaly_detection.data.dataset import Batch
from anomaly_detection.MADDR_dpa.dpa import DPA, DPASettings
from anomaly_detection.MADDR_dpa.networks import DecoderSettings, EncoderSettings
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.registry import build_settings
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.mixup import draw_mixture
from tests.helpers import toy_baseline, toy_settings
from tests.MADDR_dpa.plain import Plain

ORGANS, MODALITIES = [0, 1, 1, 0, 1], [0, 0, 1, 1, 0]
PARTNERS, SHARE = [3, 0, 2, 4, 1], 0.3


def mixture(dtype=torch.float64, side=8):
    random = torch.Generator().manual_seed(0)
    image = torch.rand(5, 1, side, side, generator=random, dtype=dtype) * 2 - 1
    batch = Batch(image, torch.tensor(ORGANS), torch.tensor(MODALITIES), torch.arange(5))
    partner = Batch(*(each[PARTNERS] for each in (batch.image, batch.organ, batch.modality, batch.index)))
    return batch, batch.mixed(partner, SHARE)


def test_draws_follow_from_seed_and_iteration_alone():
    index = torch.tensor([7, 3, 3, 9, 20, 11])
    state = torch.get_rng_state()
    partners, share = draw_mixture(index, 5, 7001)
    again, same = draw_mixture(index, 5, 7001)
    assert torch.equal(partners, again)
    assert share == same
    assert torch.equal(torch.get_rng_state(), state), "the noise of a baseline is that of a run without mixup"
    assert sorted(partners.tolist()) == sorted(index.tolist())
    others = [draw_mixture(index, *other) for other in ((6, 7001), (5, 7002))]
    assert all(other[1] != share for other in others)


def test_shares_are_uniform_and_every_image_is_anyones_partner():
    draws = [draw_mixture(torch.arange(4), 0, iteration) for iteration in range(4000)]
    shares = torch.tensor([share for _, share in draws], dtype=torch.float64)
    assert torch.histc(shares, 10, 0, 1).sub(400).abs().max() < 5 * 19  # five standard deviations of a bin
    counts = torch.stack([torch.nn.functional.one_hot(partners, 4) for partners, _ in draws]).sum(0)
    assert counts.sub(1000).abs().max() < 5 * 28


def test_images_are_weighted_means_and_chunks_keep_their_partners():
    batch, mixed = mixture()
    for i, partner in enumerate(PARTNERS):
        torch.testing.assert_close(mixed.image[i], 0.3 * batch.image[i] + 0.7 * batch.image[partner])
    assert mixed.index is None, "whatever was taken of the images is not of their mixtures"
    whole = Batch(*(torch.cat([each, each]) for each in (batch.image, batch.organ, batch.modality, batch.index)))
    parts = whole.mixed(whole, SHARE).chunks(2)
    assert [part.share for part in parts] == [SHARE, SHARE]
    assert all(part.index is None and torch.equal(part.partner.organ, batch.organ) for part in parts)
    assert [part.partner for part in whole.chunks(2)] == [None, None]


# --- The loss, and its gradients, in float64 -----------------------------------------------------------------------------------------------

DIMS = {4: 6, 8: 5}


def focal(logits, label):
    """Of one image: class 0 weighs 0.25, the others 0.75; gamma 2."""
    p = logits[label].exp() / sum(logit.exp() for logit in logits)
    return -(0.25 if label == 0 else 0.75) * (1 - p) ** 2 * p.log()


def center(content):
    """Mean squared distance of each row to the mean of the others, by a loop."""
    n = len(content)
    others = [sum(content[j] for j in range(n) if j != i) / (n - 1) for i in range(n)]
    return sum(((content[i] - others[i]) ** 2).mean() for i in range(n)) / n


def head_loss(z, maddr, name, start, labels):
    """Mean focal loss of ten numbers of the latents under a linear head."""
    head = {kind: maddr[f"heads.{name}.{kind}"] for kind in ("weight", "bias")}
    return sum(focal(head["weight"] @ z[i, start : start + 10] + head["bias"], label) for i, label in enumerate(labels)) / len(labels)


def test_a_step_has_the_loss_and_the_gradients_of_the_published_mixture():
    own = DPASettings(
        enc=EncoderSettings("residual9", [5, 6]), dec=DecoderSettings("residual9", [6, 5]), latent_dim=24, rec_loss={"l1": 1.0}, rec_weight=2.0
    )
    settings = toy_settings(batch_size=5)
    settings.baseline = own
    torch.manual_seed(0)
    baseline = DPA(settings)
    baseline.attach(MADDRConstraint(24, organ_weight=0.5, modality_weight=2.0, center_weight=0.1))
    baseline.double()
    parts = {part: {name: p.detach().clone() for name, p in getattr(baseline, part).named_parameters()} for part in ("encoder", "decoder", "maddr")}
    parameters = [p.requires_grad_() for part in parts.values() for p in part.values()]
    batch, mixed = mixture()
    log = baseline.training_step(mixed, baseline.optimizers(baseline.phases()[-1]))

    x = 0.3 * batch.image + 0.7 * batch.image[PARTNERS]
    z = Plain("residual9", DIMS, state=parts["encoder"]).encode(x, 24)
    y = Plain("residual9", DIMS, state=parts["decoder"]).decode(z, 8, 1)
    z = z.flatten(1)
    rec = (x - y).abs().mean()
    both = {}
    for name, start, labels in (("organ", 0, ORGANS), ("modality", 10, MODALITIES)):
        own_loss, other_loss = (head_loss(z, parts["maddr"], name, start, each) for each in (labels, [labels[i] for i in PARTNERS]))
        both[name] = 0.3 * own_loss + 0.7 * other_loss
    total = 2.0 * rec + 0.5 * both["organ"] + 2.0 * both["modality"] + 0.1 * center(z[:, 20:])
    expected = {"loss": total, "rec": rec, "maddr_organ": both["organ"], "maddr_modality": both["modality"], "maddr_center": center(z[:, 20:])}
    for name, value in expected.items():
        torch.testing.assert_close(log[name], value.detach(), rtol=1e-9, atol=1e-12, msg=name)
    gradients = torch.autograd.grad(total, parameters)
    trained = [p for part in parts for p in getattr(baseline, part).parameters()]
    for p, gradient in zip(trained, gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-7, atol=1e-11)
    assert all([labels[i] for i in PARTNERS] != labels for labels in (ORGANS, MODALITIES))


@pytest.mark.parametrize("bf16", [False, True])
def test_any_baseline_mixes_with_and_without_maddr(bf16):
    _, mixed = mixture(torch.float32)
    for maddr in (False, True):
        baseline = toy_baseline(toy_settings(), maddr)
        baseline.bf16 = bf16
        log = baseline.training_step(mixed, baseline.optimizers(baseline.phases()[-1]))
        assert ("maddr_organ" in log) == maddr
        assert all(value.isfinite() for value in log.values())


def test_a_share_of_one_is_training_without_mixup():
    batch, mixed = mixture()
    baseline = toy_baseline(toy_settings()).double()
    z = baseline.encode(batch.image)
    alone, log = baseline.constraint(z, batch)
    value, mixed_log = baseline.constraint(z, replace(mixed, share=1.0))
    torch.testing.assert_close(value, alone)
    assert log.keys() == mixed_log.keys()
    assert baseline.constraint(z, mixed)[0] != alone


def test_a_step_on_mixtures_moves_the_center_once():
    _, mixed = mixture()
    baseline = toy_baseline(toy_settings(), maddr=False)
    baseline.attach(MADDRConstraint(baseline.latent_dim, center_momentum=0.75))
    baseline.double()
    first, second = torch.randn(2, 5, baseline.latent_dim, dtype=torch.float64)
    for z in (first, second):
        baseline.constraint(z, mixed)
    torch.testing.assert_close(baseline.maddr.centers[0], (0.75 * first.mean(dim=0) + 0.25 * second.mean(dim=0))[20:])


@pytest.mark.parametrize(
    ("mixup", "told"),
    [
        ({"first": 0, "last": 5}, "mixup.first: first must be at least 1, not 0"),
        ({"first": 6, "last": 5}, "mixup.last: last must be at least first, 6, not 5"),
        ({"first": 6}, "mixup: the key mixup.last is missing"),
    ],
)
def test_impossible_iterations_are_refused(mixup, told):
    with pytest.raises(UserError, match=re.escape(told)):
        build_settings([Layer("mine.yaml", {"model": "MADDR_dpa", "datasets": ["lits"], "mixup": mixup})])


# --- The preset ----------------------------------------------------------------------------------------------------------------------------


def test_as_released_is_the_published_schedule():
    settings = build_settings(read_layers(CONFIGS / "MADDR_dpa" / "as_released.yaml"))
    assert (settings.mixup.first, settings.mixup.last, settings.iterations, settings.early_stopping_patience) == (7001, 10000, 16000, None)
    assert (settings.image_size, settings.channels, settings.batch_size, settings.seed) == (64, 1, 32, 8499)
    assert (settings.lr, settings.lr_step, settings.lr_gamma) == (0.001, 10000, 0.8)
    assert (settings.maddr.enabled, settings.bf16) == (True, False)
    assert settings.baseline.rec_loss == {"relative_perceptual_L1": 1.0, "l1": 0.1}
    assert (settings.baseline.backbone, settings.baseline.latent_dim) == ("vgg19", 128)


def test_as_released_trains_when_shortened(data_root, tmp_path):
    changes = ["datasets=[liver_ct, lung_ct, lung_xray]", "image_size=16", "iterations=6", "batch_size=8", "val_iter=3", "log_iter=1", "lr_step=3"]
    changes += ["mixup.first=3", "mixup.last=4", "baseline.backbone_weights=random:0", "baseline.features.feature_weights={r12: 1}"]
    command = ["train_eval", str(CONFIGS / "MADDR_dpa" / "as_released.yaml"), "--data-root", str(data_root), "--results", str(tmp_path)]
    assert main([*command, *(part for change in changes for part in ("--set", change))]) == 0
    (log,) = tmp_path.glob("MADDR_dpa/maddr/liver_ct+lung_ct+lung_xray/seed_8499/log.csv")
    header, *rows = (line.split(",") for line in log.read_text().splitlines())
    rates = [float(row[header.index("lr")]) for row in rows]
    assert rates == pytest.approx([1e-3] * 4 + [0.8e-3] * 2), "three steps that count: 1, 2 and 5"
    assert (log.parent / "metrics.json").exists()
