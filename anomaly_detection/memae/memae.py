"""MemAE as a baseline: an autoencoder that decodes what its memory of normal images answers, scored by the reconstruction error.

Source: Gong et al., Memorizing Normality to Detect Anomaly: Memory-augmented Deep Autoencoder, ICCV 2019, and its published code.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, Optimizer

from anomaly_detection.baseline import Assessment, Baseline, Batch, Phase, minimise
from anomaly_detection.memae.networks import Decoder, Encoder, Memory, Reading


@dataclass(frozen=True)
class MemAESettings:
    """What MemAE alone is configured by; each key is commented in configs/memae/base.yaml."""

    latent_dim: int = 128
    width: int = 32
    memory_per: Literal["image", "position"] = "image"
    slots: int = 100
    shrinkage: float = 1.0
    temperature: float | None = None
    entropy_weight: float = 0.0002
    remembers: Literal["latent", "content"] = "latent"
    constrains: Literal["query", "answer"] = "query"

    def __post_init__(self):
        for key in ("latent_dim", "width", "slots"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
        for key in ("shrinkage", "entropy_weight"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, got {getattr(self, key)}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature must be null or above 0, not {self.temperature}")


class MemAE(Baseline):
    """The memory-augmented autoencoder. Its anomaly score is the mean squared error of the reconstruction.

    MADDR constrains the query, before the memory, or the answer, what the memory makes of it (`constrains`); with a query per position it constrains
    their mean over the positions. With `remembers` "content" the first organ_dim + modality_dim numbers of the query pass the memory by.

    Args:
        settings: of the experiment; ``settings.baseline`` is a `MemAESettings`.

    Raises:
        ValueError: settings that no network can have.
    """

    Settings = MemAESettings
    paper = "Gong et al., Memorizing Normality to Detect Anomaly: Memory-augmented Deep Autoencoder, ICCV 2019"

    def __init__(self, settings: Any):
        super().__init__(settings)
        options = self.options = settings.baseline
        self.latent_dim = options.latent_dim
        shape = (settings.image_size, settings.channels, options.width, options.latent_dim, options.memory_per == "position")
        self.encoder = Encoder(*shape)
        self.bypass = settings.maddr.organ_dim + settings.maddr.modality_dim if options.remembers == "content" else 0
        if self.bypass >= options.latent_dim:
            raise ValueError(
                f"remembers: content leaves nothing of a latent of {options.latent_dim} numbers, {self.bypass} of which pass the memory by"
            )
        self.memory = Memory(options.slots, options.latent_dim - self.bypass, options.shrinkage, options.temperature)
        self.decoder = Decoder(*shape)
        self.to(memory_format=torch.channels_last)

    def phases(self) -> list[Phase]:
        return [Phase("memae", self.settings.iterations, self.settings.batch_size, replayable=True)]

    def optimizers(self, phase: Phase) -> dict[str, Optimizer]:
        return {"autoencoder": Adam(self.parameters(), self.settings.lr, fused=True)}

    def training_step(self, batch: Batch, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        with self.autocast():
            latent, code, reading = self._remember(batch.image)
            y = self.decoder(code)
        rec, entropy = F.mse_loss(y.float(), batch.image), reading.entropy()
        constraint, log = self.constraint(latent, batch)
        loss = rec + self.options.entropy_weight * entropy + constraint
        minimise(loss, optimizers["autoencoder"])
        return {
            "loss": loss.detach(),
            "rec": rec.detach(),
            "entropy": entropy.detach(),
            "slots_used": reading.slots_used().float(),
            "dead_queries": reading.dead.float().mean(),
            **log,
        }

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        """The map is (x - y)^2, mean over the channels; the score is its mean."""
        latent, code, _ = self._remember(x)
        y = self.decoder(code)
        error = (x - y).square()
        return Assessment(latent, error.flatten(1).mean(dim=1), error.mean(dim=1, keepdim=True) if with_map else None, y)

    def describe(self) -> dict[str, Any]:
        memory = f"{self.options.slots} slots, a query per {self.options.memory_per}"
        if self.bypass:
            memory += ", of the content alone"
        return {"width": self.options.width, "memory": memory}

    def _remember(self, x: Tensor) -> tuple[Tensor, Tensor, Reading]:
        """The latent (B, latent_dim) that MADDR constrains, what the decoder gets, and what the memory said."""
        query = self.encoder(x)
        reading = self.memory(query[:, self.bypass :])
        code = torch.cat([query[:, : self.bypass].float(), reading.output], dim=1) if self.bypass else reading.output
        constrained = query if self.options.constrains == "query" else code
        return constrained.mean(dim=(2, 3)), code, reading
