"""Images as users have them: the same pixels whichever way they come, and a clear word where they are no images."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.inputs import BATCH, images_of, pixels_of, preprocessed
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError
from tests.data.formats.test_dicom import write_dicom

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (5, 7), dtype=np.uint8)
GREY[0, :2] = 0, 255
COLOUR = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
HU = rng.integers(-1000, 1000, (5, 7)).astype(np.int16)


def saved(pixels, path):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    "form",
    [
        lambda pixels, folder: pixels,
        lambda pixels, folder: saved(pixels, folder / "a.png"),
        lambda pixels, folder: str(saved(pixels, folder / "a.tif")),
        lambda pixels, folder: Image.fromarray(pixels),
        lambda pixels, folder: pixels / 255,
        lambda pixels, folder: (pixels / 255).astype(np.float32),
        lambda pixels, folder: np.asfortranarray(pixels)[::-1][::-1],
        lambda pixels, folder: torch.tensor(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)),
        lambda pixels, folder: torch.tensor(np.atleast_3d(pixels).transpose(2, 0, 1) / 255).float().requires_grad_(),
        lambda pixels, folder: torch.complex(torch.zeros(1), torch.tensor(np.atleast_3d(pixels).transpose(2, 0, 1) / -255).float()).conj().imag,
    ],
    ids=["uint8", "path", "str", "picture", "float64", "float32", "strides", "tensor", "tensor of floats", "tensor that is a view"],
)
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_the_same_pixels_come_of_every_way(form, pixels, tmp_path):
    shown = pixels_of(form(pixels, tmp_path), None)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, pixels)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, ">i2", np.float32, np.float64])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_other_numbers_are_shown_through_the_window(dtype, as_tensor):
    if as_tensor and dtype == ">i2":
        pytest.skip("torch has no such type")
    values = torch.tensor(HU.astype(dtype)) if as_tensor else HU.astype(dtype)
    expected = [[round(255 * min(max((float(v) - 40) / 400 + 0.5, 0), 1)) for v in row] for row in HU]
    assert pixels_of(values, Window(40, 400)).tolist() == expected


@pytest.mark.parametrize("window", ["auto", Window(30000, 20000)])
def test_16_bits_in_memory_are_those_of_a_file(window, tmp_path):
    values = rng.integers(0, 65536, (9, 11), dtype=np.uint16)
    path = saved(values, tmp_path / "a.png")
    for image in (values, values.astype(np.int64), torch.tensor(values.astype(np.int32)), Image.open(path)):
        assert np.array_equal(pixels_of(image, window), pixels_of(path, window))
    assert np.ptp(pixels_of(path, window)) > 200


def test_8_bits_need_no_window():
    assert np.array_equal(pixels_of(GREY, Window(40, 400)), GREY)
    assert np.array_equal(pixels_of(GREY, "auto"), GREY)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (HU, ValueError, r"image: int16 does not say which values are black and white; give window=\(level, width\).*\"auto\""),
        (GREY.astype(np.uint16), ValueError, "image: uint16 does not say"),
        (torch.tensor(HU), ValueError, "image: int16 does not say"),
        (GREY.astype(float), ValueError, "must lie in 0 to 1, got 0 to 255; give window="),
        (GREY / 255 - 1, ValueError, "got -1 to 0"),
        (np.where(GREY < 9, np.nan, GREY / 255), ValueError, "got nan to nan"),
        (GREY > 9, TypeError, "expected whole numbers or floating point, got bool"),
        (GREY.astype(complex), TypeError, "got complex128"),
        (GREY[0], ValueError, r"expected an image \(H, W\) or \(H, W, 3\), got uint8 of shape \(7,\)"),
        (COLOUR.transpose(2, 0, 1), ValueError, r"got uint8 of shape \(3, 5, 7\)"),
        (GREY[:0], ValueError, r"got uint8 of shape \(0, 7\)"),
        (torch.tensor(COLOUR), ValueError, r"expected a tensor .*, got one of shape \(5, 7, 3\)"),
        (torch.tensor(GREY).float().to_sparse(), TypeError, "image: expected a tensor that holds its values one by one, got one that is"),
        (torch.empty(5, 7, device="meta"), TypeError, "image: expected a tensor that holds its values .* on meta"),
        (GREY.tolist(), TypeError, "expected a path, .*, got list"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_what_is_no_image_is_told(image, error, message):
    with pytest.raises(error, match=message) as caught:
        pixels_of(image, None)
    assert "\n" not in str(caught.value)


def test_a_file_of_several_images_names_what_reads_them(tmp_path):
    write_dicom(tmp_path / "frames.dcm", np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(UserError, match=r"frames\.dcm: holds 3 images; .*read_images\(path\)"):
        pixels_of(tmp_path / "frames.dcm", None)


class Column:
    """As pandas has them."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=object)


@pytest.mark.parametrize(
    "batch",
    [
        np.stack([GREY, GREY + 1]),
        [GREY, GREY + 1],
        (GREY, torch.tensor(GREY + 1)),
        torch.tensor(np.stack([GREY, GREY + 1])),
        torch.tensor(np.stack([GREY, GREY + 1]))[:, None],
        np.array(["a.png", "b.png"]),
        Column(["a.png", "b.png"]),
    ],
    ids=["array", "list", "tuple", "tensor", "tensor with channels", "names", "column"],
)
def test_a_batch_is_its_images(batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(GREY, tmp_path / "a.png")
    saved(GREY + 1, tmp_path / "b.png")
    images = images_of(batch)
    assert len(images) == 2
    assert all(np.array_equal(pixels_of(image, None), pixels) for image, pixels in zip(images, (GREY, GREY + 1), strict=True))


def test_a_batch_of_colours():
    for batch in (np.stack([COLOUR, COLOUR]), torch.tensor(np.stack([COLOUR, COLOUR]).transpose(0, 3, 1, 2))):
        assert [np.array_equal(pixels_of(image, None), COLOUR) for image in images_of(batch)] == [True, True]


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (GREY, ValueError, "got ndarray of shape (5, 7); of a single image make a list: [image]"),
        (COLOUR, ValueError, "got ndarray of shape (5, 7, 3); of a single"),
        (np.zeros((2, 3, 5, 7), np.uint8), ValueError, "got ndarray of shape (2, 3, 5, 7)"),
        (torch.zeros(2, 5, 7, 3), ValueError, "got Tensor of shape (2, 5, 7, 3)"),
        ("a.png", TypeError, "got one str; of a single"),
        (Image.fromarray(GREY), TypeError, "got one Image"),
        (b"abc", TypeError, "got bytes"),
        ({0: GREY}, TypeError, "got dict"),
        (None, TypeError, "got NoneType"),
        ([], ValueError, "got no image"),
        (np.zeros((0, 5, 7)), ValueError, "got no image"),
    ],
)
def test_what_is_no_batch_is_told(batch, error, message):
    with pytest.raises(error, match=re.escape(message)):
        images_of(batch)


def test_images_of_all_sizes_are_prepared_in_order_a_few_at_a_time():
    images = [np.full((4 + i % 5, 6), i, np.uint8) for i in range(BATCH + 3)]
    batches = list(preprocessed(images, Preprocessing(image_size=8)))
    assert [batch.shape for batch in batches] == [(BATCH, 1, 8, 8), (3, 1, 8, 8)]
    assert np.concatenate(batches)[:, 0, 3, 3].tolist() == list(range(BATCH + 3))


class Recorded(Sequence):
    """Images that are made when they are asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 10**6

    def __getitem__(self, place):
        self.asked.append(place)
        return GREY


def test_no_image_is_read_before_its_batch_is_wanted():
    images = Recorded()
    batches = preprocessed(images_of(images), Preprocessing(image_size=8))
    assert images.asked == []
    next(batches)
    assert sorted(images.asked) == list(range(BATCH))
    batches.close()


def test_the_image_that_is_wrong_is_named():
    with pytest.raises(ValueError, match="^image 2: int16 does not say"):
        list(preprocessed([GREY, GREY, HU], Preprocessing()))
