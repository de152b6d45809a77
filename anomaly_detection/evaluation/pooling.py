"""From slices to patients: a patient's score is the mean of its highest slices."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anomaly_detection.data.dataset import Domains
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.normals import HIGHEST, estimate, limit, needed, numbered, p_value, pooled, rejected
from anomaly_detection.system.lines import Lines

# of patients.csv
COLUMNS = ("dataset", "patient", "label", "slices", "unknown_slices", "score", "p_value", "anomalous", "guaranteed")
# why a patient's number of images is not as that of validation patients
UNASKED = "an older version calibrated the network and did not ask for slices, which `maddr evaluate` of its experiment, or fitting it again, mends"
FEWER = "fewer images than any validation patient of its domain"
MORE = "more images than any validation patient of its domain, and the highest of more are higher"


@dataclass(frozen=True)
class Pooled:
    """P patients that have a slice which the network knows.

    Attributes:
        names: of the patients, in order of first appearance.
        labels: (P,) 1 where any slice is abnormal.
        scores: (P,) mean of the highest slice scores.
        slices: (P,) how many there are.
        unknown: (P,) how many of them the network does not know: a volume holds slices that no training set had. They have no part in the score.
    """

    names: list
    labels: np.ndarray
    scores: np.ndarray
    slices: np.ndarray
    unknown: np.ndarray


def pool_patients(patients: Sequence[Hashable], labels: np.ndarray, scores: np.ndarray, known: np.ndarray, k: int = HIGHEST) -> Pooled:
    """Patients of N slices.

    Args:
        patients: whose each slice is.
        labels: (N,) 0 normal, 1 abnormal.
        scores: (N,).
        known: (N,) bool, whether the network knows images of the slice's kind; patients without such a slice are left out.
        k: how many of a patient's slices count.
    """
    unit, names = numbered(patients), list(dict.fromkeys(patients))
    some = np.unique(unit[known])
    abnormal, slices, unknown = (np.bincount(unit[chosen], minlength=len(names))[some] for chosen in (labels == 1, slice(None), ~known))
    return Pooled([names[each] for each in some], (abnormal > 0).astype(int), pooled(scores[known], unit[known], k), slices, unknown)


@dataclass(frozen=True)
class Judged:
    """What is said of P patients by their pooled scores.

    Attributes:
        p_value: (P,) of the score among the validation patients of the domain, pooled alike.
        threshold: (P,) on the score.
        anomalous: (P,) bool, the score is above it.
        guaranteed: (P,) bool, at most the promised share of new normal patients is, of as many images as validation patients have; else the
            threshold is an estimate.
    """

    p_value: np.ndarray
    threshold: np.ndarray
    anomalous: np.ndarray
    guaranteed: np.ndarray


def judge(scores: np.ndarray, references: Sequence[Reference], calibration: Calibration) -> Judged:
    """Patients (P,) by their pooled scores, each among the validation patients of its domain.

    Where these are too few for a guarantee, or it is not known whose the validation images are, the threshold is the quantile of the pooled scores
    of all domains, each in spreads from the center of its normals, as for single images.
    """
    shared = _shared(calibration)
    p, threshold, anomalous, guaranteed = [], [], [], []
    for score, reference in zip(scores, references, strict=True):
        (each,) = p_value(np.array([score]), np.array(reference.pooled))
        sure = reference.guaranteed and reference.unit == "patients" and len(reference.pooled) >= needed(calibration.alpha)
        above = limit(np.array(reference.pooled), calibration.alpha) if sure else reference.center + reference.spread * shared
        p.append(each)
        threshold.append(above)
        anomalous.append(rejected(each, calibration.alpha) if sure else score > above)
        guaranteed.append(sure)
    return Judged(np.array(p), np.array(threshold), np.array(anomalous, bool), np.array(guaranteed, bool))


def doubt_of_number(images: int, counted: int, reference: Reference) -> str | None:
    """Why the promise of a domain is none to a patient with so many images; None where it is one, see `Judged.guaranteed`.

    More images than any validation patient has are as theirs only where as many count as each of them has: then they were taken in the same way.

    Args:
        images: of the patient.
        counted: of these, before it is asked which the network knows, have a part in the score; of validation patients all have.
        reference: of the domain.
    """
    if reference.slices is None:
        return UNASKED
    fewest, _, most = reference.slices
    if images < fewest:
        return FEWER
    return MORE if images > most and not counted == fewest == most else None


def _shared(calibration: Calibration) -> float:
    """In spreads from the center of normals, what few pooled scores exceed."""
    references = list(calibration.domains.values()) if calibration.tells_domains else [calibration.everything]
    return estimate(np.concatenate([(np.array(each.pooled) - each.center) / each.spread for each in references]), calibration.alpha)


def patient_rows(rows: Lines, calibration: Calibration, domains: Domains) -> list[dict[str, Any]]:
    """Lines of patients.csv: the test patients of each dataset whose patients are known, judged among the normals of its true domain.

    The p-value is that of the patient's score among their validation patients, pooled alike; anomalous is empty where there are too few of these.
    Nothing is guaranteed where `predict` has no domain to judge in, nor of a patient with another number of images, see `doubt_of_number`.

    Args:
        rows: of scores.csv.
        calibration: of the network.
        domains: that class numbers refer to.
    """
    lines = []
    for name in dict.fromkeys(rows.column("dataset")):
        test = rows.where(dataset=name, part="test")
        if None in (patients := test.column("patient").tolist()):
            continue
        each = pool_patients(patients, test.column("label"), test.column("score"), test.column("unknown_domain") == 0)
        reference = calibration.domains[domains.organs.index(test[0]["organ"]), domains.modalities.index(test[0]["modality"])]
        judged = judge(each.scores, [reference] * len(each.names), calibration)
        for i, patient in enumerate(each.names):
            slices = int(each.slices[i])
            numbers = (int(each.labels[i]), slices, int(each.unknown[i]), float(each.scores[i]), float(judged.p_value[i]))
            called = int(judged.anomalous[i]) if judged.guaranteed[i] else None
            guaranteed = judged.guaranteed[i] and calibration.tells_domains and doubt_of_number(slices, slices, reference) is None
            lines.append(dict(zip(COLUMNS, (name, patient, *numbers, called, int(guaranteed)), strict=True)))
    return lines
