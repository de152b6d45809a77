"""Whose an image is: --patient, header, subfolder, file, in this order, and what is said of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data.doubts import doubts
from anomaly_detection.data.formats.header import Header, read_header
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.prepare.identity import patients_folder_warning, patients_in_words, remarks, settle_patients
from anomaly_detection.data.prepare.neighbours import alikeness, neighbours_warning
from tests.data.formats.test_dicom import CT, STORED, write_dicom


def row(source, kind="normal", patient="", patient_id="", study="", series="", pixels=""):
    content, header = pixels or f"{kind} {source}", (patient_id, study, series)
    return Row(f"{kind}/{source}.png", int(kind == "abnormal"), patient, f"{source}.dcm", "", content, None, "", *header)


def told(*rows):
    """(patient, key) of each."""
    return [(each.patient, each.patient_from) for each in settle_patients(rows, "--patient")]


def test_the_keys_go_in_order():
    rows = [
        row("p1/a", patient="x", patient_id="A", study="1"),
        row("p1/b", patient_id="A", study="1"),
        row("p2/c", patient_id="B", study="2"),
        row("p2/d", study="9"),
        row("p3/d", study="2"),
        row("p4/d", study="8"),
        row("e", study="3"),
        row("f", study="4"),
        row("g"),
    ]
    assert told(*rows) == [
        ("x", "--patient"), ("A", "header"), ("B", "header"), ("B", "header"), ("B", "header"),
        ("p4", "folder"), ("3", "study"), ("4", "study"), ("normal/g", "file"),
    ]  # fmt: skip


def test_a_file_without_patient_is_of_that_of_its_study_before_that_of_its_subfolder():
    rows = [row("p1/a", patient_id="A", study="1"), row("p2/b", patient_id="B", study="2"), row("p2/c", study="1")]
    assert told(*rows) == [("A", "header"), ("B", "header"), ("A", "header")]


def test_a_file_without_patient_is_of_none_of_several_of_its_subfolder_or_study():
    rows = [row("p1/a", patient_id="A"), row("p1/b", patient_id="B"), row("p1/c"), row("p2/d", patient_id="C")]
    assert told(*rows)[2] == ("p1", "folder")
    rows = [row("a", patient_id="A", study="1"), row("b", patient_id="B", study="1"), row("c", study="1"), row("d", patient_id="C", study="2")]
    assert told(*rows)[2] == ("1", "study")


def test_folders_that_share_a_study_or_series_are_one_patient():
    """A study has a folder for each series, and the files of a series may lie in several."""
    rows = [row("s1/a", study="1"), row("s2/a", study="1"), row("s3/a", study="2"), row("s4/a", study="3"), row("s4/b", study="4"), row("s5/a")]
    settled = settle_patients(rows, "--patient")
    assert [(each.patient, each.patient_from) for each in settled] == [(who, "folder") for who in ("s1", "s1", "s3", "s4", "s4", "s5")]
    assert remarks(settled) == ["1 folders share a study or series with another one and count as its patient's; the first: s2, as s1"]
    chain = [row("s4/a", study="1"), row("s3/a", study="1", series="8"), row("s2/a", series="8"), row("s1/a", study="5", series="9")]
    assert [who for who, _ in told(*chain)] == ["s2", "s2", "s2", "s1"]
    kinds = [row("s1/a", study="1"), row("s2/a", study="2"), row("s3/a", "abnormal", study="1"), row("s4/a", "abnormal", study="4")]
    assert [who for who, _ in told(*kinds)] == ["s1", "s2", "s1", "s4"]


@pytest.mark.parametrize("above", [("T1", "T2"), ("axial", "coronal"), ("fold1", "fold2")])
def test_below_folders_that_are_nobodys_the_study_goes_before_them(above):
    rows = [row(f"{folder}/p{who}", study=f"1.{who}") for folder in above for who in range(3)]
    assert told(*rows) == [(f"1.{who}", "study") for _ in above for who in range(3)]
    assert {key for _, key in told(*(row(f"{folder}/p{who}") for folder in above for who in range(3)))} == {"folder"}


def test_a_study_that_all_share_makes_no_folders_one():
    assert [who for who, _ in told(*(row(f"p{k}/a", study="1", series="2") for k in range(4)))] == ["p0", "p1", "p2", "p3"]


def test_who_was_told_otherwise_is_not_made_one_by_a_study():
    rows = [row("p1/a", patient="x", study="1"), row("p2/a", patient="y", study="1"), row("p3/a", study="2")]
    assert [who for who, _ in told(*rows)] == ["x", "y", "p3"]
    rows = [row("p1/a", patient_id="A", study="1"), row("p2/a", patient_id="B", study="1"), row("p3/a", study="2")]
    assert [who for who, _ in told(*rows)] == ["A", "B", "p3"]
    # a folder may be called as a patient is
    rows = [row("b/1", patient_id="a", study="1"), row("a/1", study="2"), row("0/1", study="2"), row("c/1", patient_id="c")]
    assert [who for who, _ in told(*rows)] == ["a", "0", "0", "c"]


def test_slices_of_one_series_are_of_one_patient_where_nothing_else_is_known():
    rows = [row(f"IM{k}", study="all", series=str(k // 2)) for k in range(6)]
    assert told(*rows) == [(str(k // 2), "series") for k in range(6)]


def test_studies_that_count_as_patients_are_told():
    rows = [row(f"IM{k}", study=str(k // 2)) for k in range(6)]
    settled = settle_patients(rows, "--patient")
    assert patients_in_words(settled) == "3 patients by study"
    assert [line[:97] for line in doubts(settled)] == [
        "3 studies, each counted as a patient of its own, as headers name no patient: if some are of the s"
    ]
    assert list(doubts(settle_patients([replace(each, patient_id=each.study) for each in rows], "--patient"))) == []
    ill = [row(f"ill{k}", "abnormal", study="9") for k in range(2)]
    assert remarks(settle_patients([*rows, *ill], "--patient"))[0].startswith("all 2 abnormal files are of one patient by their headers, '9'")


@pytest.mark.parametrize(
    ("fields", "told"),
    [({}, True), ({"patient_id": "A"}, False), ({"patient": "A"}, False), ({"study": "7"}, True)],
    ids=["", "ID", "--patient", "study"],
)
@pytest.mark.parametrize("folder", ["sub-2", "sub-2.zip", "sub-9"])
def test_the_folder_of_one_patient_is_told_unless_its_header_names_who_it_is(folder, fields, told):
    rows = [*(row(f"sub-{k}/a", patient_id=fields.get("patient_id") and f"P{k}" or "") for k in range(4)), row("b", "abnormal", **fields)]
    line = patients_folder_warning(Path("a") / folder, settle_patients(rows, "--patient"))
    assert (line is not None) == (told and folder != "sub-9")
    assert line is None or line.startswith(f"--abnormal a/{folder}: has the name of a subfolder of the normal images; if it is of the same patient")


@pytest.mark.parametrize(
    ("sources", "patients"),
    [
        (["p1/s1/a", "p1/s2/b", "p2/s1/a"], ["p1", "p1", "p2"]),  # series of a patient
        (["all/ct/p1/a", "all/ct/p2/s1/b"], ["p1", "p2"]),
        (["all/a", "all/b"], ["normal/all/a", "normal/all/b"]),
        (["a", "p1/b", "p1/c"], ["normal/a", "p1", "p1"]),
        (["a", "b"], ["normal/a", "normal/b"]),
    ],
)
def test_the_first_folder_that_differs_is_the_patient(sources, patients):
    assert [patient for patient, _ in told(*map(row, sources))] == patients


@pytest.mark.parametrize("name", ["ANON", "0", "Anonymous^1"])
def test_a_header_that_names_one_patient_for_all_is_passed_over_and_told(name):
    files = [row(f"p{who}/{k}", kind, patient_id=name) for kind in ("normal", "abnormal") for who in range(3) for k in range(2)]
    settled = settle_patients(files, "--patient")
    assert [each.patient for each in settled] == [each.source.split("/")[0] for each in files]
    lines = remarks(settled)
    assert lines[0].startswith(f"the header of 12 DICOM files names one patient for all, {name!r}, and is passed over")
    flat = settle_patients([row(str(k), patient_id=name) for k in range(4)], "--patient")
    assert [each.patient_from for each in flat] == ["file"] * 4
    healthy = [row(str(k), patient_id=name) for k in range(4)] + [row("x", "abnormal", patient_id="P7")]
    assert told(*healthy)[-1] == ("P7", "header")
    assert told(*healthy)[0] == ("normal/0", "file")


def test_two_names_one_for_each_kind_are_passed_over_alike():
    rows = [row(f"{who}/{k}", patient_id="ANON1") for who in range(4) for k in range(2)]
    ill = [row(f"{who}/{k}", "abnormal", patient_id="ANON2") for who in (1, 9) for k in range(2)]
    settled = settle_patients([*rows, *ill], "--patient")
    assert [(each.patient, each.patient_from) for each in settled] == [(each.source.split("/")[0], "folder") for each in settled]
    line = "the header of 12 DICOM files names one patient for all of a kind, 'ANON1', 'ANON2', and is passed over: it tells nobody apart"
    assert remarks(settled)[0] == line


@pytest.mark.parametrize(("ill", "words"), [(["B", "B"], "all 2 abnormal files are of one patient by their headers"), (["B"], ""), (["B", "C"], "")])
def test_one_patient_for_all_that_is_abnormal_is_told(ill, words):
    rows = [row(str(k), patient_id=f"P{k}") for k in range(3)] + [row(str(k), "abnormal", patient_id=name) for k, name in enumerate(ill)]
    settled = settle_patients(rows, "--patient")
    assert [each.patient for each in settled] == ["P0", "P1", "P2", *ill]
    assert "".join(remarks(settled)).startswith(words)
    assert bool(remarks(settled)) == bool(words)


def test_one_file_of_one_patient_is_no_reason_to_pass_its_header_over():
    assert told(row("a", patient_id="A"), row("b", "abnormal", patient_id="B"), row("c", "abnormal", patient_id="B")) == [
        ("A", "header"), ("B", "header"), ("B", "header"),
    ]  # fmt: skip


def test_a_patient_who_is_in_both_folders_is_one_but_a_file_name_is_not():
    rows = [row(name, kind) for kind in ("normal", "abnormal") for name in ("p1/000", "p2/000", "000")]
    settled = settle_patients(rows, "--patient")
    assert [each.patient for each in settled] == ["p1", "p2", "normal/000", "p1", "p2", "abnormal/000"]
    assert remarks(settled) == ["2 subfolders are among normal and abnormal images alike, each counted as one patient; the first: p1"]
    assert len({patient for patient, _ in told(row("a", patient_id="A"), row("b", "abnormal", patient_id="A"), row("c", patient_id="C"))}) == 2


@pytest.mark.parametrize(
    ("normal", "abnormal", "patients"),
    [
        (["p1/a", "p2/a"], ["p2/b"], ["p1", "p2", "p2"]),
        (["p1/a", "p2/a"], ["p2/b", "p2/c"], ["p1", "p2", "p2", "p2"]),
        (["p1/a", "p2/a"], ["p2/left/b", "p2/right/b"], ["p1", "p2", "p2", "p2"]),  # none of them is a patient called `left`
        (["site/p1/a", "site/p2/a"], ["p2/s1/b"], ["p1", "p2", "p2"]),
        (["p1/a", "p2/a"], ["site/ct/p2/b"], ["p1", "p2", "p2"]),
        (["p2/a"], ["p1/b", "p2/b"], ["p2", "p1", "p2"]),
        (["Jos\u00e9/a", "p2/a"], ["Jose\u0301/b"], ["Jos\u00e9", "p2", "Jos\u00e9"]),
        (["P1/a", "P2/a"], ["p2/b"], ["P1", "P2", "P2"]),
        (["p1/a", "p2/a"], ["ill/b"], ["p1", "p2", "abnormal/ill/b"]),
        (["images/a"], ["images/b"], ["normal/images/a", "abnormal/images/b"]),
    ],
)
def test_a_folder_that_all_files_of_a_kind_share_is_a_patient_if_it_is_one_of_the_other_kind(normal, abnormal, patients):
    rows = [*map(row, normal), *(row(source, "abnormal") for source in abnormal)]
    assert [patient for patient, _ in told(*rows)] == patients
    assert bool(remarks(settle_patients(rows, "--patient"))) == (patients[-1] in patients[: len(normal)])


def test_subfolders_that_differ_in_case_alone_are_one_patient():
    """Some file systems would have made one of them; what PatientID says is not."""
    rows = [row(name, kind) for kind, names in (("normal", ("P1/a", "P2/a")), ("abnormal", ("p1/a", "p2/a", "p3/a"))) for name in names]
    settled = settle_patients(rows, "--patient")
    assert [each.patient for each in settled] == ["P1", "P2", "P1", "P2", "p3"]
    assert remarks(settled) == ["2 subfolders are among normal and abnormal images alike, each counted as one patient; the first: P1"]
    assert patients_folder_warning(Path("ill/p2"), settled) is not None
    assert len(set(told(row("a/1", patient_id="A"), row("b/1", patient_id="a"), row("c/1", patient_id="B")))) == 3


def test_files_that_are_called_as_subfolders_of_the_other_kind_are_told():
    rows = [row("P1/a"), row("P2/a"), row("p1", "abnormal"), row("P9", "abnormal")]
    settled = settle_patients(rows, "--patient")
    assert [each.patient for each in settled] == ["P1", "P2", "abnormal/p1", "abnormal/P9"]
    (line,) = remarks(settled)
    assert line.startswith("1 files are called as subfolders of the other kind, and count as other patients; the first: p1.dcm; if they are of these")
    assert remarks(settle_patients([row("P1/a"), row("P2/a"), row("P1")], "--patient")) == [], "beside them it may be anything"


@pytest.mark.parametrize("key", [{}, {"patient_id": "Jos\u00e9"}, {"patient": "Jos\u00e9"}])
def test_a_patient_whose_name_is_encoded_in_two_ways_is_one(key):
    other = dict.fromkeys(key, "Jose\u0301")
    rows = [row("Jos\u00e9/a", **key), row("p2/b"), row("Jose\u0301/a", "abnormal", **other), row("p3/b", "abnormal")]
    patients = [patient for patient, _ in told(*rows)]
    assert patients[0] == patients[2]
    assert len(set(patients)) == 3


def test_a_study_of_several_patients_is_told():
    rows = [row(str(k), patient_id=f"P{k}", study=str(k // 2)) for k in range(5)]
    assert remarks(settle_patients(rows, "--patient")) == [
        "2 studies have files of several PatientIDs, the first: P0, P1; a study is of one patient, so --patient REGEX may be needed"
    ]
    assert remarks(settle_patients([row(str(k), patient_id=f"P{k // 2}", study=str(k)) for k in range(5)], "--patient")) == []


def test_the_same_pixels_under_two_names_are_told():
    rows = [row("a", pixels="1"), row("b", pixels="2"), row("c", pixels="1"), row("d", pixels="1")]
    assert remarks(settle_patients(rows, "--patient")) == [
        "2 images have the pixels of another one and count as the same patient's; the first: normal/c.png, as normal/a.png"
    ]


def test_how_many_patients_were_told_by_which_key():
    rows = [row("p1/a", patient_id="A"), row("p1/b", patient_id="A"), row("p2/a", patient_id="B"), row("c")]
    assert patients_in_words(settle_patients(rows, "--patient")) == "3 patients (2 by header, 1 by file)"
    assert patients_in_words(settle_patients(rows[:3], "--patient")) == "2 patients by header"


def test_the_header_of_a_file(tmp_path):
    write_dicom(tmp_path / "a", STORED, **CT, PatientID=" P7 ", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3")
    assert read_header(tmp_path / "a") == Header("P7", "1.2", "1.2.3")
    write_dicom(tmp_path / "b", STORED, **CT, PatientID="")
    assert read_header(tmp_path / "b") == Header()
    (tmp_path / "c.dcm").write_bytes(b"no DICOM")
    assert read_header(tmp_path / "c.dcm") == Header()


def smooth(rng):
    return rng.normal(size=(6, 6)).repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("slices", [1, 6])
def test_neighbours_that_look_alike_are_told(tmp_path, slices):
    rng = np.random.default_rng(1)
    (tmp_path / "normal").mkdir()
    rows = []
    for number in range(60):
        if number % slices == 0:
            body = smooth(rng)
        pixels = 128 + 30 * (body + 0.2 * smooth(rng))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(tmp_path / "normal" / f"{number}.png")
        rows.append(Row(f"normal/{number}.png", 0, f"normal/{number}", f"{number}.png", "", "", None, "file"))
    share = alikeness(tmp_path, rows)
    if slices == 1:
        assert abs(share - 0.5) < 0.12
        assert neighbours_warning(tmp_path, rows) is None
    else:
        assert share > 0.8
        assert "slices of one patient" in neighbours_warning(tmp_path, rows)
    assert alikeness(tmp_path, rows[:5]) is None
    assert alikeness(tmp_path, []) is None
