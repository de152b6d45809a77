"""f-AnoGAN as a baseline: a Wasserstein GAN of normal images, then an encoder into its latent space.

Source: Schlegl et al., f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks, Medical Image Analysis 54, 2019, and
its published code; the GAN: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, RMSprop

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase, minimise
from anomaly_detection.components.adversarial import gradient_norm_between
from anomaly_detection.components.feature_cache import TargetCache
from anomaly_detection.f_anogan.networks import Critic, Encoder, Generator


@dataclass(frozen=True)
class FAnoGANSettings:
    """What f-AnoGAN alone is configured by; each key is commented in configs/f_anogan/base.yaml."""

    latent_dim: int = 128
    width: int = 8
    gan_iterations: int = 600
    critic_steps: int = 2
    gradient_penalty: float = 10.0
    encoder_lr: float = 0.0005
    kappa: float = 1.0
    bn_momentum: float = 0.1
    horizontal_flip: bool = False

    def __post_init__(self):
        for key in ("latent_dim", "width", "gan_iterations", "critic_steps"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
        for key in ("gradient_penalty", "kappa"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")
        if self.encoder_lr <= 0:
            raise ValueError(f"encoder_lr must be above 0, not {self.encoder_lr}")
        if not 0 < self.bn_momentum <= 1:
            raise ValueError(f"bn_momentum must be above 0 and at most 1, not {self.bn_momentum}")


class FAnoGAN(Baseline):
    """Phase "gan": generator G and critic D by WGAN-GP. Phase "encoder": E by the izi_f loss, G and D frozen. MADDR acts on E(x), in the second.

    The loss of an image x with y = G(E(x)) and the critic's features f, and the anomaly score, is ``mean (x - y)^2 + kappa mean (f(x) - f(y))^2``.
    It is not scaled over a test set. Batch norms are in evaluation mode when images are scored.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `FAnoGANSettings`; ``settings.lr`` is that of the GAN, and
            ``settings.iterations`` those of the encoder.

    Raises:
        ValueError: settings that no network can have.
    """

    Settings = FAnoGANSettings
    paper = "Schlegl et al., f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks, Medical Image Analysis 54, 2019"

    def __init__(self, settings: Any):
        super().__init__(settings)
        options = self.options = settings.baseline
        self.latent_dim = options.latent_dim
        # Each critic step sees images of its own.
        images = settings.batch_size * options.critic_steps
        # Its steps are not replayed: they took as long replayed as kernel by kernel.
        self.gan_phase = Phase("gan", options.gan_iterations, images, options.critic_steps, shared=True)
        self.encoder_phase = Phase("encoder", settings.iterations, settings.batch_size, replayable=True)
        self.targets: TargetCache | None = None
        shape = (settings.image_size, settings.channels, options.width)
        self.generator = Generator(*shape, options.latent_dim, options.bn_momentum)
        self.critic = Critic(*shape)
        self.encoder = Encoder(*shape, options.latent_dim, options.bn_momentum)
        self.to(memory_format=torch.channels_last)

    # --- training

    def phases(self) -> list[Phase]:
        return [self.gan_phase, self.encoder_phase]

    def begin_phase(self, phase: Phase, batches: Iterable[Batch], count: int) -> None:
        """The critic no longer learns in the second phase: its features of the images are taken once, unless these are augmented."""
        self.targets = None
        if phase == self.encoder_phase and not self.options.horizontal_flip:
            with self.autocast():
                images = (batch.image for batch in batches)
                self.targets = TargetCache.fill(self._target, images, count, self.settings.feature_cache_mib * 2**20)

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        if phase == self.gan_phase:
            networks = {"generator": self.generator, "critic": self.critic}
            return {name: Adam(network.parameters(), self.settings.lr, betas=(0.0, 0.9), fused=True) for name, network in networks.items()}
        return {"encoder": RMSprop([*self.encoder.parameters(), *self.heads()], self.options.encoder_lr, alpha=0.9, eps=1e-10)}

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        if "encoder" in optimizers:
            return self._encoder_step(batch, optimizers["encoder"])
        for part in batch.chunks(self.options.critic_steps):
            log = self._critic_step(part, optimizers["critic"])
        with self.autocast():
            value = self.critic(self.generator(self._noise(batch.image, len(part.image)))).float().mean()
        minimise(-value, optimizers["generator"])
        return {"generator": -value.detach(), **log}

    def _critic_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        real = self._augmented(batch.image)
        with torch.no_grad(), self.autocast():
            fake = self.generator(self._noise(real, len(real))).float()
        # The critic stays in float32: its penalty needs the gradient of a gradient, and its loss is a small difference of large values.
        value, value_of_fake = self.critic(real).mean(), self.critic(fake).mean()
        norm = gradient_norm_between(self.critic, real, fake)
        penalty = (norm - 1).square().mean()
        minimise([self.options.gradient_penalty * penalty, value_of_fake, -value], optimizer)
        return {"critic_gap": (value - value_of_fake).detach(), "gradient_penalty": penalty.detach(), "gradient_norm": norm.detach().mean()}

    def _encoder_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        self.generator.eval()
        x = self._augmented(batch.image)
        with self.autocast():
            z = self.encoder(x)
            target = self._target(x) if self.targets is None or batch.index is None else self.targets.at(batch.index)
            pixels, features = self._residuals(x, self.generator(z), target)
        pixels, features = pixels.mean(), features.mean()
        constraint, log = self.constraint(z, batch)
        loss = pixels + self.options.kappa * features + constraint
        minimise(loss, optimizer)
        return {"loss": loss.detach(), "rec": pixels.detach(), "features": features.detach(), **log}

    def _noise(self, like: Tensor, count: int) -> Tensor:
        return torch.randn(count, self.latent_dim, device=like.device)

    def _augmented(self, x: Tensor) -> Tensor:
        if not self.options.horizontal_flip:
            return x
        return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)

    # --- use

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """The map is |x - y|, mean over the channels; the feature residual has no places."""
        z = self.encoder(x)
        y = self.generator(z)
        pixels, features = self._residuals(x, y, self._target(x))
        return Assessment(z, pixels + self.options.kappa * features, (x - y).abs().mean(dim=1, keepdim=True) if with_map else None, y)

    def sample(self, x: Tensor) -> Tensor:
        """In the phase "gan" images from noise, always the same noise; then reconstructions."""
        if self.phase != self.gan_phase:
            return self.reconstruct(x)
        noise = torch.randn(len(x), self.latent_dim, generator=torch.Generator().manual_seed(0))
        return self.generator(noise.to(x.device))

    def validation_loss(self, x: Tensor, assessment: Assessment) -> Tensor:
        """In the phase "gan" minus the critic's value (it grows when the critic has learned the training images by heart); then the score."""
        return -self.critic(x) if self.phase == self.gan_phase else assessment.score

    def describe(self) -> dict[str, Any]:
        return {"width": self.options.width, "kappa": self.options.kappa, "gan": f"{self.options.gan_iterations} generator steps"}

    @torch.no_grad()
    def _target(self, x: Tensor) -> dict[str, Tensor]:
        """The critic's features of images."""
        return {"critic": self.critic.features(x)}

    def _residuals(self, x: Tensor, y: Tensor, target: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean squared differences (B,) of pixels and of the critic's features."""
        pixels = (x - y).float().square().flatten(1).mean(dim=1)
        features = (target["critic"] - self.critic.features(y)).float().square().mean(dim=1)
        return pixels, features
