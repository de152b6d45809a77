"""A line for every validation and test image, and the metrics that follow from these lines alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_detection.data.dataset import Domains, ImageSet
from anomaly_detection.data.splits import Part
from anomaly_detection.evaluation.bootstrap import metric_intervals, share_interval, unit_of
from anomaly_detection.evaluation.calibration import Calibration, Verdict
from anomaly_detection.evaluation.metrics import has_both, image_metrics
from anomaly_detection.evaluation.pooling import pool_patients
from anomaly_detection.evaluation.scores import Scores
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import optional, table_lines
from anomaly_detection.system.lines import Lines

COLUMNS = (
    "image",
    "dataset",
    "patient",
    "organ",
    "modality",
    "part",
    "label",
    "score",
    "calibrated_score",
    "p_value",
    "threshold",
    "anomalous",
    "guaranteed",
    "plain_score",
    "label_score",
    "label_calibrated_score",
    "label_p_value",
    "label_threshold",
    "label_anomalous",
    "predicted_organ",
    "predicted_modality",
    "confidence",
    "content_distance",
    "unknown_domain",
    "unknown_because",
)
CALLED = ("p_value", "anomalous", "label_p_value", "label_anomalous", "unknown_domain", "unknown_because")


def check_finite(scores: Scores, images: ImageSet) -> None:
    """Raise UserError with the name of the first image whose score is not a number."""
    finite = np.isfinite(scores.score)
    if not finite.all():
        raise UserError(f"the anomaly score of {images.names[int(np.argmin(finite))]} is not a finite number: the training diverged")


def score_rows(
    images: ImageSet, patients: Sequence[str | None], part: Part, scores: Scores, calibration: Calibration, domains: Domains
) -> Iterator[dict[str, Any]]:
    """Lines of scores.csv for one part ("val" or "test") of the data.

    The columns `label_*` take the true domain, `plain_score` uses none, and those without a prefix take the one that the heads name (without heads,
    all domains as one); columns that need heads are empty without. `score`, `plain_score` and `label_score` differ where the domain has a part in
    the score alone. What a validation image would be called is left empty: the thresholds were set on it.

    Args:
        images: N of them.
        patients: whose each is, None where that is not known.
        part: of the data.
        scores, calibration: of the network.
        domains: that class numbers refer to.
    """
    organ, modality = images.organ.cpu().numpy(), images.modality.cpu().numpy()
    named, told = calibration.apply(scores), calibration.apply_in(scores, organ, modality)
    plain_score, label_score = scores.without_domain().score, scores.in_domain(organ, modality).score
    facts = zip(images.names, images.datasets, patients, organ, modality, images.label.tolist(), strict=True)
    for i, (name, dataset, patient, organ, modality, label) in enumerate(facts):
        yield {
            "image": name,
            "dataset": dataset,
            "patient": patient,
            "organ": domains.organs[organ],
            "modality": domains.modalities[modality],
            "part": part,
            "label": label,
            "score": float(scores.score[i]),
            "calibrated_score": float(named.calibrated[i]),
            "plain_score": float(plain_score[i]),
            "label_score": float(label_score[i]),
            "label_calibrated_score": float(told.calibrated[i]),
            "threshold": float(named.threshold[i]),
            "label_threshold": float(told.threshold[i]),
            "guaranteed": int(named.guaranteed[i]),
            **(dict.fromkeys(CALLED) if part == "val" else _called(named, told, i)),
            **_of_heads(named, i, domains),
        }


def _called(named: Verdict, told: Verdict, i: int) -> dict[str, Any]:
    return {
        "p_value": float(named.p_value[i]),
        "anomalous": int(named.anomalous[i]),
        "label_p_value": float(told.p_value[i]),
        "label_anomalous": int(told.anomalous[i]),
        "unknown_domain": int(bool(named.unknown[i])),
        "unknown_because": named.unknown[i] or None,
    }


def _of_heads(verdict: Verdict, i: int, domains: Domains) -> dict[str, Any]:
    words = {"content_distance": float(verdict.distance[i])}
    if verdict.organ is None:
        return words | dict.fromkeys(("predicted_organ", "predicted_modality", "confidence"))
    return words | {
        "predicted_organ": domains.organs[verdict.organ[i]],
        "predicted_modality": domains.modalities[verdict.modality[i]],
        "confidence": float(verdict.confidence[i]),
    }


def metrics_of(rows: Lines, calibration: Calibration, domains: Domains) -> dict[str, Any]:
    """Metrics with 95 % bootstrap intervals; what is called abnormal follows from validation normals alone.

    Returns:
        "datasets": {name: metrics}, of the scores as the network gives them, each called above the "threshold" that normals of its true domain set
        on these very scores; over all test images: "pooled" of the scores without use of domains, with one
        threshold for all, "pooled_calibrated" of those calibrated in the domain that the heads name (where there are heads), and
        "pooled_label_calibrated" in the true domain. See `image_metrics`; "intervals" holds [low, high] by metric, "unit" what they are over. A
        dataset's metrics also have auroc_unused, auroc_named (where there are heads) and auroc_known, those of its images scored in these three
        ways, named_rightly, the share of its test images whose organ and modality the heads both name, "threshold", "patients"
        (`patient_metrics`, where they are known), and what was promised of normals beside what is observed: "false_alarms" (in the true domain)
        and "unknown", each promised for the normals of its "datasets" together; unknown_normal and
        unknown_abnormal are the shares of its test images that the network does not know. Of a dataset without abnormal test images nothing is
        there that needs any, and the pool is without it, see `pool`.
    """
    metrics: dict[str, Any] = {"datasets": {}}
    for name in dict.fromkeys(rows.column("dataset")):
        own = rows.where(dataset=name)
        values = metrics["datasets"][name] = _dataset_metrics(own, calibration, domains)
        ((organ, modality),) = set(zip(own.column("organ"), own.column("modality"), strict=True))
        values["false_alarms"]["datasets"] = _calibrated_on(rows.where(organ=organ, modality=modality))
        values["unknown"]["datasets"] = _calibrated_on(rows)
    test = pool(rows.where(part="test"))
    called = test.column("plain_score") > calibration.everything.threshold
    metrics["pooled"] = {**_metrics(test, "plain_score", called), "threshold": calibration.everything.threshold}
    if rows[0]["predicted_organ"]:
        metrics["pooled_calibrated"] = _metrics(test, "calibrated_score", test.column("anomalous"))
    metrics["pooled_label_calibrated"] = _metrics(test, "label_calibrated_score", test.column("label_anomalous"))
    return metrics


def pool(test: Lines) -> Lines:
    """Test rows that are measured together: those of datasets with images of both classes, or all, where none has both.

    The normal images of a dataset that has no abnormal ones would tell datasets apart, not health from illness.
    """
    datasets = test.column("dataset")
    both = [name for name in dict.fromkeys(datasets) if has_both(test.where(dataset=name).column("label"))]
    return test.take(np.isin(datasets.astype(str), both)) if both else test


def _dataset_metrics(rows: Lines, calibration: Calibration, domains: Domains) -> dict[str, Any]:
    test = rows.where(part="test")
    normals = test.where(label=0)
    reference = calibration.domains[domains.organs.index(rows[0]["organ"]), domains.modalities.index(rows[0]["modality"])]
    called = test.column("score") > reference.threshold
    alarms = {"promised": calibration.alpha, "guaranteed": reference.guaranteed, "units": len(reference.highest), "unit": reference.unit}
    known = calibration.known
    unknown = {"promised": known.promised, "guaranteed": known.guaranteed, "units": known.units, "unit": calibration.everything.unit}
    values = {
        **_metrics(test, "score", called),
        **_by_domain(test),
        "threshold": reference.threshold,
        "false_alarms": alarms | _observed(normals, called[test.column("label") == 0]),
        "unknown": unknown | _observed(normals, normals.column("unknown_domain")),
    }
    for kind, label in (("normal", 0), ("abnormal", 1)):
        if own := test.where(label=label):
            values[f"unknown_{kind}"] = float(np.mean(own.column("unknown_domain")))
    pooled = patient_metrics(test.column("patient").tolist(), test.column("label"), test.column("score"), test.column("unknown_domain") == 0)
    return values | ({"patients": pooled} if pooled else {})


def _by_domain(test: Lines) -> dict[str, float]:
    """AUROC by who tells the domain of an image, where there are normal and abnormal ones, and how often the heads name it rightly."""
    columns = {"auroc_unused": "plain_score", "auroc_known": "label_calibrated_score"}
    values = {}
    if test[0]["predicted_organ"]:
        columns["auroc_named"] = "calibrated_score"
        right = [test.column(f"predicted_{name}") == test.column(name) for name in ("organ", "modality")]
        values["named_rightly"] = float(np.mean(right[0] & right[1]))
    labels = test.column("label")
    if not has_both(labels):
        return values
    return values | {name: float(roc_auc_score(labels, test.column(column))) for name, column in columns.items()}


def patient_metrics(patients: Sequence[str | None], labels: np.ndarray, scores: np.ndarray, known: np.ndarray) -> dict[str, Any] | None:
    """AUROC and average precision over patients with intervals, and their numbers; auroc_all_slices is that of all of them, known slices or not.

    None where a slice's patient is not known, or all patients are of one class. Where those are who have a slice that the network knows, auroc and
    average precision are missing. For the arguments see `pool_patients`.
    """
    if None in patients:
        return None
    each, whole = (pool_patients(patients, labels, scores, some) for some in (known, np.ones_like(known)))
    if not has_both(whole.labels):
        return None
    metrics, intervals = {}, {}
    if has_both(each.labels):
        called = np.zeros(len(each.labels), bool)
        metrics, intervals = image_metrics(each.labels, each.scores, called), metric_intervals(each.labels, each.scores, called, each.names)
    names = [name for name in ("auroc", "average_precision") if name in metrics]
    return {
        **{name: metrics[name] for name in names},
        "normal": int((each.labels == 0).sum()),
        "abnormal": int((each.labels == 1).sum()),
        "intervals": {name: intervals[name] for name in names},
        "unknown_slices": int((~known).sum()),
        "left_out": len(whole.names) - len(each.names),
        "slices": len(known),
        "auroc_all_slices": float(roc_auc_score(whole.labels, whole.scores)),
    }


def _calibrated_on(rows: Lines) -> list[str]:
    """The datasets of the validation rows among some."""
    return list(dict.fromkeys(rows.where(part="val").column("dataset")))


def _observed(rows: Lines, flags: np.ndarray) -> dict[str, Any]:
    flags = flags.astype(bool)
    return {"observed": float(flags.mean()), "interval": share_interval(flags, rows.column("patient").tolist())}


def _metrics(rows: Lines, column: str, called: np.ndarray) -> dict[str, Any]:
    labels, scores, called, patients = rows.column("label"), rows.column(column), called.astype(bool), rows.column("patient").tolist()
    return {**image_metrics(labels, scores, called), "intervals": metric_intervals(labels, scores, called, patients), "unit": unit_of(patients)}


def read_scores(path: Path) -> Lines:
    """The rows of a scores.csv.

    Raises:
        UserError: it is missing or damaged.
    """
    numbers = (
        "score",
        "calibrated_score",
        "plain_score",
        "label_score",
        "label_calibrated_score",
        "threshold",
        "label_threshold",
        "content_distance",
    )
    sometimes = ("p_value", "label_p_value", "confidence")
    flags = ("anomalous", "label_anomalous", "unknown_domain")
    kinds = dict.fromkeys(COLUMNS, optional(str)) | dict.fromkeys(numbers, float) | dict.fromkeys(sometimes, optional(float))
    kinds |= dict.fromkeys(flags, optional(int)) | {"label": int, "guaranteed": int, "image": str}
    try:
        return Lines.of(table_lines(path, kinds))
    except UserError as error:
        raise UserError(f"{error}; these are not scores as `evaluate` writes them: evaluate the run again") from None
