"""Whose an image is."""

import re

import pytest

from anomaly_detection.data.manifest import Row, read_manifest, write_manifest
from anomaly_detection.data.patients import counted_as_patients, patient_of, patient_warning, patients_of, suspicious_patients
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


def test_what_counts_as_a_patient_where_nothing_tells_whose_images_are(tmp_path):
    assert counted_as_patients(tmp_path) == []
    keys = ("file", "series", "study", "header", "folder", "--patient", "name")
    write_manifest(tmp_path / "manifest.csv", [Row(f"normal/{k}.png", 0, f"p{k}", "a", "", "", None, key) for k, key in enumerate(keys)])
    assert counted_as_patients(tmp_path) == ["study", "series", "file"]


def test_an_expression_goes_before_the_manifest_and_the_name():
    image, manifest = "normal/volume-3_010.png", {"normal/volume-3_010.png": "P7"}
    assert patient_of(image, False, manifest, r"volume-(\d+)") == "3"
    assert patient_of(image, False, manifest, r"volume-\d+") == "volume-3"
    assert patient_of(image, False, manifest, r"scan-(\d+)") is None, "whoever gave it has the last word"
    assert patient_of(image, False, manifest, r"volume(x?)-") is None, "nobody has no name"


def of_files(*names, kind="normal"):
    """Images of which every one counts as a patient."""
    return [f"{kind}/{name}.png" for name in names], [f"{kind}/{name}" for name in names]


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        ([f"run{run}_{k:03d}" for run in range(12) for k in range(5)], {f"run{run}" for run in range(12)}),
        ([f"normal_run{run:04d}_{k:05d}_ax" for run in range(7) for k in range(9)], {f"run{run:04d}" for run in range(7)}),
        ([f"{1280 + who:08d}_{k:03d}" for who in range(40) for k in range(1 + who % 2)], {f"{1280 + who:08d}" for who in range(40)}),
        ([f"p{who:02d}s{k}" for who in range(5) for k in range(4)], {f"p{who:02d}" for who in range(5)}),
        ([f"who{who}--view-{k}" for who in range(5) for k in range(4)], {f"who{who}" for who in range(5)}),
        ([f"2020.03.{who}-p7%{k}" for who in range(5) for k in range(4)], {f"2020.03.{who}" for who in range(5)}),
        ([f"site a/scan {who} {k}" for who in range(5) for k in range(4)], {str(who) for who in range(5)}),
        ([f"{name}_{k}" for name in ("ada", "bob", "cy", "di", "eve", "flo") for k in range(3)], {"ada", "bob", "cy", "di", "eve", "flo"}),
    ],
)
def test_names_that_share_their_beginning_are_told_with_the_expression_that_groups_them(names, patients):
    line = suspicious_patients(*of_files(*names))
    assert line.startswith(f"{len(names)} files, each counted as a patient of its own, but names share their beginnings (")
    expression, count = re.search(r"--patient '(.*)' would make (\d+) patients", line).groups()
    # what `prepare` does with it: the first group where it is found in the path below the source folder
    assert {re.search(expression, f"{name}.dcm")[1] for name in names} == patients
    assert int(count) == len(patients)


@pytest.mark.parametrize(
    "names",
    [
        ["10_no", "1_no", "N1", "N11", "No12", "no", "no_10", "no_2"],
        [f"image{k:03d}" for k in range(30)],
        [f"scan_{k}" for k in range(30)],
        [f"{'ab'[k % 2]}_{k}" for k in range(30)],
        [f"{hash(str(k)) % 10**9:09d}" for k in range(30)],
    ],
)
def test_names_that_tell_nothing_are_told_without_an_expression(names):
    images, patients = of_files(*names)
    ill_images, ill_patients = of_files(*names, kind="abnormal")  # the same names in the other folder group nothing
    line = suspicious_patients(images + ill_images, patients + ill_patients)
    assert line.startswith(f"{2 * len(names)} files, each counted as a patient of its own: if some show the same patient")


def test_a_few_other_names_hide_nothing():
    line = suspicious_patients(*of_files("overview", "notes", *(f"run{run}_{k:03d}" for run in range(12) for k in range(5))))
    assert "--patient '([^/_]+)_[^/]*$' would make 12 patients of the 60 whose names fit" in line


def test_patients_that_were_told_are_not_suspicious():
    images = [f"normal/p{who}/{k}.png" for who in range(5) for k in range(4)]
    assert suspicious_patients(images, [image.split("/")[1] for image in images]) is None
    shenzhen = [f"normal/CHNCXR_{k:04d}_0.png" for k in range(9)]
    assert suspicious_patients(shenzhen, [image[7:-4] for image in shenzhen]) is None
    assert suspicious_patients([], []) is None
    images, patients = of_files(*(f"run{run}_{k:03d}" for run in range(12) for k in range(5)))
    rows = [Row(image, 0, who, "", "", "", None) for image, who in zip(images, patients, strict=True)]
    assert "(run0_000.png, run0_001.png)" in patient_warning(rows)
    assert patient_warning([Row(image, 0, who, "", "", "", None, "--patient") for image, who in zip(images, patients, strict=True)]) is None


def test_volumes_whose_names_share_their_beginning_are_told():
    images = [f"normal/p{who}_t{time}_{k:03d}.png" for who in range(5) for time in range(2) for k in range(4)]
    line = suspicious_patients(images, [image[:-8] for image in images])
    assert line.startswith("10 files, each counted as a patient of its own, but")
    assert "would make 5 patients" in line


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("normal/a.png,0,p,a,1,2,\nnormal/b.png,0,p,b,1,2,\nnormal/a.png,0,q,a,1,2,\n", "normal/a.png stands in it 2 times; leave one line"),
        ("normal/a.png,0,p,a,1,2,\nnormal/b.png,0,,b,1,2,\n", "normal/b.png has no patient; write whose it is"),
        ("normal/a.png,0, ,a,1,2,\n", "normal/a.png has no patient; write whose it is"),
    ],
)
def test_a_manifest_that_a_hand_has_spoilt_is_refused(tmp_path, lines, words):
    (tmp_path / "manifest.csv").write_text(HEADER + lines)
    with pytest.raises(UserError, match=words):
        read_manifest(tmp_path / "manifest.csv")


@pytest.mark.parametrize(("several", "told"), [(0, True), (1, True), (15, True), (16, False), (30, False)])
def test_a_few_files_of_several_images_hide_nothing(several, told):
    names = [f"image{k:03d}" for k in range(30)]
    images, patients = of_files(*names, *(f"{name}_001" for name in names[:several]))
    line = suspicious_patients(images, patients[:30] + patients[:several])
    assert (line is not None) == told
    assert not told or line.startswith("30 files, each counted as a patient of its own: if some show")


@pytest.mark.parametrize("source", ["Normal/images/Normal-{}", "b/{}", "{}"])
def test_a_manifest_that_says_so_is_believed_whatever_names_images_have(source):
    rows = [Row(f"normal/x{k}.png", 0, f"normal/{source.format(k)}", f"{source.format(k)}.png", "", "", None, "file") for k in range(9)]
    rows.append(Row("normal/y.png", 0, "P7", "y.dcm", "", "", None, "header", "P7"))
    assert patient_warning(rows).startswith("9 files, each counted as a patient of its own: if some show")


def test_files_that_differ_in_their_suffix_alone_hide_nothing():
    images, patients = of_files(*(f"image{k:03d}" for k in range(6)), "scan.png", "scan.tif", "other.jpg")
    line = suspicious_patients(images, [*patients[:6], "normal/scan", "normal/scan", "normal/other"])
    assert line.startswith("8 files, each counted as a patient of its own")


def test_a_manifest_of_an_older_version_is_read_and_one_of_today_comes_back(tmp_path):
    (tmp_path / "manifest.csv").write_text(HEADER + "normal/a.png,0,a,a.nii,1,2,\n")
    assert read_manifest(tmp_path / "manifest.csv") == [Row("normal/a.png", 0, "a", "a.nii", "1", "2", None)]
    rows = [Row("abnormal/a.png", 1, "P7", "a.dcm", "1", "2", 5, "header", "P7", "1.2", "1.2.3")]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path / "manifest.csv") == rows
