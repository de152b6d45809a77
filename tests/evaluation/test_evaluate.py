"""One pass over validation and test images tells all: scores, maps, what is usual, and the telling images."""

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection.baseline import Assessment
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.evaluation.evaluate import evaluate
from anomaly_detection.evaluation.gallery import Gallery
from anomaly_detection.evaluation.localisation import UpperQuantile, pixel_metrics
from anomaly_detection.registry import BASELINES
from anomaly_detection.system.errors import UserError
from tests.test_baselines import built, count_passes, settings_of

DATASETS = ["liver_ct", "lung_ct", "lung_xray"]


def with_masks(data_root):
    """Masks of the bright squares of one dataset."""
    for i in range(4):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:9, 6:11] = 255
        (data_root / "lung_ct" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(data_root / "lung_ct" / "masks" / f"test_{i}.png")
    return DataSource(data_root)


def evaluated(baseline, source):
    return evaluate(baseline, source, source.preprocessing(DATASETS, 16, 1), 0.05, torch.device("cpu"))


@pytest.mark.parametrize("model", BASELINES)
def test_each_image_passes_the_encoder_once(model, data_root):
    source = with_masks(data_root)
    baseline = built(settings_of(model, 16), maddr=True)
    passed = count_passes(baseline.encoder)
    outcome = evaluated(baseline, source)
    training = len(source.load(DATASETS, "train", source.preprocessing(DATASETS, 16, 1)))
    assert sum(passed) == training + 3 * (4 + 4 + 4)
    assert len(outcome.rows) == 3 * (4 + 4 + 4)
    assert "pixel_auroc" in outcome.metrics["datasets"]["lung_ct"]
    assert "pixel_auroc" not in outcome.metrics["datasets"]["liver_ct"]


@pytest.mark.parametrize(("train_images", "model"), [(200, "gaussian"), (2, "gaussian"), (200, "feature_ae"), (200, "memae")])
def test_what_is_not_reconstructed_stands_beside_the_nearest_training_image(train_images, model, data_root, monkeypatch):
    """Of those that calibration looks at: of two images of a dataset, the first and the last."""
    monkeypatch.setattr("anomaly_detection.evaluation.evaluate.TRAINING_IMAGES", train_images)
    source = DataSource(data_root)
    baseline = built(settings_of(model, 16), maddr=True).eval()
    train, test = (source.load(DATASETS, part, source.preprocessing(DATASETS, 16, 1)) for part in ("train", "test"))
    baseline.prepare(train.batches(100))
    details = evaluated(baseline, source).details
    assert ("gallery_nearest" in details) != ("gallery_reconstruction" in details) == (model == "memae")
    if model == "memae":
        return
    with torch.inference_mode():
        known, asked = (baseline.encode(images.batch(torch.arange(len(images))).image).double().numpy() for images in (train, test))
    known = {place: known[place] for places in np.split(np.arange(len(train)), 3) for place in (places if train_images > 2 else places[[0, -1]])}
    offset = 3 * 4  # the validation images stand before
    for row, shown in zip(details["gallery_row"], details["gallery_nearest"], strict=True):
        distances = {place: sum((a - b) ** 2 for a, b in zip(z, asked[row - offset], strict=True)) for place, z in known.items()}
        nearest = [place for place, distance in distances.items() if distance <= min(distances.values()) * (1 + 1e-6)]
        assert any(np.array_equal(shown, train.images[place].numpy()) for place in nearest)


def test_batches_make_no_difference_and_everything_is_that_of_its_image(data_root, monkeypatch):
    source = with_masks(data_root)
    baseline = built(settings_of("memae", 16)).eval()
    outcome = evaluated(baseline, source)
    val, test = (source.load(DATASETS, part, source.preprocessing(DATASETS, 16, 1)) for part in ("val", "test"))
    with torch.inference_mode():
        usual = [baseline.anomaly_map(val.batch(torch.tensor([i])).image).numpy() for i in range(len(val))]
        shown = [baseline.assess(test.batch(torch.tensor([i])).image, with_map=True) for i in range(len(test))]
    assert outcome.map_scale == pytest.approx(np.quantile(np.concatenate(usual), 0.995), rel=1e-4), "of validation normals alone"

    masked = [i for i, name in enumerate(test.datasets) if name == "lung_ct"]
    masks = np.zeros((8, 16, 16), bool)
    masks[4:, 4:9, 6:11] = True
    expected = pixel_metrics(np.concatenate([shown[i].map[:, 0].numpy() for i in masked]), masks)
    assert {name: outcome.metrics["datasets"]["lung_ct"][name] for name in expected} == pytest.approx(expected, rel=1e-3)

    places = []
    for first in range(0, len(test), 4):  # four normal images of a dataset, then four abnormal ones: no more than six are kept of each
        by_score = sorted(range(first, first + 4), key=lambda i: outcome.rows[len(val) + i]["score"])
        places += dict.fromkeys([*by_score[:0:-1], *by_score[:3]])
    assert outcome.details["gallery_row"].tolist() == [len(val) + place for place in places]
    for row, image, made, anomaly_map in zip(
        *(outcome.details[f"gallery_{name}"] for name in ("row", "image", "reconstruction", "map")), strict=True
    ):
        place = row - len(val)
        assert np.array_equal(image, test.images[place].numpy())
        assert np.abs(made - ((shown[place].reconstruction[0].clamp(-1, 1) + 1) * 127.5).numpy()).max() <= 0.51
        np.testing.assert_allclose(anomaly_map, shown[place].map[0, 0].numpy(), rtol=1e-3, atol=1e-5)
    for row, mask in zip(outcome.details["gallery_row"], outcome.details["gallery_mask"], strict=True):
        place = row - len(val)
        assert np.array_equal(mask, masks[masked.index(place)] if place in masked else np.zeros((16, 16)))

    monkeypatch.setattr("anomaly_detection.evaluation.scores.BATCH", 5)
    other = evaluated(baseline, source)
    assert other.map_scale == pytest.approx(outcome.map_scale, rel=1e-4)
    assert other.details["gallery_row"].tolist() == outcome.details["gallery_row"].tolist()
    assert [row["score"] for row in other.rows] == pytest.approx([row["score"] for row in outcome.rows], rel=1e-4)
    for name in expected:
        assert other.metrics["datasets"]["lung_ct"][name] == pytest.approx(outcome.metrics["datasets"]["lung_ct"][name], rel=1e-3)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_score_that_is_no_number_ends_the_evaluation(part, data_root, monkeypatch):
    source, baseline = DataSource(data_root), built(settings_of("memae", 16)).eval()
    images = source.load(DATASETS, part, source.preprocessing(DATASETS, 16, 1))
    odd, assess = images.batch(torch.tensor([2])).image, baseline.assess

    def broken(x, with_map):
        assessment = assess(x, with_map)
        assessment.score[(x == odd).flatten(1).all(dim=1)] = float("nan")
        return assessment

    monkeypatch.setattr(baseline, "assess", broken)
    with pytest.raises(UserError, match=images.names[2]):
        evaluated(baseline, source)


def test_test_images_move_nothing_that_is_kept_with_a_detector(data_root):
    baseline = built(settings_of("memae", 16), maddr=True).eval()
    one = evaluated(baseline, DataSource(data_root))
    rng = np.random.default_rng(0)
    for path in data_root.glob("*/*/test_*.png"):
        Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(path)
    other = evaluated(baseline, DataSource(data_root))
    scores = [[row["score"] for row in outcome.rows if row["part"] == "test"] for outcome in (one, other)]
    assert not set(scores[0]) & set(scores[1])
    assert other.calibration.to_plain() == one.calibration.to_plain()
    assert other.map_scale == one.map_scale
    assert [row for row in other.rows if row["part"] == "val"] == [row for row in one.rows if row["part"] == "val"]


def test_calibration_knows_whose_and_of_what_domain_each_score_is(data_root, monkeypatch):
    """Of the images 0 to 3 of a part one patient is known, the same one in all datasets; nobody knows whose the others are."""
    catalog = data_root / "datasets.yaml"
    catalog.write_text(catalog.read_text().replace("  root:", "  patient: normal/([a-z]+)_[0-3]\n  root:"))
    source, baseline, seen = DataSource(data_root), built(settings_of("memae", 16), maddr=True).eval(), []
    monkeypatch.setattr("anomaly_detection.evaluation.evaluate.TRAINING_IMAGES", 4)
    fit = Calibration.fit
    monkeypatch.setattr(Calibration, "fit", lambda train, val, alpha: seen.extend((train, val)) or fit(train, val, alpha))
    evaluated(baseline, source)
    for normals, part, numbers in zip(seen, ("train", "val"), ([0, 2, 4, 7], range(4)), strict=True):
        images = source.load(DATASETS, part, source.preprocessing(DATASETS, 16, 1))
        whose = ["known" if number < 4 else (dataset, number) for dataset in DATASETS for number in numbers]
        places = [images.names.index(f"normal/{part}_{number}.png") + len(images) // 3 * k for k in range(3) for number in numbers]
        with torch.inference_mode():
            expected = torch.cat([baseline.anomaly_score(images.batch(torch.tensor([place])).image) for place in places])
        assert normals.scores.score == pytest.approx(expected.numpy(), rel=1e-4)
        assert normals.organ.tolist() == images.organ[places].tolist()
        assert normals.modality.tolist() == images.modality[places].tolist()
        same = [[one == other for other in whose] for one in whose]
        assert (normals.unit[:, None] == normals.unit).tolist() == same


def test_the_gallery_holds_the_extremes_of_many():
    scores = torch.randperm(60, generator=torch.Generator().manual_seed(0)).double()
    gallery = Gallery()
    for places in torch.arange(60).split(7):
        x = (places / 60).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        assessment = Assessment(x, scores[places], x + 100)
        gallery.add(places.tolist(), [("odd", "even")[place % 2 == 0] for place in places.tolist()], x, assessment)
    arrays = gallery.arrays()
    expected = []
    for group in (range(0, 60, 2), range(1, 60, 2)):
        order = sorted(group, key=lambda place: scores[place])
        expected += [*order[:-4:-1], *order[:3]]
    assert arrays["gallery_row"].tolist() == expected
    assert arrays["gallery_map"][:, 0, 0].tolist() == pytest.approx([100 + place / 60 for place in expected], rel=1e-5)
    assert "gallery_reconstruction" not in arrays


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_upper_quantile_is_numpys(count, quantile):
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    running = UpperQuantile(count, quantile)
    for part in np.array_split(values, 3):
        running.add(part.reshape(1, -1))
    assert running.value() == pytest.approx(np.quantile(values.astype(float), quantile), rel=1e-6)
