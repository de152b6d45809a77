"""The worst mistakes, held against a search through all rows."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.study.page.pictures import jpeg, shown, told_apart, worst
from tests.study.page.made import made_study


def mistakes(result, dataset, label):
    """Names of the wrongly called test images, the worst first."""
    threshold = result.metrics["datasets"][dataset]["threshold"]
    rows = [row for row in result.rows if (row["dataset"], row["part"], row["label"]) == (dataset, "test", label)]
    rows = sorted((row for row in rows if (row["score"] > threshold) != bool(label)), key=lambda row: row["score"], reverse=not label)
    return [row["image"] for row in rows]


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("regime", ["united", "separate"])
def test_the_worst_of_each_dataset_come_first(tmp_path, label, regime):
    content = made_study(tmp_path, regimes=(regime,))
    networks = [(result, experiment.folder) for result, experiment in content.told("memae")]
    pictures = worst(networks, label)
    assert pictures
    for result, _ in networks:
        for dataset in result.datasets:
            names = [picture.image for picture in pictures if picture.dataset == dataset]
            assert names == mistakes(result, dataset, label)[:3]
            rows = {row["image"]: place for place, row in enumerate(result.rows) if row["dataset"] == dataset}
            assert all((picture.pixels == rows[picture.image] % 256).all() for picture in pictures if picture.dataset == dataset), "it is its picture"
    wrong = {picture.dataset for picture in pictures}
    assert {picture.dataset for picture in pictures[: len(wrong)]} == wrong, "each dataset has its turn"


def test_where_nothing_is_wrong_the_nearest_are_shown(tmp_path):
    content = made_study(tmp_path, datasets=("liver_ct",), regimes=("separate",))
    (result, experiment) = content.told("memae")[0]
    result.metrics["datasets"]["liver_ct"]["threshold"] = 99.0
    pictures = worst([(result, experiment.folder)], 0)
    assert len(pictures) == 3
    assert not any(picture.called for picture in pictures)


def test_a_lost_gallery_is_told_and_costs_no_report(tmp_path, caplog):
    content = made_study(tmp_path)
    folder = content.experiments[0].folder
    (folder / "details.npz").write_bytes((folder / "details.npz").read_bytes()[:-40])
    assert worst([(content.results[0], folder)], 1) == []
    assert "details.npz is missing or damaged" in caplog.text


def test_a_picture_is_small_and_named(tmp_path):
    content = made_study(tmp_path, name="{label}/a<b>&{i}.png")
    picture = worst([(content.results[0], content.experiments[0].folder)], 1)[0]
    text = shown(picture, 1)
    assert "<b>a&lt;b&gt;&amp;" in text
    assert f'alt="abnormal image abnormal/a&lt;b&gt;&amp;{picture.image[14:-4]}.png of {picture.dataset}"' in text
    assert f"{picture.score:.3g} ≤ {picture.threshold:.3g}" in text


@pytest.mark.parametrize(
    ("one", "other", "texts"),
    [
        (0.21314, 0.21309, ("0.21314", "0.21309")),
        (627.2, 280.9, ("627", "281")),
        (12345.6, 12345.5, ("12345.6", "12345.5")),
        (0.5, 0.5, ("0.5", "0.5")),
    ],
)
def test_a_score_is_told_apart_from_its_threshold(one, other, texts):
    assert told_apart(one, other) == texts


def test_a_line_runs_round_a_lesion_whose_mask_is_known(tmp_path):
    content = made_study(tmp_path)
    folder = content.experiments[0].folder
    with np.load(folder / "details.npz") as file:
        details = dict(file)
    masks = np.zeros(details["gallery_map"].shape, bool)
    masks[:, 5:9, 6:8] = True
    np.savez(folder / "details.npz", **details, gallery_mask=masks)
    for picture in worst([(content.results[0], folder)], 1):
        for y in range(16):
            for x in range(16):
                beside = any(masks[0, y + j, x + i] for j, i in ((0, 1), (0, -1), (1, 0), (-1, 0)) if max(y + j, x + i) < 16)
                line = beside and not masks[0, y, x]
                assert picture.overlay[y, x].tolist() == ([0, 255, 255] if line else pytest.approx([picture.pixels[0, y, x]] * 3, abs=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_become_small_ones(channels):
    pixels = np.full((300, 200, channels), 100, np.uint8)
    data = jpeg(pixels).removeprefix("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(picture.size) == 104
    assert picture.size[0] / picture.size[1] == pytest.approx(2 / 3, abs=0.02)
    assert np.asarray(picture).mean() == pytest.approx(100, abs=2)
