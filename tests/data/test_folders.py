"""Which folder on the way to an image may be a person's."""

import pytest

from anomaly_detection.data.folders import are_kinds, are_parts, are_views, only_views, patient_folders


@pytest.mark.parametrize(
    ("sources", "patients"),
    [
        (["p1/a.png", "p1/s1/b.png", "p2/a.png"], ["p1", "p1", "p2"]),
        (["all/ct/p1/a.png", "all/ct/p2/a.png"], ["p1", "p2"]),
        (["x.png", "p1/a.png"], [None, "p1"]),
        (["x.png", "all/y.png", "all/p1/z.png"], [None, "all", "all"]),
        (["a.png", "b.png"], [None, None]),
        (["images/p1/a.png", "images/p2/a.png", "README.txt", "docs/more/notes.txt"], ["p1", "p2", None, None]),
        (["p1/a.png", "p2/a.png", "p2/notes.txt", "p3/broken"], ["p1", "p2", "p2", "p3"]),
        (["NORMAL/a.jpeg", "PNEUMONIA/b.jpeg"], [None, None]),
        (["Normal/p1/a.png", "Viral Pneumonia/p2/a.png", "COVID/p1/b.png"], ["p1", "p2", "p1"]),
        (["axial/p1/a.png", "coronal/p1/a.png", "coronal/p2/a.png"], ["p1", "p1", "p2"]),
        (["IXI-T1/IXI002.png", "IXI-PD/IXI002.png"], [None, None]),
        (["T1/images/p1/a.png", "T2/images/p2/a.png"], ["p1", "p2"]),
        (["x.png", "T1/p1/a.png", "T2/p1/a.png"], [None, "p1", "p1"]),
        (["Training Batch 1/a.nii", "Training Batch 2/b.nii"], [None, None]),
        (["train/normal/p1/a.png", "train/normal/p2/a.png", "test/normal/p1/a.png"], ["train/p1", "train/p2", "test/p1"]),
        (["batch_1/p1/a.png", "batch_2/p1/a.png", "batch_2/p2/a.png"], ["batch_1/p1", "batch_2/p1", "batch_2/p2"]),
        (["train_1/a.png", "train_2/a.png"], ["train_1", "train_2"]),
    ],
)
def test_the_first_folder_that_differs_and_may_be_a_persons(sources, patients):
    images = [source for source in sources if source.endswith((".png", ".jpeg", ".nii"))]
    found = patient_folders(sources, images)
    assert [found.get(source) for source in sources] == patients


def test_where_there_is_no_image_there_is_no_patient():
    assert patient_folders(["a/notes.txt", "b/notes.txt"], []) == {}
    assert patient_folders([], []) == {}


@pytest.mark.parametrize(
    ("names", "kinds", "views", "parts"),
    [
        (["normal", "whatever it is"], True, False, False),
        (["No_Tumor", "glioma"], True, False, False),
        (["normal", *(f"p{k}" for k in range(9))], False, False, False),
        (["T1", "t2_flair"], False, True, False),
        (["IXI-T1", "IXI-PD"], False, True, False),
        (["IXI-T1", "IXI"], False, False, False),
        (["axial", "p1"], False, False, False),
        (["sub-01 T1", "sub-02 T1"], False, False, False),
        (["train", "Test"], False, False, True),
        (["Training Batch 1", "Training Batch 2"], False, False, True),
        (["fold1", "fold2"], False, False, True),
        (["train_1", "train_2"], False, False, False),
        (["p1", "p2"], False, False, False),
        ([], False, False, False),
    ],
)
def test_what_names_of_folders_side_by_side_say(names, kinds, views, parts):
    assert (are_kinds(names), are_views(names), are_parts(names)) == (kinds, views, parts)


def test_whether_all_images_lie_in_folders_of_views():
    assert only_views(["axial/a.png", "scan/coronal/b.png", "c.png"])
    assert not only_views(["axial/a.png", "axial/more/b.png"])
    assert not only_views(["a.png"])
    assert not only_views([])
