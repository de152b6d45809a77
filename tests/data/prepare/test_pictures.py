"""COVID-CT and chest X-rays: which file is what, and whose."""

import shutil

import pytest
from PIL import Image

from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.prepare import covid_ct, covid_xray
from anomaly_detection.data.prepare.identity import settle_patients
from anomaly_detection.system.errors import UserError

LISTS = {
    "NonCOVID/trainCT_NonCOVID.txt": "1%0.png\n",
    "NonCOVID/valCT_NonCOVID.txt": "2.JPG\n",
    "NonCOVID/testCT_NonCOVID.txt": "3.png\n\n",
    "COVID/trainCT_COVID.txt": "2020.02.1-p7%0.png",
    "COVID/valCT_COVID.txt": "",
    "COVID/testCT_COVID.txt": "2020.02.1-p8%0.png",
}


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / name)
    return root


def covid(root):
    write(root, *(f"CT_NonCOVID/{name}" for name in ("1%0.png", "1%1.png", "2.jpg", "2.png")))
    return write(root, "CT_COVID/2020.02.1-p7%0.png", "CT_COVID/1%0.png")


def test_covid_ct(tmp_path):
    jobs = covid_ct.plan(tmp_path, list_source(write(covid(tmp_path), "other/5.png")))
    assert {(job.name, job.patient, job.abnormal) for job in jobs} == {
        ("CT_COVID_1%0.png", "COVID 1", True),
        ("2020.02.1-p7%0", "COVID 2020.02.1-p7", True),
        ("CT_NonCOVID_1%0.png", "NonCOVID 1", False),
        ("1%1", "NonCOVID 1", False),
        ("2.jpg", "NonCOVID 2", False),
        ("2.png", "NonCOVID 2", False),
    }


def test_covid_ct_lists(tmp_path):
    for name, text in LISTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert covid_ct.published_split(list_source(tmp_path)) == {
        "normal/1%0.png": "train", "normal/2.jpg": "val", "normal/3.png": "test",
        "normal/1%0": "train", "normal/2": "val", "normal/3": "test",
        "abnormal/2020.02.1-p7%0.png": "train", "abnormal/2020.02.1-p8%0.png": "test",
        "abnormal/2020.02.1-p7%0": "train", "abnormal/2020.02.1-p8%0": "test",
    }  # fmt: skip
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "trainCT_COVID.txt").write_text(LISTS["COVID/trainCT_COVID.txt"])
    assert covid_ct.published_split(list_source(tmp_path))["abnormal/2020.02.1-p7%0"] == "train"
    (tmp_path / "old" / "trainCT_COVID.txt").write_text(LISTS["COVID/testCT_COVID.txt"])
    with pytest.raises(UserError, match=r"old/trainCT_COVID\.txt: is there twice, with other lines, .*COVID/trainCT_COVID\.txt; take one away"):
        covid_ct.published_split(list_source(tmp_path))
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "COVID" / "valCT_COVID.txt").unlink()
    with pytest.raises(UserError, match=r"of the lists of Data-split valct_covid\.txt are missing; add them, or use --own-split"):
        covid_ct.published_split(list_source(tmp_path))
    assert covid_ct.published_split([]) is None


def test_shenzhen_by_name(tmp_path):
    write(tmp_path, "images/CHNCXR_0001_0.png", "images/CHNCXR_0327_1.png", "masks/CHNCXR_0001_0.png", "images/other.png")
    jobs = covid_xray.plan(tmp_path, list_source(tmp_path))
    assert [(job.name, job.patient, job.abnormal) for job in jobs] == [
        ("CHNCXR_0001_0", "CHNCXR_0001_0", False),
        ("CHNCXR_0327_1", "CHNCXR_0327_1", True),
    ]


def test_one_radiograph_of_shenzhen_in_two_formats_is_one_patient(tmp_path):
    write(tmp_path, "jpg/CHNCXR_0001_0.jpg", "png/chncxr_0001_0.png", "png/CHNCXR_0327_1.png")
    jobs = covid_xray.plan(tmp_path, list_source(tmp_path))
    assert {(job.name, job.patient) for job in jobs} == {
        ("CHNCXR_0001_0.jpg", "CHNCXR_0001_0"),
        ("chncxr_0001_0.png", "CHNCXR_0001_0"),
        ("CHNCXR_0327_1", "CHNCXR_0327_1"),
    }


def test_xrays_by_folder(tmp_path):
    write(tmp_path, "COVID/images/COVID-1.png", "COVID/masks/COVID-1.png", "Normal/images/Normal-1.png", "Viral Pneumonia/images/v.png")
    assert [(job.name, job.abnormal) for job in covid_xray.plan(tmp_path, list_source(tmp_path))] == [("COVID-1", True), ("Normal-1", False)]


RADIOGRAPHY = "COVID-19_Radiography_Dataset"


@pytest.mark.parametrize("above", ["", f"{RADIOGRAPHY}/", f"archive/{RADIOGRAPHY}/"])
@pytest.mark.parametrize("beside", [[], ["other/COVID_notes/a.png"]])
def test_the_radiography_database_by_the_folders_that_differ(tmp_path, caplog, above, beside):
    """Its own folder begins with `COVID`, as one of the four in it does; the other two are neither normal nor COVID-19."""
    kinds = {"COVID": "COVID-1", "Lung_Opacity": "Lung_Opacity-1", "Normal": "Normal-1", "Viral Pneumonia": "Viral Pneumonia-1"}
    write(tmp_path, *(f"{above}{kind}/{part}/{name}.png" for kind, name in kinds.items() for part in ("images", "masks")), *beside)
    jobs = covid_xray.plan(tmp_path, list_source(tmp_path))
    assert [(job.name, job.abnormal) for job in jobs] == [("COVID-1", True), ("Normal-1", False)] + [("a", True)] * len(beside)
    told = f"left alone: 2 images in folders that are called neither normal nor covid: {above}Lung_Opacity/images, {above}Viral Pneumonia/images"
    assert told in caplog.text


def test_every_file_of_the_radiography_database_is_a_patient(tmp_path):
    names = [f"{RADIOGRAPHY}/{kind}/images/{kind}-{k}.png" for kind in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia") for k in range(3)]
    jobs = covid_xray.plan(tmp_path, list_source(write(tmp_path, *names)))
    rows = [Row(f"{job.name}.png", int(job.abnormal), job.patient, job.sources[0].name, "", job.name, None) for job in jobs]
    settled = settle_patients(rows, "name")
    assert {row.patient_from for row in settled} == {"file"}
    assert len({row.patient for row in settled}) == len(settled) == 6


@pytest.mark.parametrize(("folder", "kind"), [("normal", "abnormal"), ("covid", "normal")])
def test_xrays_of_one_kind_alone_are_told(tmp_path, folder, kind):
    with pytest.raises(UserError, match=f"no {kind} X-ray is there"):
        covid_xray.plan(tmp_path, list_source(write(tmp_path, f"{folder}/a.png")))


@pytest.mark.parametrize(("module", "words"), [(covid_ct, r"no image of CT_NonCOVID\.zip.*UCSD-AI4H"), (covid_xray, "no normal X-ray .*shenzhen")])
def test_missing_images_name_the_download(tmp_path, module, words):
    with pytest.raises(UserError, match=words):
        module.plan(tmp_path, list_source(tmp_path))
