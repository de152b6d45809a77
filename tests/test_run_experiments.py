"""The study from the command line: what it leaves on disk, and what it says to a mistake."""

import csv
import errno
import json
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

import run_experiments
from anomaly_detection import registry
from anomaly_detection.__main__ import main
from anomaly_detection.commands import exit_codes
from anomaly_detection.commands.arguments import override_layers
from anomaly_detection.data.catalog import read_catalog
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.phantom.datasets import VERSION
from anomaly_detection.study import run as study_run
from anomaly_detection.study.experiment import load_experiment
from anomaly_detection.study.plan import Grid, StudyData, _preset, config_layers, find_data, plan
from anomaly_detection.study.report import Study, Tables, tell_results
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, write_json
from anomaly_detection.training.checkpoint import load_checkpoint

TOY_BASE = """model: toy
datasets: [liver_ct]
image_size: 16
iterations: 20
batch_size: 8
lr: 0.01
val_iter: 10
"""


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """test_report.py draws them; here they would take longer than the studies."""
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)


@pytest.fixture
def toy_model(monkeypatch, tmp_path):
    """A fifth baseline: its class, one YAML file, and one line in the registry."""
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    (tmp_path / "configs" / "toy" / "base.yaml").write_text(TOY_BASE, encoding="utf-8")
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    monkeypatch.setattr("anomaly_detection.study.plan.CONFIGS", tmp_path / "configs")
    return tmp_path


def study(data_root: Path, *arguments: str) -> int:
    results = data_root.parent / "results"
    return run_experiments.main(["--models", "toy", "--data-root", str(data_root), "--results", str(results), "--seeds", "0", *arguments])


def code_and_error(capsys, monkeypatch, *arguments: str) -> tuple[int, str]:
    """Exit code and last line of stderr of the command as the shell sees it."""
    monkeypatch.setattr(sys, "argv", ["run_experiments.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        exit_codes.run(lambda _: run_experiments.main(list(arguments)))
    return caught.value.code, capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]


def test_the_study_ends_with_a_table_of_three_regimes(toy_model, data_root, capsys):
    assert study(data_root) == 0
    results = data_root.parent / "results"
    text = (results / "table.md").read_text()
    assert text in capsys.readouterr().out
    for regime in ("separate", "united", "maddr"):
        assert f"| toy | {regime} | " in text
    assert "Anomaly detection on images" in text
    assert "phantom" not in text
    assert "8 normal train, 4 normal val, 4 normal test, 4 anomaly test" in text
    assert "- toy: at most 20 iterations of batch 8, 16 px; thresholds for a false-alarm rate of 0.05; version " in text
    separate, mixed = results / "toy" / "separate" / "lung_ct" / "seed_0", results / "toy" / "maddr" / "liver_ct+lung_ct+lung_xray" / "seed_0"
    for folder, images in ((separate, 12), (mixed, 36)):
        with open(folder / "scores.csv", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == images
        assert {path.name for path in folder.iterdir()} >= {"config.yaml", "provenance.json", "checkpoint.pt", "log.csv", "samples", "metrics.json"}
    assert json.loads((mixed / "metrics.json").read_text())["validation"]["val_organ_accuracy"] >= 0
    assert "maddr.heads.organ.weight" in load_checkpoint(mixed / "checkpoint.pt")["model"]
    assert not [name for name in load_checkpoint(separate / "checkpoint.pt")["model"] if "maddr" in name]


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_a_study_trains_alike_where_gradients_are_switched_off(surrounding, toy_model, data_root, tmp_path):
    alone = ["--regimes", "separate", "--datasets", "lung_ct"]
    with surrounding():
        assert study(data_root, *alone) == 0
    assert study(data_root, *alone, "--results", str(tmp_path / "again")) == 0
    place = Path("toy", "separate", "lung_ct", "seed_0", "checkpoint.pt")
    one, other = (load_checkpoint(folder / place)["model"] for folder in (data_root.parent / "results", tmp_path / "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def leave_normal_alone(data_root: Path, *datasets: str) -> None:
    """Take the abnormal images of some datasets out of the lists."""
    file = data_root / "folds" / "train_test_split" / "anomaly" / "test"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if line.split()[1] not in datasets), encoding="utf-8")


@pytest.mark.parametrize("alone", [("lung_ct",), ("liver_ct", "lung_ct", "lung_xray")])
def test_what_has_no_abnormal_images_is_trained_on_and_said_to_tell_false_alarms_alone(toy_model, twinned, alone, capsys, caplog):
    """Beside whole datasets, and where there are no others."""
    leave_normal_alone(twinned, *alone)
    assert study(twinned, "--seeds", "0", "1") == 0
    told = capsys.readouterr().out
    results = twinned.parent / "results"
    with open(results / "table.csv", encoding="utf-8") as file:
        numbers = list(csv.DictReader(file))
    assert not [each for each in numbers if "nan" in each.values()]
    assert {each["metric"] for each in numbers if each["dataset"] in alone} == {"specificity"}
    others = {"liver_ct", "lung_ct", "lung_xray"} - set(alone)
    assert {each["dataset"] for each in numbers if each["metric"] == "auroc"} == (others | {"mean", "pooled"} if others else set())
    text = (results / "table.md").read_text()
    assert not re.search(r"\bnan\b", text + told)
    assert f"{', '.join(alone)}: no abnormal test images: false alarms can be measured, sensitivity and AUROC cannot." in text
    assert "False alarms in the true domain" in text
    assert ("twin rate" in text) == bool(others)
    assert ("False alarms: the share of normal test images" in told) == (not others)
    assert ("Against the same network without it, MADDR" in told) == bool(others)
    assert "no abnormal test images" in told.rpartition("called abnormal: ")[2]
    assert f"{', '.join(alone)}: no abnormal test images" in caplog.text
    metrics = read_json(results / "toy" / "maddr" / "liver_ct+lung_ct+lung_xray" / "seed_0" / "metrics.json")
    assert "NaN" not in json.dumps(metrics)


def test_a_test_part_without_normal_images_is_refused_before_training(toy_model, data_root, capsys, monkeypatch):
    file = data_root / "folds" / "train_test_split" / "normal" / "test"
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines() if "lung_ct" not in line), encoding="utf-8")
    code, error = code_and_error(capsys, monkeypatch, "--models", "toy", "--data-root", str(data_root), "--results", str(data_root.parent / "r"))
    assert code == 2
    assert f"{file}: lists no image of lung_ct; add some, a line each: image lung_ct; without normal test images nothing is known" in error
    assert not (data_root.parent / "r").exists()


def test_quiet_leaves_the_outcome(toy_model, data_root, capsys, levels):
    """No tables, which lie in files, but where they lie, and what was found in words; as always without carriage returns in a file."""
    assert study(data_root, "--regimes", "united", "--quiet") == 0
    told = capsys.readouterr()
    assert "|" not in told.out
    assert "AUROC: how often" not in told.out
    assert told.out.startswith(f"tables in {data_root.parent / 'results' / 'table.md'}")
    assert "\ntoy (one network without MADDR) called abnormal: " in told.out
    assert "\r" not in told.err


def test_what_is_finished_is_not_done_again(toy_model, data_root, monkeypatch):
    assert study(data_root) == 0
    monkeypatch.setattr(study_run, "run_experiment", lambda *_: pytest.fail("trained again"))
    assert study(data_root) == 0


def test_what_was_interrupted_is_continued(toy_model, data_root, monkeypatch):
    """Die in the second experiment; the same command goes on with it and the rest."""
    run, names = study_run.run_experiment, []

    def dying(experiment, *rest):
        if names:
            for place in (experiment.folder, experiment.folder / "samples"):
                place.mkdir(parents=True)
                (place / ".a.png.0123abcd.partial").touch()
            raise KeyboardInterrupt
        names.append(experiment.name)
        return run(experiment, *rest)

    monkeypatch.setattr(study_run, "run_experiment", dying)
    with pytest.raises(KeyboardInterrupt):
        study(data_root)
    done = []
    monkeypatch.setattr(study_run, "run_experiment", lambda experiment, *rest: (done.append(experiment.name), run(experiment, *rest))[1])
    assert study(data_root) == 0
    assert len(done) == 5
    assert names[0] not in done
    assert not list((data_root.parent / "results").rglob(".*.partial")), "whom a signal kills leaves some"


def test_one_failed_experiment_does_not_cost_the_others(toy_model, data_root, monkeypatch, capsys):
    run = study_run.run_experiment

    def failing(experiment, *rest):
        if experiment.regime == "united":
            experiment.folder.mkdir(parents=True)
            raise RuntimeError("the roof fell in")
        return run(experiment, *rest)

    monkeypatch.setattr(study_run, "run_experiment", failing)
    assert study(data_root) == 1
    output = capsys.readouterr().out
    assert "failed: toy united liver_ct+lung_ct+lung_xray seed 0: the roof fell in" in output
    assert "| toy | maddr | " in output
    assert "| toy | united | " not in output


def test_code_that_ends_the_program_costs_its_experiment_alone(toy_model, data_root, monkeypatch, capsys):
    run = study_run.run_experiment

    def ending(experiment, *rest):
        if experiment.regime == "united":
            sys.exit(3)
        return run(experiment, *rest)

    monkeypatch.setattr(study_run, "run_experiment", ending)
    assert study(data_root, "--regimes", "separate", "united") == 1
    output = capsys.readouterr().out
    assert "failed: toy united liver_ct+lung_ct+lung_xray seed 0: SystemExit(3)" in output
    assert "| toy | separate | " in output


def test_shards_are_the_whole_study_and_tables_hold_what_is_finished(toy_model, data_root, capsys):
    table = data_root.parent / "results" / "table.md"
    assert study(data_root, "--shard", "2/2") == 0
    lacking = "toy separate liver_ct seed 0, toy separate lung_xray seed 0, toy united_probe liver_ct+lung_ct+lung_xray seed 0"
    assert f"without what other shards have not finished, or failed at: {lacking}; each writes" in capsys.readouterr().out
    assert "| toy | united_probe | " not in table.read_text(), "of what is finished"
    assert study(data_root, "--shard", "1/2") == 0
    assert "other shards" not in capsys.readouterr().out
    text = table.read_text()
    assert all(f"| toy | {regime} | " in text for regime in ("separate", "united", "united_probe", "maddr"))


def test_jobs_run_side_by_side_and_one_that_fails_is_named(data_root, capsys):
    arguments = ["--models", "memae", "--data-root", str(data_root), "--seeds", "0", "--jobs", "2", "--regimes", "separate", "united"]
    small = {"image_size": 16, "iterations": 3, "batch_size": 4, "baseline.width": 4, "baseline.slots": 10, "bf16": "false"}
    arguments += [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    results = data_root.parent / "side_by_side"
    broken = results / "memae" / "united" / "liver_ct+lung_ct+lung_xray" / "seed_0"
    broken.mkdir(parents=True)
    (broken / "checkpoint.pt").write_bytes(b"not a checkpoint")
    assert run_experiments.main([*arguments, "--results", str(results)]) == 1
    assert "failed: memae united" in capsys.readouterr().out
    assert len(list(results.glob("memae/separate/*/seed_0/metrics.json"))) == 3
    assert "| memae | separate | " in (results / "table.md").read_text()


def test_a_failure_in_another_shard_costs_the_others_no_report(toy_model, data_root, monkeypatch, capsys):
    run, drawn = study_run.run_experiment, []

    def failing(experiment, *rest):
        if experiment.regime == "united":
            raise RuntimeError("the roof fell in")
        return run(experiment, *rest)

    monkeypatch.setattr(study_run, "run_experiment", failing)
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda results, finished, *_: drawn.append([each.regime for each in finished]))
    common = ("--regimes", "united", "maddr")
    assert study(data_root, *common, "--shard", "1/2") == 1
    assert study(data_root, *common, "--shard", "2/2") == 0
    assert drawn == [["maddr"]]
    told = capsys.readouterr().out
    assert "without what other shards have not finished, or failed at: toy united liver_ct+lung_ct+lung_xray seed 0; " in told
    assert "toy (one network with MADDR) called abnormal: " in told


@pytest.mark.parametrize(("option", "value"), [("--shard", "3/2"), ("--shard", "2"), ("--jobs", "0")])
def test_an_impossible_division_of_the_work_is_refused(option, value, capsys):
    with pytest.raises(SystemExit) as caught:
        run_experiments.main([option, value])
    assert caught.value.code == 2
    assert value in capsys.readouterr().err


def test_ablation_adds_what_its_table_holds(toy_model, data_root, capsys):
    """Its rows are those of no term, some and all, whatever regimes are asked for; no probe stands in it."""
    assert study(data_root, "--ablation", "--regimes", "separate", "--datasets", "lung_ct", "lung_xray", "--dry-run") == 0
    regimes = [line.split("toy ")[1].split()[0] for line in capsys.readouterr().out.splitlines()]
    assert regimes == ["separate", "separate", "united", "maddr_organ", "maddr_modality", "maddr_center", "maddr_organ_modality", "maddr"]


def test_ablation_adds_the_components(toy_model, data_root, capsys):
    assert study(data_root, "--ablation", "--regimes", "maddr") == 0
    output = capsys.readouterr().out
    assert "Components of MADDR" in output
    folder = data_root.parent / "results" / "toy" / "maddr_organ" / "liver_ct+lung_ct+lung_xray" / "seed_0"
    settings = load_experiment(folder).settings
    assert (settings.maddr.organ_weight, settings.maddr.modality_weight, settings.maddr.center_weight) == (0.1, 0.0, 0.0)
    assert {name for name in load_checkpoint(folder / "checkpoint.pt")["model"] if "maddr" in name} == {
        "maddr.heads.organ.weight",
        "maddr.heads.organ.bias",
    }


def test_dry_run_lists_and_does_nothing(toy_model, data_root, capsys):
    assert study(data_root, "--dry-run", "--datasets", "lung_ct", "lung_xray") == 0
    assert capsys.readouterr().out.splitlines() == [
        "to do        toy separate lung_ct seed 0",
        "to do        toy separate lung_xray seed 0",
        "to do        toy united lung_ct+lung_xray seed 0",
        "to do        toy united_probe lung_ct+lung_xray seed 0",
        "to do        toy maddr lung_ct+lung_xray seed 0",
    ]
    assert not (data_root.parent / "results").exists()


def test_a_setting_that_came_after_an_experiment_was_begun_does_what_was_done_before(toy_model, data_root, capsys):
    """An experiment of an older version, which knew no such setting, is finished; with another value than the default it is another experiment."""
    assert study(data_root, "--regimes", "united") == 0
    (path,) = data_root.parent.glob("results/toy/united/*/seed_0/config.yaml")
    config = yaml.safe_load(path.read_text())
    del config["balanced"], config["maddr"]["center_of"]
    path.write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert study(data_root, "--regimes", "united", "--dry-run") == 0
    assert study(data_root, "--regimes", "united", "--dry-run", "--set", "balanced=true") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["finished", "refused"]
    path.write_text(yaml.safe_dump({**config, "gone": 1}))
    with pytest.raises(UserError, match=r"settings that are none any more .*gone.*; choose another --results"):
        study(data_root, "--regimes", "united")


def test_other_settings_need_another_folder(toy_model, data_root, capsys, monkeypatch):
    assert study(data_root, "--regimes", "united") == 0
    arguments = ["--models", "toy", "--data-root", str(data_root), "--results", str(data_root.parent / "results"), "--seeds", "0"]
    code, error = code_and_error(capsys, monkeypatch, *arguments, "--regimes", "united", "--set", "lr=0.02")
    assert code == 2
    assert "was begun with lr: 0.01, now it is 0.02; choose another --results" in error
    capsys.readouterr()
    assert study(data_root, "--regimes", "united", "maddr", "--set", "lr=0.02", "--dry-run") == 0
    states = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert states == [["refused", "toy", "united"], ["to", "do", "toy"]]


def test_other_images_need_another_folder(toy_model, data_root, capsys, monkeypatch):
    assert study(data_root, "--regimes", "united") == 0
    (data_root / "lung_ct" / "normal" / "train_0.png").write_bytes((data_root / "lung_ct" / "normal" / "train_1.png").read_bytes())
    arguments = ["--models", "toy", "--data-root", str(data_root), "--results", str(data_root.parent / "results"), "--seeds", "0"]
    code, error = code_and_error(capsys, monkeypatch, *arguments, "--regimes", "united")
    assert code == 2
    assert "other images or splits" in error


def test_a_network_of_unknown_settings_or_data_is_not_trained_on(toy_model, data_root, capsys):
    for lacking in ("config.yaml", "provenance.json"):
        assert study(data_root, "--regimes", "united") == 0
        (run,) = (data_root.parent / "results").glob("toy/united/*/seed_0")
        whole = (run / lacking).read_bytes()
        (run / lacking).unlink()
        (run / "metrics.json").unlink()
        assert study(data_root, "--regimes", "united") == 1
        assert f"has a checkpoint.pt and no {lacking}" in capsys.readouterr().out
        (run / "checkpoint.pt").unlink()
        assert study(data_root, "--regimes", "united") == 0
        assert len((run / lacking).read_bytes()) == len(whole), "written anew with the results"


def test_what_an_older_version_began_is_said(toy_model, data_root, capsys, monkeypatch):
    assert study(data_root, "--regimes", "united") == 0
    (path,) = (data_root.parent / "results").glob("toy/united/*/seed_0/provenance.json")
    provenance = json.loads(path.read_text())
    del provenance["regime"]
    path.write_text(json.dumps(provenance))
    arguments = ["--models", "toy", "--data-root", str(data_root), "--results", str(data_root.parent / "results"), "--seeds", "0"]
    code, error = code_and_error(capsys, monkeypatch, *arguments, "--regimes", "united")
    assert (code, "was begun by an older version of this package; choose another --results" in error) == (2, True)
    assert study(data_root, "--regimes", "united", "--dry-run") == 0
    assert capsys.readouterr().out.startswith("refused ")


def break_split(root: Path, text: str) -> None:
    (root / "folds" / "train_test_split" / "normal" / "val").write_text(text, encoding="utf-8")


def truncate(root: Path) -> None:
    path = root / "lung_ct" / "normal" / "train_3.png"
    path.write_bytes(path.read_bytes()[:60])


def misspell(root: Path) -> None:
    (root / "datasets.yaml").write_text("liver_ct: {label: 0, organ: liver, modailty: ct, root: x}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "arguments", "parts"),
    [
        (None, ["--set", "lr=abc"], ["--set lr=abc", "lr: expected a number, got 'abc'"]),
        (None, ["--set", "bach_size=8"], ["bach_size", "did you mean batch_size?"]),
        (None, ["--set", "maddr.organ_wieght=1"], ["maddr.organ_wieght", "did you mean organ_weight?"]),
        (None, ["--set", "maddr=true"], ["--set maddr=true: maddr: expected a group of keys (enabled, probe, ", ", got True"]),
        (None, ["--set", "maddr=null"], ["--set maddr=null: maddr: expected a group of keys (enabled, probe, ", ", got None"]),
        (None, ["--set", "lr"], ["expected key=value"]),
        (None, ["--datasets", "lung_tc"], ["lung_tc", "lung_ct"]),
        (None, ["--device", "cuda:77"], ["--device cuda:77", "--device cpu"]),
        (None, ["--set", "maddr.organ_dim=30"], ["organ_dim 30", "latent of 24"]),
        (lambda root: (root / "lung_ct" / "normal" / "train_3.png").unlink(), [], ["train_3.png"]),
        (truncate, [], ["train_3.png"]),
        (lambda root: break_split(root, ""), [], ["normal/val", "liver_ct"]),
        (lambda root: break_split(root, "normal/val_0.png liver\n"), [], ["normal/val:1", "liver_ct"]),
        (
            misspell,
            [],
            ["modailty", "modality"],
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(toy_model, data_root, capsys, monkeypatch, damage, arguments, parts):
    if damage is not None:
        damage(data_root)
    results = data_root.parent / "results"
    code, error = code_and_error(capsys, monkeypatch, "--models", "toy", "--data-root", str(data_root), "--results", str(results), *arguments)
    assert code == 2
    assert error.startswith("error: ")
    for part in parts:
        assert part in error
    assert not results.exists(), "found before anything was begun"


def test_a_missing_folder_and_an_unknown_model(capsys, monkeypatch, tmp_path):
    code, error = code_and_error(capsys, monkeypatch, "--data-root", str(tmp_path / "nowhere"))
    assert (code, "nowhere" in error) == (2, True)
    (tmp_path / "empty").mkdir()
    code, error = code_and_error(capsys, monkeypatch, "--data-root", str(tmp_path / "empty"))
    assert (code, "empty" in error) == (2, True)


def test_an_unknown_model_names_the_near_one(data_root, capsys, monkeypatch):
    code, error = code_and_error(capsys, monkeypatch, "--data-root", str(data_root), "--models", "MADDR_dpe")
    assert (code, "did you mean MADDR_dpa?" in error) == (2, True)


def test_a_backbone_that_cannot_be_had_is_said_at_the_start(data_root, capsys, monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    arguments = ["--models", "MADDR_dpa", "--data-root", str(data_root), "--results", str(tmp_path / "results"), "--set", "baseline.backbone=vgg19"]
    code, error = code_and_error(capsys, monkeypatch, *arguments)
    assert code == 2
    assert "no route to host" in error
    assert "efficientnet_lite0" in error
    assert not (tmp_path / "results").exists()


def test_folders_whose_names_are_no_text_are_written_of(toy_model, data_root, tmp_path):
    """In the model card, which names the folder before the network is scored, and in the heading of the tables."""
    place = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        data_root.rename(place)
    except OSError:
        pytest.skip("file names are text here")
    with pytest.raises(SystemExit) as ended:
        exit_codes.run(lambda _: study(place, "--regimes", "united", "--results", str(place / "results")))
    assert ended.value.code == 0
    assert (place / "results" / "table.md").read_text(encoding="utf-8").startswith("# Anomaly detection on caf%E9\n")
    assert Study.read(place / "results").data_root == place
    folder = named(place / "results", "united")
    with pytest.raises(SystemExit) as ended:
        exit_codes.run(lambda _: main(["evaluate", str(folder)]))
    assert ended.value.code == 0
    assert (folder / "table.csv").read_text(encoding="utf-8").splitlines()[1].startswith("Anomaly detection on caf%E9,toy,united,")


@pytest.fixture
def stand_in(data_root, monkeypatch):
    """The small images of the tests in place of phantoms, whose rendering has tests of its own; gives the list of what was rendered."""
    rendered = []

    def write(out: Path) -> None:
        rendered.append(out)
        time.sleep(0.3)
        data_root.rename(out)
        (out / "PHANTOM").write_text("phantoms")

    specs = read_catalog(data_root / "datasets.yaml")
    monkeypatch.setattr("anomaly_detection.study.plan.phantom_catalog", lambda: specs)
    monkeypatch.setattr(study_run, "write_phantoms", write)
    return rendered


def test_without_data_the_study_runs_on_phantoms_and_says_so(toy_model, stand_in, tmp_path, monkeypatch, capsys, caplog):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (toy_model / "configs" / "toy" / "phantom.yaml").write_text("iterations: 10\n")
    caplog.set_level("INFO")
    assert run_experiments.main(["--models", "toy"]) == 0
    assert "no dataset under data" in caplog.text
    assert "LiTS" in caplog.text
    assert "# Anomaly detection on phantom" in capsys.readouterr().out
    (config,) = Path("results/phantom/toy/separate/lung_ct").glob("seed_*/config.yaml")
    assert "iterations: 10\n" in config.read_text()
    assert run_experiments.main(["--models", "toy", "--dry-run"]) == 0
    assert stand_in == [Path("data/phantom")], "once"


def test_shards_that_start_together_render_phantoms_once(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = find_data(None, False, None)
    assert (data.root, list(data.datasets), data.there) == (Path("data/phantom"), ["liver_ct", "lung_ct", "lung_xray"], False)
    with ThreadPoolExecutor(2) as shards:
        list(shards.map(study_run.render, [data, data]))
    assert len(stand_in) == 1
    assert find_data(None, False, None).there


def test_phantoms_of_a_folder_that_is_named_are_those_of_the_study(data_root, tmp_path):
    """And not others that are rendered into it; of a folder without any they are."""
    (data_root / "PHANTOM").write_text("phantoms")
    data = find_data(data_root, True, ["lung_ct"])
    assert (data.root, list(data.datasets), data.phantom, data.there) == (data_root, ["lung_ct"], True, True)
    data = find_data(tmp_path, True, None)
    assert (data.root, data.phantom, data.there) == (tmp_path / "phantom", True, False)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--models", "no_such_model"], ["no_such_model", "MADDR_dpa"]),
        (["--datasets", "lung_ct"], ["data: no such folder, and so no images of lung_ct; ", "--phantom takes phantoms"]),
        (["--phantom", "--datasets", "lost"], ["no phantoms of lost", "liver_ct"]),
        (["--set", "lr=abc"], ["--set lr=abc", "a number"]),
        (["--set", "seed=1"], ["--seeds"]),
        (["--set", "maddr.organ_dim=30"], ["organ_dim 30", "latent of 24"]),
        (["--device", "cuda:77"], ["--device cuda:77"]),
        (["--backend", "dask"], ["dask", "pip install"]),
    ],
)
def test_a_mistake_is_told_before_phantoms_are_rendered(toy_model, stand_in, tmp_path, monkeypatch, capsys, arguments, parts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomaly_detection.system.backends.find_spec", lambda _: None)
    code, error = code_and_error(capsys, monkeypatch, *(arguments if "--models" in arguments else ["--models", "toy", *arguments]))
    assert code == 2
    assert all(part in error for part in parts), error
    assert not stand_in


@pytest.mark.parametrize("arguments", [[], ["--jobs", "1"], ["--dry-run"]])
def test_a_cluster_without_a_number_of_jobs_is_refused(toy_model, data_root, capsys, monkeypatch, arguments):
    """It would do nothing: a single job runs in this process."""
    monkeypatch.setattr("anomaly_detection.system.backends.find_spec", lambda _: "there")
    code, error = code_and_error(capsys, monkeypatch, "--models", "toy", "--data-root", str(data_root), "--backend", "dask", *arguments)
    assert code == 2
    told = "--backend dask: is for several experiments at a time, and --jobs says 1; say how many, such as --jobs 4, or leave the backend out"
    assert error == f"error: {told}"


def test_a_dry_run_renders_nothing(toy_model, stand_in, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_experiments.main(["--models", "toy", "--regimes", "united", "maddr", "--dry-run"]) == 0
    mixture = "liver_ct+lung_ct+lung_xray seed 0"
    last = f"phantoms are rendered into {Path('data/phantom')} before the first of them"
    assert capsys.readouterr().out.splitlines() == [f"to do        toy united {mixture}", f"to do        toy maddr {mixture}", last]
    assert not stand_in
    assert not Path("data").exists()


@pytest.mark.parametrize("arguments", [[], ["--phantom"], ["--dry-run"], ["--phantom", "--quick"]])
def test_phantoms_of_an_older_version_are_not_taken_for_those_of_today(toy_model, stand_in, tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert run_experiments.main(["--models", "toy", "--regimes", "united"]) == 0
    marker = Path("data/phantom/PHANTOM")
    marker.write_text("Phantoms: 360 computed images of 99 random bodies, no patient data.\nversion 1\nseed 0\n")
    before = sorted(Path("data").rglob("*"))
    code, error = code_and_error(capsys, monkeypatch, "--models", "toy", *arguments)
    assert code == 2
    place = Path("data/phantom")
    assert error.endswith(f"delete that folder, and they are rendered anew, or use them as they are with --data-root {place}")
    assert f"{place} holds phantoms of version 1, and what is rendered now is version {VERSION}" in error
    assert sorted(Path("data").rglob("*")) == before, "nobody's files are deleted"
    assert len(stand_in) == 1


def test_phantoms_of_an_older_version_that_are_named_are_used(toy_model, data_root, caplog):
    (data_root / "PHANTOM").write_text("Phantoms: 360 computed images\nversion 1\n")
    assert study(data_root, "--regimes", "united") == 0
    assert "holds phantoms of version 1, and what is rendered now" in caplog.text


def test_images_without_a_split_are_not_taken_for_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "data" / "lits").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    code, error = code_and_error(capsys, monkeypatch)
    assert (code, "no split file lists images of lits" in error) == (2, True)


def test_the_table_gathers_what_earlier_commands_finished(toy_model, data_root, capsys):
    for arguments in (["--regimes", "united"], ["--regimes", "maddr"], ["--regimes", "maddr", "--seeds", "1", "1"]):
        assert study(data_root, *arguments) == 0
    table = capsys.readouterr().out.split("tables in")[2]
    assert "| toy | united | " in table
    row = next(line for line in table.splitlines() if line.startswith("| toy | maddr | "))
    assert " ± " in row
    assert "seed 1, weights of iteration" in table


def test_a_model_without_a_config_runs_on_the_common_keys(toy_model, data_root, capsys):
    (toy_model / "configs" / "toy" / "base.yaml").unlink()
    (toy_model / "configs" / "common.yaml").write_text(TOY_BASE.replace("model: toy\n", ""), encoding="utf-8")
    assert study(data_root, "--regimes", "united") == 0
    assert "| toy | united | " in capsys.readouterr().out
    assert load_experiment(next((data_root.parent / "results" / "toy" / "united").glob("*/seed_0"))).settings.iterations == 20


@pytest.mark.parametrize(
    ("written", "presets", "files", "overrides", "iterations"),
    [
        (5000, [], {}, [], 5000),
        (5000, ["quick"], {}, [], 200),
        (5000, ["phantom"], {}, [], 800),
        (5000, ["phantom", "quick"], {}, [], 200),
        (100, ["phantom", "quick"], {}, [], 100),
        (5000, ["quick"], {"quick": 700}, [], 700),
        (5000, ["phantom", "quick"], {"phantom": 150}, [], 150),
        (5000, ["quick"], {}, ["iterations=900"], 900),
    ],
)
def test_a_model_without_presets_of_its_own_is_cut_short_too(toy_model, data_root, written, presets, files, overrides, iterations):
    """Unless it says otherwise itself; one that is shorter stays as it is."""
    configs = toy_model / "configs" / "toy"
    (configs / "base.yaml").write_text(TOY_BASE.replace("iterations: 20", f"iterations: {written}"), encoding="utf-8")
    for name, value in files.items():
        (configs / f"{name}.yaml").write_text(f"iterations: {value}\n", encoding="utf-8")
    data = StudyData(data_root, read_catalog(data_root / "datasets.yaml"), "phantom" in presets)
    grid = Grid(["toy"], ["separate", "united"], quick="quick" in presets, overrides=override_layers(overrides))
    assert {experiment.settings.iterations for experiment in plan(grid, data, toy_model)} == {iterations}


def test_a_config_that_is_not_read_is_told(toy_model, data_root, monkeypatch, caplog):
    """The folder of a model is not enough: common.yaml stands beside it where `maddr init` has written."""
    monkeypatch.chdir(toy_model)
    assert study(data_root, "--dry-run") == 0
    assert f"not read, since there is no configs/common.yaml beside: {Path('configs', 'toy', 'base.yaml')}; `maddr init .`" in caplog.text


@pytest.mark.parametrize("model", ["gaussian", "feature_ae"])
def test_a_model_that_ships_is_not_cut_short_where_it_has_no_preset(model):
    """Its own schedule is short, and what was trained by it stays as it is."""
    assert _preset(model, "phantom", config_layers(model, ["lits"])) == []


def test_a_model_that_is_not_known_now_stays_out_of_the_table(toy_model, data_root, monkeypatch, capsys):
    assert study(data_root, "--regimes", "united") == 0
    monkeypatch.delitem(registry.BASELINES, "toy")
    monkeypatch.setitem(registry.BASELINES, "other", "tests.helpers:ToyBaseline")
    (toy_model / "configs" / "common.yaml").write_text(TOY_BASE.replace("model: toy\n", ""), encoding="utf-8")
    assert study(data_root, "--regimes", "united", "--models", "other") == 0
    table = capsys.readouterr().out.split("tables in")[1]
    assert "| other | united | " in table
    assert "| toy |" not in table


def test_results_on_other_images_stay_out_of_the_table(toy_model, data_root, capsys):
    assert study(data_root, "--regimes", "united") == 0
    (data_root / "lung_ct" / "anomaly" / "test_0.png").write_bytes((data_root / "lung_ct" / "anomaly" / "test_1.png").read_bytes())
    assert study(data_root, "--regimes", "maddr") == 0
    table = capsys.readouterr().out.split("tables in")[1]
    assert "| toy | maddr | " in table
    assert "| toy | united | " not in table


def other_twin(root: Path) -> None:
    Image.new("L", (16, 16), 90).save(root / "lung_ct" / "twins" / "test_2.png")


def other_mask(root: Path) -> None:
    Image.new("L", (16, 16), 255).save(root / "lung_ct" / "masks" / "test_2.png")


def other_facts(root: Path) -> None:
    table = root / "phantoms.csv"
    table.write_text(table.read_text().replace("test_0.png,obvious", "test_0.png,typical", 1))


def other_pairs(root: Path) -> None:
    table = root / "twins.csv"
    table.write_text(table.read_text().replace("anomaly/test_0.png,twins/test_0.png", "anomaly/test_0.png,twins/test_1.png", 1))


def fewer_twins(root: Path) -> None:
    table = root / "twins.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


def no_twins(root: Path) -> None:
    (root / "twins.csv").unlink()


@pytest.mark.parametrize("change", [other_twin, other_mask, other_facts, other_pairs, fewer_twins, no_twins])
def test_other_twins_are_scored_anew_by_the_same_network(toy_model, twinned, change, capsys, caplog):
    """What was measured on other twins stays out of the table, too, until it is."""
    assert study(twinned, "--regimes", "united") == 0
    (run,) = (twinned.parent / "results" / "toy" / "united").glob("*/seed_0")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    stamps = [(run / name).stat().st_mtime_ns for name in ("metrics.json", "checkpoint.pt")]
    assert study(twinned, "--regimes", "united") == 0
    assert [(run / name).stat().st_mtime_ns for name in ("metrics.json", "checkpoint.pt")] == stamps, "nothing has changed"
    change(twinned)
    assert study(twinned, "--regimes", "maddr") == 0
    assert "other twins" in caplog.text
    assert "| toy | united | " not in capsys.readouterr().out.rpartition("tables in")[0].rpartition("# Anomaly")[2]
    assert study(twinned, "--regimes", "united") == 0
    assert "| toy | united | " in capsys.readouterr().out
    after = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert after["scores.csv"] == before["scores.csv"]
    assert after["provenance.json"] == before["provenance.json"]
    assert after["log.csv"] == before["log.csv"], "not trained again"
    assert after.get("twins.csv") != before["twins.csv"]
    assert read_json(run / "metrics.json")["twins"] != json.loads(before["metrics.json"])["twins"]


def test_by_other_patients_images_are_scored_anew_by_the_same_network(toy_model, data_root, capsys, caplog):
    assert study(data_root, "--regimes", "united") == 0
    (run,) = (data_root.parent / "results" / "toy" / "united").glob("*/seed_0")
    before = {name: (run / name).read_bytes() for name in ("log.csv", "provenance.json", "scores.csv")}
    catalog = yaml.safe_load((data_root / "datasets.yaml").read_text())
    for entry in catalog.values():
        entry["patient"] = r"[a-z]+_\d+"
    (data_root / "datasets.yaml").write_text(yaml.safe_dump(catalog))
    assert study(data_root, "--regimes", "maddr") == 0
    assert "other twins, masks or patients" in caplog.text
    assert "| toy | united | " not in capsys.readouterr().out.rpartition("tables in")[0].rpartition("# Anomaly")[2]
    assert study(data_root, "--regimes", "united") == 0
    assert [(run / name).read_bytes() == before[name] for name in before] == [True, True, False], "not trained again"
    one, other = (list(csv.DictReader(text.decode().splitlines())) for text in (before["scores.csv"], (run / "scores.csv").read_bytes()))
    assert [row["score"] for row in one] == [row["score"] for row in other]
    assert {row["patient"] for row in other} == {f"{part}_{number}" for part in ("val", "test") for number in range(4)}
    stamp = (run / "metrics.json").stat().st_mtime_ns
    assert study(data_root, "--regimes", "united") == 0
    assert (run / "metrics.json").stat().st_mtime_ns == stamp


def write_masks(data_root: Path, top: int) -> None:
    """Of the abnormal images of a dataset, whose lesion begins in row 4: nine rows from `top` on."""
    for number in range(4):
        mask = np.zeros((16, 16), np.uint8)
        mask[top : top + 9] = 255
        (data_root / "lung_ct" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(data_root / "lung_ct" / "masks" / f"test_{number}.png")


def test_by_other_masks_maps_are_measured_anew_by_the_same_network(toy_model, data_root, caplog):
    """Where they appear, change and go; those that are saved again as they were change nothing, and an older version knew of none."""
    assert study(data_root, "--regimes", "united") == 0
    run = named(data_root.parent / "results", "united")
    metrics, before = read_json(run / "metrics.json"), {name: (run / name).read_bytes() for name in ("log.csv", "provenance.json", "scores.csv")}
    del metrics["masks"]
    write_json(run / "metrics.json", metrics)
    measured, stamps = [], []

    def again() -> None:
        assert study(data_root, "--regimes", "united") == 0
        measured.append(read_json(run / "metrics.json")["datasets"]["lung_ct"].get("pixel_auroc"))
        stamps.append((run / "metrics.json").stat().st_mtime_ns)

    again()
    write_masks(data_root, top=4)
    tell_results(data_root.parent / "results")
    assert "other twins, masks or patients" in caplog.text, "what was measured by others stays out of the tables"
    again()
    write_masks(data_root, top=4)
    again()
    write_masks(data_root, top=7)
    again()
    shutil.rmtree(data_root / "lung_ct" / "masks")
    again()
    assert measured[0] is measured[4] is None
    assert measured[1] == measured[2] > measured[3], "the map is higher where the square is"
    assert stamps[1] == stamps[2]
    assert len(set(stamps)) == 4
    assert {name: (run / name).read_bytes() for name in before} == before, "not trained again"


def test_intervals_of_an_older_version_are_computed_anew(toy_model, data_root):
    assert study(data_root, "--regimes", "united") == 0
    (run,) = (data_root.parent / "results" / "toy" / "united").glob("*/seed_0")
    metrics, before = read_json(run / "metrics.json"), {name: (run / name).read_bytes() for name in ("log.csv", "provenance.json", "scores.csv")}
    (run / "metrics.json").write_text(json.dumps({**metrics, "intervals": metrics["intervals"] - 1}))
    assert study(data_root, "--regimes", "united") == 0
    assert read_json(run / "metrics.json") == metrics
    assert {name: (run / name).read_bytes() for name in before} == before, "not trained again"


def test_twins_that_appear_are_scored(toy_model, twinned):
    text = (twinned / "twins.csv").read_text()
    (twinned / "twins.csv").unlink()
    assert study(twinned, "--regimes", "united") == 0
    (run,) = (twinned.parent / "results" / "toy" / "united").glob("*/seed_0")
    metrics = read_json(run / "metrics.json")
    del metrics["twins"]  # as of a version that knew of none
    write_json(run / "metrics.json", metrics)
    stamp = (run / "metrics.json").stat().st_mtime_ns
    assert study(twinned, "--regimes", "united") == 0
    assert (run / "metrics.json").stat().st_mtime_ns == stamp
    (twinned / "twins.csv").write_text(text)
    assert study(twinned, "--regimes", "united") == 0
    assert "obvious_twin_rate" in read_json(run / "metrics.json")["datasets"]["lung_ct"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "lung_ct" / "twins" / "test_2.png").unlink(), "names it as the twin of"),
        (lambda root: (root / "lung_ct" / "twins" / "test_2.png").write_bytes(b"no picture"), "test_2.png"),
        (lambda root: (root / "phantoms.csv").write_text("dataset,image\n"), "stratum"),
    ],
)
def test_damaged_twins_are_met_before_the_first_training(toy_model, twinned, damage, words):
    damage(twinned)
    with pytest.raises(UserError, match=words):
        study(twinned, "--regimes", "united")
    assert not list((twinned.parent / "results").rglob("checkpoint.pt"))


@pytest.mark.parametrize("command", ["study", "train_eval"])
def test_a_mask_that_does_not_fit_is_met_before_the_first_training(toy_model, data_root, command):
    write_masks(data_root, top=4)
    Image.new("L", (16, 15), 255).save(data_root / "lung_ct" / "masks" / "test_2.png")
    config = str(toy_model / "configs" / "toy" / "base.yaml")
    words = ["--models", "toy", "--regimes", "united"] if command == "study" else [config, "--set", "datasets=[lung_ct]"]
    with pytest.raises(UserError, match=r"lung_ct.masks.test_2\.png: is a mask of \(15, 16\) pixels for an image of \(16, 16\); make them the same"):
        main([command, *words, "--data-root", str(data_root), "--results", str(data_root.parent / "results")])
    assert not list((data_root.parent / "results").rglob("checkpoint.pt"))


def test_what_the_study_sets_itself_cannot_be_overridden(toy_model, data_root, capsys, monkeypatch):
    for override, instead in (("seed=7", "--seeds"), ("datasets=[lung_ct]", "--datasets"), ("maddr.enabled=true", "--regimes")):
        code, error = code_and_error(capsys, monkeypatch, "--models", "toy", "--data-root", str(data_root), "--set", override)
        assert (code, instead in error) == (2, True)


def test_configs_that_differ_between_regimes_are_said(toy_model, data_root, capsys, caplog):
    """Before, where the plan is listed, below the differences and in the closing sentences; never of regimes that nothing compares."""
    (toy_model / "configs" / "toy" / "lung_ct.yaml").write_text("extends: base.yaml\niterations: 30\n")
    words = ["--datasets", "lung_ct", "liver_ct"]
    told = "Not compared like for like, since settings differ: toy (separate lung_ct: iterations 30 instead of 20)."
    assert study(data_root, *words, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{told} `--set KEY=VALUE` gives a setting one value for all."
    assert study(data_root, *words, "--dry-run", "--regimes", "separate") == 0
    assert study(data_root, *words, "--dry-run", "--set", "iterations=20") == 0
    assert "like for like" not in capsys.readouterr().out
    assert study(data_root, *words) == 0
    assert told in caplog.text
    assert told in capsys.readouterr().out.rpartition("called abnormal: ")[2]
    table = (data_root.parent / "results" / "table.md").read_text()
    differences = table.partition("## MADDR against the others")[2].partition("\n## ")[0]
    assert differences.rstrip().endswith(f"|\n\n{told}")


def test_regimes_of_a_single_dataset_are_said_to_show_nothing(toy_model, data_root, capsys, caplog):
    told = "With one dataset, lung_ct, there is no domain to tell apart: `--regimes separate` does all; united, maddr can show nothing of MADDR here."
    assert study(data_root, "--datasets", "lung_ct", "--regimes", "separate", "united", "maddr", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1] == told
    for arguments in (["--datasets", "lung_ct", "--regimes", "separate"], ["--datasets", "lung_ct", "liver_ct"]):
        assert study(data_root, *arguments, "--dry-run") == 0
        assert "no domain to tell apart" not in capsys.readouterr().out
    assert study(data_root, "--datasets", "lung_ct", "--regimes", "united", "maddr") == 0
    assert told in caplog.text


def test_commands_of_other_settings_are_told_where_their_results_meet(toy_model, data_root, capsys, caplog):
    assert study(data_root, "--regimes", "united") == 0
    assert study(data_root, "--regimes", "maddr", "--set", "lr=0.02") == 0
    assert "like for like" not in caplog.text, "each command compares nothing"
    assert "toy (maddr: lr 0.02 instead of 0.01)" in (data_root.parent / "results" / "table.md").read_text()


def test_a_full_disk_ends_the_study_with_one_line(toy_model, data_root, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint.pt")

    monkeypatch.setattr("anomaly_detection.training.loop.save_checkpoint", full)
    arguments = ["--models", "toy", "--data-root", str(data_root), "--results", str(data_root.parent / "results")]
    code, error = code_and_error(capsys, monkeypatch, *arguments)
    assert (code, "checkpoint.pt: No space left on device" in error) == (2, True)


def test_rows_at_other_thresholds_are_told_below_the_tables_that_depend_on_them(toy_model, data_root):
    assert study(data_root, "--regimes", "united", "maddr") == 0
    results = data_root.parent / "results"
    told = "Thresholds were not set for one share of normal images: 10 % for toy (maddr), 5 % for the others."
    assert "Thresholds were not" not in (results / "table.md").read_text()
    (run,) = results.glob("toy/maddr/*/seed_0")
    assert main(["evaluate", str(run), "--set", "threshold_quantile=0.9"]) == 0
    assert main(["report", str(results)]) == 0
    sections = (results / "table.md").read_text().split("\n## ")
    titles = {each.partition("\n")[0] for each in sections if told in each}
    assert titles == {
        "False alarms in the true domain, and normals called unknown: promised and observed",
        "f1",
        "accuracy",
        "sensitivity",
        "specificity",
    }


def test_a_study_judges_by_the_threshold_of_its_settings(toy_model, data_root, capsys, caplog):
    """Of what is finished, too, whether --set, a config or `maddr evaluate` changed it; nothing is trained for it."""
    caplog.set_level("INFO")
    assert study(data_root, "--regimes", "united") == 0
    run = named(data_root.parent / "results", "united")
    first, log = read_json(run / "metrics.json"), (run / "log.csv").read_bytes()
    with (toy_model / "configs" / "toy" / "base.yaml").open("a") as config:
        config.write("threshold_quantile: 0.9\n")
    for change, was, now, promised in (([], 0.95, 0.9, 0.1), (["--set", "threshold_quantile=0.5"], 0.9, 0.5, 0.5)):
        capsys.readouterr()
        assert study(data_root, "--regimes", "united", *change, "--dry-run") == 0
        assert capsys.readouterr().out.startswith("to score ")
        assert study(data_root, "--regimes", "united", *change) == 0
        assert f"seed 0 is scored anew: threshold_quantile was {was}, now it is {now}" in caplog.text
        (rate,) = {values["false_alarms"]["promised"] for values in read_json(run / "metrics.json")["datasets"].values()}
        assert rate == promised, "not a hair less, as 1 - 0.9 is, which may be an image less"
    assert main(["evaluate", str(run), "--set", "threshold_quantile=0.8"]) == 0
    assert study(data_root, "--regimes", "united", "--set", "threshold_quantile=0.95") == 0
    assert "seed 0 is scored anew: threshold_quantile was 0.8, now it is 0.95" in caplog.text
    assert read_json(run / "metrics.json") == first
    stamp = (run / "metrics.json").stat().st_mtime_ns
    assert study(data_root, "--regimes", "united", "--set", "threshold_quantile=0.95") == 0
    assert ((run / "metrics.json").stat().st_mtime_ns, (run / "log.csv").read_bytes()) == (stamp, log)


def test_what_is_half_written_is_not_finished(toy_model, data_root, monkeypatch, capsys, caplog):
    """The scores are of one threshold then, and the metrics of another; nor is anything left that tells of the old ones."""
    assert study(data_root, "--regimes", "united") == 0
    run = named(data_root.parent / "results", "united")
    assert main(["report", str(run)]) == 0
    (run / "report.html").write_text("drawn")
    whole, files = read_json(run / "metrics.json"), [run / name for name in ("metrics.json", "table.md", "table.csv", "report.html")]
    assert all(path.exists() for path in files)
    with monkeypatch.context() as patch:
        patch.setattr("anomaly_detection.study.train_and_score.add_calibration", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(["evaluate", str(run), "--set", "threshold_quantile=0.5"])
    assert not any(path.exists() for path in files)
    with pytest.raises(UserError, match="nothing to report: not evaluated yet"):
        main(["report", str(run)])
    assert study(data_root, "--regimes", "united", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("interrupted ")
    assert study(data_root, "--regimes", "united") == 0
    assert read_json(run / "metrics.json") == whole


def test_a_network_that_was_deleted_is_trained_anew_and_nothing_tells_of_it_meanwhile(toy_model, data_root, monkeypatch, capsys):
    """As it is told where a checkpoint is damaged. What it scored is reported until then: results may be copied without their networks."""
    assert study(data_root, "--regimes", "united") == 0
    run = named(data_root.parent / "results", "united")
    scores, log = (run / "scores.csv").read_bytes(), (run / "log.csv").read_text().splitlines()
    (run / "checkpoint.pt").unlink()
    assert main(["report", str(run)]) == 0
    assert study(data_root, "--regimes", "united", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("to do ")
    with monkeypatch.context() as patch:
        patch.setattr("anomaly_detection.study.train_and_score.train", lambda *_: 1 / 0)
        assert study(data_root, "--regimes", "united") == 1
    left = {path.name for path in run.iterdir() if path.is_file() and not path.name.endswith(".lock")}
    assert left <= {"config.yaml", "provenance.json", "log.csv"}
    assert study(data_root, "--regimes", "united") == 0
    assert (run / "checkpoint.pt").exists()
    assert (run / "scores.csv").read_bytes() == scores
    assert len((run / "log.csv").read_text().splitlines()) == len(log)


def test_an_error_before_anything_is_written_costs_no_results(toy_model, data_root, monkeypatch):
    assert study(data_root, "--regimes", "united") == 0
    run = named(data_root.parent / "results", "united")
    before = [(run / name).read_bytes() for name in ("metrics.json", "model_card.md")]
    with monkeypatch.context() as patch:
        patch.setattr("anomaly_detection.study.train_and_score.evaluate", lambda *_: 1 / 0)
        assert study(data_root, "--regimes", "united", "--set", "threshold_quantile=0.5") == 1
    assert [(run / name).read_bytes() for name in ("metrics.json", "model_card.md")] == before


def test_tables_are_written_while_another_process_scores_anew(toy_model, data_root, monkeypatch, caplog):
    """Its metrics go at any moment: before they are looked for, while they are read, and after that."""
    assert study(data_root, "--regimes", "united", "maddr") == 0
    results = data_root.parent / "results"
    path = named(results, "united") / "metrics.json"
    content = path.read_bytes()
    tables = Tables(results, Study.read(results), DataSource(data_root))
    gather = Tables._with_joint_intervals
    monkeypatch.setattr(Tables, "_with_joint_intervals", lambda self, rows: path.unlink(missing_ok=True) or gather(self, rows))
    tables.write()
    assert [row.regime for row in tables.rows] == ["united", "maddr"]
    tables.write()
    assert [row.regime for row in tables.rows] == ["maddr"]
    path.write_bytes(content)
    monkeypatch.setattr("anomaly_detection.study.report.same_data", lambda *_: path.unlink(missing_ok=True) or True)
    tables.write()
    assert [row.regime for row in tables.rows] == ["maddr"]
    assert "left out" not in caplog.text


def test_evaluating_on_other_data_is_refused(toy_model, data_root, capsys):
    assert study(data_root, "--regimes", "united") == 0
    (run,) = (data_root.parent / "results" / "toy" / "united").glob("*/seed_0")
    before = (run / "metrics.json").read_text()
    assert main(["evaluate", str(run)]) == 0, "the data root is remembered"
    assert (run / "metrics.json").read_text() == before
    catalog = (data_root / "datasets.yaml").read_text()
    (data_root / "datasets.yaml").write_text(catalog.replace("liver", "spleen", 2).replace("spleen_ct", "liver_ct"))
    with pytest.raises(UserError, match="trained with organs: liver lung"):
        main(["evaluate", str(run)])
    (data_root / "datasets.yaml").write_text(catalog)
    (data_root / "lung_ct" / "anomaly" / "test_0.png").write_bytes((data_root / "lung_ct" / "anomaly" / "test_1.png").read_bytes())
    with pytest.raises(UserError, match="other images or splits"):
        main(["evaluate", str(run)])
    assert (run / "metrics.json").read_text() == before


def test_dpa_runs_through_the_study_and_evaluates_to_the_same_scores(data_root, tmp_path, capsys):
    small = [
        "image_size=16",
        "iterations=6",
        "baseline.enc={type: residual9, inner_dims: [4, 4, 8]}",
        "baseline.dec={type: residual9, inner_dims: [8, 4, 4]}",
    ]
    overrides = [word for each in [*small, "baseline.latent_dim=24"] for word in ("--set", each)]
    arguments = ["--models", "MADDR_dpa", "--data-root", str(data_root), "--results", str(tmp_path / "results"), "--seeds", "0"]
    arguments += ["--regimes", "maddr", *overrides]
    assert run_experiments.main(arguments) == 0
    assert "efficientnet_lite0 (pretrained) b2 b4" in capsys.readouterr().out
    (run,) = (tmp_path / "results" / "MADDR_dpa" / "maddr").glob("*/seed_0")
    before = (run / "scores.csv").read_text()
    (run / "scores.csv").unlink()
    assert main(["evaluate", str(run), "--data-root", str(data_root)]) == 0
    assert (run / "scores.csv").read_text() == before
    assert torch.load(run / "checkpoint.pt", weights_only=True)["training"]["finished"]


def named(results: Path, regime: str) -> Path:
    return results / "toy" / regime / "liver_ct+lung_ct+lung_xray" / "seed_0"


def test_a_probe_is_read_from_the_united_network_and_costs_it_nothing(toy_model, data_root, monkeypatch):
    results = data_root.parent / "results"
    assert study(data_root, "--regimes", "united_probe") == 0
    united, probed = named(results, "united"), named(results, "united_probe")
    assert not (united / "metrics.json").exists(), "nobody asked for it"
    monkeypatch.setattr("tests.helpers.ToyBaseline.training_step", lambda *_: pytest.fail("trained again"))
    assert study(data_root, "--regimes", "united", "united_probe") == 0
    plain, other = (load_checkpoint(folder / "checkpoint.pt")["model"] for folder in (united, probed))
    assert set(other) - set(plain) == {f"probe.{name}_{part}" for name in ("organ", "modality") for part in ("weight", "bias")}
    assert all(torch.equal(value, other[name]) for name, value in plain.items())
    assert (united / "log.csv").read_bytes() == (probed / "log.csv").read_bytes()
    before, after = (list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8"))) for folder in (united, probed))
    assert [row["score"] for row in before] == [row["score"] for row in after]
    assert {row["predicted_organ"] for row in before} == {""}
    assert {row["predicted_organ"] for row in after} == {"liver", "lung"}
    text = (results / "table.md").read_text()
    assert "| toy | united_probe | auroc, all together | " in text
    metrics = json.loads((probed / "metrics.json").read_text())
    assert metrics["validation"]["val_organ_accuracy"] > 0.5
    assert 0 <= metrics["datasets"]["liver_ct"]["named_rightly"] <= 1


def test_a_united_network_of_other_settings_or_data_is_met_before_a_probe_is_to_be_read_from_it(toy_model, data_root, capsys):
    assert study(data_root, "--regimes", "united", "--datasets", "lung_ct", "lung_xray") == 0
    probe = ("--regimes", "united_probe", "--datasets", "lung_ct", "lung_xray")
    for changed in (("--set", "lr=0.02"), ("--set", "iterations=10")):
        with pytest.raises(UserError, match=r"united.lung_ct\+lung_xray.seed_0 was begun with"):
            study(data_root, *probe, *changed)
        assert study(data_root, *probe, *changed, "--dry-run") == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("refused")
    Image.new("L", (16, 16), 7).save(data_root / "lung_ct" / "normal" / "train_0.png")
    with pytest.raises(UserError, match=r"united.lung_ct\+lung_xray.seed_0 was begun with other images"):
        study(data_root, *probe)
    assert not list(data_root.parent.glob("results/toy/united_probe/**/checkpoint.pt"))


def test_a_finished_probe_needs_its_united_network_no_more(toy_model, data_root):
    assert study(data_root, "--regimes", "united_probe") == 0
    results = data_root.parent / "results"
    before = named(results, "united_probe") / "checkpoint.pt"
    shutil.rmtree(named(results, "united"))
    (before.parent / "metrics.json").unlink()
    weights = load_checkpoint(before)["model"]
    assert study(data_root, "--regimes", "united_probe") == 0
    assert not list(results.glob("toy/united/**/checkpoint.pt"))
    assert all(torch.equal(value, weights[name]) for name, value in load_checkpoint(before)["model"].items())


def test_a_probe_of_one_dataset_names_the_only_domain(toy_model, data_root):
    assert study(data_root, "--regimes", "united_probe", "--datasets", "lung_ct") == 0
    (path,) = (data_root.parent / "results").glob("toy/united_probe/lung_ct/seed_0/scores.csv")
    with path.open(encoding="utf-8") as file:
        assert {(row["predicted_organ"], row["predicted_modality"], row["confidence"]) for row in csv.DictReader(file)} == {("lung", "ct", "1.0")}


@pytest.mark.parametrize("regime", ["united", "united_probe"])
def test_an_experiment_that_another_process_does_is_waited_for(regime, toy_model, data_root, caplog):
    """Of two studies in one folder each does what the other is not doing, and nothing twice; also for a network that is given a probe."""
    assert study(data_root, "--regimes", "united") == 0
    folder = named(data_root.parent / "results", "united")
    (folder / "metrics.json").rename(folder / "hidden")
    lock = FileLock(folder / ".lock", thread_local=False)
    lock.acquire()
    caplog.set_level("INFO")
    with ThreadPoolExecutor() as pool:
        other = pool.submit(study, data_root, "--regimes", regime)
        try:
            while "waiting for another process that works in" not in caplog.text:
                assert not other.done()
                time.sleep(0.01)
            (folder / "hidden").rename(folder / "metrics.json")
            written = (folder / "scores.csv").stat().st_mtime_ns
        finally:
            lock.release()
        assert other.result() == 0
    assert (folder / "scores.csv").stat().st_mtime_ns == written


def test_the_tables_grow_with_each_experiment_and_words_end_the_study(toy_model, data_root, monkeypatch, capsys, caplog):
    caplog.set_level("INFO")
    run, tables = study_run.run_experiment, []

    def looked_at(*arguments):
        path = data_root.parent / "results" / "table.md"
        tables.append(path.read_text() if path.exists() else "")
        return run(*arguments)

    monkeypatch.setattr(study_run, "run_experiment", looked_at)
    assert study(data_root, "--regimes", "separate", "united", "maddr") == 0
    assert [("| toy | separate |" in text, "| toy | united |" in text, "| toy | maddr |" in text) for text in tables] == [
        (False, False, False),
        *[(True, False, False)] * 3,
        (True, True, False),
    ]
    output = capsys.readouterr().out
    shown = output.split("# Anomaly detection")[0].split("AUROC: ")[1:]
    assert len(shown) == 4, "the last table stands in the whole of them"
    columns = shown[0].splitlines()[2].split()
    assert columns[:2] == ["toy", "separate"]
    assert columns[3:] == ["–", "–", "–"]
    assert len([line for line in shown[3].splitlines() if line.startswith("toy ")]) == 2
    starts = [record.message for record in caplog.records if record.message.startswith("[")]
    assert [line.split(" seed")[0] for line in starts][::4] == ["[1/5] toy separate liver_ct", "[5/5] toy maddr liver_ct+lung_ct+lung_xray"]
    assert "left" not in starts[0]
    assert all("about 1 min left" in line for line in starts[1:])
    assert "toy (one network with MADDR) called abnormal: liver CT (liver_ct) " in output.split("with figures in")[1]


def test_jobs_tell_how_far_the_study_is(toy_model, data_root, monkeypatch, caplog):
    """Several at a time, in whatever order they end."""
    caplog.set_level("INFO")
    monkeypatch.setattr(study_run, "run_side_by_side", lambda function, calls, *_: (function(*call) for call in reversed(calls)))
    assert study(data_root, "--jobs", "2") == 0
    told = [record.message for record in caplog.records if record.message.startswith("[")]
    assert told[0].startswith("[1/6] toy united_probe liver_ct+lung_ct+lung_xray seed 0 has ended, about "), "begun last: it takes up a network"
    assert told[1].startswith("[2/6] toy maddr ")
    assert told[-1] == "[6/6] toy separate liver_ct seed 0 has ended"


def test_what_another_left_damaged_costs_no_experiment_of_this_study(toy_model, data_root, caplog, capsys):
    assert study(data_root, "--regimes", "united") == 0
    (scores,) = (data_root.parent / "results").glob("toy/united/*/seed_0/scores.csv")
    scores.write_text("not a table")
    with pytest.raises(UserError, match=r"scores\.csv"):
        study(data_root, "--regimes", "separate")
    assert len(list((data_root.parent / "results").glob("toy/separate/*/seed_0/metrics.json"))) == 3
    assert "no tables yet: " in caplog.text


def test_scores_that_are_not_all_there_are_told(toy_model, data_root):
    """As after somebody deleted lines in a spreadsheet: the numbers of metrics.json and the intervals over seeds would be of different images."""
    assert study(data_root, "--regimes", "united") == 0
    (scores,) = (data_root.parent / "results").glob("toy/united/*/seed_0/scores.csv")
    lines = scores.read_text().splitlines(keepends=True)
    assert "test" in lines[-1]
    scores.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"scores\.csv: has \d+ abnormal test images of lung_xray, and \d+ were scored; evaluate the run again"):
        tell_results(data_root.parent / "results")


@pytest.mark.parametrize(("content", "damage"), [("[]", "not a JSON object"), ('{"heading": "h", "datasets": ["liver_ct"]}', "no data_root in it")])
def test_a_damaged_study_can_be_reported_without_its_file(toy_model, data_root, content, damage):
    assert study(data_root, "--regimes", "united") == 0
    results = data_root.parent / "results"
    (results / "study.json").write_text(content)
    with pytest.raises(UserError, match=rf"study\.json: damaged \({damage}\); delete the file and run the same command again"):
        tell_results(results)
    (results / "study.json").unlink()
    assert tell_results(results)


def test_what_has_not_changed_is_neither_read_nor_drawn_again(toy_model, data_root, monkeypatch):
    assert study(data_root, "--regimes", "united", "--seeds", "0", "1") == 0
    results = data_root.parent / "results"
    tables = Tables(results, Study.read(results), DataSource(data_root))
    tables.write()
    written = [(results / name).read_text() for name in ("table.md", "table.csv")]
    for name in ("read_scores", "load_experiment", "with_joint_intervals"):
        monkeypatch.setattr(f"anomaly_detection.study.report.{name}", lambda *_: pytest.fail("again"))
    tables.write()
    assert [(results / name).read_text() for name in ("table.md", "table.csv")] == written
    (first,) = results.glob("toy/united/*/seed_1/metrics.json")
    os.utime(first, (1, 1))
    with pytest.raises(pytest.fail.Exception, match="again"):
        tables.write()


def test_the_short_table_says_how_many_seeds_its_rows_are_over(toy_model, data_root, caplog):
    assert study(data_root, "--regimes", "united") == 0
    assert study(data_root, "--regimes", "maddr", "--seeds", "0", "1") == 0
    results = data_root.parent / "results"
    tables = Tables(results, Study.read(results), DataSource(data_root))
    tables.write()
    assert [(row[1], row[-1]) for row in tables.short().rows] == [("united", "1"), ("maddr", "2")]
    whole, folder = [(result.regime, result.datasets, result.seed) for result in tables.rows], named(results, "united")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    turned = config["datasets"][::-1]
    other = results / "toy" / "united" / "+".join(turned) / "seed_0"
    shutil.copytree(folder, other)
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "datasets": turned}))
    caplog.clear()
    again = Tables(results, Study.read(results), None)
    for _ in range(2):
        again.write()
        assert [(result.regime, result.datasets, result.seed) for result in again.rows] == whole, "the same mixture in another order is no seed more"
    told = [message for message in caplog.messages if "left out" in message]
    assert told == [f"left out of the tables: {other}: of the same datasets and seed as {folder}, in another order"]
    shutil.rmtree(other)
    assert {len(row) for row in tables.short().rows} == {len(tables.short().header)}
    shutil.rmtree(next(results.glob("toy/maddr/*/seed_1")))
    tables.write()
    assert tables.short().header[-1] == "mean", "of one seed there is nothing to tell"


def test_several_processes_write_whole_tables(toy_model, data_root):
    assert study(data_root, "--regimes", "united") == 0
    results = data_root.parent / "results"
    text = (results / "table.md").read_text()
    all_tables = [Tables(results, Study.read(results), DataSource(data_root)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:  # of one process, whose number is in the names of unfinished files
        list(pool.map(lambda tables: [tables.write() for _ in range(5)], all_tables))
    assert (results / "table.md").read_text() == text
    assert not list(results.glob(".*.partial"))
