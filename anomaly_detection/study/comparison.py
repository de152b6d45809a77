"""Differences between regimes on the same images: what the paper's claim (maddr > united, maddr >= separate) can be read off from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_detection.evaluation.bootstrap import auroc_samples, interval


@dataclass(frozen=True)
class Scored:
    """Test images of one dataset in the order of their names: labels (N,) and the scores (N,) of one network."""

    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Of two AUROCs, mean over seeds, with the 95 % bootstrap interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def scored(rows: Sequence[Mapping], dataset: str) -> Scored:
    """Those of a dataset out of the rows of a scores.csv."""
    images = sorted((row["image"], row["label"], row["score"]) for row in rows if row["part"] == "test" and row["dataset"] == dataset)
    return Scored(np.array([label for _, label, _ in images]), np.array([score for _, _, score in images]))


def differences(one: Mapping[str, Sequence[Scored]], other: Mapping[str, Sequence[Scored]]) -> dict[str, Difference]:
    """AUROC of `one` minus that of `other`, by dataset, and "mean" over the datasets.

    Every bootstrap sample takes the same images for both (paired), and for all seeds.

    Args:
        one, other: by dataset the scores of each seed, the same seeds in the same order.
    """
    by_dataset, values, samples = {}, [], []
    for number, dataset in enumerate(one):
        pairs = list(zip(one[dataset], other[dataset], strict=True))
        values.append(mean(roc_auc_score(a.labels, a.scores) - roc_auc_score(b.labels, b.scores) for a, b in pairs))
        drawn = [auroc_samples(a.labels, a.scores, seed=number) - auroc_samples(b.labels, b.scores, seed=number) for a, b in pairs]
        samples.append(np.mean(drawn, axis=0))
        by_dataset[dataset] = Difference(values[-1], *interval(samples[-1]))
    by_dataset["mean"] = Difference(mean(values), *interval(np.mean(samples, axis=0)))
    return by_dataset
