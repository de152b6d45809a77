import pytest
import torch

from anomaly_detection.ganomaly import ganomaly as module
from anomaly_detection.ganomaly.networks import Decoder, Discriminator, Encoder
from tests.helpers import toy_images
from tests.test_baselines import batch_of, built, settings_of


def test_full_size_networks_have_the_published_shapes():
    x = torch.zeros(1, 1, 64, 64)
    encoder, decoder, discriminator = Encoder(64, 1, 64, 100), Decoder(64, 1, 64, 100), Discriminator(64, 1, 64)
    # weights of the spec's table by hand: 4 x 4 kernels, no bias, two numbers per batch-normed channel
    body = 16 * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in encoder.parameters()) == body + 16 * 512 * 100
    assert sum(p.numel() for p in discriminator.parameters()) == body + 16 * 512
    assert sum(p.numel() for p in decoder.parameters()) == 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64) + 2 * (512 + 256 + 128 + 64)
    assert encoder(x).shape == (1, 100, 1, 1)
    assert decoder(encoder(x)).shape == x.shape
    logits, features = discriminator(x)
    assert (logits.shape, features.shape) == ((1,), (1, 512, 4, 4))


def test_extra_layers_keep_the_shapes_and_are_in_every_network():
    """As published: the discriminator is an encoder, too. Each layer has a kernel of 3 x 3 and two numbers for each channel."""
    plain, deep = (built(settings_of("ganomaly", own={"latent_dim": 24, "width": 4, "extra_layers": count})) for count in (0, 2))
    x = torch.zeros(2, 1, 32, 32)
    assert deep.reconstruct(x).shape == x.shape
    assert deep.discriminator(x)[1].shape == plain.discriminator(x)[1].shape
    for name in ("encoder", "decoder", "second_encoder", "discriminator"):
        few, many = (sum(p.numel() for p in getattr(network, name).parameters()) for network in (plain, deep))
        assert many - few == 2 * (3 * 3 * 4 * 4 + 2 * 4), name


def test_losses_are_the_specs_numbers_on_a_fixed_batch():
    """Loops in float64 over what the networks gave in the step."""
    baseline = built(settings_of("ganomaly"))
    batch = batch_of(toy_images(8, side=32), 8)
    with torch.no_grad():
        z = baseline.encoder(batch.image)
        y = baseline.decoder(z)
        second_z = baseline.second_encoder(y)
        real_logits, real = baseline.discriminator(batch.image)
        fake_logits, fake = baseline.discriminator(y)
    state = baseline.state_dict()
    mean = lambda a, b, f: sum(f(p - q) for p, q in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / a.numel()  # noqa: E731
    adversarial, context, latent = mean(real, fake, lambda d: d * d), mean(batch.image, y, abs), mean(z, second_z, lambda d: d * d)
    p_real, p_fake = real_logits.double().sigmoid(), fake_logits.double().sigmoid()
    discriminator = 0.5 * (-p_real.log().mean() - (1 - p_fake).log().mean())
    baseline.load_state_dict(state)
    losses = baseline.training_step(batch, baseline.optimizers(*baseline.phases()))
    assert losses["adversarial"].item() == pytest.approx(adversarial, rel=1e-4)
    assert losses["context"].item() == pytest.approx(context, rel=1e-4)
    assert losses["latent"].item() == pytest.approx(latent, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(adversarial + 50 * context + latent, rel=1e-4)
    assert losses["discriminator"].item() == pytest.approx(discriminator.item(), rel=1e-4)


@pytest.mark.parametrize("option", ["context_weight", "latent_weight"])
def test_the_validation_loss_weighs_its_terms(option):
    x, losses = toy_images(4, side=32).batch(torch.arange(4)).image, []
    for weight in (1.0, 7.0):
        baseline = built(settings_of("ganomaly", own={"width": 4, "context_weight": 0.0, "latent_weight": 0.0, option: weight})).eval()
        with torch.inference_mode():
            losses.append(baseline.validation_loss(x, baseline.assess(x, False)))
    assert (losses[0] > 0).all()
    torch.testing.assert_close(losses[1], 7 * losses[0])


def test_gradients_of_the_losses_are_those_of_their_formulas():
    """By hand: of a mean squared difference it is 2 (a - b) / n on both sides, of an absolute one the sign; only x and f(x) are data."""
    generator = torch.Generator().manual_seed(0)
    x, y, z, second_z, real, fake = (torch.randn(3, 4, generator=generator).requires_grad_(at not in (0, 4)) for at in range(6))
    losses = module.GANomaly.generator_losses(x, y, z, second_z, real, fake)
    sum(losses.values()).backward()
    torch.testing.assert_close(z.grad, 2 * (z - second_z).detach() / 12)
    torch.testing.assert_close(second_z.grad, 2 * (second_z - z).detach() / 12)
    torch.testing.assert_close(fake.grad, 2 * (fake - real).detach() / 12)
    torch.testing.assert_close(y.grad, (y - x).detach().sign() / 12)


def test_adam_has_the_published_momenta():
    baseline = built(settings_of("ganomaly"))
    optimizers = baseline.optimizers(*baseline.phases())
    assert {(name, group["betas"], group["lr"]) for name, each in optimizers.items() for group in each.param_groups} == {
        ("generator", (0.5, 0.999), 0.002), ("discriminator", (0.5, 0.999), 0.002),
    }  # fmt: skip


@pytest.mark.parametrize(("score_of", "first"), [("latent", 0), ("content", 20)])
@pytest.mark.parametrize(("score", "norm"), [("squared", lambda d: d * d), ("absolute", abs)])
def test_score_is_the_mean_distance_of_the_latents(score, norm, score_of, first):
    baseline = built(settings_of("ganomaly", own={"width": 4, "latent_dim": 32, "score": score, "score_of": score_of})).eval()
    x = toy_images(3, side=32).batch(torch.arange(3)).image
    with torch.inference_mode():
        z = baseline.encoder(x).flatten(1)
        second_z = baseline.second_encoder(baseline.decoder(z[:, :, None, None])).flatten(1)
        scores = baseline.anomaly_score(x).tolist()
    for i in range(3):
        by_hand = sum(norm(a - b) for a, b in zip(z[i].tolist()[first:], second_z[i].tolist()[first:], strict=True)) / (32 - first)
        assert scores[i] == pytest.approx(by_hand, rel=1e-4)


def test_a_score_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing of a latent of 20 numbers"):
        built(settings_of("ganomaly", own={"width": 4, "latent_dim": 20, "score_of": "content"}))


def test_each_step_moves_its_own_networks_only():
    baseline = built(settings_of("ganomaly"))
    batch = batch_of(toy_images(8, side=32), 8)
    optimizers = baseline.optimizers(*baseline.phases())
    baseline.training_step(batch, optimizers)
    optimizers["discriminator"].param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in baseline.discriminator.parameters()]
    baseline.training_step(batch, optimizers)
    assert all(torch.equal(p, q) for p, q in zip(baseline.discriminator.parameters(), before, strict=True))


def test_a_collapsed_discriminator_is_drawn_anew(monkeypatch):
    baseline = built(settings_of("ganomaly"))
    batch = batch_of(toy_images(8, side=32), 8)
    optimizers = baseline.optimizers(*baseline.phases())
    losses = baseline.training_step(batch, optimizers)
    assert baseline.after_step(losses, optimizers)["discriminator_resets"] == 0
    momenta = [state["exp_avg"] for state in optimizers["discriminator"].state.values()]
    assert all(momentum.any() for momentum in momenta)
    with torch.no_grad():
        baseline.discriminator.classifier.weight.fill_(3.0)
    monkeypatch.setattr(module, "COLLAPSED_LOSS", 1e9)
    assert baseline.after_step(losses, optimizers)["discriminator_resets"] == 1
    assert not any(value.any() for state in optimizers["discriminator"].state.values() for value in state.values())
    assert all(momentum is state["exp_avg"] for momentum, state in zip(momenta, optimizers["discriminator"].state.values(), strict=True))
    assert baseline.discriminator.classifier.weight.std() < 0.1
