"""Lesion masks: where they lie, what in them is lesion, and which say nothing."""

import shutil

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data import masks as masks_module
from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.masks import load_masks, mask_path, read_mask
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError
from tests.data.formats.test_pictures import of, png, tiff

Y, X = np.mgrid[:64, :64]
LESION = (Y - 32) ** 2 + (X - 32) ** 2 < 100
WHOLE = (64, 64)


def test_a_mask_lies_beside_the_folders_of_images():
    assert mask_path("abnormal/1.jpg") == "masks/1.png"
    assert mask_path("abnormal/a/2020.1%0.png") == "masks/a/2020.1%0.png"
    assert mask_path("1.tif") == "masks/1.png"


def loaded(images, labels, folder, preprocessing):
    spec = DatasetSpec(name="some", label=0, organ="liver", modality="ct", root=folder.name)
    return load_masks(images, labels, spec, folder.parent, preprocessing)


def with_palette(colours, index=LESION):
    image = Image.fromarray(index.astype(np.uint8)).convert("P")
    image.putpalette(sum(colours, ()))
    return image


def with_alpha(opaque, hidden):
    """Where there is no lesion `hidden` lies under full transparency."""
    return np.where(LESION[..., None], (*opaque, 255), (*hidden, 0)).astype(np.uint8)


def with_hidden(values, transparency):
    """A PNG that names the value, or of a palette how opaque each is, in place of an alpha channel."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values.astype(np.uint8))
    image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("bit.png", LESION),
        ("bit.tif", LESION),
        ("bit.bmp", LESION),
        ("grey.png", LESION.astype(np.uint8) * 255),
        ("label.png", LESION.astype(np.uint8)),
        ("label.tif", LESION.astype(np.uint8)),
        ("label.bmp", LESION.astype(np.uint8)),
        ("deep.png", LESION.astype(np.uint16)),
        ("deep128.png", LESION.astype(np.uint16) * 128),
        ("deep.tif", LESION.astype(np.uint16)),
        ("signed.tif", np.where(LESION, 1, -1).astype(np.int16)),
        ("whole.tif", LESION.astype(np.int32)),
        ("ignored.tif", np.where(LESION, 1, -1).astype(np.int32)),
        ("real.tif", LESION.astype(np.float32)),
        ("nan.tif", np.where(LESION, 0.2, np.nan).astype(np.float32)),
        ("colour.png", np.repeat(LESION[..., None].astype(np.uint8) * 255, 3, axis=2)),
        ("faint.png", LESION[..., None] * np.array([1, 0, 0], np.uint8)),
        ("blue.png", LESION[..., None] * np.array([0, 0, 1], np.uint8)),
        ("palette.png", with_palette([(0, 0, 0), (128, 0, 0)])),
        ("black_label.png", with_palette([(0, 0, 0), (0, 0, 0), (255, 255, 255)])),
        ("palette.tif", with_palette([(0, 0, 0), (0, 0, 1)])),
        ("bright_ground.png", with_palette([(255, 255, 0), (0, 255, 255)])),
        ("drawn.png", with_alpha((255, 0, 0), (0, 0, 0))),
        ("drawn_on_white.png", with_alpha((255, 0, 0), (255, 255, 255))),
        ("hidden_grey.png", with_hidden(np.where(LESION, 255, 9), 9)),
        ("hidden_colour.png", with_hidden(np.where(LESION[..., None], (255, 0, 0), (255, 255, 255)), (255, 255, 255))),
        ("hidden_index.png", with_hidden(with_palette([(0, 0, 0), (255, 0, 0), (9, 9, 9)], np.where(LESION, 1, 2)), 2)),
        ("hidden_indices.png", with_hidden(with_palette([(9, 9, 9), (255, 0, 0), (9, 9, 9)], np.where(LESION, 1, 2)), b"\0\x80\0")),
        ("grey_alpha.png", np.stack([np.full(WHOLE, 9), LESION * 255], axis=2).astype(np.uint8)),
    ],
)
def test_what_is_above_0_is_lesion(tmp_path, name, stored):
    (stored if isinstance(stored, Image.Image) else Image.fromarray(stored)).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name, WHOLE), LESION)


@pytest.mark.parametrize(
    ("content", "lesion"),
    [
        (tiff(of("i1", -1, 0, 1, 127), 8, 1, t339=[2]), [0, 0, 1, 1]),
        (tiff(of(">u2", 0, 1, 256, 65535), 16, 1, ">"), [0, 1, 1, 1]),
        (tiff(b"\xa0", 1, 1), [1, 0, 1, 0]),
        (tiff(b"\xa0", 1, 0), [0, 1, 0, 1]),  # white, as a viewer shows it
        (tiff(b"\x08\xf0", 4, 1), [0, 1, 1, 0]),
    ],
    ids=["int8", "uint16, big endian", "1 bit", "1 bit, 0 white", "4 bits"],
)
def test_sample_formats_of_tiff(tmp_path, content, lesion):
    (tmp_path / "m.tif").write_bytes(content)
    assert read_mask(tmp_path / "m.tif", (1, 4))[0].tolist() == [bool(value) for value in lesion]


@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "a.png", "a.tif"])  # the last two are named as what they are not, or packed as one
@pytest.mark.parametrize("grey", [255, 128])
def test_the_noise_of_a_jpeg_is_no_lesion(tmp_path, name, grey):
    kind = {"format": "tiff", "compression": "jpeg"} if name == "a.tif" else {"format": "jpeg"}
    Image.fromarray(LESION.astype(np.uint8) * grey).save(tmp_path / name, quality=75, **kind)
    assert (np.asarray(Image.open(tmp_path / name)) > 0).sum() > 1.3 * LESION.sum(), "the noise is there"
    assert (read_mask(tmp_path / name, WHOLE) != LESION).sum() < 0.03 * LESION.sum()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "none.jpg")
    assert not read_mask(tmp_path / "none.jpg", (8, 8)).any()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.tif", tiff(of("u1", 0, 1, 0, 1), 8, 0), "a mask in which 0 is white, so that .* cannot be known; save it as PNG, black where"),
        ("m.tif", tiff(of("<u2", 0, 1, 0, 1), 16, 0), "a mask in which 0 is white"),
        ("m.png", png(of(">u2", 1, 2, 3, 4, 5, 6), 16, 2, (2, 1)), "of 16-bit colours, of which only the upper 8 bits are read"),
        ("m.tif", tiff(of("<f8", 0, 1, 0, 1), 64, 1, t339=[3]), "a kind of samples that is not read; save it as PNG"),
        ("m.png", b"\x89PNG", "cannot be read as an image"),
    ],
)
def test_what_does_not_tell_the_lesion_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_mask(tmp_path / name, (1, 2) if name == "m.png" else (1, 4))


def test_a_sorted_palette_is_refused(tmp_path):
    for image in (with_palette([(255, 255, 255), (0, 0, 0)]), with_hidden(with_palette([(255, 0, 0), (255, 255, 255)]), 1)):
        image.save(tmp_path / "m.png")
        with pytest.raises(UserError, match=r"m\.png: .* a palette in which black, or what is transparent, is not the first colour; save it"):
            read_mask(tmp_path / "m.png", WHOLE)


def test_a_mask_of_another_size_is_told(tmp_path):
    Image.fromarray(LESION).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png: is a mask of \(64, 64\) pixels for an image of \(64, 32\); make them the same"):
        read_mask(tmp_path / "m.png", (64, 32))


@pytest.fixture
def folder(tmp_path):
    """Of a dataset."""
    (tmp_path / "some").mkdir()
    return tmp_path / "some"


def test_masks_of_stored_images(folder):
    """What evaluation reads is what `read_mask` says, and a mask that does not fit its image ends it."""
    for name in ("normal", "abnormal", "masks"):
        (folder / name).mkdir()
    for image in ("normal/h.png", "abnormal/a.png", "abnormal/b.png", "abnormal/c.png"):
        Image.new("L", (64, 64)).save(folder / image)
    Image.fromarray(LESION.astype(np.uint16)).save(folder / "masks" / "a.png")
    with_palette([(0, 0, 0), (0, 0, 0)]).save(folder / "masks" / "c.png")
    images = ["normal/h.png", "abnormal/a.png", "abnormal/b.png", "abnormal/c.png"]
    masks = loaded(images, [0, 1, 1, 1], folder, Preprocessing(image_size=64))
    assert masks.places.tolist() == [0, 1, 3]
    assert not masks[0].any()
    assert np.array_equal(masks[1], LESION)
    assert np.array_equal(masks[2], LESION)
    assert np.array_equal(masks[1:], [LESION, LESION])
    Image.fromarray(LESION[:32]).save(folder / "masks" / "b.png")
    with pytest.raises(UserError, match=r"masks/b\.png: is a mask of \(32, 64\) pixels for an image of \(64, 64\)"):
        loaded(images, [0, 1, 1, 1], folder, Preprocessing(image_size=64))


def test_masks_of_an_odd_size_come_back_bit_for_bit(folder):
    rng = np.random.default_rng(0)
    stored = rng.random((5, 9, 9)) < 0.4
    for name in ("abnormal", "masks"):
        (folder / name).mkdir()
        for i, mask in enumerate(stored):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name / f"{i}.png")
    masks = loaded([f"abnormal/{i}.png" for i in range(5)], [1] * 5, folder, Preprocessing(image_size=9))
    assert len(masks) == 5
    assert all(np.array_equal(mask, whole) for mask, whole in zip(masks, stored, strict=True))
    assert np.array_equal(masks[3:], stored[3:])
    assert masks[0].dtype == masks[:2].dtype == bool


def test_masks_without_a_lesion_are_none(folder):
    for name in ("abnormal", "masks"):
        (folder / name).mkdir()
        Image.new("L", (9, 9)).save(folder / name / "a.png")
    assert loaded(["abnormal/a.png", "abnormal/b.png"], [1, 1], folder, Preprocessing(image_size=9)) is None
    assert loaded([], [], folder, Preprocessing(image_size=9)) is None


def test_masks_are_read_once_until_one_changes(folder, monkeypatch):
    images = [f"abnormal/{i}.png" for i in range(3)]
    for name in ("abnormal", "masks"):
        (folder / name).mkdir()
        for i in range(3):
            Image.fromarray(np.roll(LESION, i).astype(np.uint8)).save(folder / name / f"{i}.png")
    read = []
    monkeypatch.setattr(masks_module, "read_mask", lambda path, shape: read.append(path.name) or read_mask(path, shape))

    def again(size=64):
        read.clear()
        masks = loaded([*images, "normal/n.png"], [1, 1, 1, 0], folder, Preprocessing(image_size=size))
        return sorted(read), masks

    every = ["0.png", "1.png", "2.png"]
    names, first = again()
    assert names == every
    names, second = again()
    assert names == []
    assert second.places.tolist() == [0, 1, 2, 3]
    assert np.array_equal(second[:], first[:])
    assert again(32)[0] == every, "another size is another array"
    assert again()[0] == again(32)[0] == [], "beside which the first stays"
    Image.fromarray(LESION.T.astype(np.uint8) * 0 + 1).save(folder / "masks" / "1.png")
    (folder.parent / ".cache" / ".some-masks-64-0123.npy.0123abcd.partial").touch()
    names, changed = again()
    assert names == every
    assert changed[1].all()
    kept = list((folder.parent / ".cache").glob("*some-masks-64-*.npy*"))
    assert len(kept) == 1, "what is out of date is gone, and what was killed while it was written"
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    names, mended = again()
    assert names == every
    assert np.array_equal(mended[:], changed[:])
    Image.new("L", (64, 32)).save(folder / "abnormal" / "2.png")
    with pytest.raises(UserError, match="is a mask of"):
        again()


@pytest.mark.parametrize("other", ["stroke/1.png", "tumour/1.jpg"])
def test_two_abnormal_images_share_no_mask(tmp_path, other):
    """Nor do a normal and an abnormal image of one name, or the lines of a dataset without a mask of them."""
    folder = tmp_path / "some"
    images = ["tumour/1.png", other, "normal/1.png", "tumour/2.png", "stroke/2.png"]
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", WHOLE).save(folder / image)
    (folder / "masks").mkdir()
    Image.fromarray(LESION).save(folder / "masks" / "1.png")
    with pytest.raises(UserError, match=f"some: tumour/1.png and {other} are two abnormal images with one mask, masks/1.png; give one"):
        loaded(images, [1, 1, 0, 1, 1], folder, Preprocessing(image_size=64))
    assert len(loaded(images, [1, 0, 0, 1, 1], folder, Preprocessing(image_size=64))) == 3, "the other two have none"


def masked_root(data_root, mask=LESION[24:40, 24:40]):
    """Masks of the abnormal images of lung_ct."""
    (data_root / "lung_ct" / "masks").mkdir()
    for number in range(4):
        Image.fromarray(mask).save(data_root / "lung_ct" / "masks" / f"test_{number}.png")
    return DataSource(data_root)


def test_a_fingerprint_of_masks_depends_on_no_folder_no_time_and_no_format(data_root, tmp_path):
    source = masked_root(data_root)
    preprocessing = source.preprocessing(["liver_ct", "lung_ct", "lung_xray"], 16, 1)
    first = source.masks_fingerprint(["liver_ct", "lung_ct"], preprocessing)
    assert first == source.masks_fingerprint(["lung_ct"], preprocessing), "of one dataset that has any"
    assert source.masks_fingerprint(["liver_ct", "lung_xray"], preprocessing) is None
    copy = DataSource(shutil.copytree(data_root, tmp_path / "copy", copy_function=shutil.copyfile))
    assert copy.masks_fingerprint(["lung_ct"], preprocessing) == first
    path = data_root / "lung_ct" / "masks" / "test_3.png"
    fingerprints = {first}
    for change in (
        lambda: Image.fromarray(LESION[24:40, 24:40].astype(np.uint8) * 9).save(path),  # the same lesion, stored otherwise
        lambda: Image.fromarray(~LESION[24:40, 24:40]).save(path),
        path.unlink,
        lambda: path.with_name("test_2.png").rename(path),  # the same bits for another image
    ):
        change()
        fingerprints.add(DataSource(data_root).masks_fingerprint(["lung_ct"], preprocessing))
    assert len(fingerprints) == 4, "of the first change nobody sees anything"


def test_masks_are_looked_for_once(data_root, monkeypatch):
    source = masked_root(data_root)
    preprocessing = source.preprocessing(["liver_ct", "lung_ct"], 16, 1)
    first = source.masks_fingerprint(["liver_ct", "lung_ct"], preprocessing)
    monkeypatch.setattr("anomaly_detection.data.dataset.load_masks", lambda *_: pytest.fail("again"))
    assert source.masks_fingerprint(["liver_ct", "lung_ct"], preprocessing) == first


def test_masks_that_change_while_a_command_runs_are_told(data_root):
    """What was measured with them would be recorded as measured with those of before."""
    source = masked_root(data_root)
    preprocessing = source.preprocessing(["lung_ct"], 16, 1)
    source.masks_fingerprint(["lung_ct"], preprocessing)
    assert len(source.masks("lung_ct", preprocessing["lung_ct"])) == 8, "four normal images have none"
    (data_root / "lung_ct" / "masks" / "test_3.png").unlink()
    with pytest.raises(UserError, match="lung_ct: masks changed while this command ran; run the same command again"):
        source.masks("lung_ct", preprocessing["lung_ct"])
