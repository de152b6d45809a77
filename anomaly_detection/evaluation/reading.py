"""What a network says of images, before anything is concluded from it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomaly_detection.baseline import Baseline


@dataclass(frozen=True)
class Reading:
    """N images as a network sees them, in float64.

    Attributes:
        score: (N,) anomaly scores.
        latent: (N, D).
        organ, modality: (N, classes) probabilities of the MADDR heads; None where a head is missing.
        content: (N, C) the part of the latent that is neither; None without heads.
    """

    score: np.ndarray
    latent: np.ndarray
    organ: np.ndarray | None
    modality: np.ndarray | None
    content: np.ndarray | None

    @property
    def has_heads(self) -> bool:
        """Whether the network can name the domain of an image."""
        return self.organ is not None and self.modality is not None

    def confidence(self) -> np.ndarray:
        """(N,) probability of the likeliest organ times that of the likeliest modality."""
        return self.organ.max(axis=1) * self.modality.max(axis=1)


@torch.inference_mode()
def read(baseline: Baseline, batches: Iterable[Tensor]) -> Reading:
    """Put images (B, C, H, W) in [-1, 1] through a network; what is read of one never depends on the others."""
    baseline.eval()
    columns: dict[str, list[Tensor]] = {}
    for x in batches:
        latent, score = baseline.assess(x)
        latent = latent.float().flatten(1)
        found = {"score": score, "latent": latent}
        if baseline.maddr is not None:
            found |= {**baseline.maddr.predict(latent), "content": baseline.maddr.split(latent)["content"]}
        for name, values in found.items():
            columns.setdefault(name, []).append(values.double().cpu())
    arrays = {name: torch.cat(values).numpy() for name, values in columns.items()}
    return Reading(**{name: arrays.get(name) for name in ("score", "latent", "organ", "modality", "content")})
