"""prepare and check, from the command line, on phantoms in the form of the downloads."""

import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.__main__ import main
from anomaly_detection.data.catalog import is_phantom, read_catalog
from anomaly_detection.data.manifest import read_manifest
from anomaly_detection.data.phantom.downloads import write_downloads
from anomaly_detection.data.splits import Splits
from anomaly_detection.system.errors import UserError
from run_experiments import main as run_experiments

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    out = tmp_path_factory.mktemp("downloads") / "out"
    write_downloads(out, patients=6, seed=1, size=64, workers=2)
    return out


def prepare(*words, data, source=None):
    command = ["prepare", words[0], *(["--size", "32"] if "--size" not in words else []), *words[1:], *([source] if source else [])]
    arguments = [*command, "--data-root", data, "--folds", data / "folds", "--workers", "1"]
    return main(list(map(str, arguments)))


@pytest.fixture(scope="module")
def data(downloads, tmp_path_factory):
    root, before = tmp_path_factory.mktemp("prepared") / "data", digest(downloads)
    for name in ("lits", "covid_ct", "covid_xray"):
        assert prepare(name, data=root, source=downloads / name) == 0
    kinds = [word for kind in ("normal", "abnormal") for word in (f"--{kind}", downloads / "dicom" / kind)]
    assert prepare("folder", "scans", "--organ", "lung", "--modality", "ct", *kinds, data=root) == 0
    assert digest(downloads) == before, "a source is never changed"
    return root


def digest(folder):
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


def test_no_patient_is_on_two_sides_of_any_dataset(data):
    catalog = read_catalog(data / "datasets.yaml")
    assert list(catalog) == ["lits", "covid_ct", "covid_xray", "scans"]
    entries = Splits(data / "folds", catalog).entries
    for name, spec in catalog.items():
        patient = {row.image: row.patient for row in read_manifest(data / spec.root / "manifest.csv")}
        sides = {(patient[entry.image], entry.part) for entry in entries if entry.dataset == name}
        assert len(sides) == len({who for who, _ in sides}) > 3
        assert {(entry.kind, entry.part) for entry in entries if entry.dataset == name} == {
            ("normal", "train"), ("normal", "val"), ("normal", "test"), ("anomaly", "test"),
        }  # fmt: skip
        # independently of the manifest: what the file names say
        if name == "covid_xray":
            assert all(("_1.png" in entry.image) == (entry.kind == "anomaly") for entry in entries if entry.dataset == name)
    assert is_phantom(data)


def test_how_images_were_stored_is_noted(data):
    catalog = read_catalog(data / "datasets.yaml")
    assert {spec.size for spec in catalog.values()} == {32}
    assert {spec.aspect for spec in catalog.values()} == {"stretch"}
    assert {name: spec.window for name, spec in catalog.items()} == {"lits": [40, 400], "covid_ct": None, "covid_xray": None, "scans": None}
    assert "# equalise the histogram after the crop" in (data / "datasets.yaml").read_text(), "the project's comments stay"


def test_the_published_lists_of_covid_ct_are_followed(downloads, data):
    for kind, split in (("NonCOVID", "normal"), ("COVID", "anomaly")):
        listed = (downloads / "covid_ct" / "Data-split" / kind / f"testCT_{kind}.txt").read_text().split()
        lines = (data / "folds" / "train_test_split" / split / "test").read_text().splitlines()
        assert sorted(line.split("/")[1].split()[0] for line in lines if line.endswith(" covid_ct")) == sorted(listed)


def test_every_orientation_gives_upright_slices(data):
    """The phantom's liver lies on its right, which is left in the image, its spine behind, which is below."""
    for number in range(5):
        images = [np.asarray(Image.open(path), float) for path in (data / "lits").glob(f"*/volume-{number}_*.png") if path.parent.name != "masks"]
        mean = np.mean(images, axis=0)
        bone = mean > 200
        rows, _ = np.nonzero(bone[:, 12:20])
        assert rows.mean() > 16
        assert mean[8:20, 4:16].mean() > mean[8:20, 16:28].mean()


def test_again_elsewhere_gives_the_same_bytes(downloads, data, tmp_path):
    for name in ("lits", "covid_ct"):
        shutil.copytree(downloads / name, tmp_path / "copy" / name)
        prepare(name, data=tmp_path / "data", source=tmp_path / "copy" / name)
        assert digest(tmp_path / "data" / name) == digest(data / name)
        assert {
            line
            for path in (tmp_path / "data" / "folds").rglob("*")
            if path.is_file()
            for line in path.read_text().splitlines()
            if line.endswith(f" {name}")
        } == {line for path in (data / "folds").rglob("*") if path.is_file() for line in path.read_text().splitlines() if line.endswith(f" {name}")}


def test_a_second_run_does_nothing_and_says_so(downloads, data, capsys):
    before = digest(data)
    prepare("lits", data=data, source=downloads / "lits")
    assert "nothing to do" in capsys.readouterr().out
    assert digest(data) == before


def test_another_seed_makes_other_splits_of_the_same_images(downloads, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    before = digest(tmp_path / "data" / "covid_xray")
    prepare("covid_xray", "--seed", "5", data=tmp_path / "data", source=downloads / "covid_xray")
    assert "the split files are new" in capsys.readouterr().out
    assert digest(tmp_path / "data" / "covid_xray") == before
    lines = (tmp_path / "data" / "folds" / "train_test_split" / "normal" / "train").read_text()
    assert "seed 5" in lines
    assert lines.count("# covid_xray") == lines.count("# lits") == 1


def test_a_zip_of_everything_is_as_good_as_the_folder(downloads, data, tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for path in (downloads / "lits").iterdir():
            archive.write(path, path.name)
    prepare("lits", data=tmp_path / "data", source=tmp_path / "archive.zip")
    assert digest(tmp_path / "data" / "lits") == digest(data / "lits")


def test_the_study_runs_on_what_was_prepared(data, tmp_path, monkeypatch):
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)
    overrides = ["baseline.backbone_weights=random:1", "iterations=4", "val_iter=2"]
    sets = [word for override in overrides for word in ("--set", override)]
    code = run_experiments(
        ["--data-root", str(data), "--results", str(tmp_path), "--quick", "--models", "MADDR_dpa", "--regimes", "separate", "--device", "cpu", *sets]
    )
    assert code == 0
    text = (tmp_path / "table.md").read_text()
    assert "lits" in text
    assert "scans" in text
    assert "phantom" in text.splitlines()[0]


def test_phantoms_are_not_mixed_with_patients(downloads, tmp_path):
    (tmp_path / "data" / "covid_ct").mkdir(parents=True)
    with pytest.raises(UserError, match=r"phantoms among real images \(covid_ct\)"):
        prepare("covid_xray", data=tmp_path / "data", source=downloads / "covid_xray")


@pytest.mark.parametrize("break_it", ["truncated volume", "lone volume", "damaged zip", "outside zip", "empty folder", "no folder"])
def test_bad_downloads_leave_nothing_behind(downloads, tmp_path, break_it):
    name = "covid_ct" if "zip" in break_it else "lits"
    source = tmp_path / name
    shutil.copytree(downloads / name, source)
    archive = source / "Images-processed" / "CT_COVID.zip"
    if break_it == "truncated volume":
        (source / "volume-2.nii.gz").write_bytes((source / "volume-2.nii.gz").read_bytes()[:5000])
    elif break_it == "lone volume":
        (source / "segmentation-2.nii.gz").unlink()
    elif break_it == "damaged zip":
        archive.write_bytes(archive.read_bytes()[:-100])
    elif break_it == "outside zip":
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr("../outside.png", b"x")
    else:
        shutil.rmtree(source)
        if break_it == "empty folder":
            source.mkdir()
    with pytest.raises(UserError) as caught:
        prepare(name, data=tmp_path / "data", source=source)
    assert "\n" not in str(caught.value)
    left = [path for path in (tmp_path / "data").rglob("*") if path.is_file() and ".partial" not in str(path)]
    assert left == []
    if break_it == "truncated volume":
        assert prepare(name, "--skip-bad", data=tmp_path / "data", source=source) == 0
        assert "volume-2" not in {row.patient for row in read_manifest(tmp_path / "data" / "lits" / "manifest.csv")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lits", "SRC", "--size", "8"], "--size must be 16 or more"),
        (["lits", "SRC", "--train", "0.9", "--val", "0.3"], "--train, --val: train and val must be shares"),
        (
            ["folder", "x", "--organ", "a", "--modality", "b", "--normal", "SRC", "--abnormal", "SRC", "--window", "40"],
            "--window 40: expected LEVEL WIDTH",
        ),
        (["folder", "x", "--organ", "a", "--modality", "b", "--normal", "SRC", "--abnormal", "SRC", "--window", "4", "-1"], "with a width above 0"),
        (["folder", "lits", "--organ", "a", "--modality", "b", "--normal", "SRC", "--abnormal", "SRC"], "lits is liver ct, not a b"),
        (["folder", "x", "--organ", " ", "--modality", "b", "--normal", "SRC"], "^prepare: organ must not be empty$"),
        (["folder", "x", "--organ", "a", "--modality", "", "--normal", "SRC"], "^prepare: modality must not be empty$"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_written(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        prepare(*(tmp_path if word == "SRC" else word for word in words), data=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_projects_split_of_shenzhen_is_what_prepare_makes(tmp_path):
    (tmp_path / "download").mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 663):
        Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / "download" / f"CHNCXR_{number:04d}_{int(number > 326)}.png")
    main(["prepare", "covid_xray", str(tmp_path / "download"), "--data-root", str(tmp_path), "--folds", str(tmp_path / "folds"), "--size", "16"])
    for file in ("normal/train", "normal/val", "normal/test", "anomaly/test"):
        assert (tmp_path / "folds" / "train_test_split" / file).read_text() == (PROJECT / "folds" / "train_test_split" / file).read_text()


def test_the_projects_split_of_lits_volumes_is_what_prepare_makes():
    from anomaly_detection.data.prepare.assign import order_patients, share_patients
    from anomaly_detection.data.prepare.options import Shares

    lines = [line.split() for line in (PROJECT / "folds" / "lits_volumes").read_text().splitlines() if not line.startswith("#")]
    parts = share_patients(order_patients([f"volume-{number}" for number in range(131)], 0), Shares())
    assert dict(lines) == parts
    assert [name for name, _ in lines] == [f"volume-{number}" for number in range(131)]
