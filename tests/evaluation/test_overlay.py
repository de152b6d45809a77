import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.overlay import TOP, backdrop, draw_overlay, overlay, palette

LUMA = np.array([0.299, 0.587, 0.114])


def test_what_is_usual_stays_as_it_is():
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    picture = overlay(image, np.linspace(-1, 0.02, 256).reshape(16, 16), scale=0.02).astype(int)
    assert np.abs(picture - image[0, :, :, None]).max() <= 1
    assert np.ptp(picture, axis=2).max() == 0, "no colour"


@pytest.mark.parametrize("grey", [0, 100, 255])
def test_what_is_beyond_it_is_tinted_at_once_and_brighter_and_brighter(grey):
    image = np.full((1, 1, 9), grey, np.uint8)
    values = np.array([[1, 1.0001, 1.1, 1.25, 1.5, 1.75, 1.9, 2, 50]], np.float32)
    picture = overlay(image, values * 0.3, scale=0.3)[0].astype(float)
    assert np.ptp(picture[1]) > 60, "seen at once: the least that is tinted is coloured strongly"
    assert np.array_equal(picture[-1], picture[-2]), f"the scale ends at {TOP}"
    heats = matplotlib.colormaps["inferno"](np.linspace(0.45, 1, 16))[:, :3] * 255
    assert (np.diff((picture[1:-1] - heats[0]) @ LUMA) > 0).all() or grey == 255, "the order of the values is that of the brightness"
    shade = grey // 32 * 255 / 7  # of eight
    for value, colour in zip(values[0, 1:], picture[1:], strict=True):
        step = min(int((value - 1) * 16), 15)
        opacity = 0.65 + 0.25 * step / 15
        assert np.abs(opacity * heats[step] + (1 - opacity) * shade - colour).max() <= 0.51


def test_colours_are_seen_in_grey():
    image = np.tile(np.array([200, 100, 50], np.uint8)[:, None, None], (1, 2, 2))
    assert np.abs(overlay(image, np.zeros((2, 2)), 1.0).astype(int) - 124).max() <= 1  # 59.8 + 58.7 + 5.7


@pytest.mark.parametrize(
    ("shape", "size"),
    [((512, 400), (512, 400)), ((2048, 1000), (1024, 500)), ((1, 3000), (1, 1024)), ((64, 50), (256, 200)), ((8, 9), (232, 261))],
)
def test_pictures_have_the_size_of_the_image_within_bounds(shape, size):
    image = backdrop(np.full(shape, 80, np.uint8))
    assert (image.grey.shape, image.shape) == (size, shape)
    drawn = draw_overlay(image, np.zeros((16, 16), np.float32), Preprocessing(image_size=16), 1.0)
    assert drawn.shape == size
    picture = np.asarray(drawn.picture.convert("RGB")).astype(int)
    assert picture.shape[0] == max(size[0], 200)
    assert np.abs(picture[: size[0], : size[1]] - 80).max() <= 1
    assert not picture[size[0] :, : size[1]].any()


def test_a_picture_of_colours_has_a_backdrop():
    image = backdrop(np.tile(np.array([200, 100, 50], np.uint8), (300, 260, 1)))
    assert (image.grey.shape, image.shape, int(image.grey[5, 5])) == ((300, 260), (300, 260), 124)


def test_the_map_lies_where_it_belongs():
    """A mark of the network, which saw a crop of a picture between bars, is tinted in the picture where `apply` found it."""
    preprocessing = Preprocessing(size=128, aspect="pad", crop_size=96, image_size=48)
    image = np.zeros((300, 600), np.uint8)
    image[140:160, 400:420] = 255
    seen = preprocessing.apply(image)[0].astype(np.float32)
    tinted = np.ptp(np.asarray(draw_overlay(backdrop(image), seen / 100, preprocessing, 1.0).picture.convert("RGB"))[:, :600].astype(int), axis=2) > 0
    rows, columns = np.nonzero(tinted)
    assert rows.mean() == pytest.approx(149.5, abs=3)
    assert columns.mean() == pytest.approx(409.5, abs=3)
    assert len(rows) == pytest.approx(400, rel=0.6)


def test_the_bar_shows_the_colours_of_the_values():
    """Each value's colour stands in the bar at its height, whatever image it lies over."""
    preprocessing = Preprocessing(image_size=1)
    for grey in (0, 128, 255):
        for value in (1.03, 1.5, 1.97):
            image = np.full((400, 300), grey, np.uint8)
            drawn = np.asarray(draw_overlay(backdrop(image), np.full((1, 1), 7 * value, np.float32), preprocessing, 7.0).picture)
            bar = drawn[:, 300:]
            rows = np.nonzero((bar == drawn[0, 0]).any(axis=1))[0]
            height = np.nonzero((bar >= 128).any(axis=1))[0]
            share = 1 - (rows - height[0] + 0.5) / len(height)
            assert share.min() - 0.01 < value - 1 < share.max() + 0.01
            assert len(rows) < len(height) / 12


def test_the_bar_names_the_value_of_the_scale():
    image, preprocessing = backdrop(np.zeros((400, 300), np.uint8)), Preprocessing(image_size=1)
    one, other = (np.asarray(draw_overlay(image, np.zeros((1, 1), np.float32), preprocessing, scale).picture) for scale in (0.123, 0.456))
    assert not np.array_equal(one, other)


def test_a_saved_picture_keeps_its_colours():
    image = np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)
    drawn = draw_overlay(backdrop(image), np.random.default_rng(1).random((8, 8), np.float32), Preprocessing(image_size=8), 0.5)
    stream = io.BytesIO()
    drawn.picture.save(stream, "png")
    assert np.array_equal(np.asarray(Image.open(stream).convert("RGB")), palette()[np.asarray(drawn.picture)])
