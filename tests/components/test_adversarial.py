import math

import pytest
import torch
import torch.nn.functional as F

from anomaly_detection.components.adversarial import AdversarialSettings, adversarial_loss, squared_gradient_norm
from anomaly_detection.config.layers import Layer, build
from anomaly_detection.MADDR_dpa.networks import Encoder, EncoderSettings
from anomaly_detection.system.errors import UserError

KINDS = ["wasserstein", "least_squared", "nnl"]


def loss_of(kind, **values):
    return adversarial_loss(AdversarialSettings(kind, **values))


def linear(weight):
    return lambda x: (x * weight).sum(dim=(1, 2, 3))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 1, 4, 4, generator=generator), torch.randn(5, 1, 4, 4, generator=generator)


LOGITS = torch.tensor([[-2.0], [0.5], [3.0]])[..., None, None]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wasserstein", -0.5),
        ("least_squared", (9 + 0.25 + 4) / 3),
        ("nnl", (math.log(1 + math.exp(2)) + math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(-3))) / 3),
    ],
)
def test_generator_losses_of_known_logits(kind, expected):
    assert loss_of(kind).generator_loss(LOGITS).item() == pytest.approx(expected, rel=1e-6)


def test_wasserstein_discriminator_loss_of_a_linear_critic(pair):
    real, fake = pair
    weight = torch.arange(16.0).reshape(4, 4) / 8
    r, f = ([(image[0] * weight).sum().item() for image in images] for images in (real, fake))
    norm = math.sqrt(sum((i / 8) ** 2 for i in range(16)))
    for lambd, penalty, drift, gamma in ((1, 10, 0, 1), (2, 3, 0.01, 5), (1, 0, 0.5, 1)):
        expected = -lambd * (sum(r) - sum(f)) / 5 + drift * (sum(v * v for v in r) + sum(v * v for v in f)) / 5
        expected += penalty * (norm - gamma) ** 2 / gamma**2
        loss = loss_of("wasserstein", lambd=lambd, gradient_penalty=penalty, norm_penalty=drift, target_gamma=gamma)
        assert sum(loss.discriminator_losses(linear(weight), real, fake)).item() == pytest.approx(expected, rel=1e-5)


def test_wasserstein_penalty_has_the_gradient_in_the_weights(pair):
    weight = (torch.arange(1.0, 17).reshape(4, 4) / 8).requires_grad_()
    loss = sum(loss_of("wasserstein", lambd=0, gradient_penalty=3, target_gamma=2).discriminator_losses(linear(weight), *pair))
    loss.backward()
    norm = weight.detach().norm()
    # d/dw 3 (|w| / 2 - 1)^2
    torch.testing.assert_close(weight.grad, 3 * 2 * (norm / 2 - 1) / 2 * weight.detach() / norm)


def test_wasserstein_penalty_is_taken_between_each_pair():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum(dim=(1, 2, 3)) / 2  # its gradient is x

    torch.manual_seed(0)
    real, fake = torch.zeros(64, 1, 2, 2), torch.ones(64, 1, 2, 2)
    loss = sum(loss_of("wasserstein", lambd=0, gradient_penalty=1.0, target_gamma=1.5).discriminator_losses(critic, real, fake))
    share = seen[-1][:, 0, 0, 0]
    torch.testing.assert_close(seen[-1], share.view(-1, 1, 1, 1).expand(-1, 1, 2, 2))
    assert share.min() >= 0
    assert share.max() <= 1
    assert share.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.2)
    assert loss.item() == pytest.approx(((2 * share - 1.5) ** 2 / 1.5**2).mean().item(), rel=1e-5)


def test_a_flat_critic_has_a_penalty_with_a_finite_gradient(pair):
    weight = torch.zeros(4, 4, requires_grad=True)
    loss = sum(loss_of("wasserstein").discriminator_losses(linear(weight), *pair))
    loss.backward()
    assert loss.item() == pytest.approx(10, rel=1e-5)
    assert weight.grad.isfinite().all()


def test_least_squared_discriminator_loss(pair):
    real, fake = pair
    expected = sum((a.sum().item() - 1) ** 2 + b.sum().item() ** 2 for a, b in zip(real, fake, strict=True)) / 5 / 2
    assert sum(loss_of("least_squared").discriminator_losses(linear(torch.ones(4, 4)), real, fake)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("places", "where"), [("real", [0]), ("fake", [1]), ("real_fake", [0, 1])])
def test_nnl_discriminator_loss_and_its_penalty(pair, places, where):
    def critic(x):
        return x.pow(3).sum(dim=(1, 2, 3)) / 9  # its gradient is x^2 / 3

    real, fake = pair
    a, b = ((x**3).sum(dim=(1, 2, 3)) / 9 for x in pair)
    plain = F.binary_cross_entropy_with_logits(a, torch.ones(5)) + F.binary_cross_entropy_with_logits(b, torch.zeros(5))
    torch.testing.assert_close(sum(loss_of("nnl").discriminator_losses(critic, real, fake)), plain)
    penalty = sum((pair[i] ** 4).sum() / 9 / 5 for i in where)
    regularised = loss_of("nnl", use_reg=True, reg_alpha=0.7, reg_type=places)
    torch.testing.assert_close(sum(regularised.discriminator_losses(critic, real, fake)), plain + 0.7 * penalty)


def test_squared_gradient_norm_equals_finite_differences():
    torch.manual_seed(0)
    weight = torch.randn(6, 4, dtype=torch.float64)

    def critic(x):
        return torch.tanh(weight.to(x.dtype) @ x.flatten(1).T).sum(dim=0)

    x = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    expected = torch.zeros(3, dtype=torch.float64)
    for i in range(4):
        step = torch.zeros(4, dtype=torch.float64)
        step[i] = 1e-5
        step = step.view(1, 1, 2, 2)
        expected += ((critic(x + step) - critic(x - step)) / 2e-5) ** 2
    torch.testing.assert_close(squared_gradient_norm(critic, x).double(), expected, rtol=1e-4, atol=1e-5)


def discriminator(kind="regular", **options):
    torch.manual_seed(0)
    return Encoder(EncoderSettings(kind, [4, 5], **options), 1, 1, 1, 8, [8])


def test_gradient_penalties_are_float32_under_autocast():
    critic = discriminator()
    x = torch.randn(4, 1, 8, 8)
    expected = squared_gradient_norm(critic, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(x).dtype == torch.bfloat16
        actual = squared_gradient_norm(critic, x)
        of_half = squared_gradient_norm(critic, x.bfloat16())
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(of_half, expected, rtol=0.1, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", ["residual9", "regular"])
@pytest.mark.parametrize("bf16", [False, True])
def test_discriminators_learn_and_images_get_no_gradient(kind, network, bf16):
    options = {"use_mbstddev": True, "use_wscale": True, "pool": "max"} if network == "regular" else {}
    critic = discriminator(network, **options)
    optimizer = torch.optim.SGD(critic.parameters(), 0.002)
    loss = loss_of(kind, use_reg=True, reg_alpha=0.01, gradient_penalty=0.1)
    real, fake = torch.rand(8, 1, 8, 8), (torch.rand(8, 1, 8, 8) - 1).requires_grad_()

    def margin():
        with torch.no_grad():
            return (critic(real).mean() - critic(fake).mean()).item()

    before = margin()
    for _ in range(5):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = sum(loss.discriminator_losses(critic, real, fake))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value.dtype == torch.float32
    assert fake.grad is None
    assert margin() > before


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_is_drawn_to_higher_logits(kind):
    logits = torch.zeros(4, 1, 1, 1, requires_grad=True)
    loss_of(kind).generator_loss(logits).backward()
    assert (logits.grad < 0).all()


def test_unequal_batches_are_refused(pair):
    with pytest.raises(ValueError, match="^real and fake must have one shape"):
        loss_of("wasserstein").discriminator_losses(linear(torch.ones(4, 4)), pair[0], pair[1][:1])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="^gradient_penalty must not be negative, got -1"):
        AdversarialSettings("wasserstein", gradient_penalty=-1)
    with pytest.raises(ValueError, match="^target_gamma must be above 0, not 0"):
        AdversarialSettings("wasserstein", target_gamma=0)
    with pytest.raises(UserError, match="type: expected one of wasserstein, least_squared, nnl; got 'hinge'"):
        build(AdversarialSettings, [Layer("a.yaml", {"type": "hinge"})])
