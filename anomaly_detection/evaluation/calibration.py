"""Domain-aware scores: one network for several organs and modalities, one threshold for all of them.

Scores of different domains (pairs of organ and modality) lie on different scales: a reconstruction of a radiograph is better than one of a CT
slice. Each domain has the median and the spread of its validation normals; a calibrated score is a distance from that median in units of that
spread (a robust z), and so comparable across domains. At test time nobody tells the domain: the heads of MADDR name it. An image whose domain
they do not know is marked as such.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomaly_detection.evaluation.metrics import normal_threshold
from anomaly_detection.evaluation.scores import Scores

MAD_TO_DEVIATION = 1.4826  # of a normal distribution
UNKNOWN_SHARE = 0.01  # of the validation normals, at most, lies beyond each limit of the known
MAX_MIN_CONFIDENCE = 0.9  # whoever is surer than this is never unknown for lack of confidence


@dataclass(frozen=True)
class Verdict:
    """What is said of N images.

    Attributes:
        calibrated: (N,) robust z of the score in the image's domain.
        anomalous: (N,) bool, above the threshold of the validation normals.
        organ, modality: (N,) class numbers that the heads name; None without heads.
        confidence: (N,) probability of that organ times that of that modality; None without heads.
        distance: (N,) of the content from the common center, root mean square in standard deviations of the validation normals; None without heads.
        unknown: (N,) bool, the heads are not sure, or name a pair that was not trained on, or the content is far off; all False without heads.
    """

    calibrated: np.ndarray
    anomalous: np.ndarray
    organ: np.ndarray | None
    modality: np.ndarray | None
    confidence: np.ndarray | None
    distance: np.ndarray | None
    unknown: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """What validation normals tell of scores, domains and contents; as plain numbers a part of the checkpoint.

    Attributes:
        domains: (organ, modality) class numbers -> median and spread of the domain's scores.
        everything: the same of all validation normals together, for detectors without heads and for pairs that were not trained on.
        threshold: on calibrated scores.
        center, deviation: of each feature of the content; empty without heads.
        min_confidence, max_distance: the limits of the known; None without heads.
    """

    domains: dict[tuple[int, int], tuple[float, float]]
    everything: tuple[float, float]
    threshold: float
    center: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    min_confidence: float | None = None
    max_distance: float | None = None

    @classmethod
    def fit(cls, scores: Scores, organ: np.ndarray, modality: np.ndarray, quantile: float) -> "Calibration":
        """From validation normals.

        Args:
            scores: of the network.
            organ, modality: (N,) their true class numbers.
            quantile: of their calibrated scores, which becomes the threshold.
        """
        pairs = sorted(set(zip(organ.tolist(), modality.tolist(), strict=True)))
        domains = {pair: _center_and_spread(scores.score[(organ == pair[0]) & (modality == pair[1])]) for pair in pairs}
        found = cls(domains, _center_and_spread(scores.score), 0.0)
        if scores.has_heads:
            content = scores.content
            center, deviation = content.mean(axis=0), np.maximum(content.std(axis=0), 1e-12)
            found = cls(domains, found.everything, 0.0, tuple(center.tolist()), tuple(deviation.tolist()))
            sure = min(float(np.quantile(scores.confidence(), UNKNOWN_SHARE)), MAX_MIN_CONFIDENCE)
            far = float(np.quantile(found._distance(scores), 1 - UNKNOWN_SHARE))
            found = cls(domains, found.everything, 0.0, found.center, found.deviation, sure, far)
        calibrated = found.apply(scores).calibrated
        return cls(**{**vars(found), "threshold": normal_threshold(calibrated, quantile)})

    def calibrate(self, score: np.ndarray, organ: np.ndarray, modality: np.ndarray) -> np.ndarray:
        """Robust z of scores (N,) in given domains; a pair that was not trained on counts as everything together."""
        pairs = zip(organ.tolist(), modality.tolist(), strict=True)
        middle, spread = np.array([self.domains.get(pair, self.everything) for pair in pairs]).reshape(-1, 2).T
        return (score - middle) / spread

    def apply(self, scores: Scores) -> Verdict:
        """The verdict on any images; each depends on its image alone."""
        if not scores.has_heads or self.min_confidence is None:
            calibrated = (scores.score - self.everything[0]) / self.everything[1]
            none = np.zeros(len(calibrated), bool)
            return Verdict(calibrated, calibrated > self.threshold, None, None, None, None, none)
        organ, modality, confidence, distance = scores.organ.argmax(1), scores.modality.argmax(1), scores.confidence(), self._distance(scores)
        strange = np.array([pair not in self.domains for pair in zip(organ.tolist(), modality.tolist(), strict=True)], bool)
        unknown = strange | (confidence < self.min_confidence) | (distance > self.max_distance)
        calibrated = self.calibrate(scores.score, organ, modality)
        return Verdict(calibrated, calibrated > self.threshold, organ, modality, confidence, distance, unknown)

    def _distance(self, scores: Scores) -> np.ndarray:
        return np.sqrt((((scores.content - np.array(self.center)) / np.array(self.deviation)) ** 2).mean(axis=1))

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists and numbers, for a checkpoint."""
        domains = [{"organ": organ, "modality": modality, "median": m, "spread": s} for (organ, modality), (m, s) in self.domains.items()]
        return {**vars(self), "domains": domains}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_plain`."""
        domains = {(each["organ"], each["modality"]): (each["median"], each["spread"]) for each in values["domains"]}
        tuples = {name: tuple(values[name]) for name in ("everything", "center", "deviation")}
        return cls(**{**values, **tuples, "domains": domains})


def _center_and_spread(scores: np.ndarray) -> tuple[float, float]:
    """Median, and median absolute deviation as a standard deviation; where half of the scores are equal, the standard deviation itself."""
    middle = float(np.median(scores))
    spread = MAD_TO_DEVIATION * float(np.median(np.abs(scores - middle)))
    return middle, spread or float(scores.std()) or 1.0
