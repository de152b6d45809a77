import csv
import json

import numpy as np
import pytest
import torch

from anomaly_detection.errors import UserError
from anomaly_detection.evaluation.scoring import anomaly_scores, metrics_of, score_rows, write_json, write_scores
from tests.toy import ToyBaseline, toy_images, toy_settings


@pytest.fixture
def baseline():
    torch.manual_seed(0)
    return ToyBaseline(toy_settings())


def test_scores_do_not_depend_on_batch_or_company(baseline):
    images = toy_images(20)
    together = anomaly_scores(baseline, images)
    np.testing.assert_allclose(anomaly_scores(baseline, images, batch_size=7), together, rtol=1e-5)
    alone = [baseline.anomaly_score(images.pixels(torch.tensor([i]))).item() for i in range(20)]
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_a_score_that_is_no_number_names_the_image(baseline):
    with torch.no_grad():
        baseline.decoder.bias.fill_(float("inf"))
    with pytest.raises(UserError, match=r"0\.png"):
        anomaly_scores(baseline, toy_images(3))


def test_rows_hold_names_in_words_and_come_back_from_the_file(baseline, tmp_path):
    images = toy_images(4)
    rows = score_rows(baseline, images, "test", ("liver", "lung"), ("ct", "xray"))
    assert [(row["organ"], row["modality"]) for row in rows] == [("liver", "ct"), ("lung", "ct"), ("lung", "xray"), ("liver", "ct")]
    write_scores(tmp_path / "scores.csv", rows)
    with open(tmp_path / "scores.csv", encoding="utf-8") as file:
        back = list(csv.DictReader(file))
    assert [float(row["score"]) for row in back] == [row["score"] for row in rows], "written to the last digit"
    assert back[1]["image"] == "1.png"


def make_rows(dataset: str, offset: float) -> list[dict]:
    val = [{"dataset": dataset, "part": "val", "label": 0, "score": offset + i} for i in range(11)]
    test = [{"dataset": dataset, "part": "test", "label": label, "score": offset + score} for label, score in ((0, 3), (0, 12), (1, 9.6), (1, 20))]
    return val + test


def test_each_dataset_has_the_threshold_of_its_own_normals_and_the_pool_one_for_all():
    metrics = metrics_of(make_rows("a", 0) + make_rows("b", 100), 0.95)
    assert metrics["datasets"]["a"]["threshold"] == pytest.approx(9.5)
    assert metrics["datasets"]["b"]["threshold"] == pytest.approx(109.5)
    for name in "ab":
        assert metrics["datasets"][name]["sensitivity"] == 1.0
        assert metrics["datasets"][name]["specificity"] == 0.5
        assert metrics["datasets"][name]["auroc"] == 0.75
    assert metrics["pooled"]["threshold"] == pytest.approx(np.quantile([*range(11), *range(100, 111)], 0.95))
    assert metrics["pooled"]["sensitivity"] == 0.5
    assert (metrics["pooled"]["normal"], metrics["pooled"]["abnormal"]) == (4, 4)


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "metrics.json", {"auroc": 0.5})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": 0.5}
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"auroc": object()})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
