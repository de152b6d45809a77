"""What a network says of images: one pass over them, before anything is concluded from it."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anomaly_detection.baseline import Assessment, Baseline
from anomaly_detection.data.dataset import Batch, ImageSet
from anomaly_detection.system.precision import true_float32

BATCH = 256


@dataclass(frozen=True)
class Scores:
    """N images as a network sees them, in float64.

    Attributes:
        score: (N,) anomaly scores.
        latent: (N, D).
        organ, modality: (N, classes) probabilities of what names domains, MADDR's heads or a probe; None where a head is missing.
        content: (N, C) the part of the latent that is neither; None without heads.
        blank: (N,) bool, all pixels of the image have one value.
        unused, told: (N,) and (N, organs, modalities), `ByDomain`; None where the domain has no part in the score.
    """

    score: np.ndarray
    latent: np.ndarray
    organ: np.ndarray | None
    modality: np.ndarray | None
    content: np.ndarray | None
    blank: np.ndarray
    unused: np.ndarray | None = None
    told: np.ndarray | None = None

    @classmethod
    def of(cls, baseline: Baseline, x: Tensor, assessment: Assessment) -> "Scores":
        """What a baseline and its heads say of the images x (B, C, H, W) of one batch."""
        latent = assessment.latent.float().flatten(1)
        columns = {"score": assessment.score, "latent": latent, "blank": x.flatten(2).amax(2).eq(x.flatten(2).amin(2)).all(1)}
        if baseline.namer is not None:
            columns |= {**baseline.namer.predict(latent), "content": baseline.namer.split(latent)["content"]}
        if assessment.by_domain is not None:
            columns |= vars(assessment.by_domain)
        moved = {name: values.cpu() for name, values in columns.items()}  # first: MPS has no float64
        arrays = {name: values.numpy() if name == "blank" else values.double().numpy() for name, values in moved.items()}
        return cls(**{name: arrays.get(name) for name in cls.__dataclass_fields__})

    @classmethod
    def joined(cls, parts: Sequence["Scores"]) -> "Scores":
        """Those of several batches, one after another."""
        columns = {name: [getattr(part, name) for part in parts] for name in cls.__dataclass_fields__}
        return cls(**{name: None if arrays[0] is None else np.concatenate(arrays) for name, arrays in columns.items()})

    def without_domain(self) -> "Scores":
        """The same images, scored without use of their domains."""
        return self if self.unused is None else replace(self, score=self.unused, unused=None, told=None)

    def in_domain(self, organ: np.ndarray, modality: np.ndarray) -> "Scores":
        """The same images, scored in the domains that are told: class numbers (N,)."""
        if self.told is None:
            return self
        return replace(self, score=self.told[np.arange(len(organ)), organ, modality], unused=None, told=None)

    @property
    def has_heads(self) -> bool:
        """Whether the network can name the domain of an image."""
        return self.organ is not None and self.modality is not None

    def named(self) -> tuple[np.ndarray, np.ndarray]:
        """The organ and the modality that the heads name, class numbers (N,) each."""
        return self.organ.argmax(axis=1), self.modality.argmax(axis=1)

    def named_one_of(self, pairs: Collection[tuple[int, int]]) -> np.ndarray:
        """(N,) bool, whether organ and modality that the heads name are one of some domains."""
        return np.array([(organ, modality) in pairs for organ, modality in zip(*self.named(), strict=True)], bool)

    def undecided(self) -> np.ndarray:
        """(N,) bool, whether the domain has a part in the score, and that is not the score in the domain that the heads name: they are too unsure."""
        return np.zeros(len(self.score), bool) if self.told is None else self.score != self.in_domain(*self.named()).score

    def confidence(self) -> np.ndarray:
        """(N,) probability of the likeliest organ times that of the likeliest modality."""
        return self.organ.max(axis=1) * self.modality.max(axis=1)


@torch.inference_mode()
def assess(baseline: Baseline, x: Tensor, with_map: bool) -> Assessment:
    """What a trained baseline says of images (B, C, H, W) in [-1, 1], in float32 on every machine.

    Scores are compared with a calibration that another machine may have made: neither bfloat16, the caller's or the baseline's, nor TensorFloat-32
    may move them.
    """
    before, baseline.bf16 = baseline.bf16, False
    try:
        with true_float32(x.device), torch.autocast(x.device.type, enabled=False):
            return baseline.assess(x, with_map)
    finally:
        baseline.bf16 = before


@torch.inference_mode()
def assessments(baseline: Baseline, images: ImageSet) -> Iterator[tuple[Batch, Assessment]]:
    """Put all images through a network, once and in order, in batches; with maps."""
    baseline.eval()
    for batch in images.batches(BATCH):
        yield batch, assess(baseline, batch.image, with_map=True)


@torch.inference_mode()
def score_images(baseline: Baseline, batches: Iterable[Tensor]) -> Scores:
    """The scores of images (B, C, H, W) in [-1, 1], of one batch at least."""
    baseline.eval()
    return Scores.joined([Scores.of(baseline, x, assess(baseline, x, with_map=False)) for x in batches])
