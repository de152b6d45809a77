"""docs/results.md: its tables come again from the scores that are kept beside it, by two readings; and what makes it takes each experiment once."""

import ast
import csv
import gzip
import itertools
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import betabinom

from anomaly_detection.config.layers import Layer, parse_override, read_layers
from anomaly_detection.config.paths import CONFIGS
from anomaly_detection.evaluation.bootstrap import metric_intervals
from anomaly_detection.evaluation.metrics import image_metrics
from anomaly_detection.evaluation.normals import p_value, pooled, rejected
from anomaly_detection.evaluation.rows import COLUMNS
from anomaly_detection.registry import build_settings
from anomaly_detection.study.comparison import Difference
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import write_table
from benchmarks import second_reading
from benchmarks.results.__main__ import DOCS, disagreements, main, text_of_rows
from benchmarks.results.gather import Source, gather
from benchmarks.results.page import fill, table_of
from benchmarks.results.stored import fewest_digits, read_stored, write_scores
from benchmarks.results.tables import difference_rows, verdict
from tests.documents import PROJECT, commands, scripts

PAGE = DOCS / "results.md"
MARKERS = "".join(
    f"<!-- table: {name} -->\n<!-- end -->\n" for name in ("real words", "real auroc", "real differences", "real components", "other auroc")
)
NAMES = ("liver", "lung")


# --- The page -----------------------------------------------------------------------------------------------------------------------------


def test_the_differences_come_again_from_the_scores_that_are_kept():
    """Every cell: values, intervals, numbers of seeds, verdicts."""
    table = difference_rows(read_stored(DOCS / "results", "real"))
    again = [[str(cell) for cell in row] for row in (table.header, *table.rows)]
    assert again == table_of(PAGE.read_text(encoding="utf-8"), "real", "differences")


def test_a_second_reading_of_the_scores_says_what_the_page_says(tmp_path):
    page, scores = PAGE.read_text(encoding="utf-8"), DOCS / "results" / "real_scores.csv.gz"
    assert disagreements(page, "real", scores) == []
    cell = table_of(page, "real", "auroc")[1][2]
    changed = page.replace(cell, f"{float(cell.split()[0]) + 0.002:.3f}", 1)
    assert changed != page
    assert len(disagreements(changed, "real", scores)) == 1


def test_the_readme_quotes_the_page():
    """Every number of its table of AUROCs, with three digits."""
    page, readme = PAGE.read_text(encoding="utf-8"), (PROJECT / "README.md").read_text(encoding="utf-8")
    real = {tuple(row[:2]): row[2:6] for row in table_of(page, "real", "auroc")}
    header, *rows = table_of(page, "phantom", "strata")
    places = [header.index(name) for name in ("AUROC: all", "AUROC: obvious", "twin rate: obvious")]
    strata = {tuple(row[:2]): [row[place] for place in places] for row in rows}
    model, quoted = "", 0
    for line in readme[readme.index("| detector | regime |") :].split("\n\n")[0].splitlines()[2:]:
        name, regimes, *numbers = (cell.strip() for cell in line.strip("|").split("|"))
        model = name.strip("`") or model
        for regime in re.findall(r"`(\w+)`", regimes):
            assert [f"0{number.strip('*')}" for number in numbers] == [cell.split()[0] for cell in (*real[model, regime], *strata[model, regime])]
            quoted += 1
    assert quoted == 8


def test_the_variance_between_datasets_is_the_one_that_the_page_says():
    with gzip.open(DOCS / "results" / "real_scores.csv.gz", "rt", encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["part"], line["label"]) == ("val", "0")]
    groups = [[float(line["gaussian:united:0"]) for line in lines if line["dataset"] == name] for name in {line["dataset"] for line in lines}]
    within = sum(np.var(group) * len(group) for group in groups) / (np.var(np.concatenate(groups)) * len(lines))
    told = re.search(r"(\d+) % of the variance of `gaussian`'s scores of validation normals", PAGE.read_text(encoding="utf-8"))[1]
    assert f"{100 * (1 - within):.0f}" == told


def test_the_patients_that_are_called_though_healthy_are_those_that_the_page_counts():
    """Of the normal patients of chest_xray, with as many images as its validation patients have, who alone are promised something."""
    with gzip.open(DOCS / "results" / "real_scores.csv.gz", "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lines = [line for line in reader if line["dataset"] == "chest_xray"]
    ill = {line["patient"] for line in lines if line["label"] == "1"}
    val, test = ([line for line in lines if line["part"] == part and line["patient"] not in ill] for part in ("val", "test"))
    units, others = (np.unique([line["patient"] for line in part], return_inverse=True)[1] for part in (val, test))
    alike = np.bincount(others) <= np.bincount(units).max()
    regimes, called = ("separate", "united", "maddr"), {}
    for column in reader.fieldnames:
        model, _, regime = column.rpartition(":")[0].partition(":")
        if regime in regimes:
            calibrated, scores = (pooled(np.array([float(each[column]) for each in part]), unit) for part, unit in ((val, units), (test, others)))
            called.setdefault(model, []).append(int(rejected(p_value(scores, calibrated), 0.05)[alike].sum()))
    page, readme = (re.sub(r"\s+", " ", path.read_text(encoding="utf-8")) for path in (PAGE, PROJECT / "README.md"))
    ends = {model: f"{min(counts)} to {max(counts)}" for model, counts in called.items()}
    low, high = min(called["feature_ae"]), max(called["feature_ae"])
    assert f"of {alike.sum()} such patients it calls {ends['feature_ae']}" in page
    assert f"MADDR_dpa calls {ends['MADDR_dpa']}, GANomaly {ends['ganomaly']}" in page
    shares = [f"{1000 * betabinom.sf(count - 1, alike.sum(), 2, 38):.0f}" for count in (low, high)]
    assert f"{low} or more are expected in {shares[0]} of 1,000 draws of validation and test patients, {high} or more in {shares[1]}" in page
    told = f"`feature_ae` called {ends['feature_ae']} of {alike.sum()} normal patients anomalous, {100 * low / alike.sum():.0f} to"
    assert f"{told} {100 * high / alike.sum():.0f} %" in readme


def test_covid_ct_alone_is_trained_again_by_the_settings_that_the_page_says():
    """As base.yaml has them, though the config of this dataset asks for the published schedule."""
    told = [words for shown in scripts() for words in commands(shown.text) if words[:2] == ["maddr", "study"] and "results/covid" in words]
    (words,) = (words for words in told if "memae" in words)
    sets = [parse_override(value) for word, value in itertools.pairwise(words) if word == "--set"]
    base = [*read_layers(CONFIGS / "memae" / "base.yaml"), Layer("test", {"datasets": ["covid_ct"]})]
    assert asdict(build_settings([*read_layers(CONFIGS / "memae" / "covid_ct.yaml"), *sets])) == asdict(build_settings(base))


def test_what_is_kept_is_small_and_known_by_its_origin():
    assert sum(path.stat().st_size for path in (DOCS / "results").iterdir()) < 700_000
    with open(DOCS / "results" / "experiments.csv", newline="", encoding="utf-8") as file:
        experiments = list(csv.DictReader(file))
    assert {line["study"] for line in experiments} >= {"real"}
    assert all(line[fact] for line in experiments for fact in ("source", "torch", "data", "config"))
    assert all(line["commit"] and line["device"] for line in experiments if line["study"] == "real")


def test_the_second_reading_is_twenty_lines_of_scikit_learn():
    tree = ast.parse((PROJECT / "benchmarks" / "second_reading.py").read_text(encoding="utf-8"))
    imported = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"argparse", "collections", "csv", "gzip", "numpy", "pathlib", "sklearn"}
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert sum(node.end_lineno - node.body[1].lineno + 1 for node in functions) <= 20  # below their docstrings


# --- What makes it ------------------------------------------------------------------------------------------------------------------------


def made(root: Path, regime: str, seed: int, torch: str = "2.0", shift: float = 0.8, names: tuple[str, ...] = NAMES) -> None:
    """Experiments of a regime with random scores, as `maddr study` leaves them."""
    for chosen in [names] if REGIMES[regime].mixed else [(name,) for name in names]:
        folder = root / "memae" / regime / "+".join(chosen) / f"seed_{seed}"
        rng = np.random.default_rng([seed, len(regime), len(chosen)])
        rows = []
        for name in chosen:
            for i in range(32):
                label, part = int(i >= 20), "val" if i < 6 else "test"
                row = dict.fromkeys(COLUMNS, 0) | {"image": f"{i:02}.png", "dataset": name, "patient": f"P{i // 2}", "part": part, "label": label}
                row |= {"score": rng.normal() + shift * label, "organ": name, "modality": "ct"}
                rows.append(row | dict.fromkeys(("predicted_organ", "predicted_modality", "confidence")))
        write_table(folder / "scores.csv", rows, COLUMNS)
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": "memae", "datasets": list(chosen), "seed": seed, "image_size": 64}))
        (folder / "provenance.json").write_text(json.dumps({"regime": regime, "data": "d" * 16, "torch": torch}))
        metrics = {name: _metrics([row for row in rows if (row["dataset"], row["part"]) == (name, "test")]) for name in chosen}
        pooled = metrics[chosen[0]]  # what is asked of it here is that it is there
        (folder / "metrics.json").write_text(json.dumps({"datasets": metrics, "pooled": pooled, "validation": {}}))


def _metrics(test: list[dict]) -> dict:
    labels, scores, patients = (np.array([row[key] for row in test]) for key in ("label", "score", "patient"))
    called = scores > 1
    values = {**image_metrics(labels, scores, called), "intervals": metric_intervals(labels, scores, called, patients.tolist())}
    return values | {"threshold": 1.0, "unit": "patients", "false_alarms": {"promised": 0.05}}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> tuple[Path, Path]:
    """The first holds seed 0 of all regimes, and seed 1 of some, trained with another torch; the second seed 1 of all, and parts of 2 and 3."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    for regime in ("separate", "united", "united_probe", "maddr"):
        made(one, regime, 0)
        made(two, regime, 1, shift=0.3)
    made(one, "maddr", 1, torch="1.9", shift=5.0)
    made(one, "maddr_center", 0)
    made(two, "maddr", 0, shift=5.0)
    made(two, "separate", 2, names=("lung",))
    made(two, "maddr", 3, names=("lung",))  # of another study
    return one, two


@pytest.fixture(scope="module")
def words(roots) -> list[str]:
    return [f"one={roots[0]},commit=abc,device=a GPU,torch=2.", f"two={roots[1]},commit=def"]


def test_a_mixture_in_another_order_is_the_same_experiment(tmp_path):
    for name, datasets in (("one", NAMES), ("two", NAMES[::-1])):
        made(tmp_path / name, "united", 0, names=datasets)
    assert [run.source for run in gather([Source(name, tmp_path / name) for name in ("one", "two")]).runs] == ["one"]


def test_an_experiment_is_taken_from_the_first_place_that_holds_it(words):
    gathered = gather([Source.parse(word) for word in words])
    assert gathered.datasets == NAMES
    assert gathered.origins("memae", "maddr") == gathered.origins("memae", "separate") == "one 0; two 1"
    assert not {run.torch for run in gathered.runs} & {"1.9"}
    assert {(run.commit, run.device) for run in gathered.runs} == {("abc", "a GPU"), ("def", "")}
    assert {run.result.seed for run in gathered.runs} == {0, 1}, "a seed that lacks a dataset has no part in any mean"
    regimes = list(dict.fromkeys(run.result.regime for run in gathered.runs))
    assert regimes == ["separate", "united", "united_probe", "maddr_center", "maddr"]


def test_the_page_is_written_and_both_readings_agree(words, roots, tmp_path, capsys):
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    page.write_text(f"Before.\n{MARKERS}After.\n", encoding="utf-8")
    options = ["--page", str(page), "--scores", str(kept)]
    assert main(["--study", "real", *words, *options]) == 0
    assert "both readings agree" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n")
    assert text.endswith("<!-- table: other auroc -->\n<!-- end -->\nAfter.\n")
    rows = {row[1]: row for row in table_of(text, "real", "differences")}
    assert list(rows) == ["difference", "maddr - united", "maddr - separate", "maddr - united_probe"]
    center, everything = table_of(text, "real", "components")[2:]
    assert (center[:4], everything[:4]) == (["memae", "", "", "x"], ["memae", "x", "x", "x"])
    assert "Allowing for 6 detectors being asked" in " ".join(text.split())
    datasets, lines = second_reading.reading([kept / "real_scores.csv.gz"])
    folders, again = second_reading.reading(roots[::-1])
    assert (datasets, lines["memae", "separate"][1]) == (folders, 2) == (list(NAMES), again["memae", "separate"][1])
    assert lines["memae", "separate"][0] == pytest.approx(again["memae", "separate"][0], abs=1e-12)
    write_scores(kept / "real_scores.csv.gz", gather([Source.parse(words[1])]))  # other scores than the page tells of
    assert main(options) == 1
    assert "auroc: memae maddr, liver" in capsys.readouterr().out


def test_scores_that_are_kept_give_the_same_differences_to_the_last_digit(words, tmp_path):
    gathered = gather([Source.parse(word) for word in words])
    page = tmp_path / "page.md"
    page.write_text(MARKERS, encoding="utf-8")
    options = ["--page", str(page), "--scores", str(tmp_path)]
    assert main(["--study", "real", *words, *options]) == 0
    assert main(["--study", "other", words[1], *options]) == 0  # of the other study nothing is lost
    assert difference_rows(read_stored(tmp_path, "real")).rows == difference_rows(gathered).rows
    experiments = (tmp_path / "experiments.csv").read_bytes()
    assert main(["--study", "real", *words, *options]) == 0
    assert (tmp_path / "experiments.csv").read_bytes() == experiments
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("0.", "9."), encoding="utf-8")
    assert main(["--again", "real", *options]) == 0
    again = page.read_text(encoding="utf-8")
    for kind in ("auroc", "differences"):
        assert table_of(again, "real", kind) == table_of(text, "real", kind)
    assert table_of(again, "real", "components") != table_of(text, "real", "components"), "what is not kept stays as it is"


def test_of_a_study_that_is_not_kept_nothing_is_written_again(tmp_path, capsys):
    options = ["--again", "phantom", "--page", str(PAGE), "--scores", str(tmp_path)]
    for made, missing in ((), "phantom_scores.csv.gz"), (["phantom_scores.csv.gz"], "experiments.csv"), (["experiments.csv"], "experiments.csv"):
        for name in made:
            (tmp_path / name).write_text("study\n")
        assert main(options) == 2
        assert f"{tmp_path / missing}: no " in (told := capsys.readouterr().err)
        assert "--study phantom NAME=FOLDER --keep phantom" in told


def test_runs_on_other_images_are_refused(words, tmp_path):
    made(tmp_path, "maddr", 7)
    scores = next(tmp_path.rglob("scores.csv"))
    scores.write_text(scores.read_text().replace("P5", "P55"))
    with pytest.raises(UserError, match=r"liver: one: memae separate seed 0 and other: memae maddr seed 7 were scored on different"):
        gather([Source.parse(words[0]), Source("other", tmp_path)])


@pytest.mark.parametrize("text", ["folder", "=folder", "a=.,colour=red", "a=no/such/folder"])
def test_a_source_that_is_told_wrongly_is_a_mistake_of_the_user(text):
    with pytest.raises(UserError):
        Source.parse(text)


def test_rows_of_another_benchmark_become_a_table_and_others_stay(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"quality": [{"way": "a", "auroc": 0.70449}, {"way": "b", "auroc": None}]}))
    page = "<!-- table: rows one -->\n<!-- end -->\n<!-- table: rows two -->\nold\n<!-- end -->\n"
    told = fill(page, {"rows": lambda kind: text_of_rows({"one": f"{tmp_path / 'rows.json'}:quality"}, kind)})
    assert table_of(told, "rows", "one") == [["way", "auroc"], ["a", "0.704"], ["b", "–"]]
    assert told.endswith("<!-- table: rows two -->\nold\n<!-- end -->\n")


def test_a_marker_without_an_end_is_an_error():
    with pytest.raises(UserError, match="has no <!-- end -->"):
        fill("<!-- table: real auroc -->\ntext", {})


@pytest.mark.parametrize(
    ("low", "high", "margin", "said"),
    [(0.001, 0.2, 0, "holds"), (-0.2, -0.001, 0, "fails"), (-0.1, 0.1, 0, "open"), (-0.019, 0.1, -0.02, "holds"), (-0.1, -0.021, -0.02, "fails")],
)
def test_a_claim_is_judged_by_its_interval(low, high, margin, said):
    assert verdict(Difference((low + high) / 2, low, high), margin) == said


def test_as_few_digits_are_kept_as_tell_scores_apart():
    assert fewest_digits([0.123456, 0.2, 0.2, -3.0]) == ["0.1235", "0.2", "0.2", "-3"]
    assert fewest_digits([0.123456, 0.123459]) == ["0.123456", "0.123459"]
    scores = np.random.default_rng(0).normal(size=500).tolist()
    texts = fewest_digits([*scores, *scores])
    assert np.array_equal(np.argsort(np.array(texts[:500], float)), np.argsort(scores))
    assert texts[:500] == texts[500:]
