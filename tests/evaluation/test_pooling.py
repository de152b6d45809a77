"""From slices to patients."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_detection.data.dataset import Domains
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.known import Known
from anomaly_detection.evaluation.normals import pooled
from anomaly_detection.evaluation.patients import Said, verdict_rows
from anomaly_detection.evaluation.pooling import patient_rows, pool_patients
from anomaly_detection.evaluation.rows import patient_metrics
from anomaly_detection.system.lines import Lines

PATIENTS = ["a", "b", "a", "a", "a", "c", "b"]
LABELS = np.array([0, 0, 1, 0, 0, 0, 0])
SCORES = np.array([1.0, 5, 7, 3, 2, 9, 4])
KNOWN = np.array([True, True, True, True, True, False, True])


def test_a_patients_score_is_the_mean_of_its_highest_slices():
    each = pool_patients(PATIENTS, LABELS, SCORES, np.ones(7, bool))
    assert each.names == ["a", "b", "c"]
    assert each.scores == pytest.approx([(7 + 3 + 2) / 3, (5 + 4) / 2, 9])
    assert each.labels.tolist() == [1, 0, 0]
    assert each.slices.tolist() == [4, 2, 1]
    assert pool_patients(PATIENTS, LABELS, SCORES, np.ones(7, bool), k=1).scores.tolist() == [7, 5, 9]


def test_slices_that_the_network_does_not_know_count_for_nothing_and_are_told():
    known = KNOWN.copy()
    known[2] = False  # the abnormal slice of a
    each = pool_patients(PATIENTS, LABELS, SCORES, known)
    assert each.names == ["a", "b"], "c has no slice that is known"
    assert each.scores == pytest.approx([2, 4.5])
    assert each.labels.tolist() == [1, 0], "the patient is ill, whatever the network knows"
    assert each.unknown.tolist() == [1, 0]


def test_pooling_sorts_by_unit():
    rng = np.random.default_rng(0)
    values, unit = rng.normal(size=60), rng.integers(0, 7, size=60)
    assert pooled(values, unit, 2).tolist() == pytest.approx([np.mean(sorted(values[unit == each])[-2:]) for each in sorted(set(unit.tolist()))])


def test_too_few_patients_with_a_slice_that_is_known_promise_nothing():
    few = Reference(0.0, 1.0, 0.0, True, (0.0, 1.0), ())
    calibration = Calibration(0.5, {(0, 0): few}, {(0, 0): few}, few, Known(((0.0,),), (((1.0,),),), 1.0, None, 2, False))
    lines = patient_rows(rows(), calibration, Domains(("liver",), ("ct",)))
    assert [(line["p_value"], line["anomalous"], line["guaranteed"]) for line in lines] == [(1.0, None, 0)] * 3


@pytest.mark.parametrize(("n", "quantile", "at"), [(9, 0.9, 1), (19, 0.9, 2), (29, 0.9, 3), (19, 0.95, 1), (99, 0.99, 1), (9, 0.8, 2), (9, 0.7, 3)])
def test_a_patient_whose_p_value_is_just_the_promised_rate_is_anomalous(n, quantile, at):
    """Of n validation patients `at` - 1 score higher than the third test patient: its p-value is at / (n + 1) = 1 - quantile."""
    scores = tuple(float(each) for each in range(-n + at, at))  # at - 1 of them are above 0.5
    reference = Reference(0.0, 1.0, 0.0, True, scores, scores)
    calibration = Calibration(1 - quantile, {(0, 0): reference}, {(0, 0): reference}, reference, Known(((0.0,),), (((1.0,),),), 1.0, None, n, False))
    three = Lines.of({**row, "score": (-0.5, 0.5)[row["patient"] == "P2"], "unknown_domain": 0} for row in rows())
    lines = patient_rows(three, calibration, Domains(("liver",), ("ct",)))
    assert [line["anomalous"] for line in lines] == [0, 0, 1]
    assert lines[2]["p_value"] == pytest.approx(1 - quantile)


def test_a_hundred_thousand_patients_are_pooled_at_once():
    """A search through all slices for each patient would take minutes."""
    rng = np.random.default_rng(0)
    unit = np.concatenate([np.arange(100_000)] * 2)
    scores, labels, known = rng.normal(size=200_000), rng.integers(0, 2, size=200_000), rng.random(200_000) < 0.9
    each = pool_patients(unit.tolist(), labels, scores, known, k=1)
    first, second = (np.where(known, scores, -np.inf)[part] for part in (slice(100_000), slice(100_000, None)))
    some = known[:100_000] | known[100_000:]
    assert each.names == np.flatnonzero(some).tolist()
    assert each.scores.tolist() == np.maximum(first, second)[some].tolist()
    assert each.labels.tolist() == np.maximum(labels[:100_000], labels[100_000:])[some].tolist()
    assert each.unknown.tolist() == (2 - known[:100_000].astype(int) - known[100_000:])[some].tolist()
    assert set(each.slices.tolist()) == {2}


def test_the_metrics_are_of_patients():
    rng = np.random.default_rng(0)
    patients = np.repeat([f"P{i}" for i in range(20)], 10).tolist()
    labels = np.repeat([0, 1], 100)
    scores = rng.normal(size=200) + labels
    metrics = patient_metrics(patients, labels, scores, np.ones(200, bool))
    expected = [np.sort(scores[i * 10 : i * 10 + 10])[-3:].mean() for i in range(20)]
    assert metrics["auroc"] == pytest.approx(roc_auc_score([0] * 10 + [1] * 10, expected))
    assert (metrics["normal"], metrics["abnormal"], metrics["unknown_slices"], metrics["left_out"]) == (10, 10, 0, 0)
    low, high = metrics["intervals"]["auroc"]
    assert low < metrics["auroc"] < high
    assert (metrics["slices"], metrics["auroc_all_slices"]) == (200, metrics["auroc"])
    known = (labels == 0) | (scores < 1)
    known[:10] = False
    fewer = patient_metrics(patients, labels, scores, known)
    assert fewer["auroc"] < metrics["auroc"] == fewer["auroc_all_slices"], "the highest slices of the ill are unknown"
    assert (fewer["left_out"], fewer["normal"], fewer["unknown_slices"], fewer["slices"]) == (1, 9, (~known).sum(), 200)


@pytest.mark.parametrize("known", [[1, 1, 0, 0], [0, 0, 0, 0]])
def test_where_no_slice_of_the_ill_is_known_that_is_said(known):
    """It would be the strongest lesions of which nothing was said."""
    metrics = patient_metrics(["a", "b", "c", "d"], np.array([0, 0, 1, 1]), np.array([1.0, 2, 3, 4]), np.array(known, bool))
    counts = {"normal": sum(known), "abnormal": 0, "unknown_slices": 4 - sum(known), "left_out": 4 - sum(known), "slices": 4}
    assert metrics == {**counts, "intervals": {}, "auroc_all_slices": 1.0}


@pytest.mark.parametrize(("patients", "labels", "known"), [([None, "a"], [0, 1], [1, 1]), (["a", "b"], [0, 0], [1, 1]), (["a", "a"], [0, 1], [1, 1])])
def test_there_are_none_where_patients_are_not_known_or_of_one_class(patients, labels, known):
    assert patient_metrics(patients, np.array(labels), np.array([1.0, 2.0]), np.array(known, bool)) is None


def rows(patient="P"):
    return Lines.of(
        {
            "dataset": "x",
            "patient": f"{patient}{i // 2}" if patient else None,
            "part": "test",
            "label": 0,
            "score": float(i),
            "unknown_domain": int(i == 5),
        }
        | {"organ": "liver", "modality": "ct"}
        for i in range(6)
    )


@pytest.mark.parametrize("heads", [0.5, None])
@pytest.mark.parametrize("organs", [1, 2])
@pytest.mark.parametrize("slices", [(1, 1, 5), (2, 2, 2), (3, 3, 3), (2, 4, 5), (2, 5, 5), None])
def test_what_is_promised_a_patient_is_what_predict_promises_it(slices, organs, heads):
    """The more images, the higher the highest of them: 12 of a patient are called more often than validation patients' 1 to 5."""
    reference = Reference(0.0, 1.0, 0.0, True, tuple(np.arange(19.0)), tuple(np.arange(19.0)), slices=slices)
    references, everything = {(organ, 0): reference for organ in range(organs)}, reference if organs == 1 else replace(reference, guaranteed=False)
    calibration = Calibration(0.05, references, {}, everything, Known(((0.0,),), (((1.0,),),), 1.0, heads, 19, True))
    domains = Domains(("liver", "lung")[:organs], ("ct",))
    facts = {"dataset": "x", "part": "test", "label": 0, "unknown_domain": 0, "organ": "liver", "modality": "ct"}
    test = Lines.of({**facts, "patient": f"{count} images", "score": 99.0} for count in (1, 2, 3, 5, 12) for _ in range(count))
    named = ("liver", "ct") if heads else (None, None)
    said = [Said(row["patient"], "", str(i), row["score"], True, *named) for i, row in enumerate(test)]
    lines, predicted = patient_rows(test, calibration, domains), verdict_rows(said, calibration, domains)
    expected = {line["patient"]: line["guaranteed"] for line in predicted}
    if slices == (3, 3, 3):  # of 5 and of 12 images `predict` takes three, and an experiment all
        expected |= {"5 images": 0, "12 images": 0}
    assert {line["patient"]: line["guaranteed"] for line in lines} == expected
    assert [line["anomalous"] for line in lines] == [1] * 5, "the verdict is the best there is"
    assert max(expected.values()) == int(slices is not None and (organs == 1 or heads is not None))
    assert expected["12 images"] == 0


@pytest.mark.parametrize("guaranteed", [True, False])
def test_a_patient_is_judged_among_patients(guaranteed):
    reference = Reference(0.0, 1.0, 0.0, guaranteed, (0.0, 1.0, 2.0, 3.0), (0.1, 1.0, 3.0, 5.0))
    other = Reference(0.0, 1.0, 0.0, not guaranteed, (9.0,), (9.0,))  # of another domain, and of all together
    calibration = Calibration(0.5, {(1, 0): other, (0, 0): reference}, {}, other, Known(((0.0,),), (((1.0,),),), 1.0, None, 4, False))
    lines = patient_rows(rows(), calibration, Domains(("liver", "lung"), ("ct",)))
    assert [line["patient"] for line in lines] == ["P0", "P1", "P2"]
    assert [line["score"] for line in lines] == [0.5, 2.5, 4.0]
    assert [line["unknown_slices"] for line in lines] == [0, 0, 1]
    assert [line["p_value"] for line in lines] == pytest.approx([4 / 5, 3 / 5, 2 / 5])
    assert [line["anomalous"] for line in lines] == ([0, 0, 1] if guaranteed else [None] * 3)
    assert patient_rows(rows(None), calibration, Domains(("liver",), ("ct",))) == []
