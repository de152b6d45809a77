"""What a trained network says of itself."""

from dataclasses import replace

import numpy as np
import pytest

from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.normals import Normals
from tests.evaluation.simulation import simulated
from tests.helpers import toy_baseline, toy_settings

DOMAINS = Domains(("liver", "lung"), ("ct", "xray"))


def part_of(normals: Normals, pair: tuple[int, int]) -> Normals:
    inside = normals.of(pair)
    scores = type(normals.scores)(**{name: None if each is None else each[inside] for name, each in vars(normals.scores).items()})
    return Normals(scores, normals.organ[inside], normals.modality[inside], normals.unit[inside])


def promises(patients: int, heads: bool, single: bool = False, strangers: float = 0) -> list[str]:
    rng = np.random.default_rng(0)
    train, val = (simulated(rng, count, 1, heads=heads) for count in (60, patients))
    if single:
        train, val = part_of(train, (1, 1)), part_of(val, (1, 1))
    val = replace(val, stranger=np.arange(len(val.unit)) < strangers * len(val.unit))
    return Detector(toy_baseline(toy_settings(), heads), Calibration.fit(train, val, 0.05), DOMAINS, Preprocessing(image_size=16), 1.0).promises()


def test_heads_are_promised_a_rate_in_each_domain_that_they_name():
    assert promises(40, heads=True) == [
        *(
            f"{place}: at most 0.05 of new normal patients are called anomalous, if the heads name this domain (40 validation patients)"
            for place in ("liver ct", "lung ct", "lung xray")
        ),
        "unknown: at most 0.02 of new normal patients, of all domains together (120 validation patients)",
    ]


def test_few_patients_are_promised_nothing():
    assert promises(18, heads=True) == [
        *(
            f"{place}: the threshold is an estimate; 18 validation patients guarantee nothing, it takes 19"
            for place in ("liver ct", "lung ct", "lung xray")
        ),
        "unknown: an estimate for 0.02 of new normal patients; 54 validation patients guarantee nothing",
    ]


def test_one_threshold_for_domains_that_nothing_tells_apart_is_promised_nothing():
    assert promises(40, heads=False) == [
        "all domains: one threshold, an estimate, since no heads tell them apart; 120 validation patients guarantee nothing",
        "unknown: at most 0.01 of new normal patients, of all domains together (120 validation patients)",
    ]


@pytest.mark.parametrize(("strangers", "unit"), [(1, "images"), (0.5, "patients and images"), (0, "patients")])
def test_what_the_promise_is_of_has_its_name(strangers, unit):
    lines = promises(30, heads=False, single=True, strangers=strangers)
    assert lines[0] == f"lung xray: at most 0.05 of new normal {unit} are called anomalous (30 validation {unit})"
    assert lines[1] == f"unknown: an estimate for 0.01 of new normal {unit}; 30 validation {unit} guarantee nothing"
