from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from anomaly_detection.baseline import Batch, Phase
from anomaly_detection.components.adversarial import AdversarialSettings
from anomaly_detection.MADDR_dpa.dpa import DPA, DiscriminatorSettings, DPASettings, FeatureWeights
from anomaly_detection.MADDR_dpa.networks import DecoderSettings, EncoderSettings
from anomaly_detection.MADDR_dpa.rec_losses import L1Loss, MADDRConstraint
from anomaly_detection.training.loop import train
from anomaly_detection.training.seed import seed_everything
from tests.helpers import die_at, toy_images, toy_settings

SMALL = DPASettings(
    enc=EncoderSettings(type="residual9", inner_dims=[4, 4, 8]),
    dec=DecoderSettings(type="residual9", inner_dims=[8, 4, 4]),
    latent_dim=24,
    rec_loss={"l1": 1.0},
)


def settings(own: DPASettings = SMALL, **options) -> SimpleNamespace:
    return SimpleNamespace(**vars(toy_settings(image_size=16, **options)) | {"baseline": own})


def dpa(own: DPASettings = SMALL, maddr: bool = False, **options) -> DPA:
    torch.manual_seed(0)
    baseline = DPA(settings(own, **options))
    if maddr:
        baseline.attach(MADDRConstraint(24))
    return baseline


def batch(count: int = 6) -> Batch:
    images = toy_images(count, side=16)
    index = torch.arange(count)
    return images.batch(index)


def step(baseline: DPA, data: Batch) -> dict[str, torch.Tensor]:
    phase = baseline.phases()[-1]
    baseline.phase = phase
    return baseline.training_step(data, baseline.optimizers(phase))


def test_a_step_moves_encoder_decoder_and_heads():
    baseline = dpa(maddr=True)
    before = {name: value.clone() for name, value in baseline.named_parameters()}
    log = step(baseline, batch())
    unmoved = [name for name, value in baseline.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []
    assert {"loss", "rec", "maddr_organ", "maddr_modality", "maddr_center", "organ_accuracy", "modality_accuracy"} <= set(log)
    assert not any(value.requires_grad for value in log.values())
    torch.testing.assert_close(log["loss"], log["rec"] + log["maddr_total"])


def test_the_constraint_reaches_the_encoder_and_not_the_decoder():
    baseline, data = dpa(maddr=True), batch()
    value, _ = baseline.constraint(baseline.encode(data.image), data)
    value.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in baseline.maddr.parameters())
    assert all(parameter.grad is not None for parameter in baseline.encoder.parameters())
    assert all(parameter.grad is None for parameter in baseline.decoder.parameters())


def test_a_step_decodes_once():
    baseline, calls = dpa(replace(SMALL, rec_loss={"relative_perceptual_L1": 1.0, "l1": 0.1}), maddr=True), []
    baseline.prepare([batch()])
    baseline.decoder.register_forward_hook(lambda *_: calls.append(1))
    step(baseline, batch())
    assert len(calls) == 1


def test_the_score_is_the_reconstruction_loss_of_each_image_alone():
    baseline = dpa().eval()
    x = batch().image
    with torch.no_grad():
        scores, maps = baseline.anomaly_score(x), baseline.anomaly_map(x)
        torch.testing.assert_close(scores, (x - baseline.reconstruct(x)).abs().mean(dim=(1, 2, 3)))
        torch.testing.assert_close(maps, (x - baseline.reconstruct(x)).abs())
        torch.testing.assert_close(baseline.anomaly_score(x.flip(0)).flip(0), scores)
        torch.testing.assert_close(torch.cat([baseline.anomaly_score(each) for each in x.split(1)]), scores)


def test_perceptual_score_adds_its_terms_and_statistics_are_saved():
    own = replace(SMALL, rec_loss={"relative_perceptual_L1": 2.0, "l1": 0.5})
    baseline, x = dpa(own).eval(), batch().image
    baseline.prepare(batch().chunks(2))
    with torch.no_grad():
        scores = baseline.anomaly_score(x)
        perceptual = baseline.rec_loss.losses[0]
        perceptual.set_reduction("none")
        y = baseline.reconstruct(x)
        torch.testing.assert_close(scores, 2 * perceptual(x, y) + 0.5 * L1Loss("none")(x, y))
        assert baseline.anomaly_map(x).shape == (6, 1, 16, 16)
        other = dpa(own).eval()
        other.load_state_dict(baseline.state_dict())
        assert torch.equal(other.anomaly_score(x), scores)
    assert not [name for name in baseline.state_dict() if "backbone" in name]


def test_phases_follow_the_growing_and_scale_with_the_discriminator():
    own = replace(SMALL, initial_image_res=4, trns_iter=3, iters_per_res={8: {"stab": 5}}, batch_sizes={4: 16})
    phases = [(phase.name, phase.iterations, phase.batch_size) for phase in dpa(own, iterations=7).phases()]
    assert phases == [("stab_4", 7, 16), ("trns_8", 3, 8), ("stab_8", 5, 8), ("trns_16", 3, 8), ("stab_16", 7, 8)]
    discriminator = DiscriminatorSettings(
        loss=AdversarialSettings(type="least_squared"), ddis=EncoderSettings(type="residual9", inner_dims=[4, 4, 4]), n_dis=2
    )
    assert dpa(replace(SMALL, adversarial=discriminator)).phases()[0].batch_size == 24


def test_images_follow_the_stage():
    baseline = dpa(replace(SMALL, initial_image_res=4, trns_iter=4)).eval()
    phases = {phase.name: phase for phase in baseline.phases()}
    x = batch().image
    assert baseline.reconstruct(x).shape[-1] == 16, "a fresh detector stands at the end of growing"
    baseline.phase, baseline.progress = phases["trns_8"], 0.25
    assert baseline.reconstruct(x).shape[-1] == 8
    assert baseline.anomaly_map(x).shape == x.shape
    for factor in (2, (2, 1), (1, 2)):
        assert baseline.encode(F.interpolate(x, scale_factor=factor)).shape == (6, 24), "images of another size are resized"


def test_smooth_growing_mixes_the_losses_of_both_resolutions():
    weights = {16: FeatureWeights(1.0, {"r12": 1.0}), 8: FeatureWeights(0.0, {"r22": 1.0})}
    own = replace(
        SMALL,
        rec_loss={"perceptual": 1.0},
        backbone="vgg19",
        backbone_weights="random:0",
        features_per_resolution=weights,
        features=FeatureWeights(0.0, {"r12": 1.0}),
        use_smooth_pg=True,
        initial_image_res=8,
    )
    baseline, x = dpa(own), batch().image
    y = x.flip(0)
    baseline.phase, baseline.progress = Phase("trns_16", 4, 8), 0.25
    mixed = baseline._reconstruction_loss(x, y, "none")
    loss = baseline.rec_loss.losses[0].loss
    loss.set_new_weights(1.0, {"r12": 1.0})
    high = loss(x, y)
    loss.set_new_weights(0.0, {"r22": 1.0})
    low = loss(F.avg_pool2d(x, 2), F.avg_pool2d(y, 2))  # bilinear halving is the mean of four pixels
    torch.testing.assert_close(mixed, 0.25 * high + 0.75 * low)
    growing = baseline.rec_loss.losses[0]
    score, pixels = growing.score_and_map(x, y)
    torch.testing.assert_close(score, mixed)
    growing.set_reduction("pixelwise")
    torch.testing.assert_close(pixels, growing(x, y))
    baseline.phase = Phase("stab_16", 4, 8)
    torch.testing.assert_close(baseline._reconstruction_loss(x, y, "none"), high)


@pytest.mark.parametrize("with_map", [True, False])
def test_an_assessment_sends_image_and_reconstruction_through_the_backbone_once(with_map):
    features = FeatureWeights(0.0, {"r12": 1.0})
    own = replace(SMALL, rec_loss={"perceptual": 1.0, "l1": 0.1}, backbone="vgg19", backbone_weights="random:0", features=features)
    baseline, x, passes = dpa(own).eval(), batch().image, []
    (perceptual,) = baseline._perceptual_losses()
    perceptual.loss.backbone.layers["c11"].register_forward_hook(lambda *_: passes.append(1))
    with torch.inference_mode():
        assessment = baseline.assess(x, with_map)
        assert len(passes) == 2
        score, pixels = baseline.anomaly_score(x), baseline.anomaly_map(x)
    torch.testing.assert_close(assessment.score, score)
    if with_map:
        torch.testing.assert_close(assessment.map, pixels)
        expected = baseline._reconstruction_loss(x, assessment.reconstruction, "pixelwise")
        torch.testing.assert_close(assessment.map, expected)


def test_a_latent_of_several_places_is_averaged_for_maddr():
    own = replace(
        SMALL, latent_res=4, latent_dim=24, dec=DecoderSettings(type="residual9", inner_dims=[24, 4, 4]), enc=EncoderSettings("residual9", [4, 4, 8])
    )
    baseline, data = dpa(own, maddr=True), batch()
    assert baseline.encode(data.image).shape == (6, 24)
    with torch.no_grad():
        places = baseline.encoder(data.image, 16, 1.0)
    assert places.shape == (6, 24, 4, 4)
    torch.testing.assert_close(baseline.encode(data.image), sum(places[:, :, i, j] for i in range(4) for j in range(4)) / 16)
    step(baseline, data)


@pytest.mark.parametrize("kind", ["wasserstein", "least_squared", "nnl"])
def test_the_adversarial_option_trains_both_sides(kind):
    adversarial = DiscriminatorSettings(loss=AdversarialSettings(type=kind), ddis=EncoderSettings(type="residual9", inner_dims=[4, 4, 4]))
    baseline = dpa(replace(SMALL, adversarial=adversarial))
    before = {name: value.clone() for name, value in baseline.named_parameters()}
    log = step(baseline, batch(8))
    assert {"discriminator", "generator", "rec"} <= set(log)
    assert not [name for name, value in baseline.named_parameters() if torch.equal(value, before[name]) and name.endswith("weight")]


def test_a_steps_loss_weighs_its_terms():
    assert (log := step(dpa(replace(SMALL, rec_weight=3.0)), batch()))["loss"].item() == pytest.approx(3 * log["rec"].item())
    ddis = EncoderSettings(type="residual9", inner_dims=[4, 4, 4])
    adversarial = DiscriminatorSettings(loss=AdversarialSettings(type="least_squared"), ddis=ddis, weight=0.25)
    log = step(dpa(replace(SMALL, rec_weight=3.0, adversarial=adversarial), maddr=True), batch(8))
    assert log["loss"].item() == pytest.approx(3 * log["rec"].item() + 0.25 * log["generator"].item() + log["maddr_total"].item(), rel=1e-5)


@pytest.mark.parametrize("stop_at", [3, 9, 13])
def test_growing_with_a_discriminator_resumes_exactly(tmp_path, stop_at):
    adversarial = DiscriminatorSettings(loss=AdversarialSettings(type="wasserstein"), ddis=EncoderSettings(type="residual9", inner_dims=[4, 4, 4]))
    own = replace(SMALL, initial_image_res=8, trns_iter=4, adversarial=adversarial)

    def run(folder, stop_at=None):
        experiment = settings(own, iterations=5)
        seed_everything(0)
        baseline = DPA(experiment)
        baseline.attach(MADDRConstraint(24))
        die_at(baseline, stop_at)
        train(baseline, toy_images(20, side=16), toy_images(6, seed=1, side=16), experiment, folder)
        return baseline.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_at)
    resumed = run(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_it_learns_to_reconstruct():
    baseline, data = dpa(lr=0.003), batch(24)
    phase = baseline.phases()[0]
    optimizers = baseline.optimizers(phase)
    first = baseline.training_step(data, optimizers)["rec"]
    for _ in range(150):
        last = baseline.training_step(data, optimizers)["rec"]
    assert last < 0.4 * first


def test_bfloat16_trains_alike():
    losses = []
    for bf16 in (False, True):
        baseline, data = dpa(maddr=True, lr=0.003), batch(24)
        baseline.bf16 = bf16
        optimizers = baseline.optimizers(baseline.phases()[0])
        losses.append([baseline.training_step(data, optimizers)["rec"].item() for _ in range(40)][-1])
    assert losses[0] != losses[1], "autocast had no effect"
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
