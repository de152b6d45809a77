"""What a detector makes of a lesion alone: an abnormal image beside its healthy twin, which differs from it by the lesion and nothing else.

AUROC compares an abnormal image with other healthy bodies, so that it is low where bodies differ more than a lesion does, however well the detector
sees it. The twin rate takes that away: it is the share of pairs in which the lesion raises the score. Chance is 0.5 for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_detection.baseline import Baseline
from anomaly_detection.data.phantom.strata import STRATA
from anomaly_detection.data.twin_lists import NUMBERS
from anomaly_detection.data.twins import Twins
from anomaly_detection.evaluation.bootstrap import freedom, metric_samples, share_interval_of, share_samples
from anomaly_detection.evaluation.rows import check_finite
from anomaly_detection.evaluation.scores import Scores, assessments
from anomaly_detection.system.files import optional, read_table
from anomaly_detection.system.lines import Lines

# of twins.csv, a line for each pair
COLUMNS = ("dataset", "image", "stratum", "unit", *NUMBERS, "score", "twin_score", "rise_on_lesion", "lesion_share")
CELLS = 3  # of a contrast-detail table, along each side
# what tables show, in their order
TWIN_METRICS = (*(f"{stratum}_{name}" for stratum in STRATA for name in ("auroc", "twin_rate")), "twin_rate", "rise_on_lesion", "lesion_share")
Rows = Sequence[Mapping[str, Any]]


def raised_by_lesion(scores: np.ndarray, twin_scores: np.ndarray) -> np.ndarray:
    """(P,) of pairs: 1 where the abnormal image scores higher than its twin, 0.5 where both are equal."""
    return (scores > twin_scores) + 0.5 * (scores == twin_scores)


def twin_rate(scores: np.ndarray, twin_scores: np.ndarray) -> float:
    """Share of P pairs whose abnormal image scores higher than its twin; a pair with equal scores counts half."""
    return float(np.mean(raised_by_lesion(scores, twin_scores)))


def rise_on_lesion(anomaly_map: np.ndarray, twin_map: np.ndarray, lesion: np.ndarray) -> float | None:
    """How much of what a lesion adds to the anomaly map lies on the lesion, from 0 to 1.

    A map that knows nothing of the lesion has the share of the image that the lesion takes.

    Args:
        anomaly_map, twin_map: (H, W) of the abnormal image and of its twin.
        lesion: (H, W) bool, its mask.

    Returns:
        The sum of the rises (falls count as none) over the lesion, of that over the image; None where the map rises nowhere.
    """
    rise = np.maximum(anomaly_map.astype(float) - twin_map, 0)
    return float(rise[lesion].sum() / rise.sum()) if rise.any() else None


def twin_rows(
    baseline: Baseline, twins: Twins, scores: np.ndarray, marked: Callable[[int], tuple[np.ndarray, np.ndarray] | None]
) -> list[dict[str, Any]]:
    """Lines of twins.csv. Each twin passes through the network once.

    Args:
        baseline: trained.
        twins: of some of the test images.
        scores: (N,) of all test images.
        marked: of the place of a test image, its anomaly map and its mask (H, W); None where no mask is known.

    Raises:
        UserError: a score is not a number.
    """
    rows, parts = [], []
    for batch, assessment in assessments(baseline, twins.images):
        parts.append(Scores.of(baseline, batch.image, assessment))
        for place, twin_map in zip(batch.index.tolist(), assessment.map[:, 0].float().cpu().numpy(), strict=True):
            row = dict.fromkeys(COLUMNS) | {"dataset": twins.images.datasets[place], "image": twins.names[place], **twins.facts[place]}
            if (pair := marked(twins.places[place])) is not None:
                row |= {"rise_on_lesion": rise_on_lesion(pair[0], twin_map, pair[1]), "lesion_share": float(pair[1].mean())}
            rows.append(row)
    twin_scores = Scores.joined(parts)
    check_finite(twin_scores, twins.images)
    for row, place, score in zip(rows, twins.places, twin_scores.score, strict=True):
        row |= {"score": float(scores[place]), "twin_score": float(score)}
    return rows


def read_twin_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a twins.csv; none where there is no such file.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_file():
        return []
    kinds = dict.fromkeys((*NUMBERS, "rise_on_lesion", "lesion_share"), optional(float)) | {"dataset": str, "image": str, "stratum": optional(str)}
    return read_table(path, kinds | {"score": float, "twin_score": float})


class Drawn(NamedTuple):
    """A metric in [0, 1] of one detector, bootstrap samples (B,) of it over the pairs' patients, and its degrees of freedom; see `bootstrap`."""

    value: float
    samples: np.ndarray
    degrees: int


def twin_metrics(pairs: Rows, test: Lines) -> dict[str, Any]:
    """What the pairs of one dataset say, all together and by stratum.

    Args:
        pairs: its lines of twins.csv.
        test: its lines of scores.csv, of test images.

    Returns:
        twin_pairs, twin_rate, rise_on_lesion and lesion_share (means over pairs); the same and auroc, of its abnormal images among all normal ones,
        for each stratum, as in obvious_auroc; and "intervals" of rates and AUROCs. What no pair tells is left out.
    """
    drawn = twin_samples(pairs, test)
    metrics: dict[str, Any] = {}
    for prefix, members in _strata(pairs).items():
        metrics[f"{prefix}twin_pairs"] = len(members)
        for name in ("rise_on_lesion", "lesion_share"):
            if known := [pair[name] for pair in members if pair[name] is not None]:
                metrics[f"{prefix}{name}"] = float(np.mean(known))
    metrics |= {name: each.value for name, each in drawn.items()}
    return metrics | {"intervals": {name: share_interval_of(*each) for name, each in drawn.items()}}


def twin_samples(pairs: Rows, test: Lines) -> dict[str, Drawn]:
    """Twin rate, and by stratum twin rate and AUROC, each with its samples.

    For several detectors of the same images, in any order, a sample holds the same patients. For the arguments see `twin_metrics`.
    """
    pairs, test = sorted(pairs, key=lambda pair: pair["image"]), test.take(np.argsort(test.column("image"), kind="stable"))
    patients, normals = dict(zip(test.column("image"), test.column("patient"), strict=True)), test.where(label=0)
    drawn = {}
    for prefix, members in _strata(pairs).items():
        units = [patients[pair["image"]] for pair in members]
        scores, twin_scores = _scores_of(members)
        flags = raised_by_lesion(scores, twin_scores)
        degrees = freedom(np.zeros(len(flags), int), units)
        drawn[f"{prefix}twin_rate"] = Drawn(twin_rate(scores, twin_scores), share_samples(flags[None], units)[0, 0], degrees)
        if prefix:
            labels = np.repeat([0, 1], [len(normals), len(members)])
            scores = np.concatenate([normals.column("score"), scores])
            units = [*normals.column("patient"), *units]
            samples = metric_samples(labels, scores, np.zeros(len(labels), bool), units)["auroc"]
            drawn[f"{prefix}auroc"] = Drawn(float(roc_auc_score(labels, scores)), samples, freedom(labels, units))
    return drawn


def _strata(pairs: Rows) -> dict[str, Rows]:
    """All pairs, and those of each stratum that has any, by what goes before the names of their metrics."""
    members = {f"{stratum}_": [pair for pair in pairs if pair["stratum"] == stratum] for stratum in STRATA}
    return {"": pairs} | {prefix: rows for prefix, rows in members.items() if rows}


def _scores_of(pairs: Rows) -> tuple[np.ndarray, np.ndarray]:
    scores, twin_scores = (np.array([pair[name] for pair in pairs]) for name in ("score", "twin_score"))
    return scores, twin_scores


@dataclass(frozen=True)
class ContrastDetail:
    """Pairs by the diameter and the contrast of their lesions, in cells.

    Attributes:
        diameters, contrasts: (n + 1,) edges of the cells, in mm and in HU or grey.
        count: (n, n) pairs of each cell; a row for each range of contrast, a column for each of diameter.
        auroc: (n, n) of the abnormal images of the cell among all normal ones; NaN of an empty cell.
        rate: (n, n) twin rate; NaN of an empty cell.
    """

    diameters: np.ndarray
    contrasts: np.ndarray
    count: np.ndarray
    auroc: np.ndarray
    rate: np.ndarray


def contrast_detail(pairs: Rows, normal_scores: np.ndarray, cells: int = CELLS) -> ContrastDetail:
    """How AUROC and twin rate rise with the size and the contrast of lesions.

    The edges are quantiles of the lesions, so that no detector has a part in them.

    Args:
        pairs: lines of twins.csv of one dataset, each with a diameter and a contrast.
        normal_scores: (M,) of its normal test images.
        cells: along each side.
    """
    diameter, contrast = (np.abs([pair[name] for pair in pairs]) for name in ("diameter_mm", "contrast"))
    scores, twin_scores = _scores_of(pairs)
    edges = [np.quantile(values, np.linspace(0, 1, cells + 1)) for values in (diameter, contrast)]
    column, row = (np.searchsorted(edge[1:-1], values, side="right") for edge, values in zip(edges, (diameter, contrast), strict=True))
    count, auroc, rate = np.zeros((cells, cells), int), np.full((cells, cells), np.nan), np.full((cells, cells), np.nan)
    for i, j in np.ndindex(count.shape):
        inside = (row == i) & (column == j)
        if inside.any():
            count[i, j] = inside.sum()
            labels = np.repeat([0, 1], [len(normal_scores), inside.sum()])
            auroc[i, j] = roc_auc_score(labels, np.concatenate([normal_scores, scores[inside]]))
            rate[i, j] = twin_rate(scores[inside], twin_scores[inside])
    return ContrastDetail(*edges, count, auroc, rate)
