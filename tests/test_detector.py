"""A trained network and new images: what it promises, and that everything said of an image is of that image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anomaly_detection.data.dataset import DataSource, Domains
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import Detector
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.scores import score_images
from tests.data.formats.test_dicom import CT, STORED, write_dicom
from tests.evaluation.simulation import simulated
from tests.helpers import toy_baseline, toy_settings
from tests.test_baselines import built, settings_of

DATASETS = ["liver_ct", "lung_ct", "lung_xray"]
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
            f"{place}: at most 0.05 of new normal patients with as many images are called anomalous with this domain named (40 validation patients)"
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
    alike = "" if unit == "images" else " with as many images"
    assert lines[0] == f"lung xray: at most 0.05 of new normal {unit}{alike} are called anomalous (30 validation {unit})"
    assert lines[1] == f"unknown: an estimate for 0.01 of new normal {unit}; 30 validation {unit} guarantee nothing"


@pytest.fixture
def untrained(data_root):
    """A detector of three domains, untrained, and the images that it is calibrated on."""
    source = DataSource(data_root)
    val = source.load(DATASETS, "val", source.preprocessing(DATASETS, 16, 1))
    baseline = built(settings_of("memae", 16), maddr=True).eval()
    scores = score_images(baseline, [val.batch(torch.arange(len(val))).image])
    of_val = Normals(scores, val.organ.numpy(), val.modality.numpy(), np.arange(len(val)))
    return Detector(baseline, Calibration.fit(of_val, of_val, 0.05), source.domains(DATASETS), Preprocessing(image_size=16), 1.0), val


def test_several_images_are_told_of_their_method(untrained):
    detector, val = untrained
    several = val.images[:2, 0]
    for images, error in ((list(several.numpy()), TypeError), (several.numpy(), ValueError), (several[:, None], ValueError)):
        with pytest.raises(error, match=r"image: expected .*; of several images: predict_batch$"):
            detector.predict(images)
        assert len(detector.predict_batch(images)) == 2
    with pytest.raises(TypeError, match="got NoneType$"):
        detector.predict(None)


def test_a_prediction_is_of_its_image_alone_in_the_domain_that_the_heads_name(untrained):
    detector, val = untrained
    with torch.no_grad():  # heads that name different domains
        detector.baseline.maddr.heads["organ"].weight.mul_(1000)
        detector.baseline.maddr.heads["modality"].weight.mul_(1000)
    together, named = detector.predict_batch(val.images.numpy()), set()
    for place, prediction in enumerate(together):
        x = val.batch(torch.tensor([place])).image
        with torch.inference_mode():
            probabilities = detector.baseline.maddr.predict(detector.baseline.encode(x))
            score, anomaly_map = detector.baseline.anomaly_score(x).item(), detector.baseline.anomaly_map(x)[0, 0].numpy()
        organ, modality = (int(probabilities[head][0].argmax()) for head in ("organ", "modality"))
        reference = detector.calibration.reference(organ, modality)
        named.add((organ, modality))
        assert prediction.score == pytest.approx(score, rel=1e-4)
        np.testing.assert_allclose(prediction.anomaly_map, anomaly_map, rtol=1e-3, atol=1e-5)
        assert (prediction.organ, prediction.modality) == (("liver", "lung")[organ], ("ct", "xray")[modality])
        assert prediction.threshold == reference.threshold
        assert prediction.calibrated_score == pytest.approx((score - reference.center) / reference.spread, rel=1e-3, abs=1e-3)
        assert prediction.confidence == pytest.approx((probabilities["organ"].max() * probabilities["modality"].max()).item(), rel=1e-3)
    assert len(named) > 1


def test_a_file_is_shown_through_the_window_of_training(untrained, tmp_path):
    """Not through its own, which would give other grey values in silence."""
    path = write_dicom(tmp_path / "a.dcm", STORED, **CT, WindowCenter=-600, WindowWidth=1500)
    detector = Detector(*(getattr(untrained[0], name) for name in ("baseline", "calibration", "domains")), Preprocessing(Window(40, 400)), 1.0)
    grey = np.rint(np.clip((STORED.astype(float) - 1024 - 40) / 400 + 0.5, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(detector.preprocess(path), detector.preprocess(grey))
    own = Detector(*(getattr(untrained[0], name) for name in ("baseline", "calibration", "domains")), Preprocessing(), 1.0)
    assert not np.array_equal(own.preprocess(path), detector.preprocess(path))


def test_a_batch_is_what_its_images_are_one_by_one(untrained):
    detector, val = untrained
    images = [pixels[0].numpy() for pixels in val.images]
    alone = [detector.predict(image) for image in images]
    for batch in (images, np.stack(images), torch.tensor(np.stack(images))[:, None] / 255, val.images.numpy()):
        together = detector.predict_batch(batch)
        assert [prediction.score for prediction in together] == pytest.approx([prediction.score for prediction in alone], rel=1e-5)
        assert [prediction.organ for prediction in together] == [prediction.organ for prediction in alone]
        verdict = detector.verdict(batch)
        assert verdict.calibrated.tolist() == pytest.approx([prediction.calibrated_score for prediction in together], rel=1e-3, abs=1e-4)
        assert verdict.p_value.tolist() == [prediction.p_value for prediction in together]


@pytest.mark.parametrize("turn", [np.s_[::-1], np.s_[:, :, ::-1], np.s_[..., ::-1]])
def test_an_array_that_is_turned_round_is_taken_as_its_copy(untrained, turn):
    detector, val = untrained
    turned = val.images.numpy()[turn]
    assert min(turned.strides) < 0
    scores = [prediction.score for prediction in detector.predict_batch(turned.copy())]
    for batch in (turned, turned[:, 0]):  # as `preprocess` makes them, and as an array (N, H, W)
        assert [prediction.score for prediction in detector.predictions(batch)] == scores
    assert detector.verdict(turned).p_value.tolist() == detector.verdict(turned.copy()).p_value.tolist()
    assert detector.predict(turned[0, 0]).score == pytest.approx(scores[0], rel=1e-5)


def test_a_window_is_given_where_training_has_left_the_choice(untrained):
    hu = np.linspace(-1000, 1000, 256).reshape(16, 16).astype(np.int16)
    detector = untrained[0]
    with pytest.raises(ValueError, match=r"image: int16 does not say .*; give window=\(level, width\)"):
        detector.predict(hu)
    assert detector.predict(hu, window=(40, 400)).score == detector.predict(Window(40, 400).grey(hu)).score
    assert detector.predict_batch([hu, hu], "auto")[1].score == pytest.approx(detector.predict(Window.covering(hu).grey(hu)).score, rel=1e-5)
    settled = replace(detector, preprocessing=replace(detector.preprocessing, window=Window(40, 400)))
    assert settled.predict(hu).score == settled.predict(hu, window=[40, 400]).score == detector.predict(hu, window=(40, 400)).score
    with pytest.raises(ValueError, match=r"window=\(0, 9\): the network was trained on images shown through \[40, 400\]; leave window out"):
        settled.predict(hu, window=(0, 9))


def test_a_detector_is_told_in_one_line(untrained):
    line = "<Detector MemAE: liver ct, lung ct, lung xray; 16 x 16 grey; calibrated on 12 patients>"
    assert repr(untrained[0]) == line
