"""What is said of the patients and series of new images: the lines of the patients.csv that `predict` writes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.formats.window import spread
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.normals import HIGHEST, needed
from anomaly_detection.evaluation.pooling import judge, pool_patients

COLUMNS = (
    "patient",
    "series",
    "slices",
    "unknown_slices",
    "unreadable",
    "score",
    "p_value",
    "threshold",
    "verdict",
    "guaranteed",
    "organ",
    "modality",
    "worst_slices",
)
BETWEEN = " | "  # the names of slices; no name on Windows has it


class Said(NamedTuple):
    """What is said of one image, as far as its patient's line depends on it.

    Attributes:
        patient, series: that it belongs to; "" where that is not known.
        image: its name in predictions.csv.
        score: None where it could not be read.
        known: whether the network knows images of its kind.
        organ, modality: that the heads name; None without heads.
    """

    patient: str
    series: str
    image: str
    score: float | None = None
    known: bool = False
    organ: str | None = None
    modality: str | None = None


def verdict_rows(images: Sequence[Said], calibration: Calibration, domains: Domains) -> list[dict[str, Any]]:
    """Lines of patients.csv, in order of the first image: one for each series, and one for all images of a patient that are of none.

    An image of no known patient and of no series has no line: predictions.csv says all of it. The score is the mean of the three highest over the
    images that the network knows, judged (see `judge`) in the domain that the heads name for most of these; without heads as single images are. Of
    more images than any validation patient of that domain has as many count, spread over them: the highest of 200 are higher than those of 20.
    Where it knows none the verdict is "unknown". Images that could not be read are counted in `unreadable`, and have no other part. Nothing is
    guaranteed of a line that is not `_alike` a validation patient.

    Args:
        images: all that were given.
        calibration: of the network.
        domains: that it was trained on.
    """
    units: dict[tuple[str, str], list[Said]] = {}
    for image in images:
        if image.patient or image.series:
            units.setdefault((image.patient, image.series), []).append(image)
    lines = Counter(patient for patient, _ in units if patient)
    known = {unit: recognised for unit, members in units.items() if (recognised := [image for image in members if image.known])}
    named = {unit: _domain(images) for unit, images in known.items()}
    references = [_reference(domain, calibration, domains) for domain in named.values()]
    counted = [image for images, reference in zip(known.values(), references, strict=True) for image in _counted(images, reference)]
    owners, scores = [(image.patient, image.series) for image in counted], np.array([image.score for image in counted], float)
    each = pool_patients(owners, np.zeros(len(counted)), scores, np.ones(len(counted), bool))
    judged = judge(each.scores, references, calibration)
    alike = [_alike(len(known[unit]), lines[unit[0]], reference) for unit, reference in zip(each.names, references, strict=True)]
    said = {
        unit: {
            "score": float(each.scores[i]),
            "p_value": float(judged.p_value[i]),
            "threshold": float(judged.threshold[i]),
            "verdict": "anomalous" if judged.anomalous[i] else "normal",
            "guaranteed": int(judged.guaranteed[i] and alike[i]),
            "organ": named[unit][0],
            "modality": named[unit][1],
            "worst_slices": BETWEEN.join(_worst(known[unit])),
        }
        for i, unit in enumerate(each.names)
    }
    return [_counts(*unit, members) | said.get(unit, {"verdict": "unknown", "guaranteed": 0}) for unit, members in units.items()]


def _counted(images: Sequence[Said], reference: Reference) -> Sequence[Said]:
    """Of images that the network knows those that have a part in the score."""
    return images if reference.slices is None else spread(images, reference.slices[1])


def _alike(known: int, lines: int, reference: Reference) -> bool:
    """Whether a line is what the validation patients are: all images of a patient, and not fewer than any of them has.

    Each series of a patient is a chance of its own to be called anomalous, and the mean of one or two slices is more often a high one.

    Args:
        known: how many images of the line the network knows.
        lines: how many the patient has; 0 of a series of which nobody knows whose it is.
        reference: of its domain.
    """
    return lines < 2 and reference.slices is not None and known >= reference.slices[0]


def estimate_warning(rows: Sequence[dict[str, Any]], calibration: Calibration) -> str | None:
    """What must be known of lines of `verdict_rows` that rest on an estimate; None where each is guaranteed or unknown."""
    if all(row["guaranteed"] or row["verdict"] == "unknown" for row in rows):
        return None
    domains, enough = list(calibration.domains.values()), needed(calibration.alpha)
    strangers = [each for each in domains if each.unit != "patients"]
    few = [len(each.pooled) for each in domains if each.unit == "patients" and len(each.pooled) < enough]
    reasons = []
    if not calibration.tells_domains:
        reasons.append("nothing tells the domains apart, so that one threshold is for all")
    elif few:
        counts = " to ".join(map(str, sorted({min(few), max(few)})))
        reasons.append(f"there are {counts} validation patients of a domain, and it takes {enough} of one domain")
    if strangers:
        where = "" if len(strangers) == len(domains) else f"of {len(strangers)} of {len(domains)} domains "
        reasons.append(
            f"{where}it is not known whose the validation images are, so that series were compared with single images, and those of many slices are "
            "called anomalous too often"
        )
    if unlike := _unlike(rows, domains):
        reasons.append(unlike)
    return f"patients.csv: verdicts that are not guaranteed are estimates: {'; '.join(reasons)}"


def _unlike(rows: Sequence[dict[str, Any]], domains: Sequence[Reference]) -> str | None:
    """What may keep a line from a guarantee that its domain has, see `_alike`."""
    if any(each.slices is None for each in domains):
        return "how many slices validation patients have is not known to this network, which `maddr evaluate` of its experiment mends"
    several = sum(count > 1 for who, count in Counter(row["patient"] for row in rows).items() if who)
    fewest = max(each.slices[0] for each in domains)
    few = sum(0 < row["slices"] - row["unknown_slices"] < fewest for row in rows if not row["guaranteed"])
    told = [f"{several} {'patient has' if several == 1 else 'patients have'} several lines, each a chance of its own"] if several else []
    told += [f"{few} {'line has' if few == 1 else 'lines have'} fewer known slices than the {fewest} of any validation patient"] if few else []
    return ", and ".join(told) or None


def _counts(patient: str, series: str, images: Sequence[Said]) -> dict[str, Any]:
    read = [image for image in images if image.score is not None]
    unknown = sum(not image.known for image in read)
    return {"patient": patient, "series": series, "slices": len(read), "unknown_slices": unknown, "unreadable": len(images) - len(read)}


def _domain(images: Sequence[Said]) -> tuple[str | None, str | None]:
    """That the heads name for most of the images that the network knows."""
    return Counter((image.organ, image.modality) for image in images if image.known).most_common(1)[0][0]


def _reference(domain: tuple[str | None, str | None], calibration: Calibration, domains: Domains) -> Reference:
    organ, modality = domain
    if organ is None:
        return calibration.everything
    return calibration.reference(domains.organs.index(organ), domains.modalities.index(modality))


def _worst(images: Sequence[Said]) -> list[str]:
    """The images whose scores are the patient's, the highest first."""
    return [image.image for image in sorted((image for image in images if image.known), key=lambda image: -image.score)[:HIGHEST]]
