"""Adversarial losses, for baselines with a discriminator or critic. It maps images (B, C, H, W) to one logit each.

Sources: DPA: Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual Autoencoders, IEEE Access 2021. wasserstein:
Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017; its target_gamma and norm_penalty: Karras et al., Progressive Growing
of GANs, ICLR 2018. least_squared: Mao et al., Least Squares Generative Adversarial Networks, ICCV 2017. nnl: Goodfellow et al., Generative
Adversarial Networks, NeurIPS 2014; its penalty: Mescheder et al., Which Training Methods for GANs do actually Converge?, ICML 2018.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Discriminator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialSettings:
    """Which adversarial loss, and its numbers.

    Attributes:
        type: wasserstein, least_squared or nnl (negative log-likelihood).
        lambd: wasserstein: weight of the distance of real and fake logits.
        gradient_penalty: wasserstein: weight of the penalty that draws gradient norms to target_gamma; 0 leaves it out.
        norm_penalty: wasserstein: weight of the squared logits, which keeps them from drifting.
        target_gamma: wasserstein: > 0.
        use_reg: nnl: penalise squared gradients.
        reg_alpha: nnl: weight of that penalty.
        reg_type: nnl: the images where gradients are penalised.

    Raises:
        ValueError: a negative weight, or target_gamma not above 0.
    """

    type: Literal["wasserstein", "least_squared", "nnl"]
    lambd: float = 1.0
    gradient_penalty: float = 10.0
    norm_penalty: float = 0.0
    target_gamma: float = 1.0
    use_reg: bool = False
    reg_alpha: float = 10.0
    reg_type: Literal["real", "fake", "real_fake"] = "real"

    def __post_init__(self):
        for key in ("lambd", "gradient_penalty", "norm_penalty", "reg_alpha"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")
        if self.target_gamma <= 0:
            raise ValueError(f"target_gamma must be above 0, not {self.target_gamma}")


def squared_gradient_norm(discriminator: Discriminator, x: Tensor) -> Tensor:
    """``sum_{C,H,W} (dD(x)/dx)^2`` of each image: (B,) float32, differentiable in the weights of the discriminator.

    Args:
        x: (B, C, H, W); taken as data, no gradient flows to it.
    """
    # A square of a gradient of a gradient has no digits left in half precision.
    with torch.autocast(x.device.type, enabled=False):
        x = x.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3))


def gradient_norm_between(discriminator: Discriminator, real: Tensor, fake: Tensor) -> Tensor:
    """``||dD(u)/du||_2`` at one point u drawn on the line between each real and fake image: (B,) float32 (Gulrajani et al., eq. 3)."""
    share = torch.rand(real.shape[0], 1, 1, 1, device=real.device)
    # The floor keeps the gradient of the root finite where the discriminator is flat.
    return squared_gradient_norm(discriminator, share * real + (1 - share) * fake).clamp_min(1e-16).sqrt()


class AdversarialLoss(ABC):
    """What the generator (here the autoencoder) and the discriminator minimise in turn."""

    def __init__(self, settings: AdversarialSettings):
        self.settings = settings

    @abstractmethod
    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        """Float32 scalar from the logits of generated images, of any shape."""

    def discriminator_losses(self, discriminator: Discriminator, real: Tensor, fake: Tensor) -> list[Tensor]:
        """Float32 scalars to add, from as many real images as fake ones, (B, C, H, W); no gradient flows to either. Penalties of gradients come
        first, each apart, see `anomaly_detection.baseline.minimise`."""
        if real.shape != fake.shape:
            raise ValueError(f"real and fake must have one shape, got {tuple(real.shape)} and {tuple(fake.shape)}")
        real, fake = real.detach(), fake.detach()
        separation = self._separation(discriminator(real).float(), discriminator(fake).float())
        return [*self._penalties(discriminator, real, fake), separation]

    @abstractmethod
    def _separation(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...

    def _penalties(self, discriminator: Discriminator, real: Tensor, fake: Tensor) -> list[Tensor]:
        return []


class WassersteinLoss(AdversarialLoss):
    """Generator: ``-mean D(fake)``. Discriminator: ``-lambd (mean D(real) - mean D(fake)) + norm_penalty (mean D(real)^2 + mean D(fake)^2)
    + gradient_penalty mean((||dD(x)/dx|| - g)^2 / g^2)`` at x drawn between each real and fake image, with g = target_gamma."""

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.float().mean()

    def _separation(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        distance = real_logits.mean() - fake_logits.mean()
        return -self.settings.lambd * distance + self.settings.norm_penalty * (real_logits.square().mean() + fake_logits.square().mean())

    def _penalties(self, discriminator: Discriminator, real: Tensor, fake: Tensor) -> list[Tensor]:
        if self.settings.gradient_penalty == 0:
            return []
        norm = gradient_norm_between(discriminator, real, fake)
        return [self.settings.gradient_penalty * (norm / self.settings.target_gamma - 1).square().mean()]


class LeastSquaredLoss(AdversarialLoss):
    """Generator: ``mean (D(fake) - 1)^2``. Discriminator: ``(mean (D(real) - 1)^2 + mean D(fake)^2) / 2``."""

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return (fake_logits.float() - 1).square().mean()

    def _separation(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return ((real_logits - 1).square().mean() + fake_logits.square().mean()) / 2


class NegativeLogLikelihoodLoss(AdversarialLoss):
    """Generator: ``BCE(D(fake), 1)``. Discriminator: ``BCE(D(real), 1) + BCE(D(fake), 0)``, and with use_reg
    ``reg_alpha mean_B sum (dD(x)/dx)^2`` at the real images, the fake ones or both."""

    def generator_loss(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits.float()).mean()

    def _separation(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()

    def _penalties(self, discriminator: Discriminator, real: Tensor, fake: Tensor) -> list[Tensor]:
        if not self.settings.use_reg:
            return []
        places = {"real": [real], "fake": [fake], "real_fake": [real, fake]}[self.settings.reg_type]
        return [self.settings.reg_alpha * squared_gradient_norm(discriminator, x).mean() for x in places]


def adversarial_loss(settings: AdversarialSettings) -> AdversarialLoss:
    """The loss of that type."""
    return _LOSSES[settings.type](settings)


_LOSSES = {"wasserstein": WassersteinLoss, "least_squared": LeastSquaredLoss, "nnl": NegativeLogLikelihoodLoss}
