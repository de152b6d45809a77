"""What the tables say, in sentences for who reads images."""

from collections.abc import Sequence
from statistics import mean
from textwrap import fill

from anomaly_detection.evaluation.bootstrap import OUTSIDE
from anomaly_detection.study.regimes import MADDR, PROBE, SEPARATE, UNITED
from anomaly_detection.study.results import Cell, cells
from benchmarks.results.gather import Gathered
from benchmarks.results.tables import DETECTORS, MARGINS, claims, verdict

CLAIMS = {
    UNITED.name: "One network with MADDR detects better than the same network without it",
    SEPARATE.name: "One network with MADDR detects as well as one network for each dataset (at most 0.02 of AUROC less)",
    PROBE.name: "The training terms of MADDR add to what naming the domain gives, which a probe on a finished network does, too",
}
WIDTH = 150  # of the lines of a page
ENDS = {"holds": "the data bear it out", "fails": "the data speak against it", "open": "the data do not decide"}


def words(gathered: Gathered) -> str:
    """A list of what came of each claim, and a paragraph on what the detectors find."""
    asked = [other for other in MARGINS if any(name == other for _, name, _, _ in claims(gathered))]
    said = (fill(_claim(gathered, other), WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False) for other in asked)
    return "\n".join([*said, "", fill(_detection(gathered), WIDTH, break_on_hyphens=False)])


def _claim(gathered: Gathered, other: str) -> str:
    """For which detectors it holds, by the mean of the datasets."""
    found = {model: each["mean"] for model, name, _, each in claims(gathered) if name == other}
    strict = {model: each["mean"] for model, name, _, each in claims(gathered, OUTSIDE / DETECTORS) if name == other}
    groups = {end: [model for model, each in found.items() if verdict(each, MARGINS[other]) == kind] for kind, end in ENDS.items()}
    told = "; ".join(f"for {_listed(named)} {end}" for end, named in groups.items() if named)
    sure = [model for model, each in strict.items() if verdict(each, MARGINS[other]) == "holds"]
    return f"*{CLAIMS[other]}:* {told}. Allowing for {DETECTORS} detectors being asked, it is borne out for {_listed(sure) if sure else 'none'}."


def _listed(names: Sequence[str]) -> str:
    """Such as "`a`, `b` and `c`"."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def _detection(gathered: Gathered) -> str:
    """AUROC as a bet, and what is found at the thresholds, of the networks with MADDR."""
    models = list(dict.fromkeys(result.model for result in gathered.results if result.regime == MADDR.name))
    metrics = ("auroc", "sensitivity", "specificity")
    by_metric = {metric: [cells(gathered.results, model, MADDR.name, gathered.datasets, metric) for model in models] for metric in metrics}
    singles = {metric: [row[dataset] for row in rows for dataset in gathered.datasets] for metric, rows in by_metric.items()}
    shares = {each["false_alarms"]["promised"] for result in gathered.results for each in result.metrics["datasets"].values()}
    promised = " or ".join(f"{100 * share:.3g} %" for share in sorted(shares))
    return (
        f"Of one abnormal and one normal image of the same dataset, picked at random, the {len(models)} detectors with MADDR score the abnormal one "
        f"higher in {_range(singles['auroc'])} of cases, depending on detector and dataset ({_range([row['mean'] for row in by_metric['auroc']])} in "
        f"the mean of the datasets); a coin does in 50 %. At thresholds meant to flag {promised} of "
        f"normal images at most, they flag {_range(singles['sensitivity'])} of the abnormal images and "
        f"{_range([cell.complement() for cell in singles['specificity']])} of the normal ones."
    )


def _range(found: Sequence[Cell]) -> str:
    """From the lowest to the highest mean over seeds, in per cent."""
    means = [100 * mean(cell.values) for cell in found]
    return f"{min(means):.0f} to {max(means):.0f} %"
