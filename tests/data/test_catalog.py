import re
from pathlib import Path

import pytest

from anomaly_detection.data.catalog import read_catalog
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError

PROJECT = Path(__file__).parents[2]
LITS = "lits: {label: 4, organ: liver, modality: ct, root: lits}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "datasets.yaml"
    path.write_text(text)
    return path


def test_datasets_come_in_order_of_their_labels(tmp_path):
    xray = "xray: {label: 2, organ: lung, modality: xray, root: a/b, crop_size: 224, equalize_hist: true}\n"
    catalog = read_catalog(write(tmp_path, LITS + xray))
    assert list(catalog) == ["xray", "lits"]
    spec = catalog["xray"]
    assert (spec.name, spec.label, spec.organ, spec.modality, spec.root) == ("xray", 2, "lung", "xray", "a/b")
    assert (spec.crop_size, spec.equalize_hist) == (224, True)
    assert (catalog["lits"].crop_size, catalog["lits"].equalize_hist) == (None, False)
    assert spec.preprocessing == Preprocessing(crop_size=224, equalize_hist=True)


@pytest.mark.parametrize(("text", "window"), [("[40, 400]", Window(40, 400)), ("auto", "auto"), ("null", None)])
def test_an_entry_says_how_its_images_are_treated(tmp_path, text, window):
    catalog = read_catalog(write(tmp_path, LITS.replace("root: lits", f"root: lits, window: {text}, aspect: pad, size: 300")))
    assert catalog["lits"].preprocessing == Preprocessing(window, "pad", 300)


def test_the_catalog_of_the_project():
    catalog = read_catalog(PROJECT / "configs" / "datasets.yaml")
    got = [(spec.name, spec.label, spec.organ, spec.modality) for spec in catalog.values()]
    assert got == [("lits", 0, "liver", "ct"), ("covid_ct", 1, "lung", "ct"), ("covid_xray", 2, "lung", "xray")]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, crop_sise: 3}", ["lits: crop_sise", "did you mean crop_size?"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, name: x}", ["lits: name", "no such key"]),
        ("lits: {label: zero, organ: liver, modality: ct, root: lits}", ["lits: label", "a whole number", "'zero'"]),
        ("lits: {label: 0, organ: liver, modality: ct}", ["lits", "root is missing"]),
        ("lits: {label: -1, organ: liver, modality: ct, root: lits}", ["lits: label", "0 or more", "-1"]),
        ("lits: {label: 0, organ: '', modality: ct, root: lits}", ["lits: organ", "empty"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, crop_size: 0}", ["lits: crop_size", "at least 1", "null"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, size: 0}", ["lits: size", "at least 1", "null"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, aspect: padd}", ["lits: aspect", "did you mean pad?"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, window: [40]}", ["lits: window", "[level, width]", "auto"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: lits, window: wide}", ["lits: window", "auto", "'wide'"]),
        ("lits: 3", ["lits", "a group of keys", "organ"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: /lits}", ["lits: root", "under the data root", "/lits"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: ../private}", ["lits: root", "without `..`", "../private"]),
        ("lits: {label: 0, organ: liver, modality: ct, root: 'C:\\x'}", ["lits: root", "under the data root"]),
        (LITS + "b: {label: 4, organ: lung, modality: ct, root: b}", ["b: label: 4", "of lits already"]),
        (LITS + "LiTS: {label: 5, organ: lung, modality: ct, root: b}", ["LiTS: some systems take it for lits"]),
        (
            LITS + "b: {label: 5, organ: Liver, modality: mri, root: b}",
            ["b: organ: 'Liver' and the 'liver' of lits", "two classes; write them alike"],
        ),
        (LITS + "b: {label: 5, organ: lung, modality: ' CT', root: b}", ["b: modality: ' CT' and the 'ct' of lits", "two classes"]),
        (
            LITS.replace("ct", "MRI T2") + "b: {label: 5, organ: lung, modality: mri  T2, root: b}",
            ["b: modality: 'mri  T2' and the 'MRI T2' of lits"],
        ),
        ("7: {label: 0, organ: liver, modality: ct, root: lits}", ["7", "begins with a letter"]),
        ("'12': {label: 0, organ: liver, modality: ct, root: lits}", ["12", "begins with a letter"]),
        ("my set: {label: 0, organ: liver, modality: ct, root: lits}", ["my set", "begins with a letter"]),
        ("a/b: {label: 0, organ: liver, modality: ct, root: lits}", ["a/b", "begins with a letter"]),
        *(
            (f"{name}: {{label: 0, organ: liver, modality: ct, root: lits}}", [f"{name}: is a word of tables or of configs", "another name"])
            for name in ("mean", "pooled", "pooled_calibrated", "base", "universal", "Universal", "paper", "as_released", "phantom", "quick")
        ),
        ("# nothing", ["no dataset in it", "label, organ, modality and root"]),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, text, parts):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        read_catalog(path)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in [str(path), *parts]), message


def test_a_missing_catalog_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "datasets.yaml"))):
        read_catalog(tmp_path / "datasets.yaml")
