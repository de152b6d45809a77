"""The comparison with other libraries, none of which is needed here: all get the same images and features, and the table says what they say."""

import ast
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.phantom.datasets import write_phantoms
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.lines import Lines
from benchmarks.peers import __main__ as peers
from benchmarks.peers import this_project
from benchmarks.peers.__main__ import DETECTORS, HERE, SCRIPTS, Detector
from benchmarks.peers.exchange import write_exchange
from benchmarks.peers.table import COLUMNS, cost, quality, read_run

DATASETS = ["lits", "covid_xray"]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    write_phantoms(folder / "data", images=12, size=64, workers=1)
    source = DataSource(folder / "data")
    write_exchange(folder / "exchange", this_project.experiment_of(source.data_root, DATASETS, "gaussian united", 0, folder), source)
    return folder / "exchange"


def lines(exchange: Path) -> list[dict[str, str]]:
    with open(exchange / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_is_there_as_it_lies_in_the_data(exchange):
    source = DataSource(exchange.parent / "data")
    listed = {(entry.dataset, entry.image, entry.part, entry.kind == "anomaly") for entry in source.splits.entries if entry.dataset in DATASETS}
    rows = lines(exchange)
    assert {(row["dataset"], row["image"], row["part"], row["label"] == "1") for row in rows} == listed
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows if "train" in row["file"]) + sorted(
        row["file"] for row in rows if "rest" in row["file"]
    )
    assert all((row["part"] == "train") == row["file"].startswith("images/train/") for row in rows)
    for row in rows[:: len(rows) // 5]:
        original = Image.open(source.data_root / source.catalog[row["dataset"]].root / row["image"]).convert("L")
        copy = Image.open(exchange / row["file"])
        assert copy.size == (224, 224)
        pair = [np.asarray(image.resize((16, 16), Image.Resampling.BOX), float) for image in (original, copy)]
        assert np.abs(pair[0] - pair[1]).mean() < 4


def test_other_images_are_not_taken_for_these(exchange, tmp_path):
    source = DataSource(exchange.parent / "data")
    for datasets in (DATASETS, [*DATASETS, "covid_ct"]):
        experiment = this_project.experiment_of(source.data_root, datasets, "gaussian united", 0, tmp_path)
        before = (exchange / "exchange.json").stat().st_mtime_ns
        if datasets == DATASETS:
            write_exchange(exchange, experiment, source)
        else:
            with pytest.raises(UserError, match="holds other images"):
                write_exchange(exchange, experiment, source)
        assert (exchange / "exchange.json").stat().st_mtime_ns == before


def test_the_features_are_those_that_gaussian_scores_by(exchange, tmp_path, monkeypatch):
    """Squared distances from the Gaussian of all training positions, in plain numpy; calibrated scores are these, shifted and scaled."""
    rows, positions = lines(exchange), np.load(exchange / "positions.npy").astype(float)
    train = np.array([row["part"] == "train" for row in rows])
    known = positions[train].reshape(-1, positions.shape[2])
    np.testing.assert_allclose(known.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.load(exchange / "vectors.npy"), positions.mean(axis=1), atol=1e-5)
    covariance = np.cov(known.T, bias=True)
    inverse = np.linalg.inv(0.99 * covariance + 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
    expected = np.array([np.mean([p @ inverse @ p for p in image - known.mean(axis=0)]) for image in positions[~train]])
    monkeypatch.setattr(sys, "argv", ["this_project", str(exchange), str(tmp_path / "run"), "gaussian united", "positions", "0"])
    this_project.main()
    scores = np.array([row["score"] for row in read_run(exchange, tmp_path / "run.csv")])
    slope, offset = np.polyfit(expected, scores, 1)
    assert slope > 0
    np.testing.assert_allclose(scores, slope * expected + offset, atol=1e-3 * scores.std())
    facts = json.loads((tmp_path / "run.json").read_text())
    assert (facts["trained"], facts["scored"]) == (train.sum(), (~train).sum())
    assert min(facts["training_s"], facts["scoring_s"], facts["peak_mib"]) > 0


SCRIPT = """
import sys
sys.path.insert(0, {here!r})
import numpy as np
from measured import run_on_features

class Nearest:
    def __init__(self, length, seed):
        self.length, self.seed = length, seed
    def fit(self, vectors):
        assert vectors.shape[1] == self.length
        self.vectors = vectors
    def score(self, vectors):
        ballast = np.ones(2**25)
        return self.seed + np.array([np.abs(self.vectors - vector).sum(axis=1).min() for vector in vectors])

run_on_features("numpy", {{"nearest": Nearest}}, Nearest.score)
"""


@pytest.mark.parametrize("on", ["vectors", "positions"])
def test_a_detector_of_vectors_sees_training_normals_alone_and_its_scores_are_means_over_an_image(tmp_path, on):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(7, 4, 3) if on == "positions" else (7, 3)).astype(np.float32)
    np.save(tmp_path / f"{on}.npy", features)
    parts = ["train"] * 4 + ["val", "test", "test"]
    with open(tmp_path / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "part"), *((f"{number}.png", part) for number, part in enumerate(parts))])
    (tmp_path / "script.py").write_text(SCRIPT.format(here=str(HERE)))
    subprocess.run([sys.executable, tmp_path / "script.py", tmp_path, tmp_path / "run", "nearest", on, "2"], check=True, cwd=tmp_path)
    known = features[:4].reshape(-1, 3).astype(float)
    expected = []
    for image in features[4:].reshape(3, -1, 3).astype(float):
        expected.append(2 + sum(min(sum(abs(a - b) for a, b in zip(vector, other, strict=True)) for other in known) for vector in image) / len(image))
    with open(tmp_path / "run.csv", newline="") as file:
        told = list(csv.DictReader(file))
    assert [row["file"] for row in told] == ["4.png", "5.png", "6.png"]
    assert [float(row["score"]) for row in told] == pytest.approx(expected, rel=1e-5)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert (facts["library"], facts["trained"], facts["scored"], facts["note"]) == (f"numpy {np.__version__}", 4, 3, "")
    assert 256 < facts["peak_mib"] < 1024  # the ballast, and numpy


def images(scores: dict[str, tuple[list[float], list[float], list[float]]]) -> Lines:
    """Rows of datasets, of validation normals, test normals and abnormal test images; every image is a patient."""
    kinds = (("val", 0), ("test", 0), ("test", 1))
    return Lines.of(
        {"dataset": name, "part": part, "label": label, "image": f"{part}{label}{i:03}", "patient": f"{part}{label}{i}", "score": score}
        for name, groups in scores.items()
        for (part, label), group in zip(kinds, groups, strict=True)
        for i, score in enumerate(group)
    )


def test_cells_are_those_of_counted_pairs():
    rng = np.random.default_rng(0)
    seeds = [{name: tuple(rng.normal(shift, 1, 20).tolist() for shift in (0, 0.2, 1 + far)) for name, far in (("a", 0), ("b", 2))} for _ in range(2)]

    def pairs(normal, abnormal):
        return np.mean([x > y for x in abnormal for y in normal])

    runs = [images(each) for each in seeds]
    cells = quality(runs, runs)
    aurocs = {name: np.mean([pairs(*each[name][1:]) for each in seeds]) for name in "ab"}
    for name in "ab":
        value, low, high = (float(word.strip("[],")) for word in cells[name].split())
        assert value == pytest.approx(aurocs[name], abs=5e-4)
        assert low < value < high
    assert float(cells["mean"]) == pytest.approx(np.mean(list(aurocs.values())), abs=5e-4)
    pooled = [pairs(each["a"][1] + each["b"][1], each["a"][2] + each["b"][2]) for each in seeds]
    assert float(cells["pooled"]) == pytest.approx(np.mean(pooled), abs=5e-4)
    limits = [sorted(each["a"][0] + each["b"][0])[38] for each in seeds]  # of 40 the 39th: 95 % of the next lie at most there
    for column, place in (("false alarms, %", 1), ("sensitivity, %", 2)):
        shares = [np.mean([np.mean(np.array(each[name][place]) > limit) for each, limit in zip(seeds, limits, strict=True)]) for name in "ab"]
        assert cells[column] == " / ".join(f"{100 * share:.0f}" for share in shares)
    assert cells["minus the first"] == ""
    flat = [images({name: ([0.0], [0.0] * 20, [0.0] * 20) for name in "ab"})]
    assert quality(runs, flat)["minus the first"].startswith(f"{np.mean(list(aurocs.values())) - 0.5:+.3f} [")


def test_rates_count_each_image_once_and_the_features_that_were_given():
    facts = [{"training_s": 2.0, "trained": 10, "scoring_s": 1.0, "scored": 20, "peak_mib": peak} for peak in (100.0, 300.4)]
    assert cost(facts, 0.0) == {"training, images/CPU s": 5.0, "scoring, images/CPU s": 20.0, "peak MiB": 300, "seeds": 2}
    assert cost(facts, 0.05)["training, images/CPU s"] == 4.0
    assert cost(facts, 0.05)["scoring, images/CPU s"] == 10.0


def test_scores_that_are_missing_or_no_numbers_are_refused(exchange, tmp_path):
    rest = [row["file"] for row in lines(exchange) if row["part"] != "train"]
    for name, values in (("short", [1.0] * (len(rest) - 1)), ("nan", [1.0] * (len(rest) - 1) + [float("nan")])):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "score"), *zip(rest, values, strict=False)])
        with pytest.raises(UserError, match=f"no finite score of {rest[-1]}"):
            read_run(exchange, tmp_path / f"{name}.csv")


RUN = """
import json, sys
from pathlib import Path
exchange, out, model, on, seed = sys.argv[1:]
assert model != "broken", "no such detector"
files = [line.split(",")[0] for line in Path(exchange, "manifest.csv").read_text().splitlines() if "rest" in line]
Path(out + ".csv").write_text("\\n".join(["file,score", *(f"{file},{i}" for i, file in enumerate(files))]))
facts = {"library": "fake 1", "training_s": 1, "trained": 10, "scoring_s": 1, "scored": 10, "peak_mib": 1, "note": ""}
Path(out + ".json").write_text(json.dumps(facts))
Path(exchange).parent.joinpath("runs").open("a").write("x")
"""


def test_a_failure_stands_in_its_row_and_what_is_finished_is_not_run_again(exchange, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "exchange").symlink_to(exchange)
    (tmp_path / "run.py").write_text(RUN)
    monkeypatch.setattr(peers, "interpreter", lambda peer, environments: [sys.executable, str(tmp_path / "run.py")])
    run = subprocess.run

    def timed_out(words, **options):
        if "slow" in words:
            raise subprocess.TimeoutExpired(words, options["timeout"])
        return run(words, **options)

    monkeypatch.setattr(peers.subprocess, "run", timed_out)
    detectors = [Detector("pyod", model, "vectors", (0, 1)) for model in ("broken", "fine", "slow", "again")]
    for _ in range(2):
        table = {row["detector"]: row for row in peers.rows(detectors, work / "exchange", tmp_path, minutes=5)}
    assert (work / "runs").read_text() == "xxxx"  # two detectors, two seeds
    assert {tuple(row) for row in table.values()} == {("library", "detector", "on", *DATASETS, *COLUMNS, "note")}
    assert (table["fine"]["library"], table["fine"]["seeds"], table["fine"]["note"]) == ("fake 1", 2, "")
    assert table["again"]["minus the first"].startswith("+0.000")
    assert table["broken"]["note"] == "failed (1): AssertionError: no such detector"
    assert table["slow"]["note"] == "not done in 5 minutes"
    assert table["slow"]["mean"] == ""


def test_an_environment_that_cannot_be_made_is_told_in_a_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(peers.venv, "create", lambda folder, with_pip: folder.mkdir())
    monkeypatch.setattr(peers.subprocess, "run", lambda command, check: subprocess.CompletedProcess(command, 1).check_returncode())
    with pytest.raises(UserError, match=r"requirements-pyod.txt: cannot be installed"):
        peers.interpreter("pyod", tmp_path)
    assert not any(tmp_path.iterdir())
    python = tmp_path / "sklearn" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    python.parent.mkdir(parents=True)
    python.touch()
    assert peers.interpreter("sklearn", tmp_path) == [str(python), str(HERE / "sklearn_on_features.py")]


@pytest.mark.parametrize("peer", [peer for peer, script in SCRIPTS.items() if script])
def test_scripts_know_nothing_of_this_project_and_have_the_detectors_that_are_listed(peer):
    tree = ast.parse((HERE / SCRIPTS[peer]).read_text())
    for node in [*ast.walk(tree), *ast.walk(ast.parse((HERE / "measured.py").read_text()))]:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & {"anomaly_detection", "benchmarks"}
    (models,) = [
        [key.value for key in node.value.keys]
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MODELS"
    ]
    assert {detector.model for detector in DETECTORS if detector.peer == peer} == set(models)
    pins = (HERE / f"requirements-{peer}.txt").read_text().splitlines()
    assert all(pin.count("==") == 1 for pin in pins)


def test_all_detectors_of_this_project_that_are_listed_are_there():
    assert {detector.model for detector in DETECTORS if detector.peer == "this_project"} == set(this_project.MODELS)
