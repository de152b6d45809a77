"""Every file of ours that a user may open and save again is read as their programs write it: a whole study, saved again and reported again."""

import csv
import io
import re
from pathlib import Path

import pytest

import run_experiments
from anomaly_detection import registry
from anomaly_detection.__main__ import main
from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.manifest import MANIFEST, Row, read_manifest, write_manifest
from anomaly_detection.data.prepare.lists import write_splits
from anomaly_detection.data.record import RECORD
from anomaly_detection.data.splits import Splits
from anomaly_detection.evaluation.figures import draw_roc, draw_training, read_log
from anomaly_detection.system.files import read_json, write_json

TOY = "model: toy\ndatasets: [liver_ct, lung_xray]\nimage_size: 16\niterations: 6\nval_iter: 2\nlog_iter: 2\nbatch_size: 8\nlr: 0.01\n"


def table(text: str, delimiter: str, end: str, comma: bool, quoting: int) -> str:
    """A CSV file as a spreadsheet writes what it has read."""
    rows = list(csv.reader(io.StringIO(text)))
    if comma:
        rows = [[cell.replace(".", ",").upper() if re.fullmatch(r"-?\d+\.\d+(e[-+]\d+)?", cell) else cell for cell in row] for row in rows]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    return out.getvalue()


PROGRAMS = {  # encoding, end of lines, then of tables: delimiter, decimal comma, quotes
    "Excel in German": ("utf-8-sig", "\r\n", ";", True, csv.QUOTE_MINIMAL),
    "old Excel": ("cp1252", "\r\n", ";", True, csv.QUOTE_MINIMAL),
    "Unicode text": ("utf-16", "\r\n", "\t", True, csv.QUOTE_MINIMAL),
    "LibreOffice": ("utf-8", "\n", ",", False, csv.QUOTE_ALL),
}


def save_again(folder: Path, program: str) -> set[str]:
    """Save all tables, settings and lists under a folder as a program does; the names of the kinds of file."""
    encoding, end, *rest = PROGRAMS[program]
    kinds = set()
    for path in sorted(folder.rglob("*")):
        listing = path.parent.parent.name == "train_test_split"
        if path.suffix in (".csv", ".json", ".yaml") or listing:
            text = path.read_text(encoding="utf-8")
            text = table(text, rest[0], end, *rest[1:]) if path.suffix == ".csv" else text.replace("\n", end)
            text = text.replace(" liver_ct" + end, rest[0] + "liver_ct" + end) if listing else text
            path.write_bytes(text.encode(encoding))
            kinds.add("split file" if listing else path.name)
    return kinds


def test_a_study_saved_again_is_the_same_study(monkeypatch, tmp_path, data_root, capsys):
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    (tmp_path / "configs" / "toy" / "base.yaml").write_text(TOY, encoding="utf-8")
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    monkeypatch.setattr("anomaly_detection.study.plan.CONFIGS", tmp_path / "configs")
    results = tmp_path / "results"
    words = ["--models", "toy", "--regimes", "maddr", "--data-root", str(data_root), "--results", str(results), "--seeds", "0"]
    words += ["--datasets", "liver_ct", "lung_xray", "--device", "cpu"]
    drawn = []

    def draw(folder, rows, metrics, parts):  # the figures themselves are tested elsewhere
        drawn.append(draw_training(read_log(folder)) and draw_roc(rows, metrics))
        return []

    monkeypatch.setattr("anomaly_detection.evaluation.figures.draw_figures", draw)
    monkeypatch.setattr("anomaly_detection.study.report.map_jobs", lambda work, jobs, *_, **options: list(map(work, jobs)))

    def table_text() -> str:
        return re.sub(r"config [0-9a-f]{8}", "", (results / "table.md").read_text(encoding="utf-8"))

    images = [f"normal/{part}_{i}.png" for part, count in (("train", 8), ("val", 4), ("test", 4)) for i in range(count)]
    write_manifest(data_root / "lung_xray" / MANIFEST, [Row(image, 0, f"Jürgen {image}", "s", image, "p", None) for image in images])
    assert run_experiments.main(words) == 0
    before = table_text()
    texts = {path: path.read_bytes() for folder in (results, data_root) for path in folder.rglob("*") if path.is_file()}
    for program in PROGRAMS:
        kinds = save_again(results, program) | save_again(data_root, program)
        assert kinds >= {"scores.csv", "log.csv", "config.yaml", "metrics.json", "provenance.json", "study.json", "datasets.yaml", "split file"}
        (results / "table.md").unlink()
        assert main(["report", str(results)]) == 0
        assert table_text() == before
        assert run_experiments.main(words) == 0, "it is finished, with the same settings and data"
        assert main(["check", "--data-root", str(data_root), "--output", str(tmp_path / "sheets"), "--workers", "1"]) == 0
        assert "whose 4 images are is not known" in capsys.readouterr().out, "the abnormal ones, of 20"
        for path, data in texts.items():
            path.write_bytes(data)
    assert len(drawn) == 1 + 2 * len(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_manifest_saved_again_holds_the_same(tmp_path, program):
    rows = [Row("normal/ä, b.png", 0, "Müller; Jürgen", "1,5.png", "0" * 64, "ab", None), Row("abnormal/x.png", 1, "3,5", "s", "1e5", "cd", 12)]
    write_manifest(tmp_path / MANIFEST, rows)
    save_again(tmp_path, program)
    assert read_manifest(tmp_path / MANIFEST) == rows


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_lines_of_a_list_saved_again_are_known(tmp_path, program):
    catalog = {name: DatasetSpec(name=name, label=label, organ="liver", modality="ct", root=name) for label, name in enumerate(("liver_ct", "other"))}
    parts = {("normal", "train"): ["a, b.png", "ä.png"], ("normal", "val"): ["c.png"]}
    for spec in catalog.values():
        assert write_splits(tmp_path, spec, parts, "seed 0", catalog)
    save_again(tmp_path, program)
    assert not write_splits(tmp_path, catalog["liver_ct"], parts, "seed 0", catalog), "they are there"
    assert write_splits(tmp_path, catalog["liver_ct"], {("normal", "train"): ["d.png"], ("normal", "val"): ["e.png"]}, "seed 1", catalog)
    entries = [(entry.image, entry.dataset, entry.part) for entry in Splits(tmp_path, catalog).entries]
    kept = [(image, "other", part) for (_, part), images in parts.items() for image in images]
    assert sorted(entries) == sorted([("d.png", "liver_ct", "train"), ("e.png", "liver_ct", "val"), *kept])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_record_saved_again_holds_the_same(tmp_path, program):
    write_json(tmp_path / RECORD, {"size": 300, "patient": None, "ä": [1, 2.5]})
    save_again(tmp_path, program)
    assert read_json(tmp_path / RECORD) == {"size": 300, "patient": None, "ä": [1, 2.5]}
