"""Which images a network knows: those on which its heads are sure, of a domain it was trained on, with features like those of training.

How far an image's features are from those of a domain is a Mahalanobis distance. Center and covariance (Ledoit and Wolf, J. Multivariate Anal. 2004)
are those of the training normals, of which there are many; the limits come from validation normals, which trained nothing. With too few of them for
the promised share a limit is estimated: logarithms are taken for normal, their spread is held to that of training, and nothing is guaranteed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from anomaly_detection.evaluation.normals import Normals, highest, limit, needed
from anomaly_detection.evaluation.scores import Scores

SHARE = 0.01  # of normals of the domains, at most, lies beyond each limit
SURE = 0.9  # whoever is surer than this is never unknown for lack of confidence
FLOOR = 0.1  # of the root mean square deviation over all features, that of any of them and in any direction
PRIOR = 10  # as many units' worth is the spread of training normals counted for
_TINY = 1e-12

NOT_SURE = "the heads are not sure"
NEVER_TRAINED = "no such pair of organ and modality was trained on"
FAR = "the content is far from that of training images"
BLANK = "the image is blank"
NO_NUMBER = "its score is not a finite number"


@dataclass(frozen=True)
class Known:
    """The limits of the known; as plain numbers a part of the checkpoint.

    Attributes:
        centers: (K, F), of each domain the mean of the features: the content, or without heads the whole latent.
        whitening: (K, F, F), which makes the deviations from a center uncorrelated and of variance 1.
        max_distance: from the nearest domain.
        min_confidence: None without heads.
        units: validation patients that the limits are from.
        guaranteed: whether these are enough for `SHARE`, and so few of them are blank or take a pair that was never trained on that these reasons
            are within it. It is of normals of all domains together, mixed as those of validation.
    """

    centers: tuple[tuple[float, ...], ...]
    whitening: tuple[tuple[tuple[float, ...], ...], ...]
    max_distance: float
    min_confidence: float | None
    units: int
    guaranteed: bool

    @classmethod
    def fit(cls, train: Normals, val: Normals) -> "Known":
        """From training and validation normals of the same domains."""
        features, units = _features(train.scores), len(np.unique(val.unit))
        centers, whitening = zip(*(_center_and_whitening(features[train.of(pair)]) for pair in train.pairs()), strict=True)
        known = cls(centers, whitening, np.inf, None, units, False)
        distances = [np.log(np.maximum(known.distance(part.scores), _TINY)) for part in (train, val)]
        far, guaranteed = _limit(*distances, val.scores.blank, train, val)
        sure = None
        if val.scores.has_heads:
            doubts = [np.log(np.maximum(1 - part.scores.confidence(), _TINY)) for part in (train, val)]
            doubt, kept = _limit(*doubts, ~val.scores.named_one_of(train.pairs()) | val.scores.undecided(), train, val)
            least = float(val.scores.confidence().min())
            # an estimate never lets pass what nobody would call sure, unless a validation normal is no surer
            sure, guaranteed = min(SURE, max(1 - float(np.exp(doubt)), 0.0 if kept else min(0.5, least))), guaranteed and kept
        return cls(centers, whitening, float(np.exp(far)), sure, units, guaranteed)

    @property
    def promised(self) -> float:
        """The share of normals of the domains that is called unknown, at most where `guaranteed`."""
        return SHARE * (1 + (self.min_confidence is not None))

    def distance(self, scores: Scores) -> np.ndarray:
        """(N,) of the features from those of the nearest domain: Mahalanobis, divided by the root of their number; 1 is usual."""
        features = _features(scores)
        pairs = zip(self.centers, self.whitening, strict=True)
        each = [(((features - np.array(center)) @ np.array(whitening).T) ** 2).mean(axis=1) for center, whitening in pairs]
        return np.sqrt(np.min(each, axis=0))

    def reasons(self, scores: Scores, trained: np.ndarray) -> list[str]:
        """Why each of N images is unknown, "" of those that are known.

        Args:
            scores: of the network.
            trained: (N,) bool, whether the pair that the heads name was trained on.
        """
        signs = [(NO_NUMBER, ~np.isfinite(scores.score)), (BLANK, scores.blank), (FAR, ~(self.distance(scores) <= self.max_distance))]
        if self.min_confidence is not None:
            unsure = (scores.confidence() < self.min_confidence) | scores.undecided()
            signs = [(NOT_SURE, unsure), (NEVER_TRAINED, ~trained), *signs]
        return ["; ".join(reason for reason, holds in signs if holds[i]) for i in range(len(scores.score))]

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Known":
        """From `vars` of one, which JSON may have made lists of."""
        whitening = tuple(tuple(map(tuple, matrix)) for matrix in values["whitening"])
        return cls(**{**values, "centers": tuple(map(tuple, values["centers"])), "whitening": whitening})


def _features(scores: Scores) -> np.ndarray:
    return scores.content if scores.has_heads else scores.latent


def _center_and_whitening(features: np.ndarray) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Of features (N, F) of one domain."""
    from sklearn.covariance import LedoitWolf  # here: a second of importing, which a trained network does without

    center, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.maximum(deviation, FLOOR * float(np.sqrt((deviation**2).mean())) or 1.0)
    standard = (features - center) / deviation
    covariance = LedoitWolf(assume_centered=True).fit(standard).covariance_ if len(features) > 1 else np.zeros((len(center),) * 2)
    root = np.linalg.cholesky(covariance + FLOOR**2 * np.eye(len(center)))
    return tuple(center.tolist()), tuple(map(tuple, np.linalg.inv(root * deviation[:, None]).tolist()))


def _limit(train_values: np.ndarray, val_values: np.ndarray, always: np.ndarray, train: Normals, val: Normals) -> tuple[float, bool]:
    """What the highest value of a fresh unit exceeds with the probability `SHARE`, and whether that is guaranteed.

    Args:
        train_values, val_values: of the images.
        always: (N,) bool, validation images that are unknown whatever their value: they are beyond any limit, and count within the share.
        train, val: the normals.
    """
    before, after = highest(train_values, train.unit), highest(val_values, val.unit)
    if len(after) >= needed(SHARE):
        least = limit(highest(np.where(always, np.inf, val_values), val.unit), SHARE)
        if np.isfinite(least):
            return least, True
    freedom = len(after) - 1 + PRIOR
    variance = (((after - after.mean()) ** 2).sum() + PRIOR * before.var()) / freedom
    return float(after.mean() + stdtrit(freedom, 1 - SHARE) * np.sqrt(variance * (1 + 1 / len(after)))), False
