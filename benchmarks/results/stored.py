"""Scores that are kept beside the page, a column for each network and seed, and where each experiment is from."""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_detection.evaluation.bootstrap import metric_intervals
from anomaly_detection.study.comparison import Scored, scored
from anomaly_detection.study.results import Result
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.lines import Lines
from benchmarks.results.gather import Gathered, Run, complete

FACTS = ("dataset", "image", "patient", "label", "part")
EXPERIMENT = ("study", "model", "regime", "datasets", "seed", "source", "commit", "device", "torch", "pixels", "data", "config")


def fewest_digits(values: Sequence[float]) -> list[str]:
    """Values as decimals of as few significant digits, four at least, as keep their order and which of them are equal: that is all AUROC knows."""
    order = np.unique(values, return_inverse=True)[1]
    for digits in range(4, 17):
        texts = [f"{value:.{digits}g}" for value in values]
        if np.array_equal(np.unique(np.array(texts, float), return_inverse=True)[1], order):
            return texts
    return [repr(value) for value in values]


def write_scores(path: Path, gathered: Gathered) -> None:
    """A line for each validation and test image, with its `score` in a column MODEL:REGIME:SEED for each network and seed; compressed CSV.

    The networks of a regime of one network for each dataset share a column.
    """
    lines: dict[tuple, dict[str, str]] = {}
    columns: dict[str, list[tuple[tuple, float]]] = {}
    for result in gathered.results:
        column = columns.setdefault(f"{result.model}:{result.regime}:{result.seed}", [])
        column += [(tuple(row[fact] for fact in FACTS), row["score"]) for row in result.rows]
    for name, scores in columns.items():
        for (key, _), text in zip(scores, fewest_digits([score for _, score in scores]), strict=True):
            lines.setdefault(key, {})[name] = text
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FACTS, *columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(dict(zip(FACTS, key, strict=True)) | texts for key, texts in lines.items())
    with whole_file(path) as partial:
        partial.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))  # the same scores are the same file


def write_experiments(path: Path, studies: Mapping[str, Gathered]) -> None:
    """A line for each experiment of some studies, in place of those that the file has of them; what it has of other studies stays."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in _lines(path) if path.exists() else []:
        lines.setdefault(line["study"], []).append(line)
    lines |= {name: [_experiment(name, run) for run in gathered.runs] for name, gathered in studies.items()}
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, EXPERIMENT, lineterminator="\n")
        writer.writeheader()
        writer.writerows(line for each in lines.values() for line in each)


def _lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _experiment(study: str, run: Run) -> dict[str, Any]:
    result = run.result
    facts = {"study": study, "model": result.model, "regime": result.regime, "datasets": "+".join(result.datasets), "seed": result.seed}
    return facts | {name: getattr(run, name) for name in EXPERIMENT if name not in facts}


def read_stored(folder: Path, study: str) -> Gathered:
    """The runs of a study from what is kept of them: scores, and of the metrics AUROC with its interval. Nothing is called abnormal.

    Raises:
        UserError: no scores of it are kept, or none of its experiments is listed.
    """
    scores, listed = folder / f"{study}_scores.csv.gz", folder / "experiments.csv"
    for path in (scores, listed):
        if not path.exists():
            raise UserError(f"{path}: no such file; --study {study} NAME=FOLDER --keep {study} writes it")
    experiments = [line for line in _lines(listed) if line["study"] == study]
    if not experiments:
        raise UserError(f"{listed}: no experiment of {study}; --study {study} NAME=FOLDER --keep {study} writes them")
    with gzip.open(scores, "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    runs = [_run(line, lines) for line in experiments]
    return complete(max((run.result.datasets for run in runs), key=len), runs)


def _run(experiment: Mapping[str, str], lines: Sequence[Mapping[str, str]]) -> Run:
    model, regime, seed = (experiment[key] for key in ("model", "regime", "seed"))
    datasets, column = tuple(experiment["datasets"].split("+")), f"{model}:{regime}:{seed}"
    rows = Lines.of(_row(line, float(line[column])) for line in lines if line["dataset"] in datasets)
    metrics = {"datasets": {name: _measured(scored(rows, name)) for name in datasets}, "validation": {}}
    facts = {key: experiment[key] for key in ("source", "commit", "device", "torch", "data", "config")}
    return Run(Result(model, regime, datasets, int(seed), metrics, rows), pixels=int(experiment["pixels"]), **facts)


def _measured(test: Scored) -> dict[str, Any]:
    interval = metric_intervals(test.labels, test.scores, test.called, test.patients)["auroc"]
    return {"auroc": test.auroc, "intervals": {"auroc": interval}, "threshold": float("inf")}


def _row(line: Mapping[str, str], score: float) -> dict[str, Any]:
    facts = {key: line[key] for key in ("dataset", "image", "part")}
    return {**facts, "patient": line["patient"] or None, "label": int(line["label"]), "score": score, "label_anomalous": 0}
