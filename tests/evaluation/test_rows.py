import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly_detection.data.dataset import Domains
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.known import Known
from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.pooling import patient_rows
from anomaly_detection.evaluation.rows import COLUMNS, check_finite, metrics_of, read_scores, score_rows
from anomaly_detection.evaluation.scores import score_images
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import write_json, write_table
from anomaly_detection.system.lines import Lines
from tests.helpers import toy_baseline, toy_images, toy_settings


@pytest.fixture
def baseline():
    torch.manual_seed(0)
    return toy_baseline(toy_settings())


def batches(images, size=256):
    return (images.batch(index).image for index in torch.arange(len(images)).split(size))


def toy_scores(baseline, images, size=256):
    return score_images(baseline, batches(images, size))


DOMAINS = Domains(("liver", "lung"), ("ct", "xray"))


def fitted(baseline, images):
    normals = Normals(toy_scores(baseline, images), images.organ.numpy(), images.modality.numpy(), np.arange(len(images)))
    return Calibration.fit(normals, normals, 0.05)


def test_nothing_that_is_read_depends_on_order_batch_or_company(baseline):
    images = toy_images(20)
    together = toy_scores(baseline, images)
    turned = [19 - i for i in range(20)]
    for other, places in (
        (toy_scores(baseline, images, 7), range(20)),
        (score_images(baseline, (images.batch(torch.tensor([i])).image for i in turned)), turned),
    ):
        for name in ("score", "latent", "organ", "modality", "content"):
            np.testing.assert_allclose(getattr(other, name), getattr(together, name)[list(places)], rtol=1e-5, atol=1e-6)


def test_a_score_that_is_no_number_names_the_image(baseline):
    with torch.no_grad():
        baseline.decoder.bias.fill_(float("inf"))
    images = toy_images(3)
    with pytest.raises(UserError, match=r"0\.png"):
        check_finite(toy_scores(baseline, images), images)


@pytest.mark.parametrize("heads", [True, False])
def test_rows_hold_names_in_words_and_come_back_from_the_file(heads, tmp_path):
    torch.manual_seed(0)
    baseline = toy_baseline(toy_settings(), heads)
    images, calibration = toy_images(4), fitted(baseline, toy_images(30, 1))
    rows = list(score_rows(images, ["P1", None, "P1", "P2"], "test", toy_scores(baseline, images), calibration, DOMAINS))
    assert [(row["organ"], row["modality"]) for row in rows] == [("liver", "ct"), ("lung", "ct"), ("lung", "xray"), ("liver", "ct")]
    assert [row["patient"] for row in rows] == ["P1", None, "P1", "P2"]
    assert all((row["predicted_organ"] in ("liver", "lung")) == heads for row in rows)
    for row, pair in zip(rows, [(0, 0), (1, 0), (1, 1), (0, 0)], strict=True):
        reference = calibration.domains[pair]
        assert row["label_threshold"] == reference.threshold
        assert row["label_p_value"] == pytest.approx((1 + sum(score >= row["score"] for score in reference.highest)) / (len(reference.highest) + 1))
        assert row["label_anomalous"] == (row["score"] > reference.threshold)
        assert row["label_calibrated_score"] == pytest.approx((row["score"] - reference.center) / reference.spread)
    write_table(tmp_path / "scores.csv", rows, COLUMNS)
    assert read_scores(tmp_path / "scores.csv") == rows
    with pytest.raises(UserError, match="not scores as"):
        read_scores(tmp_path / "nothing.csv")


def test_what_set_the_thresholds_is_not_called_by_them():
    torch.manual_seed(0)
    baseline = toy_baseline(toy_settings())
    images = toy_images(4)
    rows = score_rows(images, [None] * 4, "val", toy_scores(baseline, images), fitted(baseline, images), DOMAINS)
    assert {row[name] for row in rows for name in ("p_value", "anomalous", "label_p_value", "label_anomalous", "unknown_domain")} == {None}


def reference(threshold: float, guaranteed: bool = False) -> Reference:
    return Reference(0.0, 1.0, threshold, guaranteed, tuple(range(11)), tuple(range(11)))


CALIBRATION = Calibration(
    0.05,
    {(0, 0): reference(9.5, True), (1, 0): reference(109.5)},
    {},
    reference(105.0),
    Known(((0.0,),), (((1.0,),),), 1.0, 0.9, 22, False),
)


def make_rows(dataset: str, organ: str, offset: float) -> list[dict]:
    def row(number, part, label, score):
        called = {"anomalous": int(score > 11), "label_anomalous": int(score > 9.5), "unknown_domain": int(score == 12)}
        where = {"dataset": dataset, "patient": f"P{number}", "organ": organ, "modality": "ct", "part": part, "label": label}
        scores = dict.fromkeys(("score", "plain_score", "label_score"), offset + score) | dict.fromkeys(
            ("calibrated_score", "label_calibrated_score"), score
        )
        return {**where, **scores, "predicted_organ": organ, "predicted_modality": "ct", **called}

    val = [row(i, "val", 0, i) for i in range(11)]
    return val + [row(i, "test", label, score) for i, (label, score) in enumerate(((0, 3), (0, 12), (1, 9.6), (1, 20)))]


def test_each_dataset_is_called_in_its_domain_and_the_pool_by_one_threshold():
    metrics = metrics_of(Lines.of(make_rows("a", "liver", 0) + make_rows("b", "lung", 100)), CALIBRATION, DOMAINS)
    assert metrics["datasets"]["a"]["threshold"] == 9.5
    assert metrics["datasets"]["b"]["threshold"] == 109.5
    for name in "ab":
        values = metrics["datasets"][name]
        assert (values["sensitivity"], values["specificity"], values["auroc"]) == (1.0, 0.5, 0.75)
        assert (values["unknown_normal"], values["unknown_abnormal"]) == (0.5, 0.0)
        alarms, unknown = values["false_alarms"], values["unknown"]
        assert (alarms["promised"], alarms["observed"], alarms["units"], alarms["unit"]) == (0.05, 0.5, 11, "patients")
        assert alarms["guaranteed"] == (name == "a")
        assert (alarms["datasets"], unknown["datasets"]) == ([name], ["a", "b"])
        assert alarms["interval"][0] < 0.5 < alarms["interval"][1]
        assert (unknown["promised"], unknown["observed"], unknown["units"], unknown["guaranteed"]) == (0.02, 0.5, 22, False)
        assert values["patients"]["auroc"] == 1.0, "the normal patient whose only image is unknown is left out"
        assert values["unit"] == "patients"
    assert (metrics["pooled"]["threshold"], metrics["pooled"]["sensitivity"], metrics["pooled"]["specificity"]) == (105.0, 0.5, 0.75)
    assert (metrics["pooled"]["normal"], metrics["pooled"]["abnormal"]) == (4, 4)
    assert (metrics["pooled_calibrated"]["sensitivity"], metrics["pooled_calibrated"]["specificity"]) == (0.5, 0.5)
    assert metrics["pooled_label_calibrated"]["sensitivity"] == 1.0
    assert metrics["pooled_calibrated"]["auroc"] == metrics["pooled_label_calibrated"]["auroc"] == 0.75
    assert metrics["pooled"]["auroc"] < 0.75, "the datasets' scales are mixed up"
    low, high = metrics["pooled_calibrated"]["intervals"]["auroc"]
    assert low <= 0.75 <= high


def test_all_images_together_are_called_by_plain_scores_and_named_rightly_by_organ_and_modality():
    """By hand: plain scores of the test images are 96, 114, 109.2 and 130, and one of four is named an X-ray."""
    rows = [
        {**row, "plain_score": 2 * row["score"] + 90, "predicted_modality": "xray" if row["score"] == 20 else "ct"}
        for row in make_rows("a", "liver", 0)
    ]
    metrics = metrics_of(Lines.of(rows), CALIBRATION, DOMAINS)
    assert (metrics["pooled"]["sensitivity"], metrics["pooled"]["specificity"]) == (1.0, 0.5)
    assert metrics["datasets"]["a"]["named_rightly"] == 0.75


def test_normal_images_alone_tell_of_false_alarms_and_are_in_no_pool_with_others():
    whole, others = make_rows("a", "liver", 0), make_rows("b", "lung", 100)
    alone = [row for row in others if row["label"] == 0]
    mixed, before = (metrics_of(Lines.of([*whole, *rows]), CALIBRATION, DOMAINS) for rows in (alone, others))
    values = mixed["datasets"]["b"]
    assert (values["specificity"], values["normal"], values["abnormal"]) == (0.5, 2, 0)
    assert values["false_alarms"] == before["datasets"]["b"]["false_alarms"]
    assert values["unknown"] == before["datasets"]["b"]["unknown"]
    assert values["unknown_normal"] == 0.5
    needing = ("auroc", "average_precision", "f1", "accuracy", "sensitivity", "auroc_named", "auroc_known", "unknown_abnormal", "patients")
    assert not {name for name in (*needing, *(f"oracle_{name}" for name in needing)) if name in values}
    assert set(values["intervals"]) == {"specificity"}
    assert mixed["datasets"]["a"] == before["datasets"]["a"]
    labels, scores = ([row[key] for row in whole if row["part"] == "test"] for key in ("label", "plain_score"))
    assert mixed["pooled"]["auroc"] == roc_auc_score(labels, scores), "of the dataset with both alone"
    none = metrics_of(Lines.of({**row, "dataset": name} for name in "ab" for row in alone), CALIBRATION, DOMAINS)
    assert (none["pooled"]["normal"], none["pooled"]["abnormal"], set(none["pooled"]["intervals"])) == (4, 0, {"specificity"})


@pytest.mark.parametrize("way", ["far above", "far below", "turned round"])
def test_what_a_dataset_is_measured_by_is_one_score(way):
    """Where the domain has a part in a score, that in the true domain (label_*) may be anything: calls, false alarms and patients follow `score`,
    of which AUROC is, too."""
    change = {"far above": lambda score: score + 1000, "far below": lambda score: score - 1000, "turned round": lambda score: -score}[way]
    rows = make_rows("a", "liver", 0) + make_rows("b", "lung", 100)
    others = [{**row, "label_score": change(row["score"]), "label_anomalous": int(change(row["score"]) > 9.5)} for row in rows]
    calibration = replace(CALIBRATION, told={pair: reference(-7.0, True) for pair in CALIBRATION.domains})
    metrics, patients = (tell(Lines.of(others), calibration, DOMAINS) for tell in (metrics_of, patient_rows))
    for name, threshold in (("a", 9.5), ("b", 109.5)):
        values, test = metrics["datasets"][name], [row for row in others if (row["dataset"], row["part"]) == (name, "test")]
        called = {label: [row["score"] > threshold for row in test if row["label"] == label] for label in (0, 1)}
        assert (values["sensitivity"], values["specificity"]) == (np.mean(called[1]), 1 - np.mean(called[0]))
        assert (values["threshold"], values["false_alarms"]["observed"]) == (threshold, np.mean(called[0]))
        told = [line for line in patients if line["dataset"] == name]
        assert values["patients"]["auroc"] == roc_auc_score([line["label"] for line in told], [line["score"] for line in told])


def test_a_promise_on_a_domain_of_two_datasets_is_of_both_and_names_what_it_counts():
    one, other = make_rows("a", "liver", 0), make_rows("b", "liver", 0)
    rows = one + [{**row, "patient": None} for row in other] + make_rows("c", "lung", 100)
    mixed = replace(reference(9.5, True), highest=tuple(range(22)), unit="patients and images")
    metrics = metrics_of(Lines.of(rows), replace(CALIBRATION, domains={(0, 0): mixed, (1, 0): reference(109.5)}), DOMAINS)["datasets"]
    for name, datasets, units, unit in (
        ("a", ["a", "b"], 22, "patients and images"),
        ("b", ["a", "b"], 22, "patients and images"),
        ("c", ["c"], 11, "patients"),
    ):
        alarms = metrics[name]["false_alarms"]
        assert (alarms["datasets"], alarms["units"], alarms["unit"]) == (datasets, units, unit)
        assert metrics[name]["unknown"]["datasets"] == ["a", "b", "c"]


def test_all_images_of_two_datasets_of_the_same_patients_say_no_more_than_those_of_one():
    rows = make_rows("a", "liver", 0)
    again = [{**row, "dataset": "b"} for row in rows]
    others = [{**row, "patient": f"other {row['patient']}"} for row in again]
    single, same, apart = (metrics_of(Lines.of(each), CALIBRATION, DOMAINS)["pooled"] for each in (rows, rows + again, rows + others))
    assert single["auroc"] == same["auroc"] == apart["auroc"]
    assert same["intervals"]["auroc"] == pytest.approx(single["intervals"]["auroc"])
    low, high = single["intervals"]["auroc"]
    assert low < apart["intervals"]["auroc"][0] < apart["intervals"]["auroc"][1] < high


def test_each_dataset_of_the_same_patients_is_measured_by_itself():
    rows = make_rows("a", "liver", 0) + make_rows("b", "lung", 100)
    renamed = [{**row, "patient": f"{row['dataset']} {row['patient']}"} for row in rows]
    whole, same = (metrics_of(Lines.of(each), CALIBRATION, DOMAINS)["datasets"] for each in (rows, renamed))
    assert whole == same


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "metrics.json", {"auroc": 0.5})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": 0.5}
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"auroc": object()})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
