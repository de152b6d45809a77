import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.preprocessing import Preprocessing, agreed, differences
from anomaly_detection.system.errors import UserError


def read_image(path, size, channels, **options):
    return Preprocessing(image_size=size, channels=channels, **options).read(path)


@pytest.fixture
def save(tmp_path):
    """Write an image or an array to a file."""

    def write(image, name="a.png", **options):
        path = tmp_path / name
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
        return path

    return write


def flat(mode, colour):
    return Image.new(mode, (4, 4), colour)


def with_palette(colours, index):
    image = Image.new("P", (4, 4), index)
    image.putpalette(sum(colours, ()))
    return image


# grey values by ITU-R 601: 0.299 R + 0.587 G + 0.114 B; alpha a over black multiplies by a / 255
@pytest.mark.parametrize(
    ("image", "name", "grey", "rgb"),
    [
        (flat("1", 1), "a.png", 255, (255, 255, 255)),
        (flat("L", 77), "a.png", 77, (77, 77, 77)),
        (flat("L", 77), "a.bmp", 77, (77, 77, 77)),
        (flat("L", 77), "a.tif", 77, (77, 77, 77)),
        (flat("L", 77), "a.jpg", 77, (77, 77, 77)),
        (flat("RGB", (200, 100, 50)), "a.png", 124, (200, 100, 50)),  # 59.8 + 58.7 + 5.7 = 124.2
        (flat("LA", (200, 51)), "a.png", 40, (40, 40, 40)),  # 200 / 5
        (flat("RGBA", (200, 100, 50, 51)), "a.png", 25, (40, 20, 10)),  # (40, 20, 10) is 24.84
        (flat("RGBA", (200, 100, 50, 0)), "a.png", 0, (0, 0, 0)),
        (with_palette([(0, 0, 0), (200, 100, 50)], 1), "a.png", 124, (200, 100, 50)),
        (flat("CMYK", (0, 0, 0, 55)), "a.tif", 200, (200, 200, 200)),
        (flat("CMYK", (255, 0, 0, 0)), "a.tif", 179, (0, 255, 255)),  # cyan: 149.685 + 29.07 = 178.76
        (flat("I;16", 257 * 130), "a.png", 130, (130, 130, 130)),
        (flat("I;16", 257 * 130), "a.tif", 130, (130, 130, 130)),
        (flat("I", 257 * 130), "a.tif", 130, (130, 130, 130)),
        (flat("F", 0.5), "a.tif", 128, (128, 128, 128)),  # 127.5, to even
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_every_colour_mode(save, image, name, grey, rgb):
    path = save(image, name)
    assert np.array_equal(read_image(path, 4, 1), np.full((1, 4, 4), grey, np.uint8))
    got = read_image(path, 4, 3)
    assert (got.shape, got.dtype) == ((3, 4, 4), np.uint8)
    assert np.array_equal(got, np.broadcast_to(np.array(rgb, np.uint8)[:, None, None], (3, 4, 4)))


def test_a_transparent_palette_entry_is_black(save):
    path = save(with_palette([(10, 10, 10), (200, 100, 50)], 1), transparency=1)
    assert not read_image(path, 4, 1).any()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_spans_the_whole_range(tmp_path, bits):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    white = zlib.compress(bytes([0] + [255] * bits) * 8)
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", white) + chunk(b"IEND", b""))
    assert (read_image(path, 8, 1) == 255).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_rounded_to_8_over_the_full_range(save, name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = read_image(save(ramp, name), 256, 1)[0].ravel()
    expected = [(2 * 255 * value + 65535) // (2 * 65535) for value in range(65536)]  # round half up, in whole numbers; there are no ties
    assert got.tolist() == expected


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[-1000, 400]], np.int32), "-1000 to 400"),
        (np.array([[0, 65536]], np.int32), "0 to 65536"),
        (np.array([[0, 255]], np.float32), "0 to 255"),
        (np.array([[0, np.nan]], np.float32), "nan"),
    ],
)
def test_values_out_of_range_are_refused(save, values, shown):
    path = save(values, "a.tif")
    assert_refused(path, shown, "rescale")


def test_rows_columns_and_channels_stay_in_place(save):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path = save(pixels)
    assert np.array_equal(read_image(path, 6, 3), pixels.transpose(2, 0, 1))


def test_exif_orientation_is_followed(save):
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    got = read_image(save(pixels, "a.jpg", exif=exif, quality=100), 16, 1)[0]
    assert np.abs(got.astype(int) - np.rot90(pixels, -1)).max() <= 2
    assert got[4, 12] > 250 > 5 > got[4, 4]


@pytest.mark.parametrize(("height", "width"), [(9, 9), (9, 4), (4, 9), (4, 4), (5, 3), (3, 8)])
@pytest.mark.parametrize("crop", [5, 6])
def test_centre_crop_pads_with_0(save, height, width, crop):
    pixels = np.random.default_rng(0).integers(1, 256, (height, width), dtype=np.uint8)
    got = read_image(save(pixels), crop, 1, crop_size=crop)[0]
    # a margin that is odd goes one way or the other: the result is one of the windows nearest to the centre
    padded = np.pad(pixels, crop)
    tops, lefts = ({crop + (length - crop) // 2, crop - (crop - length) // 2} for length in (height, width))
    windows = [padded[top : top + crop, left : left + crop] for top in tops for left in lefts]
    assert any(np.array_equal(got, window) for window in windows)


def test_equalize_makes_the_distribution_even(save):
    pixels = np.repeat(np.arange(100, 132, dtype=np.uint8), 2048).reshape(256, 256)  # 32 grey levels, as many pixels of each
    got = read_image(save(pixels), 256, 1, equalize_hist=True)[0]
    order = np.unique(got)
    assert np.abs(order - np.linspace(0, 255, 32)).max() <= 4
    assert np.array_equal(np.searchsorted(order, got), pixels - 100)


def test_the_crop_is_taken_before_equalisation_and_resize(save):
    pixels = np.full((128, 128), 200, np.uint8)
    pixels[32:96, 32:96] = np.repeat([50, 60], 32)
    path = save(pixels)
    assert np.unique(read_image(path, 64, 1, crop_size=64)).tolist() == [50, 60]
    # of the crop alone the two levels go to the two ends; of the whole image the upper one would end in the middle
    assert np.unique(read_image(path, 64, 1, crop_size=64, equalize_hist=True)).tolist() == [0, 255]


def test_resize_is_bilinear_with_antialiasing(save):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 48), dtype=np.uint8)
    got = read_image(save(pixels), 8, 1)[0]

    def weights(length):  # a triangle as wide as the step, around the centre of each new pixel
        step = length / 8
        distance = np.abs((np.arange(length) + 0.5)[None] - (np.arange(8)[:, None] + 0.5) * step) / step
        triangle = np.clip(1 - distance, 0, None)
        return triangle / triangle.sum(1, keepdims=True)

    expected = weights(24) @ pixels @ weights(48).T
    assert np.abs(got - expected).max() <= 1


def assert_refused(path, *parts):
    with pytest.raises(UserError) as error:
        read_image(path, 8, 1)
    text = str(error.value)
    assert "\n" not in text
    assert all(part in text for part in [str(path), *parts]), text


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif"])
def test_a_truncated_file_is_refused(save, name):
    path = save(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert_refused(path, "cannot be read as an image", "replace it")


def test_a_file_that_is_no_image_a_folder_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    assert_refused(tmp_path / "text.png", "cannot be read as an image")
    assert_refused(tmp_path, "cannot be read as an image")
    assert_refused(tmp_path / "none.png", "no such image")


def test_a_stack_of_images_is_refused(save):
    path = save(flat("L", 1), "a.tif", save_all=True, append_images=[flat("L", 2), flat("L", 3)])
    assert_refused(path, "holds 3 images", "file of its own")


def test_the_preview_in_a_camera_file_is_left_aside(save):
    path = save(flat("L", 90), "a.jpg", format="MPO", save_all=True, append_images=[flat("L", 2)])
    assert np.array_equal(read_image(path, 4, 1), np.full((1, 4, 4), 90))


def test_stretch_and_pad():
    wide = np.full((10, 40), 200, np.uint8)
    assert Preprocessing(size=20).store(wide).tolist() == [[200] * 20] * 20
    padded = Preprocessing(size=20, aspect="pad").store(wide)
    assert padded.shape == (20, 20)
    assert not padded[:7].any()
    assert not padded[13:].any()
    assert (padded[8:12] == 200).all()


def test_masks_keep_their_place_and_small_lesions():
    mask = np.zeros((100, 100), bool)
    mask[20:60, 40:80] = True
    small = Preprocessing(size=10).store_mask(mask)
    expected = np.zeros((10, 10), bool)
    expected[2:6, 4:8] = True
    assert np.array_equal(small, expected)
    speck = np.zeros((100, 100), bool)
    speck[55, 55] = True
    assert np.argwhere(Preprocessing(size=10).store_mask(speck)).tolist() == [[5, 5]]
    assert not Preprocessing(size=10, aspect="pad").store_mask(np.zeros((5, 5), bool)).any()


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kept", [1, 3])
def test_what_was_stored_passes_unchanged(aspect, channels, kept):
    """So that a detector treats what `prepare` read and what it wrote alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    preprocessing = Preprocessing(None, aspect, 60, kept, crop_size=50, equalize_hist=True, image_size=32, channels=channels)
    stored = preprocessing.store(pixels)
    assert (stored.shape, stored.dtype) == ((60, 60) if kept == 1 else (60, 60, 3), np.uint8)
    assert np.array_equal(preprocessing.store(stored), stored)
    assert np.array_equal(preprocessing.apply(stored), preprocessing.apply(pixels))
    by_hand = Preprocessing(crop_size=50, equalize_hist=True, image_size=32, channels=channels)
    assert np.array_equal(by_hand.apply(stored), preprocessing.apply(pixels)), "training reads what was stored"
    assert not np.array_equal(by_hand.apply(pixels), preprocessing.apply(pixels))


def test_without_a_stored_size_colours_stay():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert Preprocessing(image_size=8, channels=3).apply(red)[:, 0, 0].tolist() == [200, 0, 0]
    assert Preprocessing(size=8, image_size=8, channels=3).apply(red)[:, 0, 0].tolist() == [60, 60, 60]  # 0.299 * 200


def test_colours_are_stored_where_they_are_kept():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    kept = Preprocessing(size=4, stored_channels=3, image_size=4, channels=3)
    assert kept.store(red).tolist() == [[[200, 0, 0]] * 4] * 4
    assert kept.apply(red)[:, 0, 0].tolist() == [200, 0, 0]
    assert kept.apply(kept.store(red))[:, 0, 0].tolist() == [200, 0, 0]
    assert Preprocessing(size=4, stored_channels=3, image_size=4).apply(red)[:, 0, 0].tolist() == [60], "as many channels as in training"
    grey = np.full((8, 8), 90, np.uint8)
    for pixels in (grey, np.stack([grey] * 3, axis=2)):  # an image without colours is stored alike, however many channels it came with
        assert kept.store(pixels).tolist() == [[90] * 4] * 4
        assert kept.apply(pixels)[:, 0, 0].tolist() == [90, 90, 90]


@pytest.mark.parametrize(
    ("pixel", "options", "lost"),
    [
        ((200, 100, 50), {"size": 8}, True),
        ((200, 100, 50), {"size": 8, "stored_channels": 3}, False),
        ((200, 100, 50), {}, False),
        ((90, 90, 90), {"size": 8}, False),
        ((90, 93, 88), {"size": 8}, False),  # the noise of a JPEG
    ],
)
def test_which_colours_are_lost(pixel, options, lost):
    pixels = np.full((8, 8, 3), 60, np.uint8)
    pixels[3, 4] = pixel
    assert Preprocessing(**options).loses_colour(pixels) == lost
    assert not Preprocessing(**options).loses_colour(pixels[..., 0])


def test_a_mask_goes_where_its_image_goes():
    mask = np.zeros((40, 100), bool)
    mask[10:30, 60:80] = True
    image = np.where(mask, 255, 0).astype(np.uint8)
    for preprocessing in (
        Preprocessing(image_size=20),
        Preprocessing(size=50, image_size=20),
        Preprocessing(aspect="pad", size=50, image_size=20),
        Preprocessing(aspect="pad", size=50, crop_size=30, image_size=20),
        Preprocessing(crop_size=120, image_size=20),
    ):
        found = preprocessing.apply_mask(mask)
        assert (found.shape, found.dtype) == ((20, 20), bool)
        light = preprocessing.apply(image)[0].astype(int)
        assert (light[found] > 100).all()
        assert (light[~found] < 155).all()
        assert np.array_equal(preprocessing.apply_mask(preprocessing.store_mask(mask)), found)


@pytest.mark.parametrize("window", [None, "auto", Window(40, 400)])
def test_as_plain_values_and_back(window):
    preprocessing = Preprocessing(window, "pad", 300, 3, 224, True, 128, 3)
    plain = json.loads(json.dumps(preprocessing.to_plain()))
    assert Preprocessing.from_plain(plain) == preprocessing
    older = {key: value for key, value in plain.items() if key != "stored_channels"}
    assert Preprocessing.from_plain(older).stored_channels == 1, "before colours could be kept all was grey"
    with pytest.raises(ValueError, match="preprocessing has the keys"):
        Preprocessing.from_plain({key: value for key, value in plain.items() if key != "size"})
    with pytest.raises(ValueError, match="window must be"):
        Preprocessing.from_plain({**plain, "window": "wide"})


def test_16_bits_are_shown_through_the_window(save):
    path = save(np.array([[0, 864], [1064, 4095]], np.uint16))
    assert read_image(path, 2, 1)[0].tolist() == [[0, 3], [4, 16]]
    assert read_image(path, 2, 1, window=Window(1064, 400))[0].tolist() == [[0, 0], [128, 255]]  # 127.5, to even
    eight = save(np.array([[0, 90], [200, 255]], np.uint8), "b.png")
    assert read_image(eight, 2, 1, window=Window(1064, 400))[0].tolist() == [[0, 90], [200, 255]]


def test_what_datasets_differ_in_is_told():
    one = Preprocessing(size=300, image_size=32)
    assert differences({"a": one, "b": one}) == {}
    assert agreed({"a": one, "b": one}, "run") == one
    padded = Preprocessing(aspect="pad", size=256, image_size=32)
    assert differences({"a": one, "b": padded}) == {"aspect": "a: stretch, b: pad", "size": "a: 300, b: 256"}
    with pytest.raises(UserError, match=r"run: trained on datasets with different aspect \(a: stretch, b: pad\); size \(a: 300, b: 256\)"):
        agreed({"a": one, "b": padded}, "run")
    ct = Preprocessing(window=Window(40, 400), size=300, image_size=32)
    assert differences({"a": ct, "b": one}) == {"window": "a: [40, 400], b: None"}
    assert agreed({"a": ct, "b": one}, "run") == one, "as the files say"
    colour = Preprocessing(size=300, stored_channels=3, image_size=32)
    assert agreed({"a": one, "b": colour}, "run") == colour, "grey is the same with colours kept"
    assert agreed({"a": ct, "b": colour}, "run") == colour


WAYS_BACK = [
    ({"image_size": 64}, (64, 64)),
    ({"image_size": 64}, (300, 211)),  # sides that are odd, and not alike
    ({"image_size": 64}, (31, 45)),  # smaller than the network's image
    ({"image_size": 64, "size": 128}, (200, 333)),
    ({"image_size": 64, "size": 128, "aspect": "pad"}, (200, 333)),
    ({"image_size": 64, "size": 127, "aspect": "pad"}, (333, 200)),
    ({"image_size": 64, "size": 50, "aspect": "pad"}, (97, 31)),
    ({"image_size": 64, "crop_size": 101}, (200, 333)),
    ({"image_size": 64, "crop_size": 400}, (201, 333)),  # with black around
    ({"image_size": 64, "crop_size": 100}, (300, 51)),  # less than it is high, more than it is wide
    ({"image_size": 64, "size": 128, "aspect": "pad", "crop_size": 101}, (200, 333)),
    ({"image_size": 33, "size": 90, "aspect": "stretch", "crop_size": 120}, (77, 200)),
]


@pytest.mark.parametrize(("options", "shape"), WAYS_BACK)
def test_what_is_marked_lies_back_where_it_was(options, shape):
    """A disc goes through `apply`; what the network would mark, its brightness, is laid back: within a cell of the disc, wherever that is."""
    preprocessing = Preprocessing(**options)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    cell = max(shape) / min(options["image_size"], options.get("size", 1000)) * max(1, options.get("crop_size", 0) / options.get("size", min(shape)))
    radius = max(3.0, cell)
    for place in ((0.5, 0.5), (0.45, 0.56), (0.6, 0.41)):
        centre = place[0] * shape[0], place[1] * shape[1]
        disc = (rows + 0.5 - centre[0]) ** 2 + (columns + 0.5 - centre[1]) ** 2 < radius**2
        seen = preprocessing.apply(disc.astype(np.uint8) * 255)[0].astype(np.float32)
        back = preprocessing.back(seen, shape)
        assert (back.shape, back.dtype) == (shape, np.float32)
        total = back.sum(dtype=np.float64)
        found = ((rows + 0.5) * back).sum() / total, ((columns + 0.5) * back).sum() / total
        assert np.hypot(found[0] - centre[0], found[1] - centre[1]) < 0.3 * cell
        assert disc[np.unravel_index(back.argmax(), shape)]
        assert total / 255 == pytest.approx(disc.sum(), rel=0.1)


@pytest.mark.parametrize(("options", "shape"), WAYS_BACK)
def test_every_pixel_that_was_seen_gets_back_its_own(options, shape):
    """Of an image that brightens evenly from corner to corner each pixel gets its brightness back; a pixel outside the crop gets 0."""
    preprocessing = Preprocessing(**options)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = 40 + 100 * (rows + 0.5) / shape[0] + 100 * (columns + 0.5) / shape[1]
    back = preprocessing.back(preprocessing.apply(np.rint(image).astype(np.uint8))[0].astype(np.float32), shape)
    cells = min(options["image_size"], options.get("size", 1000))
    inner = ndimage.binary_erosion(back > 0, iterations=1 + int(np.ceil(2.5 * max(shape) / cells * max(1, options.get("crop_size", 0) / min(shape)))))
    assert inner.any()
    assert np.abs(back - image)[inner].max() < 4


def test_outside_of_a_crop_there_is_nothing():
    # of 10 rows the middle 6 begin at 2, of 13 columns at round(3.5) = 4
    back = Preprocessing(image_size=3, crop_size=6).back(np.array([[1, 1, 1], [1, 1, 1], [5, 5, 5]], np.float32), (10, 13))
    expected = np.zeros((10, 13))
    expected[2:8, 4:10] = np.array([1, 1, 1, 2, 4, 5])[:, None]  # cells of two pixels: middles at 3, 5 and 7, between them a straight line
    assert np.allclose(back, expected)


def test_black_bars_are_not_laid_back():
    # 4 x 8 in 8 x 8: the image is in rows 2 to 5
    marked = np.zeros((8, 8), np.float32)
    marked[:2], marked[6:], marked[3, 5] = 9, 9, 1
    expected = np.zeros((4, 8))
    expected[1, 5] = 1
    assert np.array_equal(Preprocessing(image_size=8, size=8, aspect="pad").back(marked, (4, 8)), expected)


def test_back_at_another_size():
    marked = np.arange(16, dtype=np.float32).reshape(4, 4)
    preprocessing = Preprocessing(image_size=4, crop_size=2)
    fine = preprocessing.back(marked, (4, 4), at=(8, 8))
    assert np.array_equal(fine[2:6, 2:6], marked)
    assert fine.sum() == marked.sum(), "outside of the crop there is nothing"
    coarse = Preprocessing(image_size=4).back(np.kron(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)), (512, 512), at=(2, 2))
    near, far = 6 / 7, 1 / 7  # a tent over 0 to 3 weighs the cells 3/4, 3/4 and 1/4
    assert np.allclose(coarse, [[near**2 + far**2, 2 * near * far], [2 * near * far, near**2 + far**2]])
