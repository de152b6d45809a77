"""Which images belong together, and in which order."""

import shutil
import zipfile
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from anomaly_detection.data.formats.header import read_header
from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.series import read_run, series_of
from anomaly_detection.data.formats.sources import SourceFile, list_inputs
from anomaly_detection.system.errors import UserError
from tests.data.formats.test_dicom import write_dicom

AXIAL = [1.0, 0, 0, 0, 1, 0]
ACROSS, DOWN, NORMAL = (np.array(axis) for axis in ([0.8, 0, 0.6], [0.0, 1, 0], [-0.6, 0, 0.8]))  # a turn about the axis from front to back
OBLIQUE = [*ACROSS, *DOWN]
CORNER = np.array([-100.0, -120, 30])


def write(path, grey, uid="1.2.7", corner=None, turn=AXIAL, **tags):
    """A DICOM file whose pixels are all `grey`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if corner is not None:
        tags = {"ImagePositionPatient": list(map(float, corner)), "ImageOrientationPatient": list(map(float, turn))} | tags
    return write_dicom(path, np.full((4, 5), grey, np.uint8), **{"SeriesInstanceUID": uid, "SOPInstanceUID": f"1.2.{uid[-1]}.{grey}"} | tags)


def read(*inputs):
    """Of each series its name, and the name, grey and position of each of its images."""
    series = series_of(list_inputs(list(inputs)))
    images = [[pair for run in each.runs for pair in read_run(run, None)] for each in series]
    told = [[(place.name, int(image.pixels[0, 0]), place.position) for place, image in pairs] for pairs in images]
    return [(each.name, its) for each, its in zip(series, told, strict=True)]


def greys(series):
    return [grey for _, grey, _ in series[1]]


def test_slices_are_in_order_of_position_whatever_their_names(tmp_path):
    along = [5.0, -2.5, 0.0, 12.5, 7.5, 2.5, -5.0]
    for number, mm in enumerate(along):
        # neither the z of the corner nor the number of the instance is in this order: the slices are shifted in their planes
        corner = CORNER + mm * NORMAL + ((number * 37) % 50) * ACROSS
        write(tmp_path / f"IM{(number * 3) % 7}", int(mm * 2 + 50), corner=corner, turn=OBLIQUE, InstanceNumber=7 - number)
    (series,) = read(tmp_path)
    assert greys(series) == sorted(int(mm * 2 + 50) for mm in along)
    base = sum(float(a) * float(b) for a, b in zip(NORMAL, CORNER, strict=True))
    assert [position for _, _, position in series[1]] == pytest.approx([base + mm for mm in sorted(along)])


def test_two_series_of_interleaved_names_are_two(tmp_path):
    for number in range(4):
        write(tmp_path / f"IM{2 * number}.dcm", 10 + number, "1.2.7", (0, 0, -number))
        write(tmp_path / f"IM{2 * number + 1}.dcm", 20 + number, "1.2.8", (0, 0, number))
    assert [(name, [grey for _, grey, _ in images]) for name, images in read(tmp_path)] == [("1.2.7", [13, 12, 11, 10]), ("1.2.8", [20, 21, 22, 23])]


def test_one_identifier_of_two_patients_is_two_series(tmp_path):
    for patient in ("A", "B"):
        for number in range(2):
            write(tmp_path / f"{number}{patient}.dcm", number, corner=(0, 0, number), PatientID=patient)
    assert [(each.patient, len(each.runs)) for each in series_of(list_inputs([tmp_path]))] == [("A", 2), ("B", 2)]


@pytest.mark.parametrize(
    ("numbers", "placed", "expected"),
    [
        ([3, 1, 2], [None, None, None], [1, 2, 0]),  # of the instances
        ([3, 1, 2], [0.0, None, -9.0], [1, 2, 0]),  # a position that is missing spoils the order by position
        ([3, None, 2], [None, None, None], [1, 2, 0]),  # IM2, IM9, IM10
        ([None, None, None], [None, None, 4.0], [1, 2, 0]),
        ([1, 2, 3], [7.0, 7.0, 6.0], [2, 0, 1]),  # two at one place
    ],
)
def test_without_positions_the_instance_number_counts_and_else_the_name(tmp_path, numbers, placed, expected):
    for grey, (name, number, z) in enumerate(zip(("IM10", "IM2", "IM9"), numbers, placed, strict=True)):
        tags = {} if number is None else {"InstanceNumber": number}
        write(tmp_path / name, grey, corner=None if z is None else (1, 2, z), **tags)
    (series,) = read(tmp_path)
    assert greys(series) == expected
    assert [position for _, _, position in series[1]] == [placed[grey] for grey in expected]


@pytest.mark.parametrize("tags", [{"ImagePositionPatient": [1.0, 2.0]}, {"ImageOrientationPatient": [1.0, 0, 0, 1, 0, 0]}, {"InstanceNumber": None}])
def test_elements_without_meaning_are_as_if_they_were_not_there(tmp_path, tags):
    for grey in range(2):
        write(tmp_path / f"{grey}.dcm", grey, corner=(0, 0, -grey), **({"InstanceNumber": grey} | (tags if grey == 0 else {})))
    (series,) = read(tmp_path)
    assert greys(series) == ([1, 0] if "InstanceNumber" in tags else [0, 1])


@pytest.mark.parametrize("swapped", [False, True])
def test_localisers_of_several_orientations_are_stacks_one_after_another(tmp_path, swapped):
    """Sagittal and axial slices in one series; which stack is first does not depend on the names of the files."""
    sagittal = [0.0, 1, 0, 0, 0, -1]  # its normal leads to the right: x falls
    for number in range(3):
        first, second = "ba" if swapped else "ab"
        write(tmp_path / f"{number}{first}", 10 + number, corner=(0, 0, 5 * number), turn=AXIAL)
        write(tmp_path / f"{number}{second}", 20 + number, corner=(5 * number, 0, 0), turn=sagittal)
    (series,) = read(tmp_path)
    assert greys(series) == [22, 21, 20, 10, 11, 12]
    assert [position for _, _, position in series[1]] == pytest.approx([-10, -5, 0, 0, 5, 10])


def frame_groups(corners, turn=AXIAL):
    """The functional groups of a multi-frame file."""
    shared, groups = Dataset(), []
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = turn
    for corner in corners:
        group = Dataset()
        group.PlanePositionSequence = [Dataset()]
        group.PlanePositionSequence[0].ImagePositionPatient = list(corner)
        groups.append(group)
    return {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": groups}


def test_frames_of_a_file_are_in_order_of_their_positions(tmp_path):
    z = [3.0, 1.0, 2.0, 0.0]
    values = np.arange(4, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)
    write_dicom(tmp_path / "m.dcm", values, SeriesInstanceUID="1.2.7", **frame_groups([(0.0, 0.0, each) for each in z]))
    (series,) = read(tmp_path)
    assert series == ("1.2.7", [("m.dcm#003", 3, 0.0), ("m.dcm#001", 1, 1.0), ("m.dcm#002", 2, 2.0), ("m.dcm#000", 0, 3.0)])


def test_frames_of_two_files_of_a_series_may_lie_between_each_other(tmp_path):
    values = np.arange(4, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)
    for name, shift in (("a.dcm", 0.0), ("b.dcm", 1.5)):
        write_dicom(
            tmp_path / name,
            values + np.uint8(10 * (name == "b.dcm")),
            SeriesInstanceUID="1.2.7",
            SOPInstanceUID=f"1.2.{len(name + str(shift))}.{int(shift)}",
            **frame_groups([(0.0, 0.0, each + shift) for each in range(4)]),
        )
    (series,) = read(tmp_path)
    assert greys(series) == [0, 1, 10, 2, 11, 3, 12, 13]
    assert [name for name, _, _ in series[1]][:3] == ["a.dcm#000", "a.dcm#001", "b.dcm#000"]


def test_frames_without_positions_stay_as_they_are(tmp_path):
    values = np.arange(3, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(5, 2)
    write_dicom(tmp_path / "m.dcm", values)
    write_dicom(tmp_path / "one.dcm", values[0])
    assert read(tmp_path) == [("m.dcm", [("m.dcm#000", 0, None), ("m.dcm#001", 1, None), ("m.dcm#002", 2, None)]), ("", [("one.dcm", 0, None)])]


def turned(step):
    """An oblique affine with its third axis along the body, `step` mm a slice."""
    a, b = np.deg2rad([17, -11])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = x @ y @ np.diag([-0.7, -0.8, step])
    affine[:3, 3] = [40, 50, -60]
    return affine


@pytest.mark.parametrize("step", [2.5, -2.5])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_slices_of_a_volume_have_their_positions_in_the_world(tmp_path, step, order):
    affine = turned(step)[:, [*order, 3]]
    axial = order.index(2)
    shape = [(4, 5, 6)[axis] for axis in order]
    values = np.zeros(shape, np.uint8) + np.arange(6, dtype=np.uint8).reshape([6 if axis == axial else 1 for axis in range(3)])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "v.nii.gz")
    (series,) = read(tmp_path)
    assert series[0] == "v.nii.gz"
    assert greys(series) == [0, 1, 2, 3, 4, 5], "as they are stored"
    positions = [position for _, _, position in series[1]]
    assert [after - before for before, after in pairwise(positions)] == pytest.approx([step] * 5)
    # of any voxel of a slice the distance along the unit normal of the slices from the world's origin
    inverse = np.linalg.inv(affine[:3, :3])[axial]
    normal = inverse / np.linalg.norm(inverse)
    normal *= np.sign(normal[2])
    for k, position in enumerate(positions):
        voxel = [1, 2, 3]
        voxel[axial] = k
        world = nibabel.affines.apply_affine(affine, voxel)
        assert position == pytest.approx(sum(float(a) * float(b) for a, b in zip(normal, world, strict=True)))


def test_a_volume_and_the_same_as_dicom_have_the_same_positions(tmp_path):
    affine = turned(2.5)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine), tmp_path / "v.nii")
    left_back = np.diag([-1.0, -1, 1, 1]) @ affine  # DICOM's axes lead to the left and to the back, NIfTI's to the right and to the front
    across, down = (left_back[:3, axis] / np.linalg.norm(left_back[:3, axis]) for axis in (0, 1))
    for k in range(6):
        write(tmp_path / "d" / f"{5 - k}.dcm", k, corner=left_back[:3, 3] + k * left_back[:3, 2], turn=[*across, *down])
    (_, of_dicom), (_, of_nifti) = read(tmp_path)
    assert [grey for _, grey, _ in of_dicom] == list(range(6))
    assert [position for _, _, position in of_dicom] == pytest.approx([position for _, _, position in of_nifti], abs=1e-4)


def test_an_archive_may_hold_series(tmp_path):
    for number in range(3):
        write(tmp_path / "in" / f"IM{number}", number, corner=(0, 0, -number), PatientID="P1")
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.write(tmp_path / "in" / f"IM{number}", f"scans/IM{number}")
    (packed,) = read(tmp_path / "all.zip")
    assert packed == ("1.2.7", [("scans/IM2", 2, -2.0), ("scans/IM1", 1, -1.0), ("scans/IM0", 0, 0.0)])


def patients(*inputs):
    return {name: each.patient for each in series_of(list_inputs(list(inputs))) for name in [run.name for run in each.runs]}


def test_whose_images_are(tmp_path):
    write(tmp_path / "p1" / "a.dcm", 1, PatientID=" P 7 ")
    write(tmp_path / "p1" / "b.dcm", 2, uid="1.2.8", PatientID="")
    write(tmp_path / "p1" / "c.dcm", 2, uid="1.2.9", PatientID="7/a\\8")  # to DICOM two values
    for name in ("p1/x.png", "p2/deep/x.png", "x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.uint8), np.eye(4)), tmp_path / "p2" / "v.nii")
    expected = {"p1/a.dcm": "P 7", "p1/b.dcm": "p1", "p1/c.dcm": "7/a\\8", "p1/x.png": "p1", "p2/deep/x.png": "p2", "p2/v.nii": "p2", "x.png": ""}
    assert patients(tmp_path) == expected
    assert set(patients(tmp_path / "p2").values()) == {"deep", ""}
    assert patients(tmp_path / "x.png") == {"x.png": ""}


def test_folders_that_say_what_an_image_shows_are_no_patients(tmp_path):
    for name in ("normal/1.png", "anomaly/2.png", "normal/p1/3.png", "abnormal/p1/4.png", "abnormal/p2/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    named = {"normal/p1/3.png": "p1", "abnormal/p1/4.png": "p1", "abnormal/p2/5.png": "p2"}
    assert patients(tmp_path) == {"normal/1.png": "", "anomaly/2.png": "", **named}


def pictures(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / name)


@pytest.mark.parametrize("packed", [False, True])
def test_folders_of_one_name_below_two_inputs_are_two_patients(tmp_path, packed):
    pictures(tmp_path, *(f"{site}/{who}/{k}.png" for site in "ab" for who in ("p1", f"only {site}") for k in range(2)), "a/x.png")
    inputs = [tmp_path / "a", tmp_path / "b"]
    if packed:
        inputs = [Path(shutil.make_archive(str(path), "zip", path)) for path in inputs]
    told = patients(*inputs)
    assert {name.rpartition("/")[0]: who for name, who in told.items()} == {
        "a/p1": "a/p1", "b/p1": "b/p1", "only a": "only a", "only b": "only b", "": "",
    }  # fmt: skip


def test_inputs_in_which_folders_are_for_planes_alone_are_patients(tmp_path):
    """One series of each plane: who is in both inputs is nobody, and no plane is a patient."""
    pictures(tmp_path, *(f"{who}/{plane}/{k}.png" for who in ("p1", "p2") for plane in ("axial", "coronal") for k in range(2)))
    assert {name.split("/")[0]: who for name, who in patients(tmp_path / "p1", tmp_path / "p2").items()} == {"p1": "p1", "p2": "p2"}
    assert set(patients(tmp_path).values()) == {"p1", "p2"}
    assert set(patients(tmp_path / "p1").values()) == {""}


def test_inputs_that_are_called_as_kinds_are_have_their_patients_in_common(tmp_path):
    pictures(tmp_path, "normal/p1/1.png", "normal/p2/1.png", "abnormal/p1/2.png", "abnormal/p3/2.png")
    assert sorted(patients(tmp_path / "normal", tmp_path / "abnormal").values()) == ["p1", "p1", "p2", "p3"]


def test_what_is_no_image_changes_nobodys_patient(tmp_path):
    pictures(tmp_path, *(f"images/p{who}/{k}.png" for who in (1, 2) for k in range(2)))
    expected = {f"images/p{who}/{k}.png": f"p{who}" for who in (1, 2) for k in range(2)}
    assert patients(tmp_path) == expected
    for name in ("README.txt", "docs/more/notes.txt", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("hello")
    (tmp_path / "images" / "p2" / "broken.dcm").write_bytes(b"no DICOM")
    told = patients(tmp_path)
    assert {name: told[name] for name in expected} == expected
    assert told["images/p2/broken.dcm"] == "p2", "what cannot be read counts in its patient's line"
    assert {who for name, who in told.items() if name.endswith("txt")} == {""}


@pytest.mark.parametrize("names", [("NORMAL", "PNEUMONIA"), ("Normal", "Viral Pneumonia", "COVID"), ("no", "yes"), ("Abnormal", "p7")])
def test_folders_beside_one_that_says_what_images_show_are_no_patients(tmp_path, names):
    pictures(tmp_path, *(f"flat/{name}/{k}.png" for name in names for k in range(2)))
    assert set(patients(tmp_path / "flat").values()) == {""}
    pictures(tmp_path, *(f"deep/{name}/{who}/1.png" for name in names for who in ("p1", f"from {name}")))
    assert set(patients(tmp_path / "deep").values()) == {"p1", *(f"from {name}" for name in names)}


def test_a_volume_of_lits_is_a_patient_whatever_its_folder(tmp_path):
    def volumes(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.uint8), np.eye(4)), tmp_path / name)

    volumes("lits/Training Batch 1/volume-0.nii", "lits/Training Batch 1/volume-1.nii", "lits/Training Batch 2/Volume-28.nii.gz")
    assert list(patients(tmp_path / "lits").values()) == ["volume-0", "volume-1", "volume-28"]
    volumes("batches/batch1/scan.nii", "batches/batch1/other.nii", "batches/batch2/scan.nii")
    assert set(patients(tmp_path / "batches").values()) == {""}, "each is a line by itself"
    volumes("own/p1/volume-1.nii", "own/p1/volume-2.nii", "own/p2/volume-1.nii", "own/p2/volume-2.nii")
    assert list(patients(tmp_path / "own").values()) == ["p1", "p1", "p2", "p2"]


def test_who_shares_a_study_is_one_patient_as_prepare_has_it(tmp_path):
    for name, study, series in (("a/s1", "1.1", "1.1.1"), ("a/s2", "1.1", "1.1.2"), ("a/s3", "1.2", "1.2.1")):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name / "1.dcm", 5, uid=series, StudyInstanceUID=study)
    assert list(patients(tmp_path).values()) == ["s1", "s1", "s3"]
    for number, (study, series) in enumerate((("1.1", "1.1.1"), ("1.1", "1.1.2"), ("1.2", "1.2.1"))):
        (tmp_path / "flat").mkdir(exist_ok=True)
        write(tmp_path / f"flat/{number}.dcm", 5, uid=series, StudyInstanceUID=study)
    assert list(patients(tmp_path / "flat").values()) == ["1.1", "1.1", ""]


def test_folders_that_may_be_no_patients_are_told(tmp_path, caplog):
    pictures(tmp_path, *(f"{site}/sub-{who:02d}/{k}.png" for site in ("GE", "Siemens") for who in range(4) for k in range(2)))
    assert set(patients(tmp_path).values()) == {"GE", "Siemens"}
    assert "4 names recur in several of them (sub-00 in GE, Siemens): a line of patients.csv may be of several patients" in caplog.text
    caplog.clear()
    patients(tmp_path / "GE")
    assert not caplog.text


@pytest.mark.parametrize("packed", [False, True])
def test_inputs_of_which_nothing_tells_the_patient_are_told(tmp_path, caplog, packed):
    """As a shell makes them of `scans/*`; a batch of pictures may be of many patients, so none is made of it."""
    pictures(tmp_path, *(f"{who}/{k}.png" for who in ("p1", "p2", "p3") for k in range(2)), "normal/1.png", "normal/2.png")
    inputs = [tmp_path / who for who in ("p1", "p2", "p3")]
    if packed:
        inputs = [Path(shutil.make_archive(str(path), "zip", path)) for path in inputs]
    assert set(patients(*inputs).values()) == {""}
    assert "WARNING: nothing tells whose the images of 3 inputs are, the first: p1; if each is a patient, give the folder that" in caplog.text
    caplog.clear()
    patients(inputs[0])
    patients(inputs[0], tmp_path / "normal")
    patients(*(tmp_path / who / "1.png" for who in ("p1", "p2", "p3")))
    for who in ("q1", "q2"):
        for name in "ab":
            write(tmp_path / who / f"{name}.dcm", 1, uid=f"1.{who[1]}", PatientID=who)
    patients(tmp_path / "q1", tmp_path / "q2")
    assert "nothing tells" not in caplog.text


def test_one_identifier_for_patients_in_folders_of_their_own_is_told(tmp_path, caplog):
    for who in range(3):
        write(tmp_path / f"p{who}" / "1.dcm", 1, uid=f"1.3.{who}", PatientID="ANON", StudyInstanceUID=f"1.2.{who}")
    assert set(patients(tmp_path).values()) == {"ANON"}
    assert "WARNING: PatientID 'ANON' is of all 3 DICOM files, of 3 studies in 3 folders, and counts as one patient; if that is what" in caplog.text
    caplog.clear()
    patients(tmp_path / "p0")
    for who in range(3):  # the series of a study
        write(tmp_path / "one" / f"s{who}" / "1.dcm", 1, uid=f"1.3.{who}", PatientID="ANON", StudyInstanceUID="1.2")
    patients(tmp_path / "one")
    write(tmp_path / "p1" / "1.dcm", 1, uid="1.3.1", PatientID="P1", StudyInstanceUID="1.2.1")
    patients(tmp_path / "p0", tmp_path / "p1")
    assert "PatientID" not in caplog.text


def test_copies_in_a_series_are_left_out(tmp_path, caplog):
    for name in ("a", "b"):
        write(tmp_path / name / "1.dcm", 1, corner=(0, 0, 0))
        write(tmp_path / name / "2.dcm", 2, corner=(0, 0, 1))
    (series,) = read(tmp_path)
    assert greys(series) == [1, 2]
    assert "series 1.2.7 (a/1.dcm): 2 files are copies of others in it, and left out" in caplog.text


def test_what_shares_its_identifier_alone_is_no_copy(tmp_path, caplog):
    for grey in (3, 1, 2):
        write(tmp_path / f"{grey}.dcm", grey, corner=(0, 0, grey), SOPInstanceUID="1.2.3")
    assert greys(read(tmp_path)[0]) == [1, 2, 3]
    assert not caplog.text


def test_what_has_no_pixels_or_no_sound_header_is_in_no_series(tmp_path):
    whole = write(tmp_path / "0.dcm", 1, corner=(0, 0, 0)).read_bytes()
    (tmp_path / "1.dcm").write_bytes(whole[:200])
    (tmp_path / "notes.txt").write_text("hello")
    write(tmp_path / "report", 1, Modality="SEG")
    assert [(each.kind, each.name, each.runs[0].name) for each in series_of(list_inputs([tmp_path]))] == [
        ("dicom", "1.2.7", "0.dcm"),
        ("picture", "", "1.dcm"),
        ("picture", "", "notes.txt"),
        ("picture", "", "report"),
    ]


def test_a_damaged_number_of_frames_takes_no_time(tmp_path):
    path = write(tmp_path / "0.dcm", 1, corner=(0, 0, 0), NumberOfFrames=2**31 - 1)
    (series,) = series_of(list_inputs([path]))
    with pytest.raises(UserError):
        list(read_run(series.runs[0], None))


def test_pictures_and_volumes_are_not_opened_to_order_them(tmp_path, monkeypatch):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.uint8), np.eye(4)), tmp_path / "v.nii")
    files = list_inputs([tmp_path])
    monkeypatch.setattr(SourceFile, "open", lambda _: pytest.fail("opened"))
    monkeypatch.setattr(SourceFile, "on_disk", lambda _: pytest.fail("opened"))
    assert [each.kind for each in series_of(files)] == ["picture", "nifti"]


def test_identity_is_read_alike_for_prepare(tmp_path):
    path = write(tmp_path / "a.dcm", 1, PatientID="P7", StudyInstanceUID="1.5", Modality="CT")
    assert read_header(path) == ("P7", "1.5", "1.2.7", "CT")


def test_planes_across_the_body_at_45_degrees_have_positions(tmp_path):
    """Where two axes lead as much to the head the slices are those that nibabel takes for axial."""
    affine = np.eye(4)
    half = np.sqrt(0.5)
    affine[:3, :3] = [[1, 0, 0], [0, half, -half], [0, half, half]]
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), affine), tmp_path / "v.nii")
    volume = Volume(tmp_path / "v.nii", "v")
    assert np.diff(volume.positions) == pytest.approx(np.ones(volume.slices - 1))
