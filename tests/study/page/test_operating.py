"""What the slider moves: no call is changed by the form in which distances are kept."""

import json

import numpy as np
import pytest

from anomaly_detection.study.page import operating
from anomaly_detection.study.page.operating import distances, operating_points, packed, shifts, spread, unpacked
from tests.study.page.made import made_study


@pytest.mark.parametrize("unit", [1e-3, 0.37, 40.0])
def test_calls_at_whole_thousandths_are_those_of_the_scores(unit):
    rng = np.random.default_rng(0)
    threshold = 5.0
    scores = threshold + unit * np.concatenate([rng.normal(size=300), [0.0, 1e-9, -1e-9, 40.0, -40.0]])
    kept = distances(scores, threshold, unit)
    assert kept.dtype == np.int16
    for shift in (-3000, -512, -1, 0, 1, 700, 3000):
        for score, distance in zip(scores, kept, strict=True):
            if abs((score - threshold) / unit - shift / 1000) > 1e-9 or shift == 0:
                assert (distance > shift) == ((score - threshold) / unit > shift / 1000)


def test_values_survive_packing():
    values = np.array([0, -1, 32767, -32767], "<i2")
    assert unpacked(packed(values)).tolist() == values.tolist()


def test_spread_of_a_normal_distribution_is_its_deviation():
    assert spread(np.random.default_rng(0).normal(3, 2.5, 100_000)) == pytest.approx(2.5, rel=0.02)
    assert spread(np.array([1.0, 1.0, 1.0, 5.0])) == np.std([1, 1, 1, 5])
    assert spread(np.array([7.0])) == 1.0


def test_the_slider_goes_from_all_to_none_by_even_steps():
    values = np.random.default_rng(1).standard_t(3, 5000) * 900
    kept = distances(values, 0.0, 1000.0)
    positions = shifts([{"distances": packed(kept[:2000])}, {"distances": packed(kept[2000:])}])
    assert 0 in positions
    assert positions == sorted(set(positions))
    called = [int((kept > position).sum()) for position in positions]
    assert (called[0], called[-1]) == (5000, 0)
    assert max(a - b for a, b in zip(called, called[1:], strict=False)) <= 0.03 * 5000


def test_images_are_listed_once_and_networks_as_far_as_they_fit(tmp_path, monkeypatch):
    content = made_study(tmp_path, ("memae", "ganomaly"), ("separate", "united"))
    results = [result for result, _ in content.first_seeds()]
    data = json.loads(json.dumps(operating_points(results)))
    assert [(each["model"], each["regime"], len(each["parts"])) for each in data["networks"]] == [
        ("memae", "separate", 2),
        ("memae", "united", 2),
        ("ganomaly", "separate", 2),
        ("ganomaly", "united", 2),
    ]
    assert [each["dataset"] for each in data["tests"]] == ["liver_ct", "lung_xray"]
    assert data["left_out"] == 0
    size = sum(len(part[key]) for part in data["networks"][0]["parts"] for key in ("distances", "normals"))
    monkeypatch.setattr(operating, "BUDGET", size * 5 // 2)
    fewer = operating_points(results)
    assert fewer["networks"] == data["networks"][:2], "the third would have one of its two datasets"
    assert fewer["left_out"] == 2


def test_normals_are_the_highest_of_each_patient(tmp_path):
    content = made_study(tmp_path)
    (network,) = operating_points(content.results)["networks"]
    for part, dataset in zip(network["parts"], content.datasets, strict=True):
        val = [row for row in content.results[0].rows if (row["dataset"], row["part"]) == (dataset, "val")]
        tops = {}
        for row in val:
            tops[row["patient"]] = max(tops.get(row["patient"], -np.inf), row["score"])
        told = unpacked(part["normals"]) / 1000 * part["spread"] + part["threshold"]
        assert sorted(told) == pytest.approx(sorted(tops.values()), abs=part["spread"] / 1000)
