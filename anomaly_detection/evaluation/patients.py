"""What is said of the patients and series of new images: the lines of the patients.csv that `predict` writes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.thinning import spread
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.normals import HIGHEST, needed
from anomaly_detection.evaluation.pooling import doubt_of_number, judge, pool_patients

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
# why a line is not as validation patients are; further reasons: `doubt_of_number`
UNREAD = "files or slices of it could not be read, and what they show nobody knows"
SEVERAL = "one of several of its patient, each a chance of its own to be called anomalous"

Unit = tuple[str, str]  # patient and series, "" where that is not known


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

    An image of no known patient and of no series has no line: predictions.csv says all of it. The score is the mean of the three highest that the
    network knows of the images that count (see `_counted`), judged (see `judge`) in the domain that the heads name for most that it knows; without
    heads as single images are. Where it knows none that counts, or the score would be above the threshold with those that it does not know and that
    may show a lesion (see `_within`), the verdict is "unknown" rather than "normal": a lesion may be so strong that its slices are unknown. Images
    that could not be read are counted in `unreadable`, and have no part in the score. Nothing is guaranteed of a line that is not as validation
    patients are, see `_doubt`.

    Args:
        images: all that were given, the slices of a series in order of position.
        calibration: of the network.
        domains: that it was trained on.
    """
    units: dict[Unit, list[Said]] = {}
    for image in images:
        if image.patient or image.series:
            units.setdefault((image.patient, image.series), []).append(image)
    named = {unit: _domain(members) for unit, members in units.items() if any(image.known for image in members)}
    references = {unit: _reference(*named[unit], calibration, domains) for unit in named}
    counted = {unit: _counted(_read(units[unit]), reference) for unit, reference in references.items()}
    counted = {unit: those for unit, those in counted.items() if any(image.known for image in those)}
    owners = [unit for unit, those in counted.items() for _ in those]
    scores = np.array([_height(image) for those in counted.values() for image in those], float)
    known = np.array([image.known for those in counted.values() for image in those], bool)
    reach = {unit: set(_within(_read(units[unit]), references[unit])) for unit in counted}
    within = np.array([image in reach[unit] for unit, those in counted.items() for image in those], bool)
    each, whole = (pool_patients(owners, np.zeros(len(scores)), scores, some) for some in (known, within))
    judged, strange = (judge(pools.scores, [references[unit] for unit in each.names], calibration) for pools in (each, whole))
    words = ["anomalous" if sure else "unknown" if doubtful else "normal" for sure, doubtful in zip(judged.anomalous, strange.anomalous, strict=True)]
    lines = Counter(patient for patient, _ in counted if patient)
    read = [len(_read(units[unit])) for unit in each.names]
    doubts = [_doubt(count, len(units[unit]) - count, lines[unit[0]], references[unit]) for unit, count in zip(each.names, read, strict=True)]
    said = {
        unit: {
            "score": float(each.scores[i]),
            "p_value": float(judged.p_value[i]),
            "threshold": float(judged.threshold[i]),
            "verdict": words[i],
            "guaranteed": int(judged.guaranteed[i] and doubts[i] is None and words[i] != "unknown"),
            "organ": named[unit][0],
            "modality": named[unit][1],
        }
        for i, unit in enumerate(each.names)
    }
    return [_facts(*unit, members, references.get(unit)) | said.get(unit, {"verdict": "unknown", "guaranteed": 0}) for unit, members in units.items()]


def _counted(images: Sequence[Said], reference: Reference) -> list[Said]:
    """Of the images of a line that could be read those that count; in its score have a part what of them the network knows.

    Of more images than any validation patient has, as many count as one has usually, those that `prepare` would take: it takes 20 slices of a
    volume, and the highest of 200 are higher than those of 20. Where these have one or two images, which is no volume, all count.
    """
    return spread(images, _counting(len(images), reference))


def _counting(count: int, reference: Reference) -> int:
    """How many of the images of a line count, before it is asked which the network knows."""
    if reference.unit == "patients" and reference.slices is not None:
        _, usual, most = reference.slices
        if count > most and usual >= HIGHEST:
            return usual
    return count


def _doubt(count: int, unreadable: int, lines: int, reference: Reference) -> str | None:
    """Why a line is not as validation patients are, all of whose images were pooled; None where it is.

    Args:
        count: images of the line that could be read.
        unreadable: files of it that could not, or not to their end.
        lines: of the patient, each a chance of its own to be called anomalous; 0 of a series of which nobody knows whose it is.
        reference: of its domain.
    """
    if unreadable:
        return UNREAD
    if lines > 1:
        return SEVERAL
    return doubt_of_number(count, _counting(count, reference), reference)


def estimate_warning(rows: Sequence[dict[str, Any]], calibration: Calibration, domains: Domains) -> str | None:
    """What must be known of lines of `verdict_rows` that rest on an estimate; None where each is guaranteed or unknown."""
    unsure = [row for row in rows if not row["guaranteed"] and row["verdict"] != "unknown"]
    if not unsure:
        return None
    references, enough = list(calibration.domains.values()), needed(calibration.alpha)
    strangers = [each for each in references if each.unit != "patients"]
    few = [len(each.pooled) for each in references if each.unit == "patients" and len(each.pooled) < enough]
    reasons = []
    if not calibration.tells_domains:
        reasons.append("nothing tells the domains apart, so that one threshold is for all")
    elif few:
        counts = " to ".join(map(str, sorted({min(few), max(few)})))
        reasons.append(f"there are {counts} validation patients of a domain, and it takes {enough} of one domain")
    if strangers:
        where = "" if len(strangers) == len(references) else f"of {len(strangers)} of {len(references)} domains "
        reasons.append(
            f"{where}it is not known whose the validation images are, so that series were compared with single images, and those of many slices are "
            "called anomalous too often"
        )
    lines = Counter(row["patient"] for row in rows if row["patient"] and "score" in row)
    own = [(row, _reference(row["organ"], row["modality"], calibration, domains)) for row in unsure]
    asked = [(row, reference) for row, reference in own if reference.unit == "patients" and len(reference.pooled) >= enough]
    doubts = Counter(_doubt(row["slices"], row["unreadable"], lines[row["patient"]], reference) for row, reference in asked)
    reasons += [f"{count} {'line' if count == 1 else 'lines'}: {doubt}" for doubt, count in doubts.items() if doubt]
    return f"patients.csv: verdicts that are not guaranteed are estimates: {'; '.join(reasons)}"


def _read(images: Sequence[Said]) -> list[Said]:
    return [image for image in images if image.score is not None]


def _facts(patient: str, series: str, images: Sequence[Said], reference: Reference | None) -> dict[str, Any]:
    """The columns of a line that need no verdict; its domain has a reference where the network knows an image."""
    read = _read(images)
    counts = {"slices": len(read), "unknown_slices": sum(not image.known for image in read), "unreadable": len(images) - len(read)}
    return {"patient": patient, "series": series, **counts, "worst_slices": BETWEEN.join(_worst(read, reference))}


def _domain(images: Sequence[Said]) -> tuple[str | None, str | None]:
    """That the heads name for most of the images that the network knows."""
    return Counter((image.organ, image.modality) for image in images if image.known).most_common(1)[0][0]


def _reference(organ: str | None, modality: str | None, calibration: Calibration, domains: Domains) -> Reference:
    if organ is None:
        return calibration.everything
    return calibration.reference(domains.organs.index(organ), domains.modalities.index(modality))


def _within(images: Sequence[Said], reference: Reference) -> Sequence[Said]:
    """Of the images of a line, in order of position, those that are known or may be unknown because of a lesion.

    A volume reaches beyond what training shows, into air or another part of the body: what is unknown before its first or after its last known slice
    says nothing. A volume is what has three images or more, and is a series, or such as validation patients usually are; of others each image says
    something.
    """
    of_volumes = reference.slices is None or reference.slices[1] >= HIGHEST
    if len(images) < HIGHEST or not (images[0].series or of_volumes):
        return images
    known = [place for place, image in enumerate(images) if image.known]
    return images[known[0] : known[-1] + 1]


def _worst(images: Sequence[Said], reference: Reference | None) -> list[str]:
    """Where to look: the images of the highest scores, the highest first, of those `_within`, whether they count or not; of none known all."""
    inside = images if reference is None else _within(images, reference)
    return [image.image for image in sorted(inside, key=_height, reverse=True)[:HIGHEST]]


def _height(image: Said) -> float:
    """The score of an image that could be read; what is no finite number is as strange as can be, and unknown."""
    return image.score if np.isfinite(image.score) else np.inf
