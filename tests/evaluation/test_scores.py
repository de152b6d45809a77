"""Scores are float32, wherever they are computed, and leave the device before they become float64."""

import numpy as np
import pytest
import torch

from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.evaluate import evaluate
from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.scores import Scores, assess, score_images
from anomaly_detection.registry import BASELINES
from anomaly_detection.system.precision import true_float32
from anomaly_detection.training.loop import validate
from tests.helpers import toy_images
from tests.system.test_precision import everything, exact
from tests.test_baselines import built, settings_of


def test_each_column_is_its_part_of_the_latent():
    baseline, x = built(settings_of("memae"), maddr=True).eval(), toy_images(3, side=32).batch(torch.arange(3)).image
    x[1] = 0.25
    scores = score_images(baseline, [x])
    with torch.inference_mode():
        z, heads = baseline.encode(x), baseline.maddr.heads  # of 32 numbers six are for organs and six for modalities
        organ, modality = heads["organ"](z[:, :6]).softmax(1), heads["modality"](z[:, 6:12]).softmax(1)
        expected = {"score": baseline.anomaly_score(x), "latent": z, "organ": organ, "modality": modality, "content": z[:, 12:]}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(scores, name), values.numpy(), rtol=1e-4, atol=1e-6)
    assert scores.blank.tolist() == [False, True, False]


def test_images_are_scored_in_evaluation_mode():
    baseline, x = built(settings_of("memae", 16)).train(), toy_images(8, side=16).batch(torch.arange(8)).image
    np.testing.assert_array_equal(score_images(baseline, [x]).score, score_images(baseline.eval(), [x]).score)


@pytest.mark.parametrize("model", BASELINES)
def test_training_in_bfloat16_leaves_no_trace_in_scores(model):
    baseline, x = built(settings_of(model), maddr=True).eval(), toy_images(3, side=32).batch(torch.arange(3)).image
    expected = score_images(baseline, [x])
    baseline.bf16 = True
    found = score_images(baseline, [x])
    np.testing.assert_array_equal(found.score, expected.score)
    np.testing.assert_array_equal(found.content, expected.content)
    assert baseline.bf16, "training goes on as before"


def test_dpa_would_score_otherwise_in_bfloat16():
    """Or the test above could not fail."""
    baseline, x = built(settings_of("MADDR_dpa")).eval(), toy_images(3, side=32).batch(torch.arange(3)).image
    baseline.bf16 = True
    with torch.inference_mode():
        assert not torch.equal(baseline.assess(x, False).score, assess(baseline, x, False).score)


def test_tensorfloat_is_off_while_scoring_and_back_afterwards(monkeypatch):
    """As for images on a GPU; on a CPU nothing is touched."""
    baseline, x = built(settings_of("memae")).eval(), toy_images(2, side=32).batch(torch.arange(2)).image
    seen, devices = [], []
    baseline.encoder.register_forward_hook(lambda *_: seen.append(everything()))
    before = everything()
    assess(baseline, x, with_map=True)
    assert seen == [before]
    as_there = "anomaly_detection.evaluation.scores.true_float32"
    monkeypatch.setattr(as_there, lambda device: devices.append(device.type) or true_float32(torch.device("cuda")))
    baseline.encoder.register_forward_hook(lambda *_: seen.append(exact()))
    assess(baseline, x, with_map=True)
    assert devices == ["cpu"]
    assert seen[-1] is True
    assert everything() == before


@pytest.mark.parametrize("entry", ["evaluate", "predict"])
def test_evaluation_and_prediction_score_alike(entry, data_root):
    source, names = DataSource(data_root), ["liver_ct", "lung_ct", "lung_xray"]
    baseline = built(settings_of("MADDR_dpa", 16)).eval()
    preprocessing = source.preprocessing(names, 16, 1)
    val = source.load(names, "val", preprocessing)
    expected = score_images(baseline, [batch.image for batch in val.batches(64)]).score
    baseline.bf16 = True
    if entry == "evaluate":
        rows = evaluate(baseline, source, preprocessing, 0.05, torch.device("cpu")).rows[: len(val)]
        scores = [float(row["score"]) for row in rows]
    else:
        of_val = score_images(baseline, [batch.image for batch in val.batches(64)])
        normals = Normals(of_val, val.organ.numpy(), val.modality.numpy(), np.arange(len(val)))
        calibration = Calibration.fit(normals, normals, 0.05)
        detector = Detector(baseline, calibration, source.domains(names), Preprocessing(image_size=16), 1.0)
        scores = [prediction.score for prediction in detector.predict_batch(val.images.numpy())]
    assert scores == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.fixture
def without_float64(monkeypatch):
    """Tensors as on a device that has no float64: only what was brought to the CPU may become it."""
    cpu, double = torch.Tensor.cpu, torch.Tensor.double

    def brought(tensor):
        host = cpu(tensor).view_as(tensor)
        host.on_host = True
        return host

    def refusing(tensor):
        if not getattr(tensor, "on_host", False):
            raise TypeError("this device has no float64")
        return double(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", brought)
    monkeypatch.setattr(torch.Tensor, "double", refusing)


@pytest.mark.parametrize("model", BASELINES)
def test_no_device_is_asked_for_float64(model, without_float64):
    baseline, images = built(settings_of(model), maddr=True).eval(), toy_images(4, side=32)
    x = images.batch(torch.arange(4)).image
    assert Scores.of(baseline, x, assess(baseline, x, with_map=True)).score.dtype == np.float64
    assert validate(baseline, images)["val_loss"] > -1e9
    with pytest.raises(TypeError, match="no float64"):
        x.double()
