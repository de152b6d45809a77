"""The study's tables: a row per model and regime, a column per dataset, mean and standard deviation over seeds."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from anomaly_detection.evaluation.localisation import PIXEL_METRICS
from anomaly_detection.evaluation.metrics import METRICS
from anomaly_detection.study.comparison import Scored, differences, scored
from anomaly_detection.system.files import whole_file

REGIMES = ("separate", "united", "maddr")
# Regime names of the component table: which of (organ head, modality head, center) are on.
COMPONENTS = {
    "united": (False, False, False),
    "maddr_organ": (True, False, False),
    "maddr_modality": (False, True, False),
    "maddr_center": (False, False, True),
    "maddr_organ_modality": (True, True, False),
    "maddr": (True, True, True),
}


@dataclass(frozen=True)
class Result:
    """The metrics of one finished experiment, as metrics.json holds them."""

    model: str
    regime: str
    datasets: tuple[str, ...]
    seed: int
    metrics: dict[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()  # of scores.csv


@dataclass(frozen=True)
class Cell:
    """A metric over seeds, with the 95 % bootstrap intervals over images that each seed has; empty where an experiment is missing."""

    values: tuple[float, ...]
    intervals: tuple[Sequence[float], ...] = ()

    def __str__(self) -> str:
        if not self.values:
            return "–"
        text = f"{mean(self.values):.3f}" + (f" ± {stdev(self.values):.3f}" if len(self.values) > 1 else "")
        return text + (" [{:.3f}, {:.3f}]".format(*self.interval) if self.intervals else "")

    @property
    def interval(self) -> tuple[float, float] | None:
        """The mean over seeds of the lower and of the upper ends."""
        return tuple(mean(ends) for ends in zip(*self.intervals, strict=True)) if self.intervals else None

    @classmethod
    def of(cls, metrics: Sequence[Mapping[str, Any]], name: str) -> "Cell":
        """From the metrics of each seed; those that lack it are left out."""
        having = [each for each in metrics if name in each]
        intervals = tuple(each["intervals"][name] for each in having if name in each.get("intervals", {}))
        return cls(tuple(each[name] for each in having), intervals)


def cells(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str], metric: str) -> dict[str, Cell]:
    """A row: {dataset: Cell}, "mean" over the datasets (only of seeds that have all of them), and "pooled" where one network saw them all."""
    chosen = [result for result in results if (result.model, result.regime) == (model, regime)]
    seeds = sorted({result.seed for result in chosen})
    by_seed = {seed: {d: r.metrics["datasets"][d] for r in chosen if r.seed == seed for d in r.datasets} for seed in seeds}
    row = {dataset: Cell.of([found[dataset] for found in by_seed.values() if dataset in found], metric) for dataset in datasets}
    complete = [[found[d][metric] for d in datasets if metric in found.get(d, {})] for found in by_seed.values()]
    row["mean"] = Cell(tuple(mean(values) for values in complete if len(values) == len(datasets)))
    row["pooled"] = Cell.of([r.metrics["pooled"] for r in chosen if len(r.datasets) == len(datasets) > 1], metric)
    return row


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _metric_table(results: Sequence[Result], datasets: Sequence[str], metric: str) -> str:
    regimes = list(dict.fromkeys((result.model, result.regime) for result in results))
    rows = [[*name, *map(str, cells(results, *name, datasets, metric).values())] for name in regimes]
    return _markdown(["model", "regime", *datasets, "mean", "pooled"], rows)


def _component_table(results: Sequence[Result], datasets: Sequence[str]) -> str:
    models = list(dict.fromkeys(result.model for result in results))
    rows = [
        [model, *("x" if on else "" for on in switches), *map(str, cells(results, model, regime, datasets, "auroc").values())]
        for model in models
        for regime, switches in COMPONENTS.items()
    ]
    return _markdown(["model", "organ head", "modality head", "center", *datasets, "mean", "pooled"], rows)


def _head_table(results: Sequence[Result]) -> str:
    """Accuracy of the MADDR heads on validation images, and how many test images are of no domain that they know; empty without heads."""
    rows = []
    for name in dict.fromkeys((result.model, result.regime) for result in results):
        own = [result.metrics for result in results if (result.model, result.regime) == name]
        row = [Cell.of([each["validation"] for each in own], key) for key in ("val_organ_accuracy", "val_modality_accuracy")]
        row += [Cell.of([values for each in own for values in each["datasets"].values()], key) for key in ("unknown_normal", "unknown_abnormal")]
        if any(cell.values for cell in row):
            rows.append([*name, *(f"{mean(cell.values):.3f}" if cell.values else "–" for cell in row)])
    return _markdown(["model", "regime", "organ", "modality", "unknown domain: normal", "abnormal"], rows) if rows else ""


def _pooled_table(results: Sequence[Result]) -> str:
    """All datasets with one threshold: scores as they are, calibrated in the domain that the heads name, and in the true one."""
    kinds = {"as they are": "pooled", "heads": "pooled_calibrated", "true domain": "pooled_label_calibrated"}
    rows = []
    for name in dict.fromkeys((result.model, result.regime) for result in results if len(result.datasets) > 1):
        own = [result.metrics for result in results if (result.model, result.regime) == name]
        for text, key in kinds.items():
            found = [each[key] for each in own if key in each]
            if found:
                rows.append([*name, text, *(str(Cell.of(found, metric)) for metric in ("auroc", "sensitivity", "specificity"))])
    return _markdown(["model", "regime", "scores calibrated by", "auroc", "sensitivity", "specificity"], rows) if rows else ""


def _pixel_table(results: Sequence[Result], datasets: Sequence[str]) -> str:
    """How well the anomaly maps show the lesions, on datasets with masks; empty where there are none."""
    rows = []
    for model, regime in dict.fromkeys((result.model, result.regime) for result in results):
        found = {metric: cells(results, model, regime, datasets, metric) for metric in PIXEL_METRICS}
        for dataset in datasets:
            row = [found[metric][dataset] for metric in PIXEL_METRICS]
            if any(cell.values for cell in row):
                rows.append([model, regime, dataset, *map(str, row)])
    return _markdown(["model", "regime", "dataset", *PIXEL_METRICS], rows) if rows else ""


def _difference_table(results: Sequence[Result], datasets: Sequence[str]) -> str:
    """AUROC of maddr minus that of united and of separate, on the same images and seeds; empty where two are not there."""
    rows = []
    for model in dict.fromkeys(result.model for result in results):
        by_regime = {regime: _scores_by_seed([r for r in results if (r.model, r.regime) == (model, regime)], datasets) for regime in REGIMES}
        for other in ("united", "separate"):
            seeds = sorted(set(by_regime["maddr"]) & set(by_regime[other]))
            if seeds:
                one, two = ({d: [by_regime[regime][seed][d] for seed in seeds] for d in datasets} for regime in ("maddr", other))
                rows.append([model, f"maddr - {other}", str(len(seeds)), *map(str, differences(one, two).values())])
    return _markdown(["model", "difference", "seeds", *datasets, "mean"], rows) if rows else ""


def _scores_by_seed(results: Sequence[Result], datasets: Sequence[str]) -> dict[int, dict[str, Scored]]:
    """Of the seeds that have every dataset."""
    found: dict[int, dict[str, Scored]] = {}
    for result in results:
        if result.rows:
            found.setdefault(result.seed, {}).update({dataset: scored(result.rows, dataset) for dataset in result.datasets})
    return {seed: own for seed, own in found.items() if set(datasets) <= set(own)}


def table_markdown(results: Sequence[Result], datasets: Sequence[str], heading: str, provenance: Sequence[str]) -> str:
    """table.md: the AUROC table, the differences, the component table where an ablation was run, everything else, and where it comes from.

    `oracle_*` marks thresholds chosen on the test labels; all others were fixed on validation normals.
    """
    main = [result for result in results if result.regime in REGIMES]
    ablated = {result.regime for result in results} & (set(COMPONENTS) - {"united", "maddr"})
    sections = {
        "auroc": _metric_table(main, datasets, "auroc"),
        "MADDR against the others (difference of auroc, paired)": _difference_table(main, datasets),
        "Components of MADDR (auroc)": _component_table(results, datasets) if ablated else "",
        "One threshold for all datasets": _pooled_table(main),
        "MADDR heads: accuracy on validation images, share of test images of unknown domain": _head_table(results),
        "Where the lesion is (pixels of the anomaly map)": _pixel_table(main, datasets),
        **{metric: _metric_table(main, datasets, metric) for metric in METRICS[1:]},
        "Provenance": "\n".join(f"- {line}" for line in provenance),
    }
    note = "± is the standard deviation over seeds, [low, high] the 95 % bootstrap interval over test images (mean over seeds)."
    return "\n\n".join([f"# {heading}", note, *(f"## {name}\n\n{text}" for name, text in sections.items() if text)]) + "\n"


def write_tables(folder: Path, results: Sequence[Result], datasets: Sequence[str], heading: str, provenance: Sequence[str]) -> str:
    """Write table.md and table.csv (a line per model, regime, column and metric); return the text of the first."""
    text = table_markdown(results, datasets, heading, provenance)
    with whole_file(folder / "table.md") as partial:
        partial.write_text(text, encoding="utf-8")
    with whole_file(folder / "table.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "model", "regime", "dataset", "metric", "mean", "sd", "seeds", "low", "high"])
        for model, regime in dict.fromkeys((result.model, result.regime) for result in results):
            for metric in (*METRICS, *PIXEL_METRICS):
                for column, cell in cells(results, model, regime, datasets, metric).items():
                    if cell.values:
                        sd = stdev(cell.values) if len(cell.values) > 1 else ""
                        writer.writerow(
                            [heading, model, regime, column, metric, mean(cell.values), sd, len(cell.values), *(cell.interval or ("", ""))]
                        )
    return text
