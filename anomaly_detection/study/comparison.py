"""Networks over seeds, and differences between regimes on the same images, from which the claim maddr > united, maddr >= separate is read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_detection.evaluation.bootstrap import (
    OUTSIDE,
    auroc_samples,
    difference_interval,
    freedom,
    metric_samples,
    over_seeds,
    seeds_interval,
    share_samples,
)
from anomaly_detection.evaluation.metrics import has_both
from anomaly_detection.evaluation.rows import patients_of, pool
from anomaly_detection.evaluation.twins import Drawn
from anomaly_detection.system.lines import Lines

_DRAWN: dict[bytes, tuple[float, np.ndarray]] = {}  # 8 KB each


@dataclass(frozen=True)
class Scored:
    """Test images of one dataset in the order of their names, as one network scored them.

    Attributes:
        labels: (N,).
        scores: (N,).
        called: (N,) bool.
        patients: whose each image is; None where that is not known.
    """

    labels: np.ndarray
    scores: np.ndarray
    called: np.ndarray
    patients: tuple[str | None, ...]

    @property
    def auroc(self) -> float:
        """Of images of both classes."""
        return float(roc_auc_score(self.labels, self.scores))


@dataclass(frozen=True)
class Difference:
    """Of two AUROCs, mean over seeds, with the interval over patients and seeds: of 95 %, unless another was asked for."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def scored(rows: Lines, dataset: str | None = None, score: str = "score", called: str | float = "label_anomalous") -> Scored:
    """Those of a dataset out of the rows of a scores.csv, or of all together.

    Args:
        rows: of one network.
        dataset: its name; None: those that are measured together, see `pool`.
        score: column of the scores.
        called: column of what is called abnormal, or a threshold on the scores.
    """
    chosen = pool(rows.where(part="test")) if dataset is None else rows.where(part="test", dataset=dataset)
    images = chosen.take(np.lexsort((chosen.column("image"), chosen.column("dataset"))))
    scores = images.column(score)
    calls = images.column(called).astype(bool) if isinstance(called, str) else scores > called
    return Scored(images.column("label"), scores, calls, tuple(patients_of(images)))


def intervals_over_seeds(trainings: Sequence[Scored], values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """[low, high] of each metric's mean over seeds.

    Args:
        trainings: one for each seed, of the same images.
        values: by metric, of each seed.
    """
    drawn = [metric_samples(each.labels, each.scores, each.called, each.patients) for each in trainings]
    degrees = freedom(trainings[0].labels, trainings[0].patients)
    return {name: seeds_interval(values[name], np.array([each[name] for each in drawn]), degrees) for name in values if name in drawn[0]}


def twin_intervals_over_seeds(trainings: Sequence[Mapping[str, Drawn]]) -> dict[str, list[float]]:
    """The same of what each seed's network tells of pairs of image and healthy twin; see `twin_samples`. A metric that a seed lacks has none."""
    names = [name for name in trainings[0] if all(name in each for each in trainings)]
    values, samples = ({name: [each[name][place] for each in trainings] for name in names} for place in (0, 1))
    return {name: seeds_interval(values[name], np.array(samples[name]), trainings[0][name].degrees) for name in names}


def differences(one: Mapping[str, Sequence[Scored]], other: Mapping[str, Sequence[Scored]], outside: float = OUTSIDE) -> dict[str, Difference]:
    """AUROC of `one` minus that of `other`, by dataset, and "mean" over these datasets: those with normal and abnormal images; empty where none is.

    Every bootstrap sample takes the same patients for both, and the same seeds (paired).

    Args:
        one, other: by dataset the scores of each seed, the same seeds in the same order.
        outside: the share of cases in which the true difference lies outside of its interval.
    """
    by_dataset: dict[str, Difference] = {}
    values, drawn, degrees = [], [], []
    for number, dataset in enumerate(one):
        pairs = list(zip(one[dataset], other[dataset], strict=True))
        if not has_both(pairs[0][0].labels):
            continue
        each = _aurocs([network for pair in pairs for network in pair], number)
        both = list(zip(each[::2], each[1::2], strict=True))
        values.append([a[0] - b[0] for a, b in both])
        drawn.append(np.array([a[1] - b[1] for a, b in both]))
        degrees.append(freedom(pairs[0][0].labels, pairs[0][0].patients))
        by_dataset[dataset] = difference_of(values[-1], drawn[-1], degrees[-1], outside)
    if not by_dataset:
        return {}
    by_dataset["mean"] = difference_of(np.mean(values, axis=0).tolist(), np.mean(drawn, axis=0), _together(drawn, degrees), outside)
    return by_dataset


def mean_auroc_interval(networks: Mapping[str, Sequence[Scored]]) -> list[float]:
    """[low, high] of the mean over datasets and seeds of AUROC, of 95 %, over patients and seeds.

    Args:
        networks: by dataset, each with images of both classes, the scores of each seed, the same seeds in the same order.
    """
    each = [_aurocs(seeds, number) for number, seeds in enumerate(networks.values())]
    values, drawn = [[value for value, _ in seeds] for seeds in each], [np.array([samples for _, samples in seeds]) for seeds in each]
    degrees = [freedom(seeds[0].labels, seeds[0].patients) for seeds in networks.values()]
    return seeds_interval(np.mean(values, axis=0).tolist(), np.mean(drawn, axis=0), _together(drawn, degrees))


def _together(drawn: Sequence[np.ndarray], degrees: Sequence[int]) -> float:
    """The freedom of a sum of variances, of which each dataset's has its own (Satterthwaite 1946); 0 where one has none."""
    if not all(degrees):
        return 0.0
    of_each = np.array([samples.mean(axis=0).var() for samples in drawn])
    return of_each.sum() ** 2 / (of_each**2 / np.array(degrees)).sum() if of_each.any() else min(degrees)


def _aurocs(networks: Sequence[Scored], seed: int) -> list[tuple[float, np.ndarray]]:
    """The AUROC of networks on the same images, and (samples,) of each; drawn once, since a study asks again after each experiment."""
    keys = [_key(network, seed) for network in networks]
    new = {key: network for key, network in zip(keys, networks, strict=True) if key not in _DRAWN}
    if new:
        labels, patients = networks[0].labels, networks[0].patients
        drawn = auroc_samples(labels, np.array([network.scores for network in new.values()]), patients, seed=seed)
        _DRAWN.update({key: (new[key].auroc, samples) for key, samples in zip(new, drawn, strict=True)})
    return [_DRAWN[key] for key in keys]


def _key(network: Scored, seed: int) -> bytes:
    """Of all that samples of a network's AUROC depend on."""
    content = [network.labels.tobytes(), network.scores.tobytes(), repr((network.patients, seed)).encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in content)).digest()


@dataclass(frozen=True)
class Raised:
    """Pairs of abnormal image and healthy twin of one dataset in the order of their names, as one network scored them.

    Attributes:
        flags: (P,) 1 where the lesion raises the score, 0.5 where both are equal.
        patients: whose each pair is.
    """

    flags: np.ndarray
    patients: tuple[str | None, ...]


def raised(pairs: Sequence[Mapping], rows: Lines) -> dict[str, Raised]:
    """By dataset, what the lines of a twins.csv say.

    Args:
        pairs: the lines.
        rows: of the scores.csv beside it, which know the patients.
    """
    by_dataset: dict[str, Raised] = {}
    for name in dict.fromkeys(pair["dataset"] for pair in pairs):
        images = rows.where(dataset=name)
        patients = dict(zip(images.column("image"), images.column("patient"), strict=True))
        chosen = sorted((pair for pair in pairs if pair["dataset"] == name), key=lambda pair: pair["image"])
        scores, twins = (np.array([pair[key] for pair in chosen]) for key in ("score", "twin_score"))
        by_dataset[name] = Raised((scores > twins) + 0.5 * (scores == twins), tuple(patients[pair["image"]] for pair in chosen))
    return by_dataset


def twin_rate_difference(one: Sequence[Mapping[str, Raised]], other: Sequence[Mapping[str, Raised]]) -> Difference:
    """Mean of the datasets' twin rates of networks minus that of others, paired: the same seeds in the same order, the same pairs."""
    sides = list(zip(one, other, strict=True))
    values = [float(np.mean([a[name].flags.mean() - b[name].flags.mean() for name in a])) for a, b in sides]
    # the same draws for every dataset: those of a set of phantoms show the same bodies
    drawn = [
        np.mean([share_samples(a[name].flags, a[name].patients) - share_samples(b[name].flags, b[name].patients) for name in a], axis=0)
        for a, b in sides
    ]
    return difference_of(values, np.array(drawn), sum(len(set(each.patients)) - 1 for each in one[0].values()))


def difference_of(values: Sequence[float], drawn: np.ndarray, degrees: float, outside: float = OUTSIDE) -> Difference:
    """The mean over trainings of a difference, with its interval; see `over_seeds`."""
    return Difference(mean(values), *difference_interval(mean(values), *over_seeds(values, drawn, degrees), outside))
