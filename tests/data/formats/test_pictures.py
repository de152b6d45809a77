"""Images out of picture files."""

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data.formats.pictures import read_picture
from anomaly_detection.data.formats.window import Window
from anomaly_detection.system.errors import UserError


def test_pictures(tmp_path):
    deep = np.array([[0, 1000], [32768, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png", None).tolist() == [[0, 4], [128, 255]]
    assert read_picture(tmp_path / "deep.png", Window(500, 1000)).tolist() == [[0, 255], [255, 255]]
    assert read_picture(tmp_path / "deep.png", "auto")[0, 0] == 0
    Image.fromarray(deep).save(tmp_path / "deep.tiff")
    assert read_picture(tmp_path / "deep.tiff", None).tolist() == [[0, 4], [128, 255]]
    Image.new("CMYK", (3, 2), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    assert (read_picture(tmp_path / "print.jpg", Window(0, 1)) > 250).all(), "8 bits need no window"
    (tmp_path / "bad.png").write_bytes(b"\x89PNG rubbish")
    with pytest.raises(UserError, match=r"bad\.png: cannot be read as an image"):
        read_picture(tmp_path / "bad.png", None)
