"""What the README tells people to write, written and run."""

import re
import sys
from pathlib import Path

import run_experiments
from anomaly_detection.registry import BASELINES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_a_fifth_baseline_is_one_file_one_yaml_and_one_line(data_root, tmp_path, monkeypatch, capsys):
    text = section("Add a baseline")
    (code,), (config,) = (re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) for language in ("python", "yaml"))
    (name, place) = re.search(r'`"(\w+)": "([\w.:]+)"`', text).groups()
    module = place.partition(":")[0]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{module.rpartition('.')[2]}.py").write_text(code, encoding="utf-8")
    (tmp_path / "configs" / name).mkdir(parents=True)
    (tmp_path / "configs" / name / "base.yaml").write_text(config, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setitem(BASELINES, name, place.rpartition(".")[2])
    monkeypatch.setattr(run_experiments, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr("anomaly_detection.report.write_report", lambda *_: None)
    arguments = ["--data-root", str(data_root), "--results", str(tmp_path / "results"), "--models", name, "--seeds", "0"]
    arguments += ["--set", "image_size=16", "--set", "iterations=40", "--set", "val_iter=20"]
    try:
        assert run_experiments.main(arguments) == 0
    finally:
        sys.modules.pop(place.rpartition(".")[2].partition(":")[0], None)
    table = capsys.readouterr().out
    for regime in ("separate", "united", "maddr"):
        assert f"| {name} | {regime} |" in table
