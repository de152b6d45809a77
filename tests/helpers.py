"""A baseline small enough to read at a glance, and images for it: what the tests of the loop and of the contract train."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase
from anomaly_detection.data.dataset import ImageSet
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint


@dataclass(frozen=True)
class ToySettings:
    latent_dim: int = 24
    warm_up: int = 0


class ToyBaseline(Baseline):
    """A linear autoencoder; with warm_up > 0 a first phase trains the decoder's bias alone, with noise, so that the random state matters."""

    Settings = ToySettings

    def __init__(self, settings):
        super().__init__(settings)
        self.latent_dim = settings.baseline.latent_dim
        self.side, self.channels = settings.image_size, settings.channels
        pixels = self.channels * self.side**2
        self.encoder = nn.Linear(pixels, self.latent_dim)
        self.decoder = nn.Linear(self.latent_dim, pixels)

    def phases(self):
        main = Phase("main", self.settings.iterations, self.settings.batch_size)
        warm_up = self.settings.baseline.warm_up
        return [Phase("warm_up", warm_up, self.settings.batch_size), main] if warm_up else [main]

    def optimizers(self, phase):
        if phase.name == "warm_up":
            return {"bias": torch.optim.Adam([self.decoder.bias], self.settings.lr)}
        return {"autoencoder": torch.optim.Adam(self.parameters(), self.settings.lr)}

    def training_step(self, batch: Batch, optimizers):
        (optimizer,) = optimizers.values()
        x = batch.image + 0.1 * torch.randn_like(batch.image)
        with self.autocast():
            z = self.encoder(x.flatten(1))
            rec = (self._decode(z) - batch.image).abs().mean()
        constraint, log = self.constraint(z, batch)
        optimizer.zero_grad()
        (rec + constraint).backward()
        optimizer.step()
        return {"rec": rec.detach(), **log}

    def _decode(self, z):
        return self.decoder(z).view(-1, self.channels, self.side, self.side)

    def assess(self, x, with_map):
        z = self.encoder(x.flatten(1))
        y = self._decode(z)
        error = (x - y).abs().mean(dim=1, keepdim=True)
        return Assessment(z, error.mean(dim=(1, 2, 3)), error if with_map else None, y)


def toy_baseline(settings, maddr: bool = True) -> ToyBaseline:
    baseline = ToyBaseline(settings)
    if maddr:
        baseline.attach(MADDRConstraint(baseline.latent_dim))
    return baseline


def die_at(baseline: Baseline, call: int | None, method: str = "training_step") -> None:
    """Make that call of a method end the run, as a killed process would; None: no call."""
    own, calls = getattr(baseline, method), []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return own(*arguments)

    setattr(baseline, method, dying)


def toy_settings(**options) -> SimpleNamespace:
    """Those of `Settings` that the loop reads, small."""
    own = ToySettings(**{key: options.pop(key) for key in ("latent_dim", "warm_up") if key in options})
    defaults = {
        "baseline": own,
        "image_size": 8,
        "channels": 1,
        "iterations": 12,
        "batch_size": 8,
        "lr": 0.01,
        "lr_step": 5,
        "lr_gamma": 0.5,
        "mixup": None,
        "balanced": False,
        "bf16": False,
        "feature_cache_mib": 16,
        "seed": 0,
        "early_stopping_patience": None,
        "early_stopping_min_delta": 0.0,
        "log_iter": 3,
        "val_iter": 4,
        "sample_iter": 6,
        "checkpoint_iter": 2,
        "tensorboard": False,
    }
    return SimpleNamespace(**(defaults | options))


def toy_images(count: int, seed: int = 0, side: int = 8) -> ImageSet:
    """Liver CT, lung CT and lung X-ray in turn, as smooth patterns of their own brightness and tilt."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(count) % 3
    ramp = torch.linspace(0, 1, side)
    base = torch.stack([ramp[:, None].expand(side, side), ramp[None].expand(side, side), (1 - ramp)[:, None].expand(side, side)])
    pixels = base[kind] * 160 + 40 + 10 * torch.randn(count, side, side, generator=generator)
    return ImageSet(
        images=pixels.clamp(0, 255).to(torch.uint8)[:, None],
        organ=torch.tensor([0, 1, 1])[kind],
        modality=torch.tensor([0, 0, 1])[kind],
        label=torch.zeros(count, dtype=torch.int64),
        names=[f"{i}.png" for i in range(count)],
        datasets=["toy"] * count,
    )
