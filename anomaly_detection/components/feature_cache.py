"""Features of the training images, which never change, taken once instead of in every step."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor


class TargetCache:
    """Features of N images by layer, kept on the device that they were computed on."""

    def __init__(self, features: Mapping[str, Tensor]):
        """features: {layer: (N, H, W, C) or (N, C)}."""
        self._features = features

    @classmethod
    def fill(
        cls, features_of: Callable[[Tensor], Mapping[str, Tensor]], batches: Iterable[Tensor], count: int, budget: float
    ) -> "TargetCache | None":
        """The features of all images, or None where they would take more than the budget.

        Args:
            features_of: {layer: features (B, C, H, W) or (B, C)} of images (B, C, H, W).
            batches: all images in order, in batches.
            count: how many they are.
            budget: bytes.
        """
        kept: dict[str, Tensor] = {}
        done = 0
        with torch.no_grad():
            for x in batches:
                found = {layer: _channels_innermost(features) for layer, features in features_of(x).items()}
                if not kept:
                    if sum(features[0].nbytes for features in found.values()) * count > budget:
                        return None
                    kept = {layer: features.new_empty(count, *features.shape[1:]) for layer, features in found.items()}
                for layer, features in found.items():
                    kept[layer][done : done + len(features)] = features
                done += len(x)
        return cls(kept) if kept else None

    def at(self, index: Tensor) -> dict[str, Tensor]:
        """{layer: features (B, C, H, W), channels innermost in memory, or (B, C)} of the images at `index` (B,)."""
        return {layer: _channels_second(features.index_select(0, index)) for layer, features in self._features.items()}


def _channels_innermost(features: Tensor) -> Tensor:
    return features.permute(0, 2, 3, 1) if features.ndim == 4 else features


def _channels_second(features: Tensor) -> Tensor:
    return features.permute(0, 3, 1, 2) if features.ndim == 4 else features
