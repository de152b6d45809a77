"""What a study says in words, held against counts that the tests make themselves."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_detection.study.regimes import MADDR, PROBE, SEPARATE, UNITED
from anomaly_detection.study.results import Result, compared
from anomaly_detection.study.summary import counted, deployed, summary
from anomaly_detection.study.verdict import certainty
from anomaly_detection.system.lines import Lines

DATASETS = ("lits", "covid_xray")
DOMAINS = {"lits": ("liver", "ct"), "covid_xray": ("lung", "xray"), "lits_2": ("liver", "ct")}


def result(model: str, regime: str, shift: float, seed: int = 0, datasets=DATASETS, guaranteed: bool = True, patients: bool = True) -> Result:
    """Of 40 patients of each dataset with one image each, half of them abnormal, whose scores the shift raises."""
    rows, metrics = [], {}
    for name in datasets:
        noise = np.random.default_rng([seed, list(DOMAINS).index(name)]).normal(size=40)
        for i in range(40):
            score = float(noise[i] + shift * (i % 2))
            facts = dict(zip(("organ", "modality"), DOMAINS[name], strict=True))
            rows.append(
                {"image": f"{i}.png", "dataset": name, "patient": f"{name} {i}" if patients else None, "part": "test", "label": i % 2} | facts
            )
            rows[-1] |= {"score": score, "label_anomalous": int(score > 1.5)}
        of = [row for row in rows if row["dataset"] == name]
        hits, alarms = (np.mean([row["label_anomalous"] for row in of if row["label"] == label]) for label in (1, 0))
        metrics[name] = {
            "auroc": roc_auc_score([row["label"] for row in of], [row["score"] for row in of]),
            "sensitivity": float(hits),
            "specificity": float(1 - alarms),
            "intervals": {"sensitivity": [0.25, 0.75], "specificity": [0.81, 0.98]},
            "false_alarms": {"promised": 0.05, "guaranteed": guaranteed},
        }
    return Result(model, regime, tuple(datasets), seed, {"datasets": metrics, "pooled": {}}, Lines.of(rows))


def test_what_was_found_stands_beside_the_false_alarms():
    each = result("gaussian", UNITED.name, 2.0)
    first, second, *_ = summary([each], DATASETS)
    assert first.startswith("Each detector was set to call at most 5 % of the normal images of each dataset abnormal. ")
    for name, spoken in (("lits", "liver CT (lits)"), ("covid_xray", "lung X-ray (covid_xray)")):
        called = {label: [row["score"] > 1.5 for row in each.rows if row["dataset"] == name and row["label"] == label] for label in (0, 1)}
        hits, alarms = (f"{100 * sum(called[label]) / 20:.0f} %" for label in (1, 0))
        assert f"{spoken} {hits} [25–75] of abnormal and {alarms} [2–19] of normal images" in second
    assert second.startswith("gaussian (one network without MADDR) called abnormal: ")


@pytest.mark.parametrize(
    ("regimes", "way"),
    [
        ([SEPARATE, UNITED, MADDR], "one network with MADDR"),
        ([SEPARATE, UNITED], "one network without MADDR"),
        ([SEPARATE], "one network for each dataset"),
    ],
)
def test_a_detector_is_told_in_the_way_that_the_study_is_about(regimes, way):
    results = [result("memae", regime.name, number) for number, regime in enumerate(regimes)]
    (line,) = (line for line in summary(results, DATASETS) if "called abnormal" in line)
    assert f"memae ({way})" in line
    hits = np.mean([row["score"] > 1.5 for row in results[-1].rows if row["label"] == 1 and row["dataset"] == "lits"])
    assert f"{100 * hits:.0f} % [25–75] of abnormal" in line


def test_a_threshold_that_is_an_estimate_is_said():
    for some in ((), ("lits",)):
        each = result("memae", UNITED.name, 1, guaranteed=False)
        for name in some:
            each.metrics["datasets"][name]["false_alarms"]["guaranteed"] = True
        assert "this is an estimate" in summary([each], DATASETS)[0]
    assert "estimate" not in summary([result("memae", UNITED.name, 1)], DATASETS)[0]


def test_what_somebody_would_have_to_tell_is_said_of_networks_that_name_no_domain():
    """By the words of the model card, in the closing sentences and in those of the report: `predict` has one threshold for all domains."""

    def united(seed: int, name: str = "memae", hits: float = 0.125, datasets=DATASETS, named: bool = False) -> Result:
        each = result(name, UNITED.name, 1, seed, datasets)
        each.metrics["pooled"] = {"sensitivity": hits, "specificity": 0.75}
        for values in each.metrics["datasets"].values() if named else ():
            values["named_rightly"] = 1.0
        return each

    results = [united(0), united(1, hits=0.375), united(0, "ganomaly"), result("memae", SEPARATE.name, 1, datasets=DATASETS[:1])]
    (line,) = (line for line in summary(results, DATASETS) if "nothing names the domain" in line.lower())
    shares = "memae (united): 25.0 % of abnormal and 25.0 % of normal test images; ganomaly (united): 12.5 % of abnormal"
    assert line.startswith("Nothing names the domain of an image, and the results above are as if somebody told it: `maddr predict` has one")
    assert shares in line
    assert certainty(results, DATASETS)[-1] == line
    narrow, whole = united(0, hits=1.0), united(1, datasets=(*DATASETS, "lits_2"))
    del narrow.metrics["pooled"]["sensitivity"], results[0].metrics["pooled"]["sensitivity"]
    assert "above which lie memae (united): 12.5 % of abnormal" in summary([narrow, whole], (*DATASETS, "lits_2"))[-1], "as in the column pooled"
    narrow.metrics["pooled"]["specificity"] = 0.0
    assert "25.0 % of normal" in deployed([narrow, whole], [("memae", UNITED.name)])[0], "of the network of most datasets"
    assert "memae (united): 37.5 % of abnormal and 25.0 % of normal" in summary(results, DATASETS)[-2], "of those that had abnormal images"
    alike = ("lits", "lits_2")
    for other, datasets in ((united(0, named=True), DATASETS), (united(0, datasets=alike), alike)):
        assert "names the domain" not in " ".join([*summary([other], datasets), *certainty([other], datasets)])


@pytest.mark.parametrize(
    ("united", "maddr", "verb"),
    [
        (0.2, 3.0, "raised the mean AUROC of gaussian (+"),
        (3.0, 0.2, "lowered the mean AUROC of gaussian (-"),
        (1.0, 1.0, "made no difference to the mean AUROC that these 80 patients can show for gaussian (+0.000"),
        (1.0, 1.05, "made no difference to the mean AUROC that these 80 patients can show for gaussian (+"),
    ],
)
def test_what_maddr_added_is_claimed_only_where_the_interval_tells_it(united, maddr, verb):
    results = [result("gaussian", UNITED.name, united), result("gaussian", MADDR.name, maddr)]
    (line,) = (line for line in summary(results, DATASETS) if line.startswith("Against the same network"))
    assert f"MADDR {verb}" in line
    assert len([word for word in ("raised", "lowered", "no difference") if word in line]) == 1


def test_the_difference_is_that_of_the_means_over_datasets_and_seeds():
    results = [result("memae", regime, shift + seed, seed) for regime, shift in ((MADDR.name, 1.0), (UNITED.name, 0.5)) for seed in (0, 1)]
    results.append(result("memae", MADDR.name, 9.0, seed=2))  # without its like
    told = compared(results, "memae", MADDR.name, UNITED.name, DATASETS).added["mean"]
    values = []
    for seed in (0, 1):
        one, other = (next(r for r in results if (r.regime, r.seed) == (regime, seed)) for regime in (MADDR.name, UNITED.name))
        for name in DATASETS:
            aurocs = []
            for each in (one, other):
                normal, abnormal = ([row["score"] for row in each.rows if (row["dataset"], row["label"]) == (name, label)] for label in (0, 1))
                aurocs.append(np.mean([(a > n) + 0.5 * (a == n) for a in abnormal for n in normal]))
            values.append(aurocs[0] - aurocs[1])
    assert told.value == pytest.approx(np.mean(values))
    assert told.low < told.value < told.high
    assert compared(results, "memae", MADDR.name, SEPARATE.name, DATASETS).added == {}


def test_every_detector_stands_under_what_it_shows_and_several_trainings_are_counted():
    results = [result(model, UNITED.name, 0.5, seed) for model in ("gaussian", "memae") for seed in (0, 1)]
    results += [result("gaussian", MADDR.name, 4.0, seed) for seed in (0, 1)] + [result("memae", MADDR.name, 0.5, seed) for seed in (0, 1)]
    (line,) = (line for line in summary(results, DATASETS) if line.startswith("Against the same network without it"))
    assert "MADDR raised the mean AUROC of gaussian (+" in line
    assert "; it made no difference to the mean AUROC that these 80 patients and 2 trainings can show for memae (" in line
    assert not [line for line in summary(results, DATASETS) if "one network for each dataset" in line]
    (highest,) = (line for line in summary(results, DATASETS) if "highest" in line)
    assert "gaussian (maddr) has the highest mean AUROC of the 4 rows" in highest
    assert "on others expect less" in highest
    assert any("about one shows a difference by chance alone" in line for line in summary(results, DATASETS))


def test_seeds_that_lack_a_network_of_a_dataset_are_not_compared():
    whole = [result("memae", MADDR.name, 1, seed) for seed in (0, 1)]
    parts = [result("memae", SEPARATE.name, 1, seed, (name,)) for seed, name in ((0, "lits"), (0, "covid_xray"), (1, "lits"))]
    assert compared([*whole, *parts], "memae", MADDR.name, SEPARATE.name, DATASETS).seeds == [0]


def test_a_patient_of_several_datasets_counts_once():
    """The images of nobody known count in each."""
    rows = [
        {"part": "test", "dataset": name, "patient": who, "image": f"{place}.png"} for name in "ab" for place, who in enumerate(("P", "Q", "Q", None))
    ]
    found = replace(result("memae", UNITED.name, 0.5, 0), rows=Lines.of(rows))
    assert counted([found], ["a", "b"]) == "2 patients and 2 images"
    assert counted([found, found], ["b"], trainings=2) == "2 patients, 1 images and 2 trainings"


@pytest.mark.parametrize(
    ("united", "maddr", "words"),
    [((0, 1, 2), (0,), "80 patients"), ((0, 1), (1, 2, 3), "80 patients"), ((0, 1, 2), (1, 2, 4), "80 patients and 2 trainings")],
)
def test_the_trainings_that_are_counted_are_those_compared(united, maddr, words):
    """Where experiments are missing, other trainings of the study tell nothing of the difference."""
    results = [result("memae", regime.name, 0.5, seed) for regime, seeds in ((UNITED, united), (MADDR, maddr)) for seed in seeds]
    results += [result("gaussian", UNITED.name, 0.5, seed) for seed in range(5)]
    (line,) = (line for line in summary(results, DATASETS) if line.startswith("Against the same network without it"))
    assert f"these {words} can show for memae" in line


def test_patients_images_and_trainings_are_one_list():
    results = [result("memae", regime.name, 0.5, seed) for regime in (UNITED, MADDR) for seed in (0, 1)]
    for place, each in enumerate(results):
        results[place] = replace(each, rows=Lines.of(row | ({"patient": None} if row["dataset"] == "lits" else {}) for row in each.rows))
    assert any("that these 40 patients, 40 images and 2 trainings can show" in line for line in summary(results, DATASETS))


@pytest.mark.parametrize(("seeds", "once"), [((0,), True), ((0, 1), False)])
@pytest.mark.parametrize("maddr", [0.5, 4.0])
def test_a_difference_of_one_training_is_said_to_be_of_one(seeds, once, maddr):
    results = [result("memae", regime.name, shift, seed) for regime, shift in ((UNITED, 0.5), (MADDR, maddr)) for seed in seeds]
    assert any(line.startswith("Each network was trained once: ") for line in summary(results, DATASETS)) == once
    assert not any("by chance alone" in line for line in summary(results, DATASETS)), "it is the only comparison"
    assert not [line for line in summary(results[: len(seeds)], DATASETS) if "trained once" in line], "nothing is compared"


@pytest.mark.parametrize(("datasets", "said"), [(DATASETS, False), (("lits",), True), (("lits", "lits_2"), True)])
def test_where_there_is_one_domain_alone_it_is_said_that_maddr_had_nothing_to_unite(datasets, said):
    results = [result("memae", regime.name, 1.0, datasets=datasets) for regime in (UNITED, MADDR)]
    assert any("of one organ and one modality" in line for line in summary(results, datasets)) == said


def test_one_network_per_dataset_is_compared_with_and_images_of_nobody_are_images():
    results = [result("memae", SEPARATE.name, 0.5, datasets=(name,), patients=False) for name in DATASETS]
    results.append(result("memae", MADDR.name, 0.5, patients=False))
    (line,) = (line for line in summary(results, DATASETS) if line.startswith("Against"))
    assert line.startswith("Against one network for each dataset, MADDR made no difference to the mean AUROC that these 80 images can show for")


def test_phantoms_and_smoke_runs_say_what_they_do_not_tell():
    results = [result("memae", UNITED.name, 0.5)]
    assert summary(results, DATASETS, phantom=True)[-1] == "These images are phantoms, rendered by a computer: this says nothing about patients."
    assert "phantom" not in " ".join(summary(results, DATASETS))
    (line,) = summary(results, DATASETS, phantom=True, quick=True)
    assert "its numbers mean nothing" in line
    assert summary([], DATASETS, phantom=True) == []


def test_a_difference_that_a_probe_has_too_is_said_once():
    results = [result("memae", regime.name, shift) for regime, shift in ((MADDR, 3.0), (UNITED, 0.2), (PROBE, 0.2))]
    assert sum(line.startswith("Against") for line in summary(results, DATASETS)) == 1


def test_half_a_study_is_told_as_far_as_it_goes():
    lines = summary([result("memae", SEPARATE.name, 0.5, datasets=("lits",))], DATASETS)
    assert [line.split(" (")[0] for line in lines] == [
        "Each detector was set to call at most 5 % of the normal images of each dataset abnormal. [low–high] are 95 % intervals.",
        "memae",
    ]
    assert "covid_xray" not in lines[1]


def test_where_nothing_abnormal_is_tested_only_false_alarms_are_told():
    results = [result("memae", regime.name, shift) for regime, shift in ((UNITED, 0.5), (MADDR, 2.0))]
    for place, each in enumerate(results):
        values = each.metrics["datasets"]["covid_xray"]
        results[place] = replace(each, rows=Lines.of(row for row in each.rows if row["dataset"] == "lits" or row["label"] == 0))
        for name in ("auroc", "sensitivity"):
            del values[name]
        values |= {"normal": 20, "abnormal": 0}
    alike = [replace(results[0], regime=MADDR.name), results[0]]
    assert "that these 40 patients can show" in " ".join(summary(alike, DATASETS)), "those of normal images alone have no part in it"
    lines = summary(results, DATASETS)
    (called,) = (line for line in lines if "called abnormal" in line)
    alarms = np.mean([row["score"] > 1.5 for row in results[1].rows if row["dataset"] == "covid_xray"])
    assert called.endswith(f"lung X-ray (covid_xray) {100 * alarms:.0f} % [2–19] of normal images.")
    assert "lung X-ray (covid_xray): no abnormal test images: false alarms can be measured, sensitivity and AUROC cannot." in lines
    aurocs = [
        roc_auc_score([row["label"] for row in rows], [row["score"] for row in rows])
        for rows in ([row for row in each.rows if row["dataset"] == "lits"] for each in results)
    ]
    assert compared(results, "memae", MADDR.name, UNITED.name, DATASETS).added["mean"].value == pytest.approx(aurocs[1] - aurocs[0])
    results = [replace(each, rows=each.rows.where(label=0)) for each in results]
    assert compared(results, "memae", MADDR.name, UNITED.name, DATASETS).added == {}


@pytest.mark.parametrize("regime", ["united_probe", "maddr_organ"])
def test_a_single_network_of_any_regime_is_told(regime):
    lines = summary([result("memae", regime, 2.0)], DATASETS)
    assert any(line.startswith(f"memae ({regime}) called abnormal: liver CT (lits) ") for line in lines)
