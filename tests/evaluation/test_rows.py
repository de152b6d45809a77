import json

import numpy as np
import pytest
import torch

from anomaly_detection.data.dataset import Domains
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.rows import check_finite, metrics_of, read_scores, score_rows, write_scores
from anomaly_detection.evaluation.scores import score_images
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import write_json
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
    return Calibration.fit(toy_scores(baseline, images), images.organ.numpy(), images.modality.numpy(), 0.95)


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
    images = toy_images(4)
    rows = score_rows(images, "test", toy_scores(baseline, images), fitted(baseline, toy_images(30, 1)), DOMAINS)
    assert [(row["organ"], row["modality"]) for row in rows] == [("liver", "ct"), ("lung", "ct"), ("lung", "xray"), ("liver", "ct")]
    assert all((row["predicted_organ"] in ("liver", "lung")) == heads for row in rows)
    write_scores(tmp_path / "scores.csv", rows)
    back = read_scores(tmp_path / "scores.csv")
    assert [row["score"] for row in back] == [row["score"] for row in rows], "written to the last digit"
    assert [row["unknown_domain"] for row in back] == [str(row["unknown_domain"]) for row in rows]
    assert back[1]["image"] == "1.png"
    with pytest.raises(UserError, match="not scores as"):
        read_scores(tmp_path / "nothing.csv")


def make_rows(dataset: str, offset: float, scale: float = 1.0) -> list[dict]:
    def row(part, label, score):
        common = {"dataset": dataset, "part": part, "label": label, "score": offset + scale * score, "unknown_domain": int(score == 12)}
        return {**common, "calibrated_score": score, "label_calibrated_score": score, "predicted_organ": "lung"}

    return [row("val", 0, i) for i in range(11)] + [row("test", label, score) for label, score in ((0, 3), (0, 12), (1, 9.6), (1, 20))]


def test_each_dataset_has_the_threshold_of_its_own_normals_and_the_pool_one_for_all():
    metrics = metrics_of(make_rows("a", 0) + make_rows("b", 100), 0.95)
    assert metrics["datasets"]["a"]["threshold"] == pytest.approx(9.5)
    assert metrics["datasets"]["b"]["threshold"] == pytest.approx(109.5)
    for name in "ab":
        assert metrics["datasets"][name]["sensitivity"] == 1.0
        assert metrics["datasets"][name]["specificity"] == 0.5
        assert metrics["datasets"][name]["auroc"] == 0.75
        assert (metrics["datasets"][name]["unknown_normal"], metrics["datasets"][name]["unknown_abnormal"]) == (0.5, 0.0)
    assert metrics["pooled"]["threshold"] == pytest.approx(np.quantile([*range(11), *range(100, 111)], 0.95))
    assert metrics["pooled"]["sensitivity"] == 0.5
    assert (metrics["pooled"]["normal"], metrics["pooled"]["abnormal"]) == (4, 4)
    assert metrics["pooled_calibrated"]["auroc"] == metrics["pooled_label_calibrated"]["auroc"] == 0.75
    assert metrics["pooled"]["auroc"] < 0.75, "the datasets' scales are mixed up"
    low, high = metrics["pooled_calibrated"]["intervals"]["auroc"]
    assert low <= 0.75 <= high


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "metrics.json", {"auroc": 0.5})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": 0.5}
    with pytest.raises(TypeError):
        write_json(tmp_path / "metrics.json", {"auroc": object()})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"auroc": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
