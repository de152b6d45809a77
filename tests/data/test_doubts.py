"""Folders that count as patients and are none are told, with the expression that finds the persons; those that are patients' are not."""

import re

import pytest

from anomaly_detection.data.doubts import FEW, doubt_of_folders, doubts
from anomaly_detection.data.manifest import Row

GAPS = (2, 12, 13, 17, 21, 25, 33, 34, 48, 51)  # numbers of those who agreed to take part


def layout(template, **names):
    """Paths by all combinations of names, and the first folder of each, which counts as its patient."""
    paths = [template]
    for name, values in names.items():
        paths = [path.replace(f"<{name}>", str(value)) for path in paths for value in values]
    return {path: path.partition("/")[0] for path in paths}


def groups(doubt, folders):
    """The patients that --patient as advised makes of the paths, as `prepare` takes it: its first group."""
    expression, count = re.search(r"^--patient '(.*)' would make (\d+) patients$", doubt.mend).groups()
    found = {path: re.search(expression, path)[1] for path in folders}
    assert len(set(found.values())) == int(count)
    return found


VIEWS = ("axial", "coronal", "sagittal")
PERSONS_RECUR = [
    (layout("<s>/<p>-Guys-0828-<s>.nii.gz", s=("IXI-T1", "IXI-T2", "IXI-PD"), p=[f"IXI{k:03d}" for k in GAPS]), "IXI002 in IXI-PD, IXI-T1, IXI-T2"),
    (layout("<s>/<p>/<k>.png", s=VIEWS, p=("p1", "p2", "p3"), k=range(4)), "p1 in axial, coronal, sagittal"),
    (layout("<s>/<p>.nii", s=("T1", "T2"), p=("001", "002", "003", "004")), "001 in T1, T2"),
    (layout("<s>/<p>_<s>.nii.gz", s=("flair", "dwi"), p=("ada", "bob", "cy", "di", "eve", "flo")), "ada in dwi, flair"),
    (layout("<s>/images/<p>/<k>.png", s=("CC", "MLO"), p=range(9), k=range(2)), "0 in CC, MLO"),
    (layout("<s>/<p>/<k>.png", s=("GE", "Siemens"), p=[f"sub-{k:02d}" for k in range(5)], k=range(3)), "sub-00 in GE, Siemens"),
    (layout("<s>/<p>/<k>.png", s=("visit1", "visit2"), p=[f"patient{k}" for k in range(5)], k=range(3)), "patient0 in visit1, visit2"),
    (layout("<s>/<p>.nii.gz", s=("early", "late"), p=[f"IXI{k:03d}" for k in GAPS]), "IXI002 in early, late"),
    (layout("<s>/<p>.nii.gz", s=("seq1", "seq2", "seq3"), p=[f"IXI{k:03d}" for k in GAPS]), "IXI002 in seq1, seq2, seq3"),
    (layout("<s>/<p>.png", s=("early", "late"), p=[f"IXI{k:03d}" for k in GAPS]), "IXI002 in early, late"),
    (layout("<s>/<p>.png", s=("early", "late"), p=[f"case_{k}" for k in range(20)]), "case_0 in early, late"),
]


@pytest.mark.parametrize(("folders", "example"), PERSONS_RECUR, ids=[example for _, example in PERSONS_RECUR])
def test_persons_in_several_folders_are_told_with_the_expression_that_finds_them(folders, example):
    doubt = doubt_of_folders(folders)
    name, where = example.split(" in ")
    assert doubt.fact.endswith(f" names recur in several of them ({example})")
    assert "trained on AND tested" in doubt.outcome
    found = groups(doubt, folders)
    assert {path.partition("/")[0] for path, who in found.items() if who == name} == set(where.split(", "))
    assert all(who in path.partition("/")[2] for path, who in found.items())


MANY_IN_EACH = [
    (
        {path: path.partition("/")[0] for s in range(4) for k in range(7) for path in layout(f"p1{s}/p1{s}{k:06d}/s<s>/x.jpg", s=(1, 2))},
        r"p\d{8}",
        28,
    ),
    ({f"Training Batch {1 + k // 20}/volume-{k}.nii": f"Training Batch {1 + k // 20}" for k in range(40)}, r"volume-\d+", 40),
    ({f"batch_{k // 10}/{k:04d}/{z}.png": f"batch_{k // 10}" for k in range(40) for z in range(3)}, r"\d{4}", 40),
    ({f"images_{k // 10:03d}/images/{k:08d}_{z:03d}.png": f"images_{k // 10:03d}" for k in range(40) for z in range(1 + k % 3)}, r"\d{8}", 40),
]


@pytest.mark.parametrize(("folders", "persons", "count"), MANY_IN_EACH, ids=[pattern + " " + next(iter(f)) for f, pattern, _ in MANY_IN_EACH])
def test_folders_that_hold_many_patients_each_are_told(folders, persons, count):
    doubt = doubt_of_folders(folders)
    assert doubt.fact.startswith(f"{len(set(folders.values()))} folders, each counted as a patient, but they hold {count} names as patients have (")
    found = groups(doubt, folders)
    assert len(set(found.values())) == count
    assert all(re.fullmatch(persons, who) for who in found.values())


@pytest.mark.parametrize("names", [("train", "test"), ("batch1", "batch2"), ("benign", "malignant"), ("NORMAL", "Viral Pneumonia")])
def test_folders_that_are_nobodys_by_their_names_are_told_where_nothing_finds_the_persons(names):
    doubt = doubt_of_folders(layout("<s>/<k>.png", s=names, k=range(9)))
    assert doubt.fact == f"2 folders, each counted as a patient, are called as kinds of images or parts of a dataset are ({', '.join(sorted(names))})"
    assert doubt.mend == "give --patient REGEX"


PATIENTS = [
    layout("p<p>/<s>/<k>.png", p=range(5), s=VIEWS, k=range(3)),
    layout("p<p>/<s>/<k>.png", p=range(5), s=("a1", "b22", "recon"), k=range(3)),
    layout("p<p>/<k>.png", p=range(3), k=[f"{k:03d}" for k in range(155)]),
    layout("<p>/<k>.png", p="abc", k=[f"slice_{k:03d}" for k in range(0, 155, 7)]),
    layout("<p>/IM<k>", p=("Smith", "Jones", "Lee"), k=[f"{k:05d}" for k in GAPS]),
    layout("<p>/foo<k>.png", p=("ada", "bob", "cy"), k=[f"{k:04d}" for k in range(90)]),
    layout("p<p>/series<s>/IM<k>", p=range(5), s=range(12), k=range(3)),
    layout("p<p>/SE<s>/IM<k>", p=range(5), s=[f"{k:06d}" for k in GAPS], k=range(3)),
    layout("PA<p>/STU<s>/SER<k>/IM1", p=range(5), s=["00001", "00002", "00003"], k=range(3)),
    layout("sub-<p>/ses-<s>/anat/sub-<p>_ses-<s>_<m>.nii.gz", p=range(5), s=range(5), m=("T1w", "T2w", "FLAIR")),
    layout("sub-<p>/func/sub-<p>_task-rest_run-<s>_bold.nii.gz", p=range(5), s=range(12)),
    layout("BraTS_<p>/BraTS_<p>_<m>.nii.gz", p=range(9), m=("t1", "t1ce", "t2", "flair")),
    layout("p<p>/<m>.nii.gz", p=range(4), m=("T1", "T2", "FLAIR", "seg")),
    layout("p<p>/p<p>_echo<s>.nii", p=range(4), s=range(6)),
    layout("A<p>/A<p>B<s>/<k>.png", p=range(4), s=range(6), k=range(3)),
    layout("LIDC-<p>/1.3.6.1.4.<p>.<s>/1.3.6.1.4.9.<p><s>/<k>.png", p=range(9), s=range(5), k=range(3)),
    layout("<p>/img_<k>.png", p=(12345, 12377, 12399), k=range(30)),
    layout("p<p>/<p><s>01_<m>/<k>.png", p=range(1, 5), s=(1,), m=("cube", "bravo", "propeller", "scout"), k=range(4)),
    layout("p<p>/<p><s>01/<k>.png", p=range(1, 6), s=range(1, 6), k=range(4)),
    layout("<p>/201<y>0503/<k>.png", p=("Smith", "Jones", "Lee"), y=range(5), k=range(3)),
    layout("train_<p>/train_<p>_<s>/train_<p>_<s>_<k>.nii.gz", p=range(9), s="ab", k=(1, 2)),
    layout("image_<p>/<k>.png", p=range(9), k=range(5)),
    layout("site1_<p>/slice_<k>.png", p=range(9), k=range(5)),
    layout("p<p>/only.png", p=range(9)),
    layout("p<p>/<k>.png", p=(1,), k=range(9)),
]


@pytest.mark.parametrize("folders", PATIENTS, ids=[next(iter(folders)) for folders in PATIENTS])
def test_folders_of_patients_are_not_doubted(folders):
    assert doubt_of_folders(folders) is None


def test_of_many_folders_each_is_a_patient_unless_their_names_say_otherwise():
    for count in (FEW - 1, FEW):
        folders = {f"p{s}/p{s}{k:06d}/x.png": f"p{s}" for s in range(10, 10 + count) for k in range(7)}
        assert (doubt_of_folders(folders) is None) == (count == FEW)
    assert doubt_of_folders(layout("batch<s>/<k>.png", s=range(FEW), k=range(3)))


def test_where_the_two_kinds_lie_deeper_or_less_deep_the_expression_begins_at_the_end():
    folders = layout("<s>/<p>/<k>.png", s=VIEWS, p=("p1", "p2", "p3", "p4"), k=range(2))
    both = {**folders, **{f"scans/mri/{path}": folder for path, folder in layout("<s>/<p>/<k>.png", s=VIEWS, p=("p1", "p9"), k=range(2)).items()}}
    assert set(groups(doubt_of_folders(both), both).values()) == {"p1", "p2", "p3", "p4", "p9"}


def test_names_that_some_paths_lack_are_told_of_those_that_have_them():
    folders = layout("<s>/<p>/<k>.png", s=VIEWS, p=("p1", "p2", "p3"), k=range(4)) | {"axial/overview.png": "axial"}
    assert doubt_of_folders(folders).mend == "--patient '^[^/]+/([^/]+)/' would make 3 patients of the 36 files whose paths fit"


def test_rows_that_the_folder_did_not_tell_are_not_doubted():
    folders = layout("<s>/<p>/<k>.png", s=VIEWS, p=("p1", "p2", "p3"), k=range(4))
    for key in ("--patient", "header", "name", "file", ""):
        assert list(doubts([Row(f"normal/{path}", 0, folder, path, "", "", None, key) for path, folder in folders.items()])) == []
    (line,) = doubts([Row(f"normal/{path}", 0, folder, path, "", "", None, "folder") for path, folder in folders.items()])
    assert line == (
        "3 folders, each counted as a patient, but 3 names recur in several of them (p1 in axial, coronal, sagittal): if each is of one person, that "
        "one may be trained on AND tested; --patient '^[^/]+/([^/]+)/' would make 3 patients"
    )


def test_patients_may_be_called_as_a_modality_is():
    folders = {f"visit{visit}/pt{who:03d}/{z}.png": f"visit{visit}" for visit in (1, 2) for who in (2, 5, 9, 14, 30) for z in range(2)}
    assert "5 names recur in several of them (pt002 in visit1, visit2)" in doubt_of_folders(folders).fact
