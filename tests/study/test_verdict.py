"""Verdicts, held against intervals and counts that the tests make themselves."""

from dataclasses import replace

import pytest

from anomaly_detection.study.regimes import MADDR, PROBE, SEPARATE, UNITED
from anomaly_detection.study.results import Result
from anomaly_detection.study.verdict import certainty, false_alarms, verdicts
from anomaly_detection.system.lines import Lines


def result(aurocs: dict[str, tuple], model: str = "memae", regime: str = UNITED.name, guaranteed: bool = True, patient: str | None = "P") -> Result:
    """Of each dataset (AUROC, low, high), or None without abnormal images; it flags 40 % of abnormal and 10 % of normal images."""
    metrics, rows = {}, []
    for name, values in aurocs.items():
        metrics[name] = {"specificity": 0.9, "false_alarms": {"promised": 0.05, "guaranteed": guaranteed}}
        metrics[name]["intervals"] = {"specificity": [0.8, 0.97]}
        if values:
            metrics[name] |= {"auroc": values[0], "sensitivity": 0.4}
            metrics[name]["intervals"] |= {"auroc": list(values[1:]), "sensitivity": [0.3, 0.5]}
        rows += [{"dataset": name, "image": f"{i}.png", "patient": patient and f"{patient}{i // 2}", "part": "test"} for i in range(8)]
    return Result(model, regime, tuple(aurocs), 0, {"datasets": metrics, "pooled": {}}, Lines.of(rows))


ABOVE, HOLDS, BELOW = (0.7, 0.51, 0.8), (0.6, 0.5, 0.7), (0.3, 0.2, 0.49)


@pytest.mark.parametrize(
    ("aurocs", "answer", "reason"),
    [
        ({"a": ABOVE}, "yes", "AUROC better than chance on a 0.70 [0.51–0.80]. Flagged 40 % [30–50] of abnormal, 10 % [3–20] of normal images."),
        ({"a": HOLDS}, "not shown", "AUROC unclear on a 0.60 [0.50–0.70]. Flagged"),
        ({"a": (0.6, 0.4, 0.8)}, "not shown", "AUROC unclear on a 0.60 [0.40–0.80]. Flagged"),
        ({"a": (0.4, 0.3, 0.5)}, "not shown", "AUROC unclear on a 0.40 [0.30–0.50]. Flagged"),
        ({"a": ABOVE, "b": ABOVE}, "yes, on all 2 datasets", "AUROC better than chance on a 0.70 [0.51–0.80], b 0.70 [0.51–0.80]. Flagged 40 %"),
        (
            {"a": ABOVE, "b": HOLDS, "c": BELOW},
            "on 1 of 3 datasets",
            "AUROC better than chance on a 0.70 [0.51–0.80]; worse than chance on c 0.30 [0.20–0.49]; unclear on b 0.60 [0.50–0.70]. ",
        ),
        ({"a": HOLDS, "b": BELOW}, "not shown (0 of 2 datasets)", "AUROC worse than chance on b"),
        ({"a": ABOVE, "b": None}, "yes", "AUROC better than chance on a 0.70 [0.51–0.80]. Flagged 40 % [30–50] of abnormal, 10 % of normal images."),
        ({"a": None}, "not measured", "No abnormal test images, so nothing says what it finds. Flagged 10 % [3–20] of normal images."),
    ],
)
def test_it_works_where_the_interval_lies_above_chance(aurocs, answer, reason):
    (verdict,) = verdicts([result(aurocs)], list(aurocs))
    assert verdict.answer == answer
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    ("aurocs", "answer", "extent"),
    [
        ({"a": ABOVE, "b": ABOVE}, "on 2 of 3 datasets", "some"),
        ({"a": ABOVE}, "on 1 of 3 datasets", "some"),
        ({"a": HOLDS, "b": ABOVE}, "on 1 of 3 datasets", "some"),
        ({"a": HOLDS, "b": BELOW}, "not shown (0 of 3 datasets)", "none"),
        ({"a": ABOVE, "b": None}, "on 1 of 2 datasets", "some"),
        ({"a": None, "b": None}, "not measured", "none"),
    ],
)
def test_datasets_whose_networks_are_missing_count_and_are_named(aurocs, answer, extent):
    """As where one failed; a dataset without abnormal images is not missing, but tells nothing."""
    networks = [result({name: values}, regime=SEPARATE.name) for name, values in aurocs.items()]
    (verdict,) = verdicts(networks, ["a", "b", "c"])
    assert (verdict.answer, verdict.extent) == (answer, extent)
    missing = ", ".join(name for name in "abc" if name not in aurocs)
    assert verdict.reason.endswith(f". No network was scored on {missing}.")
    assert "No network was scored" not in verdicts(networks, list(aurocs))[0].reason


def test_many_missing_networks_are_counted():
    (verdict,) = verdicts([result({"a": ABOVE})], list("abcdef"))
    assert verdict.answer == "on 1 of 6 datasets"
    assert verdict.reason.endswith(" No network was scored on 5 of the datasets.")


def test_many_datasets_are_counted():
    aurocs = {f"d{number}": (0.6 + number / 100, 0.55, 0.9) for number in range(9)}
    (verdict,) = verdicts([result(aurocs)], list(aurocs))
    assert verdict.answer == "yes, on all 9 datasets"
    assert "better than chance on 9 datasets (0.60 on d0 to 0.68 on d8)" in verdict.reason


def test_each_detector_is_told_of_in_one_regime():
    networks = (("x", SEPARATE), ("x", MADDR), ("y", PROBE), ("y", UNITED), ("z", PROBE))
    results = [result({"a": ABOVE}, model, regime.name) for model, regime in networks]
    assert [(each.model, each.regime) for each in verdicts(results, ["a"])] == [("x", MADDR.name), ("y", UNITED.name), ("z", PROBE.name)]


def test_false_alarms_are_what_specificity_leaves():
    (cell,) = false_alarms([result({"a": ABOVE})], "memae", UNITED.name, ["a"]).values()
    assert cell.values == pytest.approx((0.1,))
    assert cell.interval == pytest.approx([0.03, 0.2])


def test_how_sure_counts_patients_and_says_what_is_an_estimate():
    first, last = certainty([result({"a": ABOVE})], ["a"])
    assert first == "[low–high] are 95 % intervals over 4 patients of the test part; each network was trained once, and another training may differ."
    assert last == "Thresholds were set on validation normals, for at most 5 % of normal images called abnormal."
    mixed = [result({"a": ABOVE}), result({"b": ABOVE}, guaranteed=False, patient=None)]
    first, last = certainty(mixed, ["a", "b"])
    assert "over 4 patients and 8 images of" in first
    assert last.endswith("; on b that is an estimate, for want of validation normals.")


def test_seeds_are_counted_for_each_network():
    results = [replace(result({"a": ABOVE}, model), seed=seed) for model, seeds in (("x", (0, 1, 2)), ("y", (5,))) for seed in seeds]
    assert "each network was trained with 1–3 seeds." in certainty(results, ["a"])[0]
    assert "each network was trained with 3 seeds." in certainty(results[:3], ["a"])[0]
    assert "each network was trained once, " in certainty([results[0], results[3]], ["a"])[0]


def test_many_intervals_exclude_chance_by_chance():
    results = [result({"a": HOLDS, "b": HOLDS}, f"m{number}") for number in range(4)]
    assert any("Of forty such intervals about one" in line for line in certainty(results, ["a", "b"]))
    assert not any("Of forty" in line for line in certainty(results[:3], ["a", "b"]))


def twins(aurocs: dict[str, tuple], rates: dict[str, tuple], kinds: tuple[str, ...] = ("obvious_twin_rate", "twin_rate")) -> Result:
    """As `result`, and of some datasets (twin rate, low, high) of obvious lesions; of all lesions it is 0.2 less."""
    told = result(aurocs)
    for name, (rate, low, high) in rates.items():
        values = told.metrics["datasets"][name]
        for kind in kinds:
            less = 0.2 * (kind == "twin_rate")
            values[kind], values["intervals"][kind] = rate - less, [low - less, high - less]
    return told


@pytest.mark.parametrize(
    ("aurocs", "rates", "answer", "extent", "shares"),
    [
        ({"a": HOLDS, "b": BELOW}, {"a": (0.9, 0.8, 1.0), "b": (1.0, 0.9, 1.0)}, "not shown (0 of 2 datasets)", "some", ("90–100 %", "70–80 %")),
        ({"a": ABOVE, "b": ABOVE}, {"a": (0.9, 0.8, 1.0)}, "yes, on all 2 datasets", "all", ("90 % [80–100]", "70 % [60–80]")),
        ({"a": HOLDS, "b": HOLDS}, {"a": (0.6, 0.5, 0.7), "b": (0.4, 0.3, 0.49)}, "not shown (0 of 2 datasets)", "none", ("40–60 %", "20–40 %")),
    ],
)
def test_of_images_with_healthy_twins_the_share_of_lesions_that_raise_the_score_is_told(aurocs, rates, answer, extent, shares):
    """Where bodies differ more than a lesion does AUROC alone would say that nothing is seen."""
    (verdict,) = verdicts([twins(aurocs, rates)], list(aurocs))
    above = sum(low > 0.5 for _, low, _ in rates.values())
    assert verdict.answer == f"{answer}; obvious lesions raise the score more often than by chance on {above} of {len(rates)}"
    assert verdict.extent == extent
    raised = f"Of obvious lesions {shares[0]} raise the score above that of the same body without them (by chance 50 %)"
    assert f"{raised}; of all lesions {shares[1]}. " in verdict.reason


def test_lesions_of_unknown_strata_are_told_together():
    (verdict,) = verdicts([twins({"a": HOLDS}, {"a": (0.9, 0.8, 1.0)}, ("twin_rate",))], ["a"])
    assert verdict.answer == "not shown; all lesions raise the score more often than by chance on 1 of 1"
    assert ". Of all lesions 70 % [60–80] raise the score above that of the same body without them (by chance 50 %). Flagged" in verdict.reason
    assert "obvious" not in verdict.reason
