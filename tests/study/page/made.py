"""A study made up in a folder without training: scores, metrics, galleries and figures as experiments leave them."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from anomaly_detection.evaluation.bootstrap import metric_intervals, share_interval
from anomaly_detection.evaluation.metrics import image_metrics
from anomaly_detection.evaluation.rows import COLUMNS, read_scores
from anomaly_detection.study.page.content import Content
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.study.results import Result, with_joint_intervals
from anomaly_detection.study.tables import study_document
from anomaly_detection.system.files import fitting_name, write_table

HEADING = "Made up <b>of</b> \"numbers\" & 'names'"
DOMAINS = {"liver_ct": ("liver", "ct"), "lung_xray": ("lung", "xray")}


def made_study(
    folder: Path,
    models: Sequence[str] = ("memae",),
    regimes: Sequence[str] = ("united",),
    datasets: Sequence[str] = ("liver_ct", "lung_xray"),
    seeds: Sequence[int] = (0,),
    normal_alone: Sequence[str] = (),
    name: str = "{label}/{i}.png",
    **facts,
) -> Content:
    """Of each dataset 12 validation and 30 test images, 15 of them abnormal unless it holds normal ones alone."""
    experiments, results, figures = [], [], {}
    for model in models:
        for regime in regimes:
            for chosen in [tuple(datasets)] if REGIMES[regime].mixed else [(dataset,) for dataset in datasets]:
                for seed in seeds:
                    place = folder / model.replace(":", ".") / regime / fitting_name("+".join(chosen)) / f"seed_{seed}"
                    rng = np.random.default_rng([len(experiments), seed])
                    rows = [row for dataset in chosen for row in _rows(rng, dataset, dataset not in normal_alone, name)]
                    rows.sort(key=lambda row: row["part"], reverse=True)  # validation first
                    write_table(place / "scores.csv", rows, COLUMNS)
                    rows = read_scores(place / "scores.csv")
                    np.savez(place / "details.npz", **_gallery(rows), map_scale=1.0)
                    experiments.append(SimpleNamespace(folder=place, name=f"{model} {regime} {'+'.join(chosen)} seed {seed}"))
                    metrics = {"datasets": {dataset: _metrics(rows, dataset) for dataset in chosen}, "pooled": _pooled(rows), "validation": {}}
                    results.append(Result(model, regime, chosen, seed, metrics, rows))
                    if seed == min(seeds):
                        figures[place] = [_figure(place, "roc"), _figure(place, f"gallery_{chosen[0]}")]
    results = with_joint_intervals(results)
    document = study_document(results, datasets, HEADING, [f"{HEADING}: 12 val"])
    return Content(folder, datasets, document, experiments, results, figures, **facts)


def _rows(rng: np.random.Generator, dataset: str, abnormal: bool, name: str) -> list[dict]:
    organ, modality = DOMAINS.get(dataset, ("brain", "mri"))
    rows = []
    for i in range(42):
        part, label = ("val", 0) if i < 12 else ("test", int(abnormal) * (i % 2))
        row = dict.fromkeys(COLUMNS, 0) | {"image": name.format(label="abnormal" if label else "normal", i=i), "dataset": dataset}
        row |= {"patient": f"P{i // 2}", "organ": organ, "modality": modality, "part": part, "label": label, "score": rng.normal() + 1.2 * label}
        rows.append(row | dict.fromkeys(("predicted_organ", "predicted_modality", "confidence"), None))
    return rows


def _metrics(rows: Sequence[dict], dataset: str) -> dict:
    rows = [row for row in rows if row["dataset"] == dataset]
    test = [row for row in rows if row["part"] == "test"]
    threshold = sorted(row["score"] for row in rows if row["part"] == "val")[-2]
    labels, scores = (np.array([row[key] for row in test]) for key in ("label", "score"))
    called, patients = scores > threshold, [row["patient"] for row in test]
    alarms = {"observed": float(called[labels == 0].mean()), "interval": share_interval(called[labels == 0], [None] * int((labels == 0).sum()))}
    alarms |= {"promised": 0.05, "guaranteed": dataset == "liver_ct", "units": 6, "unit": "patients", "datasets": [dataset]}
    values = {"threshold": threshold, "unit": "patients", "false_alarms": alarms, "unknown": alarms}
    if labels.any():
        values["patients"] = {"auroc": 0.625, "normal": 7, "abnormal": 8, "intervals": {"auroc": [0.5, 0.75]}, "left_out": 0, "unknown_slices": 0}
        return values | {**image_metrics(labels, scores, called), "intervals": metric_intervals(labels, scores, called, patients)}
    counts = {"normal": len(labels), "abnormal": 0, "specificity": 1 - alarms["observed"]}
    return values | counts | {"intervals": {"specificity": [1 - end for end in reversed(alarms["interval"])]}}


def _pooled(rows: Sequence[dict]) -> dict:
    labels, scores = (np.array([row[key] for row in rows if row["part"] == "test"]) for key in ("label", "score"))
    return {"threshold": 1.0} | (image_metrics(labels, scores, scores > 1.0) if labels.any() else {})


def _gallery(rows: Sequence[dict]) -> dict[str, np.ndarray]:
    """Of each dataset and label the three highest and the three lowest, each grey all over, by the number of its row."""
    chosen = []
    for group in dict.fromkeys((row["dataset"], row["label"]) for row in rows if row["part"] == "test"):
        places = [place for place, row in enumerate(rows) if row["part"] == "test" and (row["dataset"], row["label"]) == group]
        places.sort(key=lambda place: -rows[place]["score"])
        chosen += [*places[:3], *places[-3:]]
    pixels = (np.array(chosen) % 256).astype(np.uint8)[:, None, None, None] * np.ones((1, 16, 16), np.uint8)
    return {"gallery_row": np.array(chosen), "gallery_image": pixels, "gallery_map": np.zeros((len(chosen), 16, 16), np.float32)}


def _figure(folder: Path, name: str) -> Path:
    path = folder / "figures" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (360, 300), "white").save(path)
    return path
