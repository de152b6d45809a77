import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import run_experiments
from anomaly_detection.f_anogan.f_anogan import FAnoGAN
from anomaly_detection.f_anogan.networks import Critic, Encoder, Generator, ResidualDown, ResidualUp
from anomaly_detection.training.checkpoint import load_checkpoint
from tests.helpers import toy_images
from tests.test_baselines import batch_of, built, same_weights, settings_of


def phase_of(baseline, name):
    phase = next(phase for phase in baseline.phases() if phase.name == name)
    baseline.train()
    baseline.phase = phase
    return phase, baseline.optimizers(phase)


def test_full_size_networks_have_the_published_shapes():
    generator, critic, encoder = Generator(64, 1, 64, 128, 0.01), Critic(64, 1, 64), Encoder(64, 1, 64, 128, 0.01)
    assert [(b.conv1.in_channels, b.conv2.out_channels) for b in generator.blocks] == [(512, 512), (512, 256), (256, 128), (128, 64)]
    assert [(b.conv1.in_channels, b.conv2.out_channels) for b in critic.blocks] == [(64, 128), (128, 256), (256, 512), (512, 512)]
    assert generator.start.out_features == critic.top.in_features == encoder.top.in_features == 8192
    assert encoder.top.out_features == 128
    assert all(block.conv1.bias is None and block.conv2.bias is not None for network in (generator, critic) for block in network.blocks)
    assert any(isinstance(m, nn.BatchNorm2d) for m in encoder.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in critic.modules())


def test_at_128_pixels_there_is_a_block_more_at_the_low_end():
    assert [block.conv2.out_channels for block in Generator(128, 1, 64, 128, 0.01).blocks] == [512, 512, 256, 128, 64]
    assert [block.conv2.out_channels for block in Critic(128, 1, 64).blocks] == [128, 256, 512, 512, 512]


def test_residual_up_is_the_specs_block():
    block = ResidualUp(3, 5, 0.1).eval()
    x = torch.randn(2, 3, 4, 4)
    big = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    main = F.relu(block.norm1(x)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    main = block.conv2(F.relu(block.norm2(block.conv1(main))))
    torch.testing.assert_close(block(x), F.conv2d(big, block.shortcut.weight, block.shortcut.bias) + main)


def test_residual_down_is_the_specs_block():
    block = ResidualDown(3, 5, None)
    x = torch.randn(2, 3, 8, 8)
    pooled = lambda t: t.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5))  # noqa: E731
    norm = lambda t: (t - t.mean(dim=(1, 2, 3), keepdim=True)) / (t.var(dim=(1, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()  # noqa: E731
    main = block.conv2(F.relu(norm(block.conv1(F.relu(norm(x))))))
    torch.testing.assert_close(block(x), block.shortcut(pooled(x)) + pooled(main), rtol=1e-4, atol=1e-5)


def test_initial_weights_have_the_published_spread():
    block = ResidualDown(64, 128, None)
    assert block.conv2.weight.std().item() == pytest.approx(math.sqrt(4 / (9 * (64 + 128))), rel=0.05)
    assert block.shortcut.weight.std().item() == pytest.approx(math.sqrt(2 / (64 + 128)), rel=0.05)
    assert block.conv2.weight.abs().max() <= math.sqrt(3 * 4 / (9 * (64 + 128)))
    assert not block.conv2.bias.any()


def test_critic_sees_no_other_image():
    critic, x = Critic(32, 1, 4), torch.randn(5, 1, 32, 32)
    torch.testing.assert_close(critic(x)[2:3], critic(x[2:3]))


def test_critic_loss_is_the_specs_number():
    baseline = built(settings_of("f_anogan"))
    _, optimizers = phase_of(baseline, "gan")
    batch = batch_of(toy_images(6, side=32), 6)
    optimizers["critic"].param_groups[0]["lr"] = 0.0
    torch.manual_seed(3)
    log = baseline._critic_step(batch, optimizers["critic"])
    torch.manual_seed(3)
    with torch.no_grad():
        fake = baseline.generator(torch.randn(6, 32))
    share = torch.rand(6, 1, 1, 1)
    norms = []
    for real_image, fake_image, a in zip(batch.image, fake, share, strict=True):
        u = (a * real_image + (1 - a) * fake_image)[None].requires_grad_()
        norms.append(torch.autograd.grad(baseline.critic(u).sum(), u)[0].double().square().sum().sqrt().item())
    gap = (baseline.critic(batch.image) - baseline.critic(fake)).mean().item()
    assert log["critic_gap"].item() == pytest.approx(gap, rel=1e-3)
    assert log["gradient_norm"].item() == pytest.approx(sum(norms) / 6, rel=1e-3)
    assert log["gradient_penalty"].item() == pytest.approx(sum((n - 1) ** 2 for n in norms) / 6, rel=1e-3)


def test_the_gradient_norm_is_near_1_after_the_first_phase():
    """Not at 1: the best critic has 1 + gap / (2 * 10 * 1), so that the norm nears 1 only as far as the generator has learned."""
    baseline = built(settings_of("f_anogan", 16))
    phase, optimizers = phase_of(baseline, "gan")
    images = toy_images(64, side=16)
    generator = torch.Generator().manual_seed(0)
    norms = []
    for _ in range(80):
        index = torch.randint(64, (phase.batch_size,), generator=generator)
        batch = images.batch(index)
        norms.append(baseline.training_step(batch, optimizers)["gradient_norm"].item())
    assert sum(norms[-20:]) / 20 == pytest.approx(1, abs=0.3)


def test_the_first_phase_is_validated_by_what_the_critic_holds_for_fake():
    baseline, x = built(settings_of("f_anogan")).eval(), toy_images(3, side=32).batch(torch.arange(3)).image
    baseline.phase = baseline.gan_phase
    with torch.inference_mode():
        torch.testing.assert_close(baseline.validation_loss(x, baseline.assess(x, False)), -baseline.critic(x))


def test_every_batch_norm_has_the_momentum_that_is_set():
    baseline = built(settings_of("f_anogan", own={"bn_momentum": 0.25}))
    assert {module.momentum for module in baseline.modules() if isinstance(module, nn.BatchNorm2d)} == {0.25}


def test_each_phase_trains_its_own_networks_only():
    baseline = built(settings_of("f_anogan"))
    images = toy_images(16, side=32)

    def moved(name):
        phase, optimizers = phase_of(baseline, name)
        before = {key: value.detach().clone() for key, value in baseline.state_dict().items()}
        for _ in range(2):
            baseline.training_step(batch_of(images, phase.batch_size), optimizers)
        return {key.split(".")[0] for key, value in baseline.state_dict().items() if not torch.equal(value, before[key])}

    assert moved("gan") == {"generator", "critic"}
    assert moved("encoder") == {"encoder"}  # running averages of the generator included


def test_encoder_loss_and_score_are_the_specs_numbers():
    baseline = built(settings_of("f_anogan", own={"width": 4, "latent_dim": 32, "kappa": 0.7})).eval()
    x = toy_images(4, side=32).batch(torch.arange(4)).image
    with torch.inference_mode():
        y = baseline.generator(baseline.encoder(x))
        fx, fy = (baseline.critic.blocks(baseline.critic.image(each)).flatten(1) for each in (x, y))
        score = baseline.anomaly_score(x)
    for i in range(4):
        pixels = sum((a - b) ** 2 for a, b in zip(x[i].flatten().tolist(), y[i].flatten().tolist(), strict=True)) / x[i].numel()
        features = sum((a - b) ** 2 for a, b in zip(fx[i].tolist(), fy[i].tolist(), strict=True)) / fx.shape[1]
        assert score[i].item() == pytest.approx(pixels + 0.7 * features, rel=1e-4)


def test_the_loss_of_the_encoder_weighs_its_terms():
    baseline = built(settings_of("f_anogan", own={"width": 4, "latent_dim": 32, "kappa": 0.3}), maddr=True)
    _, optimizers = phase_of(baseline, "encoder")
    log = baseline.training_step(batch_of(toy_images(8, side=32), 8), optimizers)
    expected = log["rec"].item() + 0.3 * log["features"].item() + log["maddr_total"].item()
    assert log["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("flip", [True, False])
def test_features_are_taken_beforehand_only_of_images_that_stay_as_they_are(flip):
    baseline = built(settings_of("f_anogan", own={"width": 4, "horizontal_flip": flip}))
    images = toy_images(8, side=32)
    phase, optimizers = phase_of(baseline, "encoder")
    baseline.begin_phase(phase, images.batches(4), 8)
    assert (baseline.targets is None) == flip
    baseline.training_step(batch_of(images, 8), optimizers)


def test_samples_of_the_first_phase_come_from_one_fixed_noise():
    baseline = built(settings_of("f_anogan")).eval()
    x = toy_images(3, side=32).batch(torch.arange(3)).image
    with torch.inference_mode():
        torch.testing.assert_close(baseline.sample(x), baseline.reconstruct(x))
        baseline.phase = baseline.gan_phase
        torch.testing.assert_close(baseline.sample(x), baseline.sample(-x))


def test_flips_are_off_unless_asked_for():
    x = torch.arange(8.0).view(1, 1, 2, 4).expand(64, 1, 2, 4)
    assert torch.equal(built(settings_of("f_anogan"))._augmented(x), x)
    flipped = built(settings_of("f_anogan", own={"width": 4, "horizontal_flip": True}))._augmented(x)
    share = (flipped[:, 0, 0, 0] == 3).float().mean()
    assert 0.2 < share < 0.8
    assert all(torch.equal(each, x[0]) or torch.equal(each, x[0].flip(2)) for each in flipped)


def test_the_latent_of_the_encoder_lies_within_1():
    baseline = built(settings_of("f_anogan"))
    z = baseline.encode(100 * torch.randn(4, 1, 32, 32))
    assert z.abs().max() <= 1


def test_same_weights_tells_apart():
    a, b = built(settings_of("f_anogan")), built(settings_of("f_anogan", seed=1))
    assert not same_weights(a.state_dict(), b.state_dict())


def test_united_and_maddr_share_the_first_phase_and_end_as_if_they_did_not(data_root, tmp_path, monkeypatch):
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)
    steps, critic_step = [], FAnoGAN._critic_step
    monkeypatch.setattr(FAnoGAN, "_critic_step", lambda self, *arguments: (steps.append(self.maddr is not None), critic_step(self, *arguments))[1])

    def study(results, *regimes):
        steps.clear()
        small = {"image_size": 16, "batch_size": 4, "iterations": 4, "val_iter": 2, "checkpoint_iter": 2, "log_iter": 2, "bf16": "false"}
        small |= {"baseline.width": 2, "baseline.gan_iterations": 4, "baseline.critic_steps": 2, "baseline.latent_dim": 24}
        arguments = ["--models", "f_anogan", "--data-root", str(data_root), "--results", str(results), "--seeds", "0", "--regimes", *regimes]
        assert run_experiments.main([*arguments, *(word for key, value in small.items() for word in ("--set", f"{key}={value}"))]) == 0
        return list(steps)

    assert study(tmp_path / "together", "united", "maddr") == [False] * 8
    assert study(tmp_path / "alone", "maddr") == [True] * 8
    study(tmp_path / "separate", "separate")
    assert not (tmp_path / "separate" / "f_anogan" / "shared").exists(), "from one network for one dataset nobody goes on"
    together, alone = (tmp_path / name / "f_anogan" / "maddr" / "liver_ct+lung_ct+lung_xray" / "seed_0" for name in ("together", "alone"))
    one, other = (load_checkpoint(run / "checkpoint.pt") for run in (together, alone))
    assert same_weights(one["model"], other["model"])
    assert (together / "scores.csv").read_text() == (alone / "scores.csv").read_text()
    rows = [[{**row, "images_per_second": None} for row in content["training"]["rows"]] for content in (one, other)]
    assert rows[0] == rows[1]
    assert {row["phase"] for row in rows[0]} == {"gan", "encoder"}
