import csv
import dataclasses
from statistics import mean, stdev

import numpy as np
import pytest

from anomaly_detection.data.catalog import OVER_DATASETS
from anomaly_detection.evaluation.localisation import PIXEL_METRICS
from anomaly_detection.evaluation.metrics import METRICS, image_metrics
from anomaly_detection.evaluation.twins import twin_metrics
from anomaly_detection.study.render import to_markdown, write_csv
from anomaly_detection.study.results import POOLED, Result, cells, with_joint_intervals
from anomaly_detection.study.tables import UNKNOWN_SLICES, numbers_table, short_table, study_document
from anomaly_detection.system.lines import Lines

DATASETS = ("liver", "lung")


def table_markdown(results, datasets, heading, provenance) -> str:
    return to_markdown(study_document(results, datasets, heading, provenance))


def written_csv(folder, results, datasets, heading="study") -> list[dict[str, str]]:
    write_csv(numbers_table(results, datasets, heading), folder / "table.csv")
    with open(folder / "table.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result(regime: str, seed: int, **aurocs: float) -> Result:
    def metrics(value: float) -> dict:
        return dict.fromkeys(METRICS, value)

    return Result(
        "dpa", regime, tuple(aurocs), seed, {"datasets": {n: metrics(v) for n, v in aurocs.items()}, "pooled": metrics(0.5), "validation": {}}
    )


RESULTS = [
    result("separate", 0, liver=0.6),
    result("separate", 0, lung=0.8),
    result("separate", 1, liver=0.7),
    result("maddr", 0, liver=0.9, lung=0.7),
    result("maddr", 1, liver=0.8, lung=0.6),
]


def test_a_row_gathers_networks_and_seeds():
    row = cells(RESULTS, "dpa", "separate", DATASETS, "auroc")
    assert row["liver"].values == (0.6, 0.7)
    assert row["lung"].values == (0.8,)
    assert row["mean"].values == (mean([0.6, 0.8]),), "only the seed that has every dataset"
    assert row["pooled"].values == (), "two networks share no scale"
    row = cells(RESULTS, "dpa", "maddr", DATASETS, "auroc")
    assert str(row["liver"]) == f"0.850 ± {stdev([0.9, 0.8]):.3f}"
    assert row["pooled"].values == (0.5, 0.5)
    fewer = result("maddr", 2, liver=0.8, lung=0.6)
    fewer.metrics["pooled"]["auroc"] = 0.9
    row = cells([fewer, result("maddr", 0, liver=0.8, lung=0.6, knee=0.7)], "dpa", "maddr", (*DATASETS, "knee"), "auroc")
    assert row["pooled"].values == (0.5,), "only the network of every dataset"


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ({"separate": [(0, "liver"), (0, "lung"), (1, "liver")], "maddr": [0, 1]}, "seeds: dpa separate 1–2, dpa maddr 2."),
        ({"united": [0, 1, 2], "maddr": [0, 2]}, "seeds: dpa united 3, dpa maddr 2."),
        ({"united": [0, 1], "maddr": []}, None),
        ({"united": [0, 1], "maddr": [0, 1]}, None),
        ({"separate": [(0, "liver")], "maddr": [0]}, None),  # of one seed a dash says what is missing
    ],
)
def test_rows_over_fewer_seeds_than_others_are_told(seeds, words):
    """While a study runs, and where an experiment failed, means of different networks are over different seeds."""
    results = []
    for regime, each in seeds.items():
        for seed in each:
            one = isinstance(seed, tuple)  # of one dataset
            results.append(result(regime, seed[0], **{seed[1]: 0.6}) if one else result(regime, seed, liver=0.6, lung=0.7))
    note = study_document(results, DATASETS, "study", []).note
    assert note.endswith(words) if words else "numbers of seeds" not in note


def test_what_is_missing_is_a_dash():
    text = table_markdown([result("separate", 0, liver=0.6)], DATASETS, "study", ["made of nothing"])
    assert "| dpa | separate | 0.600 | – | – | – |" in text
    assert "- made of nothing" in text


def test_the_component_table_marks_what_is_on():
    results = [result("united", 0, liver=0.6, lung=0.6), result("maddr_center", 0, liver=0.7, lung=0.7), result("maddr", 0, liver=0.8, lung=0.8)]
    lines = table_markdown(results, DATASETS, "study", []).splitlines()
    assert "| dpa |  |  |  | 0.600 | 0.600 | 0.600 | 0.500 |" in lines
    assert "| dpa |  |  | x | 0.700 | 0.700 | 0.700 | 0.500 |" in lines
    assert "| dpa | x | x | x | 0.800 | 0.800 | 0.800 | 0.500 |" in lines
    assert "| dpa | x |  |  | – | – | – | – |" in lines
    assert not [line for line in lines if line.startswith("| dpa | maddr_center")], "ablations stand in their own table"


def test_the_heads_of_networks_that_have_them():
    results = [result("maddr", seed, liver=0.6, lung=0.6) for seed in (0, 1)]
    for each, accuracy in zip(results, (1.0, 0.9), strict=True):
        each.metrics["validation"].update(val_organ_accuracy=accuracy, val_modality_accuracy=1.0)
    text = table_markdown([*results, result("united", 0, liver=0.6, lung=0.6)], DATASETS, "study", [])
    assert "| dpa | maddr | 0.950 | 1.000 | – | – | – |" in text
    results[0].metrics["datasets"]["liver"].update(named_rightly=0.99, unknown_normal=0.5, unknown_abnormal=0.25)
    assert "| dpa | maddr | 0.950 | 1.000 | 0.990 | 0.500 | 0.250 |" in table_markdown(results, DATASETS, "study", [])
    assert "Domains named rightly" not in table_markdown([result("united", 0, liver=0.6)], DATASETS, "study", [])


def test_the_csv_has_a_line_per_number_and_says_what_data_it_is_from(tmp_path):
    rows = {(row["regime"], row["dataset"], row["metric"]): row for row in written_csv(tmp_path, RESULTS, DATASETS, "phantom")}
    row = rows["maddr", "liver", "auroc"]
    assert (row["data"], float(row["mean"]), float(row["sd"]), row["seeds"]) == ("phantom", mean([0.9, 0.8]), stdev([0.9, 0.8]), "2")
    assert rows["separate", "lung", "oracle_f1"]["sd"] == ""
    assert ("separate", "pooled", "auroc") not in rows


def test_intervals_stand_beside_the_numbers(tmp_path):
    only = result("maddr", 0, liver=0.6)
    only.metrics["datasets"]["liver"] |= {"intervals": {"auroc": [0.5, 0.7]}, "unit": "patients"}
    results = with_joint_intervals([only])
    text = table_markdown(results, ["liver"], "study", [])
    assert "| dpa | maddr | 0.600 [0.500, 0.700] | 0.600 | – |" in text
    assert "95 % bootstrap interval over the patients (liver) of the test part." in text
    row = next(row for row in written_csv(tmp_path, results, ["liver"]) if (row["dataset"], row["metric"]) == ("liver", "auroc"))
    assert [float(row[key]) for key in ("low", "high")] == [0.5, 0.7]


def with_rows(regime, seed, shift, noise=0):
    """A result with the rows of its scores, of patients with ten slices each."""
    rng = np.random.default_rng(noise)
    rows = [
        {"image": f"{i}.png", "dataset": name, "patient": f"P{i // 10}", "part": "test", "label": i // 10 % 2}
        | {"score": float(i % 7 + shift * (i // 10 % 2) + noise * rng.normal())}
        for name in DATASETS
        for i in range(120)
    ]
    rows = [row | {"plain_score": row["score"], "label_anomalous": int(row["score"] > 5)} for row in rows]
    metrics = result(regime, seed, liver=0.6, lung=0.6).metrics
    for name in DATASETS:
        labels, scores, called = np.array([(row["label"], row["score"], row["label_anomalous"]) for row in rows if row["dataset"] == name]).T
        told = {"threshold": 5.0, "intervals": {"auroc": [0.0, 0.0]}, "unit": "patients"}
        metrics["datasets"][name] = image_metrics(labels, scores, called.astype(bool)) | told
    metrics["pooled"]["threshold"] = 5.0
    return dataclasses.replace(result(regime, seed, liver=0.6, lung=0.6), rows=Lines.of(rows), metrics=metrics)


def test_several_seeds_have_one_interval_over_patients_and_seeds():
    group = [with_rows("maddr", seed, 2 + seed, noise=1) for seed in range(3)]
    joint = with_joint_intervals(group)
    intervals = [each.metrics["datasets"]["liver"]["intervals"]["auroc"] for each in joint]
    assert intervals[0] == intervals[1] == intervals[2]
    values = [each.metrics["datasets"]["liver"]["auroc"] for each in group]
    assert 0 < intervals[0][0] < mean(values) < intervals[0][1] < 1
    assert joint[0].metrics["pooled"]["intervals"]["auroc"][0] > 0
    assert "of the test part and over seeds." in table_markdown(joint, DATASETS, "study", [])
    without = with_joint_intervals([dataclasses.replace(each, rows=Lines.of(())) for each in group])
    assert without[0].metrics["datasets"]["liver"]["intervals"] == {}, "those of single seeds would be too narrow"


def test_each_seed_is_called_by_its_own_threshold():
    """One network calls nothing abnormal, the other everything: whichever is drawn, so its sensitivity is."""
    group = [with_rows("maddr", seed, 2, noise=1) for seed in range(2)]
    for sensitivity, each in enumerate(group):
        each.metrics["pooled"].update(threshold=100.0 - 200 * sensitivity, sensitivity=float(sensitivity))
    low, high = with_joint_intervals(group)[0].metrics["pooled"]["intervals"]["sensitivity"]
    assert low < 0.1
    assert high > 0.9


def test_joint_intervals_call_by_the_score_whatever_is_called_in_the_true_domain():
    group = [with_rows("maddr", seed, 2, noise=1) for seed in range(2)]
    turned = [dataclasses.replace(each, rows=Lines.of({**row, "label_anomalous": 1 - row["label_anomalous"]} for row in each.rows)) for each in group]
    one, other = (with_joint_intervals(each)[0].metrics["datasets"] for each in (group, turned))
    assert one == other


def test_what_was_promised_stands_beside_what_is_observed():
    only, other = result("maddr", 0, liver=0.6), result("maddr", 1, liver=0.6)
    for each, observed in ((only, 0.04), (other, 0.08)):
        alarms = {"promised": 0.05, "observed": observed, "interval": [0.01, 0.2], "guaranteed": True, "units": 30, "unit": "patients"}
        alarms["datasets"] = ["liver"]
        each.metrics["datasets"]["liver"] |= {"false_alarms": alarms, "unknown": alarms | {"promised": 0.02, "guaranteed": False, "units": 50}}
    text = table_markdown([only], ["liver"], "study", [])
    assert "| dpa | maddr | liver | false alarms | 0.05 | yes | 30 patients | 0.040 [0.010, 0.200] |" in text
    assert "| dpa | maddr | liver | unknown | 0.02 | no | 50 patients | 0.040 [0.010, 0.200] |" in text
    both = table_markdown([only, other], ["liver"], "study", [])
    assert f"| dpa | maddr | liver | false alarms | 0.05 | yes | 30 patients | 0.060 ± {stdev([0.04, 0.08]):.3f} |" in both
    for each in (only, other):
        each.metrics["datasets"]["liver"]["intervals"] = {"specificity": [0.75, 0.99]}  # as `with_joint_intervals` leaves it
    assert f"| 30 patients | 0.060 ± {stdev([0.04, 0.08]):.3f} [0.010, 0.250] |" in table_markdown([only, other], ["liver"], "study", [])


@pytest.mark.parametrize(
    ("guaranteed", "datasets", "word"),
    [(True, ["liver"], "yes"), (True, ["liver", "lung"], "of liver + lung together"), (False, ["liver", "lung"], "no"), (False, ["liver"], "no")],
)
def test_a_promise_on_several_datasets_is_none_on_each(guaranteed, datasets, word):
    only = result("maddr", 0, liver=0.6)
    told = {"promised": 0.05, "observed": 0.04, "interval": [0.01, 0.2], "guaranteed": guaranteed, "units": 60, "unit": "patients"}
    told["datasets"] = datasets
    only.metrics["datasets"]["liver"] |= {"false_alarms": told, "unknown": told}
    text = table_markdown([only], ["liver"], "study", [])
    second = result("maddr", 1, liver=0.6)
    second.metrics["datasets"]["liver"] |= dict.fromkeys(("false_alarms", "unknown"), told | {"guaranteed": False})
    both = study_document([only, second], ["liver"], "study", []).tables
    assert [row[5] for table in both if table.title.startswith("False alarms") for row in table.rows] == ["no", "no"], "by all seeds or by none"
    for kind in ("false alarms", "unknown"):
        assert f"| dpa | maddr | liver | {kind} | 0.05 | {word} | 60 patients | 0.040 [0.010, 0.200] |" in text


def test_nothing_is_promised_of_a_threshold_that_predict_does_not_have():
    """A network of two domains that names none has one for both."""
    told = {"promised": 0.05, "observed": 0.04, "interval": [0.01, 0.2], "guaranteed": True, "units": 60, "unit": "patients", "datasets": ["liver"]}
    for named, word in ((False, "no"), (True, "yes")):
        rows = Lines.of({"dataset": name, "part": "val", "label": 0, "organ": name, "modality": "ct"} for name in DATASETS)
        only = dataclasses.replace(result("united", 0, liver=0.6, lung=0.7), rows=rows)
        for values in only.metrics["datasets"].values():
            values |= {"false_alarms": told, "unknown": told} | ({"named_rightly": 1.0} if named else {})
        (table,) = (each for each in study_document([only], DATASETS, "study", []).tables if each.title.startswith("False alarms"))
        assert [row[5] for row in table.rows] == [word, "yes"] * 2


def test_patients_stand_beside_images():
    only, *others = [result("maddr", seed, liver=0.6, lung=0.7) for seed in range(3)]
    for each, normal in zip((only, *others), (12, 12, 11), strict=True):
        counts = {"normal": normal, "abnormal": 9, "left_out": 12 - normal, "unknown_slices": 8 * (12 - normal), "slices": 210}
        each.metrics["datasets"]["lung"]["patients"] = {"auroc": 0.8, "intervals": {"auroc": [0.6, 0.9]}, "auroc_all_slices": 0.85, **counts}
    told = table_markdown([only], DATASETS, "study", [])
    assert "| dpa | maddr | lung | 0.800 [0.600, 0.900] | 12 + 9 | 0 | 0 of 210 (0.0 %) | 0.850 |" in told
    assert UNKNOWN_SLICES not in told
    assert "Patients" not in table_markdown([result("maddr", 0, liver=0.6)], ["liver"], "study", [])
    told = table_markdown([only, *others], DATASETS, "study", [])
    assert "| dpa | maddr | lung | 0.800 ± 0.000 | 11–12 + 9 | 0–1 | 0–8 of 210 (0.0–3.8 %) | 0.850 ± 0.000 |" in told
    assert UNKNOWN_SLICES in told
    del others[1].metrics["datasets"]["lung"]["patients"]["auroc"]
    told = table_markdown([only, *others], DATASETS, "study", [])
    assert "| dpa | maddr | lung | – | 11–12 + 9 |" in told, "no mean of other seeds than the last column's"
    others[1].metrics["datasets"]["lung"]["patients"]["auroc"] = 0.8
    for each in others:  # as an older version measured
        del each.metrics["datasets"]["lung"]["patients"]["slices"], each.metrics["datasets"]["lung"]["patients"]["auroc_all_slices"]
    told = table_markdown(others, DATASETS, "study", [])
    assert "| dpa | maddr | lung | 0.800 ± 0.000 | 11–12 + 9 | 0–1 | 0–8 | – |" in told
    assert "| 0–1 | 0–8 | – |" in table_markdown([only, *others], DATASETS, "study", []), "one seed of three has been measured anew"


def test_where_no_slice_of_the_ill_is_known_the_table_says_so(tmp_path):
    only = result("maddr", 0, lung=0.7)
    counts = {"normal": 12, "abnormal": 0, "left_out": 9, "unknown_slices": 90, "slices": 210}
    only.metrics["datasets"]["lung"]["patients"] = {"intervals": {}, "auroc_all_slices": 0.85, **counts}
    assert "| dpa | maddr | lung | – | 12 + 0 | 9 | 90 of 210 (42.9 %) | 0.850 |" in table_markdown([only], ["lung"], "study", [])
    assert not [row for row in written_csv(tmp_path, [only], ["lung"]) if row["metric"] == "patient_auroc"]


def test_patients_stand_in_the_table_for_programs(tmp_path):
    results = [result("maddr", seed, liver=0.6, lung=0.7) for seed in (0, 1)]
    for each, value in zip(results, (0.8, 0.9), strict=True):
        each.metrics["datasets"]["lung"]["patients"] = {"auroc": value, "normal": 12, "abnormal": 9, "intervals": {"auroc": [0.6, 0.95]}}
    (row,) = [row for row in written_csv(tmp_path, results, DATASETS) if row["metric"] == "patient_auroc"]
    assert (row["dataset"], row["seeds"], row["low"]) == ("lung", "2", "")
    assert [float(row["mean"]), float(row["sd"])] == pytest.approx([0.85, stdev([0.8, 0.9])])
    (row,) = [row for row in written_csv(tmp_path, results[:1], DATASETS) if row["metric"] == "patient_auroc"]
    assert (float(row["mean"]), row["sd"], float(row["low"]), float(row["high"])) == (0.8, "", 0.6, 0.95)


def test_who_tells_the_domain_of_a_test_image():
    only = result("maddr", 0, liver=0.6, lung=0.8)
    only.metrics.update(pooled_calibrated=dict.fromkeys(METRICS, 0.7), pooled_label_calibrated=dict.fromkeys(METRICS, 0.8))
    for name, values in (("liver", (0.5, 0.6, 0.7)), ("lung", (0.7, 0.8, 0.9))):
        only.metrics["datasets"][name].update(zip(("auroc_unused", "auroc_named", "auroc_known"), values, strict=True))
    lines = table_markdown([only, result("separate", 0, liver=0.6)], DATASETS, "study", []).splitlines()
    assert "| model | regime | measure | not used | named by heads | known |" in lines
    assert "| dpa | maddr | auroc, mean of datasets | 0.600 | 0.700 | 0.800 |" in lines
    for measure in ("auroc", "sensitivity", "specificity"):
        assert f"| dpa | maddr | {measure}, all together | 0.500 | 0.700 | 0.800 |" in lines
    assert not [line for line in lines if line.startswith("| dpa | separate |") and "all together" in line]


def test_where_nothing_names_domains_the_column_is_empty():
    only = result("united", 0, liver=0.6, lung=0.8)
    only.metrics.update(pooled_label_calibrated=dict.fromkeys(METRICS, 0.8))
    assert "| dpa | united | auroc, all together | 0.500 | – | 0.800 |" in table_markdown([only], DATASETS, "study", [])


def test_pixels_where_there_are_masks(tmp_path):
    only = result("maddr", 0, liver=0.6, lung=0.6)
    only.metrics["datasets"]["lung"].update(dict.fromkeys(PIXEL_METRICS, 0.3))
    text = table_markdown([only], DATASETS, "study", [])
    assert "| dpa | maddr | lung | 0.300 | 0.300 | 0.300 | 0.300 |" in text
    assert "| dpa | maddr | liver | –" not in text
    assert [row["dataset"] for row in written_csv(tmp_path, [only], DATASETS) if row["metric"] == "aupro"] == ["lung"]


def test_strata_and_twins_where_there_are_any(tmp_path):
    results = [result("united", seed, liver=0.6, lung=0.6) for seed in (0, 1)]
    for each, rate in zip(results, (0.9, 0.7), strict=True):
        each.metrics["datasets"]["lung"].update(obvious_auroc=0.75, obvious_twin_rate=rate, twin_rate=0.5, rise_on_lesion=0.25, lesion_share=0.05)
    lines = table_markdown(results, DATASETS, "study", []).splitlines()
    assert f"| dpa | united | obvious twin rate | – | 0.800 ± {stdev([0.9, 0.7]):.3f} | – |" in lines
    assert "| dpa | united | rise on lesion | – | 0.250 ± 0.000 | – |" in lines
    assert not [line for line in lines if "typical" in line], "no image is of this stratum"
    rows = {row["metric"]: row for row in written_csv(tmp_path, results, DATASETS) if row["dataset"] == "lung"}
    assert float(rows["obvious_twin_rate"]["mean"]) == pytest.approx(0.8)
    assert "By stratum" not in table_markdown([result("united", 0, liver=0.6)], DATASETS, "study", [])


def with_pairs(seed, raised, stratum=lambda i: "obvious" if i < 12 else "subtle"):
    """A result with pairs of 24 abnormal patients of the lung, of which those in `raised` score higher than their twins, and 12 normal images."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=36) + np.repeat([0, 1], [12, 24])
    rows = [
        {"image": f"{i}.png", "dataset": "lung", "patient": f"P{i}", "part": "test", "label": int(i >= 12), "score": scores[i]}
        | {"label_anomalous": int(scores[i] > 1)}
        for i in range(36)
    ]
    pairs = [
        {"dataset": "lung", "image": f"{12 + i}.png", "stratum": stratum(i), "score": scores[12 + i]}
        | {"twin_score": scores[12 + i] - (1 if i in raised else -1), "rise_on_lesion": None, "lesion_share": 0.1}
        for i in range(24)
    ]
    labels, called = np.repeat([0, 1], [12, 24]), scores > 1
    told = twin_metrics(pairs, Lines.of(rows))
    values = image_metrics(labels, scores, called) | told | {"unit": "patients", "threshold": 1.0}
    return Result("dpa", "united", ("lung",), seed, {"datasets": {"lung": values}, "validation": {}}, Lines.of(rows), pairs)


def test_rates_and_aurocs_of_strata_have_one_interval_over_patients_and_seeds(tmp_path):
    """Held against a loop that draws seeds and patients itself."""
    group = [with_pairs(seed, set(range(18 - 4 * seed))) for seed in range(3)]
    alone = with_joint_intervals(group[:1])[0].metrics["datasets"]["lung"]["intervals"]
    assert alone == group[0].metrics["datasets"]["lung"]["intervals"]
    joint = [each.metrics["datasets"]["lung"]["intervals"] for each in with_joint_intervals(group)]
    assert joint[0] == joint[1] == joint[2]
    assert set(alone) <= set(joint[0])
    rng = np.random.default_rng(0)
    for name, members in (("twin_rate", range(24)), ("obvious_twin_rate", range(12)), ("subtle_twin_rate", range(12, 24))):
        flags = [[pair["score"] > pair["twin_score"] for pair in each.pairs] for each in group]
        drawn = []
        for _ in range(4000):
            patients, seeds = rng.choice(members, len(members) - 1), rng.choice(3, 2)  # n - 1 of n
            drawn.append(np.mean([flags[seed][patient] for seed in seeds for patient in patients]))
        center, (low, high) = np.mean([np.mean([each[i] for i in members]) for each in flags]), joint[0][name]
        assert low < center < high
        if 0.1 < center < 0.9:  # on the logit scale, by the delta method
            logits = [np.log(x / (1 - x)) for x in (low, center, high)]
            error = np.std(drawn) / (center * (1 - center))
            assert logits[2] - logits[1] == pytest.approx(logits[1] - logits[0])
            assert 1.9 < (logits[1] - logits[0]) / error < 4.5, "t of between 2 and 23 degrees of freedom"
    widths = [np.ptp(each) for each in (joint[0]["twin_rate"], alone["twin_rate"])]
    assert widths[0] > widths[1], "the seeds disagree"
    rows = {row["metric"]: row for row in written_csv(tmp_path, with_joint_intervals(group), ["lung"]) if row["dataset"] == "lung"}
    for name in ("obvious_auroc", "subtle_twin_rate", "twin_rate"):
        assert [float(rows[name][key]) for key in ("low", "high")] == pytest.approx(joint[0][name])
        assert float(rows[name]["low"]) < float(rows[name]["mean"]) < float(rows[name]["high"])


def test_the_order_of_lines_is_nothing_to_joint_intervals():
    group = [with_pairs(seed, set(range(10 + seed))) for seed in range(2)]
    turned = dataclasses.replace(group[1], rows=group[1].rows[::-1], pairs=group[1].pairs[::-1])
    one, other = (with_joint_intervals([group[0], each])[0].metrics["datasets"]["lung"]["intervals"] for each in (group[1], turned))
    for name, interval in one.items():
        assert other[name] == pytest.approx(interval)


@pytest.mark.parametrize(
    "other",
    [
        lambda result: dataclasses.replace(result, pairs=()),
        lambda result: dataclasses.replace(result, pairs=result.pairs[:-1]),
        lambda result: with_pairs(1, {0, 1}, stratum=lambda i: "typical"),
    ],
)
def test_seeds_that_saw_other_pairs_have_no_joint_interval_of_twins(other):
    group = [with_pairs(0, {0, 1, 2}), other(with_pairs(1, {0, 1}))]
    intervals = with_joint_intervals(group)[0].metrics["datasets"]["lung"]["intervals"]
    assert "auroc" in intervals
    assert not [name for name in intervals if "twin" in name or "obvious" in name]


def test_terms_of_the_constraint_stand_beside_each_other_by_stratum():
    results = [result(regime, 0, liver=0.6, lung=0.6) for regime in ("united", "maddr_center", "maddr")]
    for each in results:
        each.metrics["datasets"]["liver"].update(twin_rate=0.75)
        each.metrics["datasets"]["lung"].update(twin_rate=0.25)
    lines = table_markdown(results, DATASETS, "study", []).splitlines()
    for regime in ("united", "maddr_center", "maddr"):
        assert f"| dpa | {regime} | twin rate | 0.750 | 0.250 | 0.500 |" in lines


def test_differences_need_both_on_the_same_seed():
    lines = table_markdown([with_rows("united", 0, 0), with_rows("maddr", 0, 6), with_rows("maddr", 1, 6)], DATASETS, "study", []).splitlines()
    (line,) = (line for line in lines if "maddr - " in line)
    assert line.startswith("| dpa | maddr - united | 1 | +0.")
    several = [with_rows(regime, seed, shift) for regime, shifts in (("united", (0, 1)), ("maddr", (6, 1))) for seed, shift in enumerate(shifts)]
    (both,) = (line for line in table_markdown(several, DATASETS, "study", []).splitlines() if "maddr - " in line)
    assert both.startswith("| dpa | maddr - united | 2 | +0.")
    half = float(line.split("| +")[1].split()[0]) / 2  # the second seed has the same scores in both
    assert float(both.split("| +")[1].split()[0]) == pytest.approx(half, abs=0.001)
    others = table_markdown([with_rows("united", 0, 0), with_rows("maddr", 1, 6)], DATASETS, "", [])
    assert not [line for line in others.splitlines() if "maddr - " in line]


def without_abnormal(each: Result, name: str) -> Result:
    """The same of a dataset that has no abnormal test images."""
    values = {"specificity": each.metrics["datasets"][name]["specificity"], "normal": 9, "abnormal": 0}
    return dataclasses.replace(each, metrics={**each.metrics, "datasets": {**each.metrics["datasets"], name: values}})


def test_a_dataset_without_abnormal_images_has_no_part_in_means_of_what_needs_them(tmp_path):
    results = [without_abnormal(result("maddr", seed, liver=0.9, lung=0.7), "lung") for seed in (0, 1)]
    row = cells(results, "dpa", "maddr", DATASETS, "auroc")
    assert (row["lung"].values, row["mean"].values) == ((), (0.9, 0.9))
    assert cells(results, "dpa", "maddr", DATASETS, "specificity")["mean"].values == pytest.approx((0.8, 0.8))
    assert cells([results[0], result("maddr", 1, lung=0.7)], "dpa", "maddr", DATASETS, "auroc")["mean"].values == (), "that one lacks an experiment"
    document = study_document(results, DATASETS, "study", [])
    assert "lung: no abnormal test images: false alarms can be measured, sensitivity and AUROC cannot." in document.note
    assert "`mean` of what these lack, and `pooled`, are over liver." in document.note
    assert "numbers of seeds" not in document.note
    (auroc,) = (table for table in document.tables if table.title == "auroc")
    assert list(map(str, auroc.rows[0])) == ["dpa", "maddr", "0.900 ± 0.000", "–", "0.900 ± 0.000", "0.500 ± 0.000"]
    lines = written_csv(tmp_path, results, DATASETS)
    assert {line["metric"] for line in lines if line["dataset"] == "lung"} == {"specificity"}
    assert "nan" not in (tmp_path / "table.csv").read_text()


def test_where_nothing_abnormal_is_tested_the_short_table_is_of_false_alarms():
    each = without_abnormal(without_abnormal(result("united", 0, liver=0.9, lung=0.6), "lung"), "liver")
    table = short_table([dataclasses.replace(each, metrics={**each.metrics, "pooled": {"specificity": 0.5}})], DATASETS)
    assert table.title.startswith("False alarms")
    assert list(map(str, table.rows[0])) == ["dpa", "united", "0.100", "0.400", "0.250"]
    assert not [table for table in study_document([each], DATASETS, "study", []).tables if table.title == "auroc" and not table.rows]
    assert short_table(RESULTS, DATASETS).title.startswith("AUROC")


def test_an_ablation_alone_has_its_tables():
    document = study_document([result("maddr_organ", 0, liver=0.9, lung=0.7)], DATASETS, "study", [])
    (auroc,) = (table for table in document.tables if table.title == "auroc")
    assert list(map(str, auroc.rows[0])) == ["dpa", "maddr_organ", "0.900", "0.700", "0.800", "0.500"]
    both = study_document([result("maddr_organ", 0, liver=0.9, lung=0.7), result("maddr", 0, liver=0.8, lung=0.6)], DATASETS, "study", [])
    (auroc,) = (table for table in both.tables if table.title == "auroc")
    assert [row[1] for row in auroc.rows] == ["maddr"], "beside others it has its own table"


def test_no_dataset_has_the_name_of_a_column_over_all():
    assert {*cells([], "dpa", "united", [], "auroc"), *POOLED} == set(OVER_DATASETS)
