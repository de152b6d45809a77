"""Networks over seeds, and differences between regimes on the same images, from which the claim maddr > united, maddr >= separate is read."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_detection.evaluation.bootstrap import (
    OUTSIDE,
    auroc_samples,
    difference_interval,
    doubted,
    freedom,
    metric_samples,
    over_seeds,
    seeds_interval,
    share_samples,
    sharing,
)
from anomaly_detection.evaluation.metrics import has_both
from anomaly_detection.evaluation.rows import pool
from anomaly_detection.evaluation.twins import Drawn, raised_by_lesion
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.lines import Lines

_DRAWN: dict[bytes, tuple[list[float], np.ndarray]] = {}  # 8 KB of each network and dataset


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


class Measured(NamedTuple):
    """A metric in [0, 1] of S networks on one dataset, or in the mean over some.

    Attributes:
        values: of each network.
        samples: (S, B) of each, over patients.
        degrees: of freedom, of the patients.
        group: the same number for datasets that share patients.
    """

    values: list[float]
    samples: np.ndarray
    degrees: float
    group: int = 0

    def paired(self) -> "Measured":
        """Of every other network, from the first, minus the one behind it."""
        values = [a - b for a, b in zip(self.values[::2], self.values[1::2], strict=True)]
        return self._replace(values=values, samples=self.samples[::2] - self.samples[1::2])

    def doubted(self, share: float, outside: float = OUTSIDE) -> "Measured":
        """Of a difference: with samples that vary, see `doubted` of the bootstrap."""
        return self._replace(samples=doubted(mean(self.values), self.samples, self.degrees, share, outside, self.group))


@dataclass(frozen=True)
class Difference:
    """Of two AUROCs, or twin rates, mean over seeds, with the interval over patients and seeds: of 95 %, unless another was asked for."""

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
    return Scored(images.column("label"), scores, calls, tuple(images.column("patient")))


def intervals_over_seeds(trainings: Sequence[Scored], values: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """[low, high] of each metric's mean over seeds.

    Args:
        trainings: one for each seed, of the same images.
        values: by metric, of each seed.
    """
    drawn = [metric_samples(each.labels, each.scores, each.called, each.patients) for each in trainings]
    degrees = {name: freedom(trainings[0].labels, trainings[0].patients, name) for name in drawn[0]}
    return {name: seeds_interval(values[name], np.array([each[name] for each in drawn]), degrees[name]) for name in values if name in drawn[0]}


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

    Raises:
        UserError: the images of a dataset are not said to be of the same patients everywhere.
    """
    aurocs = _aurocs({dataset: [network for pair in zip(one[dataset], other[dataset], strict=True) for network in pair] for dataset in one})
    unlike = {name: mean(not np.array_equal(a.scores, b.scores) for a, b in zip(one[name], other[name], strict=True)) for name in aurocs}
    single = {name: _difference({name: each}, unlike, outside) for name, each in aurocs.items()}
    return {**single, "mean": _difference(aurocs, unlike, outside)} if aurocs else {}


def mean_auroc_interval(networks: Mapping[str, Sequence[Scored]]) -> list[float]:
    """[low, high] of the mean over datasets and seeds of AUROC, of 95 %, over patients and seeds.

    Args:
        networks: by dataset, at least one with images of both classes, the scores of each seed, the same seeds in the same order.

    Raises:
        UserError: as `differences` does.
    """
    together = _mean(_aurocs(networks))
    return seeds_interval(together.values, together.samples, together.degrees)


def _mean(measured: Mapping[str, Measured]) -> Measured:
    """Over datasets. Its freedom is that of a sum of variances (Satterthwaite 1946), one of each group of datasets that share patients, which has the
    least freedom of them; 0 where one has none."""
    groups: dict[int, list[Measured]] = {}
    for each in measured.values():
        groups.setdefault(each.group, []).append(each)
    values, samples = (np.mean([each[place] for each in measured.values()], axis=0) for place in (0, 1))
    degrees = [min(each.degrees for each in group) for group in groups.values()]
    if not all(degrees):
        return Measured(values.tolist(), samples, 0)
    of_each = np.array([np.sum([each.samples for each in group], axis=0).mean(axis=0).var() for group in groups.values()])
    return Measured(values.tolist(), samples, of_each.sum() ** 2 / (of_each**2 / degrees).sum() if of_each.any() else min(degrees))


def _aurocs(networks: Mapping[str, Sequence[Scored]]) -> dict[str, Measured]:
    """Of each dataset with images of both classes; of datasets that share patients a sample holds the same ones."""
    both, order, measured = {name: each for name, each in networks.items() if has_both(each[0].labels)}, list(networks), {}
    for names in sharing(_patients_of(both)):
        number = order.index(names[0])
        drawn = _drawn(list(zip(*(both[name] for name in names), strict=True)), number)
        for place, name in enumerate(names):
            values, samples = [values[place] for values, _ in drawn], np.array([samples[place] for _, samples in drawn])
            measured[name] = Measured(values, samples, freedom(both[name][0].labels, both[name][0].patients), number)
    return {name: measured[name] for name in both}


def _patients_of(networks: Mapping[str, Sequence["Scored | Raised"]]) -> dict[str, tuple[str | None, ...]]:
    """Whose the images of each dataset are.

    Raises:
        UserError: networks that are compared were told of different patients.
    """
    for name, each in networks.items():
        if any(network.patients != each[0].patients for network in each):
            raise UserError(f"{name}: some networks were scored when its images were said to be of other patients; `maddr evaluate` scores them anew")
    return {name: each[0].patients for name, each in networks.items()}


def _drawn(networks: Sequence[Sequence[Scored]], seed: int) -> list[tuple[list[float], np.ndarray]]:
    """Of networks, each on the same G datasets, the AUROCs and samples (G, B); drawn once, since a study asks again after each experiment."""
    keys = [_key(parts, seed) for parts in networks]
    new = {key: parts for key, parts in zip(keys, networks, strict=True) if key not in _DRAWN}
    if new:
        labels, patients = np.concatenate([part.labels for part in networks[0]]), [who for part in networks[0] for who in part.patients]
        scores = np.array([np.concatenate([part.scores for part in parts]) for parts in new.values()])
        drawn = auroc_samples(labels, scores, patients, seed=seed, sizes=[len(part.labels) for part in networks[0]])
        _DRAWN.update({key: ([part.auroc for part in new[key]], drawn[:, place]) for place, key in enumerate(new)})
    return [_DRAWN[key] for key in keys]


def _key(parts: Sequence[Scored], seed: int) -> bytes:
    """Of all that samples of a network's AUROCs depend on."""
    content = [each for part in parts for each in (part.labels.tobytes(), part.scores.tobytes(), repr((part.patients, seed)).encode())]
    return hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in content)).digest()


@dataclass(frozen=True)
class Raised:
    """Pairs of abnormal image and healthy twin of one dataset in the order of their names, as one network scored them.

    Attributes:
        flags: (P,) see `raised_by_lesion`.
        patients: whose each pair is.
        rises: (P,) of the scores; None where they are not known.
    """

    flags: np.ndarray
    patients: tuple[str | None, ...]
    rises: np.ndarray | None = None

    def scores_as(self, other: "Raised") -> bool:
        """Whether another network is known to give the same scores."""
        return self.rises is not None and other.rises is not None and np.array_equal(self.rises, other.rises)


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
        by_dataset[name] = Raised(raised_by_lesion(scores, twins), tuple(patients[pair["image"]] for pair in chosen), scores - twins)
    return by_dataset


def twin_rate_difference(one: Sequence[Mapping[str, Raised]], other: Sequence[Mapping[str, Raised]]) -> Difference:
    """Mean of the datasets' twin rates of networks minus that of others, paired, with its interval of 95 %.

    Args:
        one, other: of each seed the pairs by dataset, the same seeds in the same order, the same pairs.

    Raises:
        UserError: as `differences` does.
    """
    networks, order, rates = [each for pair in zip(one, other, strict=True) for each in pair], list(one[0]), {}
    for names in sharing(_patients_of({name: [network[name] for network in networks] for name in order})):
        parts, number = [one[0][name] for name in names], order.index(names[0])
        flags = np.array([np.concatenate([network[name].flags for name in names]) for network in networks])
        drawn = share_samples(flags, [who for part in parts for who in part.patients], number, [len(part.flags) for part in parts])
        for name, part, samples in zip(names, parts, drawn, strict=True):
            degrees = freedom(np.zeros(len(part.flags), int), part.patients)
            rates[name] = Measured([float(network[name].flags.mean()) for network in networks], samples, degrees, number)
    return _difference(rates, {name: mean(not a[name].scores_as(b[name]) for a, b in zip(one, other, strict=True)) for name in order})


def _difference(measured: Mapping[str, Measured], unlike: Mapping[str, float], outside: float = OUTSIDE) -> Difference:
    """The mean over datasets and trainings of the difference between pairs of networks, with its interval; see `over_seeds`.

    Args:
        measured: of each dataset.
        unlike: of each, in how large a share of the trainings the scores of both are not the same numbers.
        outside: the share of cases in which the true difference lies outside.
    """
    pairs = {name: each.paired() for name, each in measured.items()}
    together = _mean({name: each.doubted(unlike[name], outside) for name, each in pairs.items()})
    samples, degrees = over_seeds(together.values, together.samples, together.degrees)
    return Difference(mean(together.values), *difference_interval(mean(together.values), samples, degrees, outside))
