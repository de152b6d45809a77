"""What experiments found: each one's metrics, and a metric of each dataset over seeds, with its interval."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any, NamedTuple

from anomaly_detection.config.settings import Settings
from anomaly_detection.evaluation.bootstrap import OUTSIDE
from anomaly_detection.evaluation.metrics import METRICS
from anomaly_detection.evaluation.twins import twin_samples
from anomaly_detection.study.comparison import Difference, Scored, differences, intervals_over_seeds, scored, twin_intervals_over_seeds
from anomaly_detection.system.lines import Lines

MISSING = "–"
# all test images with one threshold: the columns of their scores and of what is called abnormal; None: above the threshold of the pool
POOLED = {
    "pooled": ("plain_score", None),
    "pooled_calibrated": ("calibrated_score", "anomalous"),
    "pooled_label_calibrated": ("label_calibrated_score", "label_anomalous"),
}


@dataclass(frozen=True)
class Result:
    """The metrics of one finished experiment, as metrics.json holds them."""

    model: str
    regime: str
    datasets: tuple[str, ...]
    seed: int
    metrics: dict[str, Any]
    rows: Lines = field(default_factory=lambda: Lines.of(()))  # of scores.csv
    pairs: Sequence[Mapping[str, Any]] = ()  # of twins.csv
    settings: Settings | None = None  # None: nobody knows, and nothing is said of them

    @property
    def untold(self) -> bool:
        """See the function of that name."""
        firsts = [own[0] for name in self.datasets if (own := self.rows.where(dataset=name))]
        return untold({(row.get("organ"), row.get("modality")) for row in firsts}, self.metrics)


def untold(domains: Collection, metrics: Mapping[str, Any]) -> bool:
    """Whether there are several domains and nothing names that of an image: what was measured in the true one is not what `predict` says.

    Args:
        domains: of the network.
        metrics: of metrics.json.
    """
    return len(domains) > 1 and not all("named_rightly" in values for values in metrics["datasets"].values())


def as_deployed(pools: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What one threshold for all domains finds, which is what there is where nothing names them, as a sentence without its end.

    Args:
        pools: of networks by name, "" of one alone, what each training has as "pooled".
    """
    told = []
    for name, trainings in pools.items():
        above = (("sensitivity", "abnormal", 0.0), ("specificity", "normal", 1.0))
        shares = [(kind, less, [each[key] for each in trainings if key in each]) for key, kind, less in above]
        words = [f"{100 * abs(less - mean(found)):.1f} % of {kind}" for kind, less, found in shares if found]
        told.append(f"{name and f'{name}: '}{' and '.join(words)} test images")
    return (
        "nothing names the domain of an image, and the results above are as if somebody told it: `maddr predict` has one threshold for all domains, "
        f"an estimate, above which lie {'; '.join(told)}, of all datasets together that have both"
    )


@dataclass(frozen=True)
class Cell:
    """A metric over seeds, with the 95 % interval of their mean; empty where an experiment is missing."""

    values: tuple[float, ...]
    interval: Sequence[float] | None = None

    def __str__(self) -> str:
        if not self.values:
            return MISSING
        text = f"{mean(self.values):.3f}" + (f" ± {stdev(self.values):.3f}" if len(self.values) > 1 else "")
        return text + (" [{:.3f}, {:.3f}]".format(*self.interval) if self.interval else "")

    def average(self) -> "Cell":
        """The mean over seeds alone."""
        return Cell((mean(self.values),)) if self.values else self

    def complement(self) -> "Cell":
        """Of a share the share of the others."""
        return Cell(tuple(1 - value for value in self.values), self.interval and [1 - each for each in reversed(self.interval)])

    @classmethod
    def of(cls, metrics: Sequence[Mapping[str, Any]], name: str) -> "Cell":
        """From the metrics of each seed, as `with_joint_intervals` leaves them; seeds that lack it are left out."""
        having = [each for each in metrics if name in each]
        return cls(tuple(each[name] for each in having), having[0].get("intervals", {}).get(name) if having else None)


def with_joint_intervals(results: Sequence[Result]) -> list[Result]:
    """The same results; where a network was trained with several seeds, each metric has the interval of its mean over them instead of its own.

    Without the rows of all its seeds it has none.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.regime, result.datasets), []).append(result)
    joint = {key: _joint_intervals(group) for key, group in groups.items() if len(group) > 1}
    found = []
    for result in results:
        intervals = joint.get((result.model, result.regime, result.datasets))
        if intervals is not None:
            datasets = {name: {**values, "intervals": intervals.get(name, {})} for name, values in result.metrics["datasets"].items()}
            pools = {key: {**result.metrics[key], "intervals": intervals.get(key, {})} for key in POOLED if key in result.metrics}
            result = replace(result, metrics={**result.metrics, "datasets": datasets, **pools})
        found.append(result)
    return found


def _joint_intervals(group: Sequence[Result]) -> dict[str, dict[str, list[float]]]:
    """By dataset and kind of pool, the interval of each metric's mean over seeds."""
    if not all(result.rows for result in group):
        return {}
    intervals = {}
    for name in group[0].datasets:
        metrics = [result.metrics["datasets"][name] for result in group]
        trainings = [scored(result.rows, name, called=each["threshold"]) for result, each in zip(group, metrics, strict=True)]
        intervals[name] = intervals_over_seeds(trainings, _by_metric(metrics))
        intervals[name] |= _twin_intervals(group, name)
    for key, (score, called) in POOLED.items():
        metrics = [result.metrics[key] for result in group if key in result.metrics]
        if len(metrics) == len(group):
            calls = [called or each["threshold"] for each in metrics]
            trainings = [scored(result.rows, None, score, each) for result, each in zip(group, calls, strict=True)]
            intervals[key] = intervals_over_seeds(trainings, _by_metric(metrics))
    return intervals


def _by_metric(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What all seeds have, by metric."""
    return {metric: [each[metric] for each in metrics] for metric in METRICS if all(metric in each for each in metrics)}


def _twin_intervals(group: Sequence[Result], dataset: str) -> dict[str, list[float]]:
    """Of what pairs of image and healthy twin say; none where the seeds saw no pairs, or not the same ones."""
    pairs = [[pair for pair in result.pairs if pair["dataset"] == dataset] for result in group]
    seen = [sorted((pair["image"], pair["stratum"] or "") for pair in each) for each in pairs]
    if not seen[0] or any(each != seen[0] for each in seen):
        return {}
    tests = [result.rows.where(dataset=dataset, part="test") for result in group]
    return twin_intervals_over_seeds([twin_samples(*each) for each in zip(pairs, tests, strict=True)])


def cells(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str], metric: str) -> dict[str, Cell]:
    """A row: {dataset: Cell}, "mean" over the datasets (only of seeds that have all of them), and "pooled" where one network saw them all.

    A dataset whose test images are all normal has no part in the mean of what they cannot tell.
    """
    chosen = [result for result in results if (result.model, result.regime) == (model, regime)]
    seeds = sorted({result.seed for result in chosen})
    by_seed = {seed: {d: r.metrics["datasets"][d] for r in chosen if r.seed == seed for d in r.datasets} for seed in seeds}
    row = {dataset: Cell.of([metrics[dataset] for metrics in by_seed.values() if dataset in metrics], metric) for dataset in datasets}
    silent = [d for d in normal_alone(chosen, datasets) if not row[d].values]
    complete = [[metrics[d][metric] for d in datasets if metric in metrics.get(d, {})] for metrics in by_seed.values()]
    row["mean"] = Cell(tuple(mean(values) for values in complete if values and len(values) == len(datasets) - len(silent)))
    row["pooled"] = Cell.of([r.metrics.get("pooled", {}) for r in chosen if len(r.datasets) == len(datasets) > 1], metric)
    return row


def normal_alone(results: Sequence[Result], datasets: Sequence[str]) -> list[str]:
    """The datasets without abnormal test images, as metrics count them."""
    return [name for name in datasets if any(result.metrics["datasets"].get(name, {}).get("abnormal") == 0 for result in results)]


def seeds_of(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> str:
    """How many seeds the cells of a row are over, such as "3"; "2–3" where they differ, since an experiment is missing."""
    row = cells(results, model, regime, datasets, "specificity")
    return span([len(row[dataset].values) for dataset in datasets])


def span(counts: Sequence[int]) -> str:
    """Such as "3", or "2–3"."""
    return "–".join(str(count) for count in dict.fromkeys((min(counts), max(counts))))


class Compared(NamedTuple):
    """A model in one regime and in another.

    Attributes:
        seeds: those that have scores in both regimes on all datasets.
        added: AUROC of these in the one minus that in the other, by dataset and "mean"; empty where nothing can be compared.
    """

    seeds: list[int]
    added: dict[str, Difference]


def compared(results: Sequence[Result], model: str, one: str, other: str, datasets: Sequence[str], outside: float = OUTSIDE) -> Compared:
    """AUROC in regime `one` minus that in `other`, paired: the same seeds and test images; see `differences`."""
    trained = [scores_by_seed(results, model, regime, datasets) for regime in (one, other)]
    seeds = sorted(set.intersection(*map(set, trained)))
    sides = ({dataset: [scores[seed][dataset] for seed in seeds] for dataset in datasets} for scores in trained)
    return Compared(seeds, differences(*sides, outside) if seeds else {})


def scores_by_seed(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> dict[int, dict[str, Scored]]:
    """Of the seeds that have every dataset."""
    by_seed: dict[int, dict[str, Scored]] = {}
    for result in results:
        if (result.model, result.regime) == (model, regime) and result.rows:
            by_seed.setdefault(result.seed, {}).update({dataset: scored(result.rows, dataset) for dataset in result.datasets})
    return {seed: scores for seed, scores in by_seed.items() if set(datasets) <= set(scores)}
