"""Whose an image is."""

import pytest

from anomaly_detection.data.patients import patient_of, patients_of
from anomaly_detection.system.errors import UserError

HEADER = "image,abnormal,patient,source,source_sha256,pixels_sha256,mask_pixels\n"


@pytest.mark.parametrize(
    ("image", "abnormal", "patient"),
    [
        ("normal/volume-3_010.png", False, "volume-3"),
        ("abnormal/volume-3_4.png", True, "volume-3"),
        ("normal/CHNCXR_0001_0.png", False, "CHNCXR_0001_0"),
        ("12%3.jpg", False, "NonCOVID 12"),
        ("abnormal/12%3.jpg", True, "COVID 12"),
        ("abnormal/2020.02.17.20024018-p17-61%0.png", True, "COVID 2020.02.17.20024018-p17-61"),
        ("normal/volume-3.png", False, None),
        ("normal/IM0001.png", False, None),
    ],
)
def test_the_names_of_the_public_datasets_say_whose_an_image_is(image, abnormal, patient):
    assert patient_of(image, abnormal) == patient


def test_the_manifest_goes_before_the_name(tmp_path):
    assert patients_of(tmp_path) == {}
    (tmp_path / "manifest.csv").write_text(HEADER + "normal/volume-3_010.png,0,P7,a.nii,,,\n")
    manifest = patients_of(tmp_path)
    assert patient_of("normal/volume-3_010.png", False, manifest) == "P7"
    assert patient_of("normal/volume-3_011.png", False, manifest) == "volume-3"
    (tmp_path / "manifest.csv").write_text("image\nx\n")
    with pytest.raises(UserError, match="not a manifest"):
        patients_of(tmp_path)
