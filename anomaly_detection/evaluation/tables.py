"""The study's tables: a row per model and regime, a column per dataset, mean and standard deviation over seeds."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from anomaly_detection.evaluation.metrics import METRICS
from anomaly_detection.files import whole_file

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


@dataclass(frozen=True)
class Cell:
    """A metric over seeds; empty where an experiment is missing."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        if not self.values:
            return "–"
        return f"{mean(self.values):.3f}" + (f" ± {stdev(self.values):.3f}" if len(self.values) > 1 else "")


def cells(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str], metric: str) -> dict[str, Cell]:
    """A row: {dataset: Cell}, "mean" over the datasets (only of seeds that have all of them), and "pooled" where one network saw them all."""
    chosen = [result for result in results if (result.model, result.regime) == (model, regime)]
    seeds = sorted({result.seed for result in chosen})
    by_seed = {seed: {d: r.metrics["datasets"][d][metric] for r in chosen if r.seed == seed for d in r.datasets} for seed in seeds}
    row = {dataset: Cell(tuple(values[dataset] for values in by_seed.values() if dataset in values)) for dataset in datasets}
    row["mean"] = Cell(tuple(mean(values[d] for d in datasets) for values in by_seed.values() if all(d in values for d in datasets)))
    row["pooled"] = Cell(tuple(r.metrics["pooled"][metric] for r in chosen if len(r.datasets) == len(datasets) > 1))
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
    """Accuracy of the MADDR heads on validation images; empty where no network has any."""
    rows = []
    for name in dict.fromkeys((result.model, result.regime) for result in results):
        heads = [result.metrics["validation"] for result in results if (result.model, result.regime) == name]
        row = [Cell(tuple(each[key] for each in heads if key in each)) for key in ("val_organ_accuracy", "val_modality_accuracy")]
        if any(cell.values for cell in row):
            rows.append([*name, *map(str, row)])
    return _markdown(["model", "regime", "organ", "modality"], rows) if rows else ""


def table_markdown(results: Sequence[Result], datasets: Sequence[str], heading: str, provenance: Sequence[str]) -> str:
    """table.md: the AUROC table, the component table where an ablation was run, every other metric, and where the numbers come from.

    `oracle_*` marks thresholds chosen on the test labels; all others were fixed on validation normals.
    """
    main = [result for result in results if result.regime in ("separate", "united", "maddr")]
    parts = [f"# {heading}", "## auroc", _metric_table(main, datasets, "auroc")]
    if {result.regime for result in results} & (set(COMPONENTS) - {"united", "maddr"}):
        parts += ["## Components of MADDR (auroc)", _component_table(results, datasets)]
    heads = _head_table(results)
    if heads:
        parts += ["## Accuracy of the MADDR heads on validation images", heads]
    for metric in METRICS[1:]:
        parts += [f"## {metric}", _metric_table(main, datasets, metric)]
    parts += ["## Provenance", "\n".join(f"- {line}" for line in provenance)]
    return "\n\n".join(parts) + "\n"


def write_tables(folder: Path, results: Sequence[Result], datasets: Sequence[str], heading: str, provenance: Sequence[str]) -> str:
    """Write table.md and table.csv (a line per model, regime, column and metric); return the text of the first."""
    text = table_markdown(results, datasets, heading, provenance)
    with whole_file(folder / "table.md") as partial:
        partial.write_text(text, encoding="utf-8")
    with whole_file(folder / "table.csv") as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "model", "regime", "dataset", "metric", "mean", "sd", "seeds"])
        for model, regime in dict.fromkeys((result.model, result.regime) for result in results):
            for metric in METRICS:
                for column, cell in cells(results, model, regime, datasets, metric).items():
                    if cell.values:
                        sd = stdev(cell.values) if len(cell.values) > 1 else ""
                        writer.writerow([heading, model, regime, column, metric, mean(cell.values), sd, len(cell.values)])
    return text
