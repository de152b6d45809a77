"""How far a metric may lie from what other patients would have given: 95 % intervals from a bootstrap over patients.

Images of one patient are alike, so it is patients that are drawn with replacement, each with all its images; where nobody knows the patient, the
image stands alone. Patients with normal images only, with abnormal ones only and with both are drawn apart (stratified), so that every sample has the
classes that the images have. Datasets that share patients are drawn together, each patient with its images of all of them: what is odd about a body
shows in every one, and a mean over them is less sure than one over as many datasets of others. A sample is a row of weights; all samples are measured
at once from cumulative sums, since a thousand calls of scikit-learn for each cell of a table would take minutes. `tests/evaluation/test_bootstrap.py`
holds them against scikit-learn.

Percentiles of so few patients are too narrow (for 13 patients with images of both classes they hold the true AUROC in 86 % of cases, not 95 %):
drawn are n - 1 of n (McCarthy and Snowden, 1985: the variance is that of n, unbiased), and the interval is the value ± t standard errors on the
logit scale (delta method). `python -m benchmarks.intervals` simulates what it covers.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from statistics import mean

import numpy as np
from scipy.special import expit, logit
from scipy.stats import beta
from scipy.stats import t as student

from anomaly_detection.evaluation.metrics import has_both
from anomaly_detection.evaluation.normals import numbered, unit_word

VERSION = 3  # raise it when the same scores come to have other intervals
SAMPLES = 1000
SEED = 0
OUTSIDE = 0.05  # of cases, the true value lies outside
_ROUNDING = 1e-9  # sums of weights that should be 1 differ from it by less
_LOOKS_AT = {"sensitivity": (1,), "specificity": (0,)}  # labels; the others look at both, those at an oracle's threshold too, which is set by both
_CELLS = 200_000  # samples x images measured at a time; blocks that stay in the cache are quicker

Patients = Sequence[str | None]  # whose each image is; None where that is not known


def unit_of(patients: Patients) -> str:
    """What is drawn, in a word: patients, images, or both."""
    return unit_word(np.array([patient is None for patient in patients], bool))


def resample(labels: np.ndarray, patients: Patients, samples: int = SAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """How much each sample holds of each image: (b, N) blocks, `samples` rows in all; the same for the same labels, patients and seed.

    Of n patients of a kind n - 1 are drawn, and weigh as much as n.
    """
    rng, unit = np.random.default_rng(seed), numbered(patients)
    kinds = _kinds(labels, unit)
    while samples > 0:
        block = min(samples, max(1, _CELLS // len(labels)))
        weights = np.zeros((block, len(kinds)))
        for kind in np.unique(kinds):
            places = np.flatnonzero(kinds == kind)
            drawn = max(len(places) - 1, 1)
            weights[:, places] = rng.multinomial(drawn, np.full(len(places), 1 / len(places)), size=block) * (len(places) / drawn)
        yield weights[:, unit]
        samples -= block


def _kinds(labels: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Of each unit: 1 with normal images only, 2 with abnormal ones only, 3 with both."""
    kinds = np.zeros(unit.max() + 1, int)
    for label in (0, 1):
        kinds[np.unique(unit[labels == label])] += 1 + label
    return kinds


def freedom(labels: np.ndarray, patients: Patients, metric: str = "auroc") -> int:
    """Degrees of freedom of a metric: one less than the patients of the rarer class, or, of a share of one class, of that one.

    0 where nothing tells how they differ: no kind of them has two, or the only one of its kind, who is in every sample, has most of the images.
    """
    unit = numbered(patients)
    kinds, images = _kinds(labels, unit), [np.bincount(unit[labels == label], minlength=unit.max() + 1) for label in (0, 1)]
    counts = np.bincount(kinds, minlength=4)
    degrees = []
    for label in _LOOKS_AT.get(metric, (0, 1)):
        if of_class := int(counts[1 + label] + counts[3]):
            drawn = np.isin(kinds, [kind for kind in (1 + label, 3) if counts[kind] > 1])
            degrees.append(of_class - 1 if 2 * images[label][drawn].sum() >= images[label].sum() else 0)
    return min(degrees)


def weighted_metrics(labels: np.ndarray, scores: np.ndarray, called: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of `image_metrics` for each row of counts or weights (B, N), as (B,) each."""
    if not has_both(labels):
        share = counts @ called.astype(float) / counts.sum(axis=1)
        return {"sensitivity": share} if labels.any() else {"specificity": 1 - share}
    abnormal, normal = _curve(labels, scores, counts)
    positives, negatives = abnormal[:, -1], normal[:, -1]
    rise = np.diff(abnormal)
    both = abnormal[:, 1:] + normal[:, 1:]
    precision = abnormal[:, 1:] / np.where(both > 0, both, 1)
    best = np.argmax(np.round(abnormal - normal, 9), axis=1)[:, None]  # the most correct calls, of several the fewest, as `oracle_threshold`
    called = called.astype(float)
    at = _rates(counts @ (called * labels), counts @ (called * (1 - labels)), positives, negatives)
    oracle = _rates(np.take_along_axis(abnormal, best, 1)[:, 0], np.take_along_axis(normal, best, 1)[:, 0], positives, negatives)
    return {
        "auroc": _area(abnormal, normal),
        "average_precision": (rise * precision).sum(axis=1) / positives,
        **at,
        **{f"oracle_{name}": value for name, value in oracle.items()},
    }


def _curve(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of the abnormal and how much of the normal lies at or above each score, from none to all: (B, scores + 1) each."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # images with one score are called together
    ordered = counts[:, order]
    abnormal, normal = np.zeros((2, len(counts), len(ends) + 1))
    abnormal[:, 1:] = np.cumsum(ordered * labels[order], axis=1)[:, ends]
    normal[:, 1:] = np.cumsum(ordered, axis=1)[:, ends]
    normal -= abnormal
    return abnormal, normal


def _area(abnormal: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(B,) AUROC, the area below a curve."""
    return (np.diff(normal) * (abnormal[:, 1:] + abnormal[:, :-1]) / 2).sum(axis=1) / (abnormal[:, -1] * normal[:, -1])


def _rates(true_positives: np.ndarray, false_positives: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "f1": 2 * true_positives / (true_positives + false_positives + positives),
        "accuracy": (true_positives + negatives - false_positives) / (positives + negatives),
        "sensitivity": true_positives / positives,
        "specificity": 1 - false_positives / negatives,
    }


def metric_samples(
    labels: np.ndarray, scores: np.ndarray, called: np.ndarray, patients: Patients, samples: int = SAMPLES, seed: int = SEED
) -> dict[str, np.ndarray]:
    """(samples,) of each metric; for several detectors on the same images the same rows hold the same patients, so that differences are paired."""
    blocks = [weighted_metrics(labels, scores, called, weights) for weights in resample(labels, patients, samples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def sharing(patients: Mapping[str, Patients]) -> list[list[str]]:
    """The datasets, together those that show the same patients, straight or by way of others, in the order of their first.

    A name that occurs in two datasets is taken for one patient's. Nobody shares images whose patient is not known.

    Args:
        patients: by dataset, of its images.
    """
    known, order = {name: set(own) - {None} for name, own in patients.items()}, list(patients)
    groups: list[list[str]] = []
    for name in order:
        alike = [group for group in groups if any(known[name] & known[other] for other in group)]
        groups = [group for group in groups if group not in alike] + [sorted([*chain(*alike), name], key=order.index)]
    return sorted(groups, key=lambda group: order.index(group[0]))


def auroc_samples(
    labels: np.ndarray, scores: np.ndarray, patients: Patients, samples: int = SAMPLES, seed: int = SEED, sizes: Sequence[int] | None = None
) -> np.ndarray:
    """(G, D, samples) of the AUROC on G datasets of D detectors with scores (D, N): what `metric_samples` has of each, sooner.

    Args:
        labels: (N,), in each dataset of both classes.
        sizes: how many images are of each dataset, one after the other; None: all are of one.
    """
    parts, areas = _parts(len(labels), sizes), []
    for weights in resample(labels, patients, samples, seed):
        with np.errstate(invalid="ignore"):
            areas.append([[_area(*_curve(labels[part], each[part], weights[:, part])) for each in scores] for part in parts])
    drawn = np.concatenate(areas, axis=-1)
    # of datasets that share patients, a sample may hold none of a class of one: it says nothing of that one
    whole = [[_area(*_curve(labels[part], each[part], np.ones((1, len(each[part]))))) for each in scores] for part in parts]
    return np.where(np.isnan(drawn), np.array(whole), drawn)


def _parts(images: int, sizes: Sequence[int] | None) -> list[slice]:
    """Where each dataset lies."""
    ends = np.cumsum([images] if sizes is None else sizes).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def metric_intervals(
    labels: np.ndarray, scores: np.ndarray, called: np.ndarray, patients: Patients, samples: int = SAMPLES, seed: int = SEED
) -> dict[str, list[float]]:
    """[low, high] of each metric. What is called abnormal is part of the detector and stays as it is."""
    values = weighted_metrics(labels, scores, called, np.ones((1, len(labels))))
    drawn = metric_samples(labels, scores, called, patients, samples, seed)
    return {name: share_interval_of(float(values[name][0]), drawn[name], freedom(labels, patients, name)) for name in drawn}


def share_samples(flags: np.ndarray, patients: Patients, seed: int = SEED, sizes: Sequence[int] | None = None) -> np.ndarray:
    """(G, D, samples) of the share of images that bear a flag, for D flags (D, N) from 0 to 1, on G datasets; for `sizes` see `auroc_samples`.

    A sample that holds no image of a dataset has the share of all its images.
    """
    parts, shares = _parts(flags.shape[1], sizes), []
    for weights in resample(np.zeros(flags.shape[1], int), patients, seed=seed):
        with np.errstate(invalid="ignore"):
            shares.append([[weights[:, part] @ each[part] / weights[:, part].sum(axis=1) for each in flags] for part in parts])
    drawn = np.concatenate(shares, axis=-1)
    return np.where(np.isnan(drawn), np.array([[[each[part].mean()] for each in flags] for part in parts]), drawn)


def share_interval(flags: np.ndarray, patients: Patients) -> list[float]:
    """[low, high] of the share of images that bear a flag (N,) bool."""
    return share_interval_of(float(flags.mean()), share_samples(flags[None], patients)[0, 0], freedom(np.zeros(len(flags), int), patients))


def share_interval_of(value: float, drawn: np.ndarray, degrees: float, outside: float = OUTSIDE) -> list[float]:
    """[low, high] around a value in [0, 1].

    Where all samples are the same, as where all or no images are called, there is nothing to take a deviation of: then it is the interval of Clopper
    and Pearson for as many patients, of whom this share showed it. Without degrees of freedom it says nothing: [0, 1].

    Args:
        value: of the data as they are.
        drawn: of the samples.
        degrees: of freedom.
        outside: the share of cases in which the true value lies outside.
    """
    deviation = float(drawn.std())
    if not degrees:
        return [0.0, 1.0]
    if deviation < _ROUNDING:
        count, value = degrees + 1, round(value, 9)
        low = float(beta.ppf(outside / 2, value * count, (1 - value) * count + 1)) if value > 0 else 0.0
        high = float(beta.ppf(1 - outside / 2, value * count + 1, (1 - value) * count)) if value < 1 else 1.0
        return [low, high]
    least = 0.5 / (degrees + 2)  # a value of 0 or 1 that another sample would not have had
    center = value if 0 < value < 1 else abs(value - least)
    reach = float(student.ppf(1 - outside / 2, degrees)) * deviation / (center * (1 - center))
    low, high = (float(expit(logit(center) + sign * reach)) for sign in (-1, 1))
    return [min(low, value), max(high, value)]


def doubted(value: float, drawn: np.ndarray, degrees: float, share: float = 1.0, outside: float = OUTSIDE, seed: int = SEED) -> np.ndarray:
    """Samples (S, B) of a difference, which vary also where its mean over S trainings is the same in all: that n patients agree is no certainty.

    Of all others up to 1 - (outside / 2)^(1 / n) may be otherwise (Clopper and Pearson), and in these the difference may be anything from -1 to 1.
    Such samples are drawn from a normal distribution whose interval reaches as far.

    Args:
        value: of the data as they are.
        drawn: of the samples.
        degrees: of freedom, one less than these patients; 0: nobody knows, and the samples stay.
        share: of the trainings, in which both networks do not give all images the same scores; where they do, nothing is doubted.
        outside: the share of cases in which the true value lies outside of the interval.
        seed: of the drawing.
    """
    if not degrees or not share or drawn.mean(axis=0).std() >= _ROUNDING:
        return drawn
    reach = (1 - (outside / 2) ** (1 / (degrees + 1))) * (1 + abs(value)) * share
    steps = np.random.default_rng([seed, 2]).standard_normal(drawn.shape[1])
    return drawn + reach / student.ppf(1 - outside / 2, degrees) * (steps - steps.mean()) / steps.std()


def difference_interval(value: float, drawn: np.ndarray, degrees: float, outside: float = OUTSIDE) -> list[float]:
    """[low, high] around the difference of two metrics in [0, 1], within [-1, 1]; without degrees of freedom it is that.

    Args:
        value: of the data as they are.
        drawn: of the samples, in which both metrics are of the same patients; see `doubted`.
        degrees: of freedom, of the difference.
        outside: the share of cases in which the true difference lies outside.
    """
    reach = float(student.ppf(1 - outside / 2, degrees) * drawn.std()) if degrees else 2.0
    return [max(value - reach, -1.0), min(value + reach, 1.0)]


def over_seeds(values: Sequence[float], drawn: np.ndarray, degrees: float, seed: int = SEED) -> tuple[np.ndarray, float]:
    """Samples (B,) of the mean over trainings, of which each draws trainings first, and the degrees of freedom of their deviation.

    The latter weigh patients and trainings by what each adds to the variance (Satterthwaite 1946).

    Args:
        values: of each of S trainings.
        drawn: (S, B), the same patients in a column.
        degrees: of freedom of the patients.
        seed: of the drawing.
    """
    count = len(values)
    if count == 1 or not degrees:
        return drawn.mean(axis=0), degrees
    # a stream of its own: by that of `resample` as many trainings as patients would be drawn alike
    chosen = np.random.default_rng([seed, 1]).multinomial(count - 1, np.full(count, 1 / count), size=drawn.shape[1]) / (count - 1)
    samples = (chosen * drawn.T).sum(axis=1)
    of_trainings = float(np.var(values, ddof=1)) / count
    of_patients = max(float(samples.var()) - of_trainings, 0.0)
    below = of_trainings**2 / (count - 1) + of_patients**2 / degrees
    return samples, (of_trainings + of_patients) ** 2 / below if below else degrees


def seeds_interval(values: Sequence[float], drawn: np.ndarray, degrees: float) -> list[float]:
    """[low, high] of the mean over trainings of a metric in [0, 1]; one interval holds patients and trainings. See `over_seeds`."""
    return share_interval_of(mean(values), *over_seeds(values, drawn, degrees))
