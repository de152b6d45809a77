"""Lesion masks: where they lie, and what in them is lesion."""

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data.masks import mask_path, read_mask
from anomaly_detection.system.errors import UserError

Y, X = np.mgrid[:64, :64]
LESION = (Y - 32) ** 2 + (X - 32) ** 2 < 100


def test_a_mask_lies_beside_the_folders_of_images():
    assert mask_path("abnormal/1.jpg") == "masks/1.png"
    assert mask_path("abnormal/a/2020.1%0.png") == "masks/a/2020.1%0.png"
    assert mask_path("1.tif") == "masks/1.png"


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("bit.png", LESION),
        ("grey.png", LESION.astype(np.uint8) * 255),
        ("label.png", LESION.astype(np.uint8)),
        ("deep.png", LESION.astype(np.uint16)),
        ("whole.tif", LESION.astype(np.int32)),
        ("real.tif", LESION.astype(np.float32)),
        ("colour.png", np.repeat(LESION[..., None].astype(np.uint8) * 255, 3, axis=2)),
    ],
)
def test_what_is_not_0_is_lesion(tmp_path, name, stored):
    Image.fromarray(stored).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name), LESION)


def test_the_noise_of_a_jpeg_is_no_lesion(tmp_path):
    Image.fromarray(LESION.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=75)
    assert (np.asarray(Image.open(tmp_path / "a.jpg")) > 0).sum() > 1.5 * LESION.sum(), "the noise is there"
    assert (read_mask(tmp_path / "a.jpg") != LESION).sum() < 0.02 * LESION.sum()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "none.jpg")
    assert not read_mask(tmp_path / "none.jpg").any()


def test_a_damaged_mask_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_mask(tmp_path / "a.png")
