"""Every baseline as a file that runs without this package."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from anomaly_detection import export as module
from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.normals import Normals, numbered
from anomaly_detection.evaluation.scores import score_images
from anomaly_detection.export import export
from anomaly_detection.registry import BASELINES
from anomaly_detection.system.errors import UserError
from tests.helpers import toy_images
from tests.test_baselines import built, settings_of

PERCEPTUAL = {"rec_loss": {"relative_perceptual_L1": 1.0, "l1": 1.0}, "backbone": "efficientnet_lite0", "backbone_weights": "random:1"}


def detector_of(model, maddr=True, prepared=None, own=None, **options):
    settings = settings_of(model, own=own or (PERCEPTUAL if model == "MADDR_dpa" else {}), **options)
    baseline = built(settings, maddr)
    images = toy_images(24, side=32)
    batch = images.batch(torch.arange(24))
    pixels = batch.image.repeat(1, settings.channels, 1, 1)
    baseline.prepare([replace(batch, image=pixels)])
    baseline.eval().conclude([replace(batch, image=pixels)])
    normals = Normals(score_images(baseline, [pixels]), images.organ.numpy(), images.modality.numpy(), numbered([None] * 24))
    calibration = Calibration.fit(normals, normals, 0.05)
    domains = Domains(("liver", "lung"), ("ct", "xray"))
    preprocessing = Preprocessing(image_size=settings.image_size, channels=settings.channels, **(prepared or {}))
    return Detector(baseline.eval(), calibration, domains, preprocessing, 1.0)


@pytest.mark.parametrize("model", BASELINES)
def test_onnxruntime_gives_the_same_scores_and_maps(model, tmp_path):
    detector = detector_of(model)
    differences = export(detector, tmp_path / "model.onnx")
    assert set(differences) == {"score", "calibrated_score", "threshold", "anomaly_map", "organ", "modality"}
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    images = toy_images(5, seed=3, side=32).images.numpy()
    score, calibrated, threshold, maps, organ, modality = session.run(None, {"image": images})
    predictions = detector.predict_batch(images)
    np.testing.assert_allclose(score, [p.score for p in predictions], rtol=1e-4)
    np.testing.assert_allclose(calibrated, [p.calibrated_score for p in predictions], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(threshold, [p.threshold for p in predictions], rtol=1e-6)
    top = max(p.anomaly_map.max() for p in predictions)
    np.testing.assert_allclose(maps[:, 0], [p.anomaly_map for p in predictions], atol=1e-4 * top)
    assert [detector.domains.organs[i] for i in organ.argmax(1)] == [p.organ for p in predictions]
    assert [detector.domains.modalities[i] for i in modality.argmax(1)] == [p.modality for p in predictions]
    words = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert words["organs"] == "liver,lung"
    assert (words["anomalous"], words["promises"]) == ("score > threshold", "; ".join(detector.promises()))


def test_the_density_of_the_named_domain_is_inside(tmp_path):
    detector = detector_of("feature_ae", own={"score": "residual_density"})
    detector.baseline.densities.certainty = 0.3  # heads that nobody trained are not sure
    export(detector, tmp_path / "model.onnx")
    images = toy_images(5, seed=3, side=32).images
    score, *_ = onnxruntime.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"image": images.numpy()})
    assessment = detector.baseline.assess(images / 127.5 - 1, with_map=False)
    np.testing.assert_allclose(score, assessment.score.detach(), rtol=1e-4)
    assert (assessment.score != assessment.by_domain.unused).any(), "not that of all images"


@pytest.mark.parametrize(("prepared", "channels"), [({}, 1), ({"size": 40}, 1), ({"size": 40}, 3), ({"size": 40, "stored_channels": 3}, 3)])
def test_preprocessing_is_inside(tmp_path, prepared, channels):
    detector = detector_of("memae", prepared=prepared, channels=channels)
    export(detector, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    small = toy_images(3, seed=3, side=32).images[:, 0].numpy()
    large = np.stack([np.asarray(Image.fromarray(each).resize((75, 97), Image.Resampling.BICUBIC)) for each in small[:channels]])
    score, *_ = session.run(None, {"image": large[None]})
    large = large.transpose(1, 2, 0).squeeze()
    assert score[0] == pytest.approx(detector.predict(large).score, rel=1e-5)


def test_without_heads_and_as_a_program(tmp_path):
    detector = detector_of("memae", maddr=False, channels=3)
    assert set(export(detector, tmp_path / "model.onnx")) == set(module.OUTPUTS)
    assert max(export(detector, tmp_path / "model.pt2").values()) <= 1e-6
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = toy_images(3, side=32).images.repeat(1, 3, 1, 1)
    score, calibrated, threshold, _ = (value.detach().numpy() for value in program(images))
    predictions = detector.predict_batch(images.numpy())
    np.testing.assert_allclose(score, [p.score for p in predictions], rtol=1e-5)
    np.testing.assert_allclose(calibrated, [p.calibrated_score for p in predictions], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(threshold, [p.threshold for p in predictions], rtol=1e-6)
    everything = detector.calibration.everything.threshold
    assert all(abs(each.threshold / everything - 1) > 1e-3 for each in detector.calibration.domains.values()), "of all together, not of a domain"


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_compare", lambda *_: {"score": 1e-3, "anomaly_map": 0.0})
    with pytest.raises(UserError, match=r"differs from PyTorch's by .*; the file was not kept"):
        export(detector_of("memae", maddr=False), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_file_is_held_against_the_scores_of_the_detector(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_resized", lambda x, size: torch.nn.functional.interpolate(x, (size, size)))
    with pytest.raises(UserError, match=r"score differs from PyTorch's by .*; the file was not kept"):
        export(detector_of("memae"), tmp_path / "model.pt2")


def test_what_cannot_be_exported_is_told(tmp_path):
    detector = detector_of("memae")
    with pytest.raises(UserError, match=r"name the file \.onnx, or \.pt2"):
        export(detector, tmp_path / "model.bin")
    for prepared in ({"crop_size": 20}, {"equalize_hist": True}, {"aspect": "pad", "size": 300}):
        with pytest.raises(UserError, match="crop_size, equalize_hist and prepare's --aspect pad cannot be exported"):
            export(replace(detector, preprocessing=Preprocessing(**prepared)), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(97, 75, 64), (40, 33, 64), (64, 64, 64), (64, 90, 64), (449, 300, 224), (300, 300, 224), (701, 230, 224), (9, 1001, 32)],
)
def test_images_are_resized_as_everywhere(height, width, size):
    pixels = np.random.default_rng(height).integers(256, size=(height, width), dtype=np.uint8)
    found = module._resized(torch.from_numpy(pixels)[None, None].float(), size)
    np.testing.assert_array_equal(found[0], Preprocessing(image_size=size).apply(pixels))


class Resized(torch.nn.Module):
    def forward(self, image):
        return (module._resized(image.float(), 224),)


def test_a_runtime_rounds_no_pixel_of_a_resized_image_otherwise(tmp_path):
    """Single precision would round some of so many otherwise, and an anomaly map would differ there."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (2, 1, *sides), dtype=torch.uint8, generator=generator) for sides in ((237, 237), (449, 449), (300, 517), (97, 224))]
    run = module._write_onnx(Resized(), images[0], ["resized"], {}, tmp_path / "model.onnx")
    for image in images:
        np.testing.assert_array_equal(*run(image), *Resized()(image))
