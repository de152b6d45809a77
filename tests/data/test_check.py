"""What is said of single images before anything is trained on them."""

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.check import inspect
from anomaly_detection.data.splits import SplitEntry

SPEC = DatasetSpec(name="brain", label=0, organ="brain", modality="mri", root="brain")


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (Image.new("L", (20, 10), 1), None),
        (Image.new("L", (10, 20), 1), r"masks/a.png: is a mask of (20, 10) pixels for an image of (10, 20); make them the same"),
        (Image.fromarray(np.ones((5, 10), np.uint16)), "is a mask of (5, 10) pixels for an image of (10, 20)"),
        (None, "masks/a.png: cannot be read as an image"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(tmp_path, mask, error):
    for folder in ("abnormal", "masks"):
        (tmp_path / "brain" / folder).mkdir(parents=True)
    Image.new("L", (20, 10), 7).save(tmp_path / "brain" / "abnormal" / "a.jpg")
    path = tmp_path / "brain" / "masks" / "a.png"
    mask.save(path) if mask else path.write_bytes(b"rubbish")
    (group,) = inspect(SPEC, tmp_path, [SplitEntry("abnormal/a.jpg", "brain", "anomaly", "test", "test:1")], 1)
    (fact,) = group.facts
    assert fact.error is None if error is None else error in fact.error
    assert fact.masked is (True if error is None else None)
