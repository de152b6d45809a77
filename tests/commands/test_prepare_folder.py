"""`prepare folder` from the command line: no image is lost, doubled or given to the wrong patient, and what a user must know is said."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import zipfile
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image
from pydicom import Dataset

from anomaly_detection.__main__ import main
from anomaly_detection.config.paths import PROJECT, find_folds
from anomaly_detection.data.catalog import read_catalog
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.manifest import read_manifest
from anomaly_detection.data.splits import Splits
from anomaly_detection.system.errors import UserError
from tests.data.formats.test_dicom import CT, STORED, write_dicom


def png(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16), np.uint8)).save(path, "png")


@pytest.fixture
def root(tmp_path):
    for number in range(6):
        png(tmp_path / "n" / f"h{number}.png", number)
    for number in range(2):
        png(tmp_path / "a" / f"t{number}.png", 100 + number)
    return tmp_path


def prepare(root, *options, data="data", normal="n", abnormal="a"):
    words = ["prepare", "folder", "x", "--organ", "liver", "--modality", "ct", "--normal", root / normal, "--abnormal", root / abnormal]
    return main([str(word) for word in (*words, "--data-root", root / data, "--size", "16", "--workers", "1", *options)])


def test_data_is_prepared_and_checked_without_torch(root):
    words = ["--organ", "liver", "--modality", "ct", "--normal", root / "n", "--abnormal", root / "a", "--data-root", root / "data"]
    for command in (["prepare", "folder", "x", *words], ["check", "--data-root", root / "data", "--output", root / "sheets"]):
        code = "import sys; from anomaly_detection.__main__ import main; main(sys.argv[1:]); print('torch loaded:', 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code, *map(str, command)], cwd=PROJECT, capture_output=True, text=True)
        assert done.stdout.endswith("torch loaded: False\n"), done


def images(root, data="data"):
    return [row.image for row in read_manifest(root / data / "x" / "manifest.csv")]


def listed(root, data="data"):
    return sorted(entry.image for entry in Splits(root / data / "folds", read_catalog(root / data / "datasets.yaml")).entries)


def test_the_counts_are_those_of_the_lists_that_stay(root, capsys):
    prepare(root)
    assert "x: 4 normal train, 1 normal val, 1 normal test, 2 anomaly test" in capsys.readouterr().out
    train = root / "data/folds/train_test_split/normal/train"
    train.write_text("\n".join(train.read_text().splitlines()[:-2]) + "\n")
    prepare(root)
    said = capsys.readouterr().out
    assert "x: 2 normal train, 1 normal val, 1 normal test, 2 anomaly test" in said
    assert "nothing to do" in said


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_that_was_changed_afterwards_is_told_by_check(root, capsys, channels):
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (16, 16, 3), np.uint8)).save(root / "n" / "colour.png")
    Image.new("L", (16, 16), 7).save(root / "n" / "of one grey.png")
    prepare(root, "--channels", str(channels))
    check = ["check", "--data-root", str(root / "data"), "--output", str(root / "sheets"), "--workers", "1"]
    main(check)
    assert "changed by hand" not in capsys.readouterr().out
    for name in ("h0", "colour"):
        path = root / "data/x/normal" / f"{name}.png"
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    main(check)
    assert "2 images are not those that manifest.csv tells of, the first: normal/" in capsys.readouterr().out


ODD = ["12%3", "a b", " lead", "-x", "#no comment", "trail ", "x.y", "(.*)", "ä", "日本", "a,b;c", 'q"q', "lits 0"]


def test_odd_names_stay_apart_and_stand_in_the_lists(root):
    for number, name in enumerate(ODD):
        png(root / "n" / f"{name}.png", 200 + number)
        png(root / "a" / f"{name}.png", 300 + number)
    prepare(root)
    plain = [*(f"normal/h{number}.png" for number in range(6)), "abnormal/t0.png", "abnormal/t1.png"]
    assert sorted(images(root)) == sorted([*plain, *(f"{kind}/{name}.png" for kind in ("normal", "abnormal") for name in ODD)])
    assert listed(root) == sorted(images(root))
    assert all((root / "data" / "x" / image).is_file() for image in listed(root))
    assert len({row.pixels_sha256 for row in read_manifest(root / "data/x/manifest.csv")}) == 8 + 2 * len(ODD)


@pytest.mark.skipif(os.name == "nt", reason="file systems there do not tell such names apart")
@pytest.mark.parametrize(
    "names", [("c.png", "c.jpg"), ("c.png", "C.png"), ("é.png", "e\u0301.png"), ("p/c.png", "p_c.png"), ("c.png", "c.PNG", "C.png")]
)
def test_names_that_some_file_system_takes_for_one_stay_apart(root, names):
    for number, name in enumerate(names):
        png(root / "n" / name, 50 + number)
    prepare(root)
    assert len(images(root)) == 8 + len(names)
    assert len({unicodedata.normalize("NFC", image).casefold() for image in images(root)}) == 8 + len(names)
    assert len({row.pixels_sha256 for row in read_manifest(root / "data/x/manifest.csv")}) == 8 + len(names)
    assert listed(root) == sorted(images(root))


def test_two_files_that_would_give_one_image_are_refused(root):
    write_dicom(root / "n" / "c.dcm", np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5))
    png(root / "n" / "c_001.png", 60)
    with pytest.raises(UserError, match=r"c\.dcm and c_001\.png: both would give the image normal/c_001\.png; rename one"):
        prepare(root)
    assert not (root / "data" / "x").exists()
    (root / "n" / "c_001.png").rename(root / "n" / "d.png")
    prepare(root)
    assert len(images(root)) == 8 + 3


@pytest.mark.skipif(os.name == "nt", reason="names there are no bytes")
@pytest.mark.parametrize("name", [b"r\xe9sum\xe9.png", b"line\nbreak.png", b"x" * 240 + b".png"])
def test_names_that_no_list_can_hold_are_refused_or_skipped(root, name, capfd):
    shutil.copy(root / "n" / "h0.png", os.fsencode(root / "n") + b"/" + name)
    with pytest.raises(UserError, match="rename the file") as caught:
        prepare(root)
    assert "\n" not in str(caught.value)
    prepare(root, "--skip-bad")
    assert len(images(root)) == 8
    prepare(root, "--skip-bad")
    assert "nothing to do" in capfd.readouterr().out


def test_output_inside_the_input_is_not_read_again(root, capsys, caplog):
    prepare(root, data="n/data")
    first = images(root, "n/data")
    prepare(root, data="n/data")
    assert "nothing to do" in capsys.readouterr().out
    assert images(root, "n/data") == first
    assert len(first) == 8
    assert "left alone: 10 files of datasets that prepare has made" in caplog.text


@pytest.mark.parametrize("inside", ["p", "", "p/p"])
def test_an_archive_beside_what_was_unpacked_from_it_is_refused(root, inside):
    folder = root / "n" / "p"
    for number in range(4):
        png(folder / f"1-0{number}.png", 70 + number)
    with zipfile.ZipFile(root / "n" / "p.zip", "w") as archive:
        archive.writestr("LICENSE", "free")
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{inside}/{path.name}".lstrip("/"))
    with pytest.raises(UserError, match="is there twice, the other one is .*; take one away"):
        prepare(root)
    for number in range(4):  # another patient's, named alike
        png(folder / f"1-0{number}.png", 80 + number)
    if inside:
        prepare(root)
        assert len(images(root)) == 8 + 8


@pytest.mark.parametrize("name", ["IM0", "IM0.dcm"])
def test_discs_of_two_patients_with_the_same_viewer_are_no_copies(root, name):
    """The program is larger than the scan, which is named alike on both discs, as scanners name them, and as large."""
    for who in range(2):
        scan = write_dicom(root / "scan", STORED // (1 + who), **CT, WindowCenter=40, WindowWidth=400, PatientID=f"P{who}")
        content = scan.read_bytes()
        (root / "n" / f"disc{who}.zip").write_bytes(zipped(("VIEWER.EXE", b"MZ" * 5000), ("README", b"hello"), (f"images/{name}", content)))
    prepare(root)
    assert {row.patient_id for row in read_manifest(root / "data/x/manifest.csv")} == {"", "P0", "P1"}
    (root / "n" / "unpacked").mkdir()
    (root / "n" / "unpacked" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"disc1\.zip: images/{name}: is there twice, the other one is .*unpacked.{name}, packed or unpacked"):
        prepare(root, data="other")


def test_an_image_is_normal_or_abnormal(root):
    png(root / "n" / "ill" / "1.png", 90)
    with pytest.raises(UserError, match=r"1 files are in --normal .*n and in --abnormal .*ill, the first: .*1\.png; give two folders"):
        prepare(root, abnormal="n/ill")
    shutil.rmtree(root / "n/ill")
    with pytest.raises(UserError, match="6 files are in --normal"):
        prepare(root, abnormal="./n/../n")


def test_masks_inside_the_folder_of_the_images_are_no_images(root):
    for number in range(2):
        png(root / "a" / "masks" / f"t{number}.png", number)
    prepare(root, "--masks", root / "a" / "masks")
    assert sorted(images(root)) == ["abnormal/t0.png", "abnormal/t1.png", *(f"normal/h{k}.png" for k in range(6))]
    assert all(row.mask_pixels for row in read_manifest(root / "data/x/manifest.csv") if row.abnormal)


def test_masks_without_lesion_are_told_by_prepare_and_check(root, caplog, capsys):
    for number, grey in enumerate((0, 9)):
        png(root / "m" / f"t{number}.png", 0)
        Image.new("L", (16, 16), grey).save(root / "m" / f"t{number}.png")
    prepare(root, "--masks", root / "m")
    told = "1 abnormal image has a mask without lesion, and still counts as abnormal, the first: abnormal/t0.png; take out what shows none"
    assert f"warning: {told}" in caplog.text
    main(["check", "--data-root", str(root / "data"), "--output", str(root / "sheets"), "--workers", "1"])
    assert f"WARNING: {told}" in capsys.readouterr().out


def test_masks_are_paired_one_to_one(root):
    png(root / "a" / "t0.jpg", 92)
    png(root / "m" / "t0.png", 1)
    png(root / "m" / "t0.jpg", 2)
    prepare(root, "--masks", root / "m")
    assert {row.source: row.mask_pixels is not None for row in read_manifest(root / "data/x/manifest.csv") if row.abnormal} == {
        "t0.png": True, "t0.jpg": True, "t1.png": False,
    }  # fmt: skip
    png(root / "m" / "t1.png", 3)
    png(root / "m" / "t1.tif", 3)
    with pytest.raises(UserError, match=r"t1\.tif: t1\.png has another mask, .*t1\.png; take one away"):
        prepare(root, "--masks", root / "m", data="other")
    (root / "m" / "t1.tif").rename(root / "m" / "t0.tif")
    with pytest.raises(UserError, match=r"t0\.tif: may belong to t0\.jpg or to t0\.png"):
        prepare(root, "--masks", root / "m", data="other")


def test_the_series_of_a_patient_stay_together(tmp_path):
    rng = np.random.default_rng(0)
    for kind, count in (("n", 8), ("a", 3)):
        for who in range(count):
            for series in range(2):
                values = np.clip(STORED + rng.integers(0, 9, STORED.shape), 0, 4095).astype(np.uint16)
                path = tmp_path / kind / f"c{who}" / f"s{series}" / "1-1.dcm"
                path.parent.mkdir(parents=True)
                identity = {"PatientID": f"{kind}{who // 2}", "StudyInstanceUID": f"1.{who}", "SeriesInstanceUID": f"1.{who}.{series}"}
                write_dicom(path, values, **CT, **identity, WindowCenter=40, WindowWidth=400)
    prepare(tmp_path)
    rows = {row.image: row for row in read_manifest(tmp_path / "data/x/manifest.csv")}
    assert {(row.patient, row.patient_from) for row in rows.values()} == {
        (f"{k}{who}", "header") for k, n in (("n", 4), ("a", 2)) for who in range(n)
    }
    assert {row.series for row in rows.values()} == {f"1.{who}.{series}" for who in range(8) for series in range(2)}
    sides = {}
    for entry in Splits(tmp_path / "data/folds", read_catalog(tmp_path / "data/datasets.yaml")).entries:
        sides.setdefault(rows[entry.image].patient, set()).add(entry.part)
    assert all(len(parts) == 1 for parts in sides.values())


def test_other_modalities_are_told_and_doses_are_no_images(root, caplog):
    rng = np.random.default_rng(0)
    kinds = [("n", "CT", STORED.shape)] * 3 + [("a", "CT", STORED.shape), ("n", "PT", STORED.shape), ("n", "OT", (2, *STORED.shape))]
    for number, (folder, modality, shape) in enumerate([*kinds, ("n", "RTDOSE", STORED.shape), ("a", "RTDOSE", STORED.shape)]):
        values = rng.integers(0, 4096, shape).astype(np.uint16)
        write_dicom(root / folder / f"IM{number}", values, **CT, WindowCenter=40, WindowWidth=400, PatientID=f"P{number}", Modality=modality)
    for _ in range(2):
        caplog.clear()
        prepare(root)
        (line,) = [record.getMessage() for record in caplog.records if "became images" in record.getMessage()]
        assert line.startswith("warning: DICOM files of 3 modalities became images: 4 CT, 1 PT, 1 OT; ")
        assert "left alone: 2 files that are no images, the first: " in caplog.text
    made = {row.source: row.modality for row in read_manifest(root / "data/x/manifest.csv") if row.source.startswith("IM")}
    assert made == {**{f"IM{number}": "CT" for number in range(4)}, "IM4": "PT", "IM5": "OT"}
    for name in ("IM4", "IM5"):
        (root / "n" / name).unlink()
    caplog.clear()
    prepare(root, data="other")
    assert "became images" not in caplog.text


def test_automatic_windows_of_single_slices_are_told(root, caplog):
    """A slice of air, of 0 to 3, is as bright as one of tissue then; in one file of several frames it is not, nor through a given window."""
    tissue, air = (np.arange(64, dtype=np.uint16).reshape(8, 8) % high for high in (1000, 4))
    slices = [1000 + tissue, 1001 + tissue, air]
    for number, values in enumerate(slices):
        write_dicom(root / "n" / f"IM{number}", values, PatientID="P", SeriesInstanceUID="1.2", SOPInstanceUID=f"1.2.{number}")

    def told(data, *options):
        caplog.clear()
        prepare(root, *options, data=data)
        lines = [record.getMessage() for record in caplog.records if "--window auto is of each file" in record.getMessage()]
        return lines, {
            row.source: np.asarray(Image.open(root / data / "x" / row.image)).max() for row in read_manifest(root / data / "x/manifest.csv")
        }

    for _ in range(2):
        lines, brightest = told("auto", "--window", "auto")
        assert brightest["IM0"] == brightest["IM2"] == 255
        assert lines == [
            "warning: --window auto is of each file, and 1 series lies in DICOM files of one slice: each slice has another window, "
            "and one that is nearly empty is stretched to full contrast; give --window LEVEL WIDTH"
        ]
    lines, brightest = told("fixed", "--window", "532", "1064")
    assert (lines, brightest["IM2"]) == ([], 1)
    for number in range(3):
        (root / "n" / f"IM{number}").unlink()
    write_dicom(root / "n" / "frames", np.stack(slices), PatientID="P", SeriesInstanceUID="1.2")
    write_dicom(root / "n" / "other", slices[1], PatientID="Q", SeriesInstanceUID="1.3")
    assert told("frames", "--window", "auto")[0] == []


@pytest.mark.parametrize("frames", [False, True])
def test_windows_that_differ_from_slice_to_slice_are_told(root, caplog, frames):
    def save(series, windows, **tags):
        tags = {"PatientID": series, "SeriesInstanceUID": series, "Modality": "MR"} | tags
        if frames:
            groups = [Dataset() for _ in windows]
            for group, (level, width) in zip(groups, windows, strict=True):
                group.FrameVOILUTSequence = [Dataset()]
                group.FrameVOILUTSequence[0].WindowCenter, group.FrameVOILUTSequence[0].WindowWidth = level, width
            write_dicom(root / "n" / series, np.stack([STORED] * len(windows)), PerFrameFunctionalGroupsSequence=groups, **tags)
            return
        for number, (level, width) in enumerate(windows):
            write_dicom(root / "n" / f"{series}_{number}", STORED, WindowCenter=level, WindowWidth=width, SOPInstanceUID=f"{series}.{number}", **tags)

    def told(data, *options):
        caplog.clear()
        prepare(root, *options, data=data)
        return [record.getMessage() for record in caplog.records if "several windows" in record.getMessage()]

    save("1.2", [(40, 400), (40, 400)])
    save("1.3", [(50, 400)])
    save("1.4", [(60, 400), (70, 400)], Modality="CR")
    assert told("alike") == []
    save("1.5", [(40, 400), (500, 400), (40, 400)])
    advice = "so that the same tissue has other greys from slice to slice; give --window LEVEL WIDTH"
    assert told("apart") == [f"WARNING: x: 1 series has several windows by the headers, {advice}"]
    assert told("fixed", "--window", "40", "400") == []


def check(root, capsys):
    """What `check` says of what was prepared."""
    capsys.readouterr()
    main(["check", "--data-root", str(root / "data"), "--output", str(root / "sheets"), "--workers", "1"])
    return capsys.readouterr().out


def dicom(path, seed, **identity):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 4096, STORED.shape).astype(np.uint16)
    write_dicom(path, values, **CT, **identity, WindowCenter=40, WindowWidth=400)


def test_folders_of_the_series_of_a_study_are_on_one_side(tmp_path, capsys, caplog):
    """Without PatientID a folder is a patient's, but two folders of one study are of one."""
    for who in range(9):
        for series in range(3):
            dicom(tmp_path / "n" / f"series{3 * who + series}" / "1.dcm", 3 * who + series, StudyInstanceUID=f"1.{who}")
    dicom(tmp_path / "a" / "series99" / "1.dcm", 99, StudyInstanceUID="1.99")
    prepare(tmp_path)
    assert "18 folders share a study or series with another one and count as its patient's; the first: series1, as series0" in caplog.text
    rows = {row.image: row for row in read_manifest(tmp_path / "data/x/manifest.csv")}
    sides = {}
    for entry in Splits(tmp_path / "data/folds", read_catalog(tmp_path / "data/datasets.yaml")).entries:
        sides.setdefault(rows[entry.image].study, set()).add(entry.part)
    assert len(sides) == 10
    assert all(len(parts) == 1 for parts in sides.values())
    assert "wrong" not in check(tmp_path, capsys)


def test_studies_that_count_as_patients_are_told_by_prepare_and_check(tmp_path, capsys, caplog):
    for who in range(6):
        dicom(tmp_path / "n" / f"IM{who}", who, StudyInstanceUID=f"1.{who}")
    dicom(tmp_path / "a" / "IM9", 9, StudyInstanceUID="1.99")
    prepare(tmp_path)
    line = "WARNING: 7 studies, each counted as a patient of its own, as headers name no patient: if some are of the same one"
    assert line in caplog.text
    assert line in check(tmp_path, capsys)


def test_persons_below_folders_of_planes_are_told_by_prepare_and_check(tmp_path, capsys, caplog):
    for number in range(24):
        png(tmp_path / "n" / ("axial", "coronal", "sagittal")[number % 3] / f"p{number // 6}" / f"{number}.png", number)
    png(tmp_path / "a" / "axial" / "p9" / "1.png", 99)
    prepare(tmp_path)
    line = "WARNING: 3 folders, each counted as a patient, but 4 names recur in several of them (p0 in axial, coronal, sagittal)"
    assert line in caplog.text
    assert line in check(tmp_path, capsys)
    expression = re.search("--patient '(.*?)' would make 5 patients", caplog.text)[1]
    caplog.clear()
    prepare(tmp_path, "--patient", expression, data="other")
    assert {row.patient for row in read_manifest(tmp_path / "other/x/manifest.csv")} == {"p0", "p1", "p2", "p3", "p9"}
    assert "WARNING: 3 folders" not in caplog.text


def pack(folder, archive):
    """The files below a folder in a zip archive, with the folder's name before theirs."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder.parent).as_posix())


@pytest.mark.parametrize("packed", ["nothing", "abnormal", "both", "each patient"])
def test_a_patient_whose_abnormal_images_are_the_only_ones_is_not_trained_on(tmp_path, caplog, packed):
    for who in range(12):
        png(tmp_path / "n" / f"sub-{who:03d}" / "left.png", who)
    png(tmp_path / "a" / "sub-003" / "right.png", 99)
    png(tmp_path / "a" / "sub-003" / "back.png", 98)
    normal, abnormal = ("n.zip" if packed == "both" else "n"), ("a.zip" if packed in ("both", "abnormal") else "a")
    for name in ("n", "a"):
        pack(tmp_path / name, tmp_path / f"{name}.zip")
        for patient in (tmp_path / name).iterdir() if packed == "each patient" else ():
            pack(patient, patient.with_suffix(".zip"))
            shutil.rmtree(patient)
    prepare(tmp_path, normal=normal, abnormal=abnormal)
    rows = {row.image: row for row in read_manifest(tmp_path / "data/x/manifest.csv")}
    assert {row.patient for row in rows.values()} == {f"sub-{who:03d}" for who in range(12)}
    parts = {entry.part for entry in Splits(tmp_path / "data/folds", read_catalog(tmp_path / "data/datasets.yaml")).entries
             if rows[entry.image].patient == "sub-003"}  # fmt: skip
    assert parts == {"test"}
    assert "1 subfolders are among normal and abnormal images alike, each counted as one patient; the first: sub-003" in caplog.text


@pytest.mark.parametrize("abnormal", ["a/sub-003", "a/sub-003.zip", "a"])
def test_the_folder_of_one_patient_in_place_of_that_of_all_is_told(tmp_path, caplog, abnormal):
    for who in range(4):
        png(tmp_path / "n" / f"sub-{who:03d}" / "left.png", who)
    png(tmp_path / "a" / "sub-003" / "right.png", 99)
    pack(tmp_path / "a" / "sub-003", tmp_path / "sub-003.zip")
    if abnormal.endswith(".zip"):
        shutil.move(tmp_path / "sub-003.zip", tmp_path / "a")
    prepare(tmp_path, abnormal=abnormal)
    line = (
        f"WARNING: --abnormal {tmp_path / abnormal}: has the name of a subfolder of the normal images; if it is of the same patient, give the folder"
    )
    assert (line in caplog.text) == (abnormal != "a")
    if abnormal != "a":
        caplog.clear()
        prepare(tmp_path, "--patient", "(.*)", data="other", abnormal=abnormal)
        assert "has the name" not in caplog.text


def test_the_folder_of_one_patient_is_not_told_where_its_header_names_who_it_is(tmp_path, caplog):
    for who in range(4):
        dicom(tmp_path / "n" / f"sub-{who}" / "1.dcm", who, PatientID=f"P{who}")
    dicom(tmp_path / "a" / "sub-3" / "2.dcm", 9, PatientID="P3")
    prepare(tmp_path, abnormal="a/sub-3")
    assert "has the name of a subfolder" not in caplog.text
    rows = read_manifest(tmp_path / "data/x/manifest.csv")
    assert {row.patient for row in rows if row.abnormal} == {"P3"}


def test_what_slices_of_volumes_do_to_results_is_told(tmp_path, caplog):
    rng = np.random.default_rng(0)
    for kind, count in (("n", 4), ("a", 2)):
        for who in range(count):
            path = tmp_path / kind / f"{kind}{who}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(rng.integers(0, 9, (16, 16, 12)).astype(np.int16), np.eye(4)), path)
    lesion = np.zeros((16, 16, 12), np.uint8)
    lesion[4:8, 4:8, 5:7] = 1
    (tmp_path / "m").mkdir()
    for who in range(2):
        nibabel.save(nibabel.Nifti1Image(lesion, np.eye(4)), tmp_path / "m" / f"a{who}.nii.gz")
    prepare(tmp_path, "--window", "auto")
    assert "warning: 2 abnormal volumes have no mask: all 24 slices taken of them count as abnormal, lesion or not" in caplog.text
    assert "AUROC over patients" not in caplog.text
    caplog.clear()
    prepare(tmp_path, "--window", "auto", "--masks", tmp_path / "m", data="marked")
    assert (
        "WARNING: on average patients with abnormal images have 2 in all, the others 12; a patient's score is the mean of the three highest"
        in caplog.text
    )
    assert "have no mask" not in caplog.text
    caplog.clear()
    prepare(tmp_path, "--window", "auto", "--masks", tmp_path / "m", "--max-slices", "2", data="as advised")
    assert "AUROC over patients" not in caplog.text


def test_masks_that_lie_elsewhere_than_their_volumes_are_told_by_how_much(tmp_path, caplog):
    """In the end, too, if work was stopped meanwhile."""
    rng = np.random.default_rng(0)
    lesion = np.zeros((16, 16, 12), np.uint8)
    lesion[4:8, 4:8, 5:7] = 1
    for kind, names in (("n", "stuv"), ("a", "abcd")):
        (tmp_path / kind).mkdir()
        for name in names:
            nibabel.save(nibabel.Nifti1Image(rng.integers(0, 9, lesion.shape).astype(np.int16), np.eye(4)), tmp_path / kind / f"{name}.nii.gz")
    (tmp_path / "m").mkdir()
    for name, shift in (("a", [0, 0, 0]), ("b", [3, 0, 4]), ("c", [0, 0.5, 0]), ("d", [0, 0, -12])):
        affine = np.eye(4)
        affine[:3, 3] = shift
        nibabel.save(nibabel.Nifti1Image(lesion, affine), tmp_path / "m" / f"{name}.nii.gz")
    (tmp_path / "a" / "e.nii.gz").write_bytes(b"no volume")
    options = ("--window", "auto", "--masks", tmp_path / "m")
    with pytest.raises(UserError, match=r"e\.nii\.gz: cannot be read as NIfTI"):
        prepare(tmp_path, *options)
    assert "affine" not in caplog.text
    prepare(tmp_path, *options, "--skip-bad")
    (line,) = [record.getMessage() for record in caplog.records if "affine" in record.getMessage()]
    told = f"{tmp_path / 'm' / 'd.nii.gz'} by 12.0 mm, {tmp_path / 'm' / 'b.nii.gz'} by 5.0 mm; "
    assert line.startswith(f"WARNING: x: by the affines of both 2 masks lie elsewhere than their volumes: {told}")
    assert {row.image for row in read_manifest(tmp_path / "data/x/manifest.csv") if row.abnormal} == {
        f"abnormal/{name}_{k:03d}.png" for name in "abcd" for k in (5, 6)
    }


def test_files_that_count_as_patients_are_told_again_in_every_run(tmp_path, caplog):
    for number in range(40):
        png(tmp_path / "n" / f"run{number // 5:02d}_{number:03d}.png", number)
    png(tmp_path / "a" / "run77_001.png", 99)
    for _ in range(2):
        caplog.clear()
        prepare(tmp_path)
        (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("WARNING: ")]
        assert line.startswith(
            "WARNING: 41 files, each counted as a patient of its own, but names share their beginnings (run00_000.png, run00_001.png)"
        )
    expression = re.search("--patient '(.*?)' would make 9 patients", line)[1]
    caplog.clear()
    prepare(tmp_path, "--patient", expression, data="other")
    assert len({row.patient for row in read_manifest(tmp_path / "other/x/manifest.csv")}) == 9
    assert "counted as a patient" not in caplog.text


def test_split_files_go_into_the_data_root_and_nowhere_else(root, tmp_path):
    project = {path: path.read_bytes() for path in (PROJECT / "folds").rglob("*") if path.is_file()}
    prepare(root, data="A")
    one = {path: path.read_bytes() for path in (root / "A/folds").rglob("*") if path.is_file()}
    prepare(root, "--seed", "5", data="B")
    assert {path: path.read_bytes() for path in (root / "A/folds").rglob("*") if path.is_file()} == one
    assert {path: path.read_bytes() for path in (PROJECT / "folds").rglob("*") if path.is_file()} == project
    assert find_folds(root / "A") == root / "A/folds"
    assert listed(root, "A") == listed(root, "B") == sorted(images(root, "A"))
    assert "seed 5" in (root / "B/folds/train_test_split/normal/train").read_text()


def test_the_lists_of_a_dataset_that_lies_there_come_along(root):
    (root / "data/covid_xray").mkdir(parents=True)
    prepare(root)
    there = Splits(root / "data/folds", read_catalog(root / "data/datasets.yaml"))
    assert len([entry for entry in there.entries if entry.dataset == "covid_xray"]) == 662
    assert len(there.select("x", "normal", "train")) == 4


def test_nothing_to_do_is_said_where_it_is_true(root, capsys):
    prepare(root)
    before = listed(root)
    capsys.readouterr()
    prepare(root)
    assert "nothing to do" in capsys.readouterr().out
    (root / "n/h1.png").rename(root / "n/renamed.png")
    with pytest.raises(UserError, match="was prepared with other source files; delete it"):
        prepare(root)
    shutil.rmtree(root / "data/x")
    prepare(root)
    assert "nothing to do" not in capsys.readouterr().out
    assert set(listed(root)) == set(before) - {"normal/h1.png"} | {"normal/renamed.png"}
    prepare(root)
    assert "nothing to do" in capsys.readouterr().out


def test_datasets_of_the_version_that_took_both_ends_are_told(root):
    prepare(root)
    record = root / "data/x/prepared.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "version": 4}))
    with pytest.raises(UserError, match="was prepared with an older version of this program; delete it to prepare it anew"):
        prepare(root)


@pytest.mark.parametrize(("key", "value"), [("window", [40.0, 400.0]), ("aspect", "pad"), ("size", None), ("channels", 3)])
def test_images_are_not_taken_for_what_an_edited_catalog_says(root, key, value, capsys):
    """`predict` would do to new images what was not done to those that a network was trained on."""
    prepare(root)
    catalog, before = root / "data/datasets.yaml", json.loads((root / "data/x/prepared.json").read_text())[key]
    entries = yaml.safe_load(catalog.read_text())
    made = DataSource(root / "data").preprocessing(["x"], 16, 1)["x"]
    catalog.write_text(yaml.safe_dump({**entries, "x": {**entries["x"], key: value}}))
    told = f"{root / 'data/x'}: was prepared with {key} {before}, not {value} as datasets.yaml has it; put that back, or delete the folder"
    with pytest.raises(UserError, match=re.escape(told)):
        DataSource(root / "data").preprocessing(["x"], 16, 1)
    with pytest.raises(UserError, match="wrong with the data"):
        main(["check", "--data-root", str(root / "data"), "--output", str(root / "sheets")])
    assert f"  wrong: {told} to prepare it anew\n" in capsys.readouterr().out
    catalog.write_text(yaml.safe_dump({**entries, "x": {**entries["x"], "crop_size": 12}}))
    assert DataSource(root / "data").preprocessing(["x"], 16, 1)["x"] == replace(made, crop_size=12), "which is done in training"


def test_a_file_of_the_same_size_is_another(root):
    path = root / "n" / "h6.bmp"
    Image.new("L", (16, 16), 10).save(path)
    size = path.stat().st_size
    prepare(root)
    Image.new("L", (16, 16), 11).save(path)
    assert path.stat().st_size == size
    with pytest.raises(UserError, match="was prepared with other source files; delete it"):
        prepare(root)


@pytest.mark.parametrize("moved", [("n", "a"), ("a", "n")])
def test_a_file_that_was_moved_among_the_others_has_another_label(root, moved):
    """The files are the same, in the same order: it is the last of the normal ones, and would be the first of the abnormal ones."""
    before, after = (root / folder / "m.png" for folder in moved)
    png(before, 50)
    prepare(root)
    before.rename(after)
    with pytest.raises(UserError, match="was prepared with other source files; delete it"):
        prepare(root)
    shutil.rmtree(root / "data" / "x")
    prepare(root)
    kind = {"n": "normal", "a": "abnormal"}[moved[1]]
    assert [row.image for row in read_manifest(root / "data/x/manifest.csv") if row.source == "m.png"] == [f"{kind}/m.png"]


def test_work_that_was_left_unfinished_has_no_label_of_a_file_that_was_moved(root):
    png(root / "n" / "m.png", 50)
    (root / "a" / "u.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"u\.png: cannot be read as an image"):
        prepare(root)
    (root / "n" / "m.png").rename(root / "a" / "m.png")
    prepare(root, "--skip-bad")
    assert sorted(images(root)) == ["abnormal/m.png", "abnormal/t0.png", "abnormal/t1.png", *(f"normal/h{number}.png" for number in range(6))]


def test_empty_slices_make_no_patients_one(root):
    for number in range(6):
        Image.new("L", (16, 16)).save(root / "n" / f"empty{number}.png")
    prepare(root)
    assert len(listed(root)) == 14
    assert main(["check", "--data-root", str(root / "data"), "--output", str(root / "sheets"), "--workers", "1"]) == 0


def zipped(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def covid(tmp_path):
    """COVID-CT as GitHub zips it."""
    archives = []
    for kind, count in (("CT_COVID", 8), ("CT_NonCOVID", 12)):
        for number in range(count):
            png(tmp_path / "t" / f"{kind}/{number}.png", number + 100 * (kind == "CT_COVID"))
        files = sorted((tmp_path / "t" / kind).iterdir())
        archives.append((f"Images-processed/{kind}.zip", zipped(*((f"{kind}/{path.name}", path.read_bytes()) for path in files))))
    return tmp_path, archives


@pytest.mark.parametrize("options", [[], ["--own-split"]])
def test_covid_ct_in_archives_in_an_archive_and_unpacked_beside_them(covid, options):
    root, archives = covid
    (root / "master.zip").write_bytes(zipped(*((f"COVID-CT-master/{name}", data) for name, data in archives)))
    command = ["prepare", "covid_ct", "SRC", "--data-root", str(root / "data"), "--size", "16", "--workers", "1", *options]
    main([str(root / "master.zip") if word == "SRC" else word for word in command])
    assert len(read_manifest(root / "data/covid_ct/manifest.csv")) == 20
    for name, data in archives:
        path = root / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        zipfile.ZipFile(path).extractall(path.parent)
    with pytest.raises(UserError, match=r"CT_COVID\.zip: .* is there twice, the other one is .*CT_COVID.*png, packed or unpacked; take one away"):
        main([str(root / "unpacked") if word == "SRC" else str(root / "b") if word == str(root / "data") else word for word in command])


def test_what_is_needed_is_said_in_words(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"n: no such folder or zip archive; what is needed is a folder or zip archive of images \(PNG"):
        prepare(tmp_path)


def test_an_error_in_an_archive_names_its_member(root):
    (root / "n" / "q.zip").write_bytes(zipped(("in/broken.png", b"\x89PNG\r\n\x1a\n1234")))
    with pytest.raises(UserError, match=r"q\.zip: in/broken\.png: cannot be read") as caught:
        prepare(root)
    assert str(caught.value).count(str(root)) == str(caught.value).count("broken.png"), "no copy is named"


def test_a_damaged_member_without_a_suffix_is_skipped(root):
    content = write_dicom(root / "IM", STORED, **CT, WindowCenter=40, WindowWidth=400).read_bytes()
    other = content.replace(STORED.tobytes(), (STORED // 2).tobytes())
    (root / "n" / "p.zip").write_bytes(zipped(("IM0", content), ("IM1", other)).replace(other, content))  # whose CRC is another
    with pytest.raises(UserError, match=r"p\.zip: IM1: cannot be unpacked \(Bad CRC-32"):
        prepare(root)
    prepare(root, "--skip-bad")
    assert [name for name in images(root) if "IM" in name] == ["normal/p/IM0.png"]


def test_normal_images_alone(root, capsys):
    """No folder of abnormal ones is needed; the lists are then in order for check, and say so."""
    words = ["prepare", "folder", "x", "--organ", "liver", "--modality", "ct", "--normal", root / "n", "--data-root", root / "data", "--size", "16"]
    main([str(word) for word in (*words, "--workers", "1")])
    said = capsys.readouterr().out
    assert "x: 4 normal train, 1 normal val, 1 normal test; 6 patients" in said
    assert "no abnormal test images: false alarms can be measured, sensitivity and AUROC cannot" in said
    assert sorted(listed(root)) == sorted(images(root)) == [f"normal/h{number}.png" for number in range(6)]
    assert main(["check", "--data-root", str(root / "data"), "--output", str(root / "sheets")]) == 0
    assert "no abnormal test images" in capsys.readouterr().out
    with pytest.raises(UserError, match="--masks .*: masks mark the lesions of abnormal images, of which there are none; give --abnormal, too"):
        main([str(word) for word in (*words, "--masks", root / "a")])


@pytest.mark.parametrize(
    ("organ", "modality", "told"), [("Knee", "mri", "organ: 'Knee' and the 'knee'"), ("knee", "mri ", "modality: 'mri ' and the 'mri'")]
)
def test_a_word_that_differs_from_a_known_one_in_case_or_space_alone_is_refused(root, organ, modality, told):
    def prepare_knees(name, organ, modality):
        words = ["prepare", "folder", name, "--organ", organ, "--modality", modality, "--normal", root / "n", "--data-root", root / "data"]
        main([str(word) for word in (*words, "--size", "16", "--workers", "1")])

    prepare_knees("x", "knee", "mri")
    catalog = (root / "data/datasets.yaml").read_text()
    with pytest.raises(UserError, match=f"^prepare: y: {told} of x differ in .* two classes; write them alike$"):
        prepare_knees("y", organ, modality)
    assert not (root / "data/y").exists()
    assert (root / "data/datasets.yaml").read_text() == catalog
    prepare_knees("y", "knee", "mri")


def test_what_gives_no_dataset_stands_in_nobodys_way(root):
    """Too few patients, as told by a wrong expression: the command that is mended needs nothing deleted."""
    with pytest.raises(UserError, match="^1 patient with normal images is too few: training, validation and test need one each"):
        prepare(root, "--patient", "([a-z])")
    assert not (root / "data" / "x").exists()
    prepare(root, "--patient", "([a-z][0-9])")
    assert images(root) == listed(root)
    assert not list((root / "data").glob(".x*")), "no unfinished work is left"
