"""python -m anomaly_detection, and what the commands share."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_detection
from anomaly_detection import __main__, registry
from anomaly_detection.__main__ import main
from anomaly_detection.commands import exit_codes
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.errors import UserError

CONFIG = "model: toy\ndatasets: [liver_ct, lung_ct]\nimage_size: 16\niterations: 6\nval_iter: 3\nbatch_size: 4\n"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    (tmp_path / "mine.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path / "mine.yaml"


def test_train_then_evaluate_is_train_eval(config, data_root, tmp_path):
    common = ["--data-root", str(data_root), "--set", "maddr.enabled=true"]
    assert main(["train", str(config), "--results", str(tmp_path / "a"), *common]) == 0
    (run,) = (tmp_path / "a" / "toy" / "maddr").glob("liver_ct+lung_ct/seed_0")
    assert (run / "checkpoint.pt").exists()
    assert not (run / "metrics.json").exists()
    assert main(["evaluate", str(run), "--data-root", str(data_root)]) == 0
    assert main(["train_eval", str(config), "--results", str(tmp_path / "b"), *common]) == 0
    (other,) = (tmp_path / "b" / "toy" / "maddr").glob("liver_ct+lung_ct/seed_0")
    assert (run / "scores.csv").read_text() == (other / "scores.csv").read_text()
    assert json.loads((run / "metrics.json").read_text()) == json.loads((other / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("model", "key", "wrong"), [("gaussian", "layers", "[b7, b99]"), ("feature_ae", "layers", "[b7, b7]"), ("gaussian", "latent_dim", "9999")]
)
def test_settings_that_no_network_can_have_leave_no_folder_that_refuses_better_ones(model, key, wrong, data_root, tmp_path, capsys):
    text = f"model: {model}\ndatasets: [lung_ct]\nimage_size: 32\nbaseline: {{{key}: {wrong}}}\n"
    (tmp_path / "wrong.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"{model}: .*{key[:5]}"):
        main(["train", str(tmp_path / "wrong.yaml"), "--data-root", str(data_root), "--results", str(tmp_path / "r")])
    assert not (tmp_path / "r").exists()


def test_train_eval_and_report_show_the_result(config, data_root, tmp_path, capsys):
    """What the commands print is what metrics.json holds."""
    assert main(["train_eval", str(config), "--results", str(tmp_path / "b"), "--data-root", str(data_root)]) == 0
    told = capsys.readouterr().out.splitlines()
    (run,) = (tmp_path / "b" / "toy" / "united").glob("*/seed_0")
    metrics = json.loads((run / "metrics.json").read_text())["datasets"]
    for name, line in zip(("liver_ct", "lung_ct"), told, strict=False):
        low, high = metrics[name]["intervals"]["auroc"]
        assert line.startswith(f"{name}: AUROC {metrics[name]['auroc']:.3f} [{low:.3f}, {high:.3f}]")
    assert told[2:] == [f"results in {run}", f"next: maddr report {run} draws the figures"]
    assert main(["report", str(run)]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again == ["toy united liver_ct+lung_ct seed 0", *told[:2], f"figures in {run / 'figures'}"]
    assert (run / "figures" / "roc.png").exists()


def test_report_says_what_to_do(config, data_root, tmp_path, capsys, caplog):
    main(["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "a")])
    (run,) = (tmp_path / "a" / "toy" / "united").glob("*/seed_0")
    assert f"next: maddr evaluate {run}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"seed_0: not evaluated yet; `maddr evaluate .*seed_0` does it"):
        main(["report", str(run)])
    with pytest.raises(UserError, match=r"study\.json: no such file; name the folder of a study, results/NAME, or of an experiment"):
        main(["report", str(tmp_path / "a")])
    study = {"heading": "x", "datasets": ["liver_ct", "lung_ct"], "data_root": str(data_root)}
    (tmp_path / "a" / "study.json").write_text(json.dumps(study))
    with pytest.raises(UserError, match="nothing to report: no experiment has ended"):
        main(["report", str(tmp_path / "a")])
    (run / "metrics.json").write_text("{}")
    provenance = json.loads((run / "provenance.json").read_text())
    for change, reason in (
        ({}, "an older version scored it"),
        ({"data": "other"}, "of other images or splits than lie in"),
        ({"regime": None}, "was written by an older version"),
    ):
        (run / "provenance.json").write_text(json.dumps(provenance | change))
        with pytest.raises(UserError, match="every experiment that has ended was left out, as said above"):
            main(["report", str(tmp_path / "a")])
        assert reason in caplog.text


def test_the_folder_tells_the_regime(config, data_root, tmp_path):
    for override, regime in (("datasets=[liver_ct]", "separate"), ("seed=1", "united")):
        assert main(["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "r"), "--set", override]) == 0
        assert (tmp_path / "r" / "toy" / regime).is_dir()


def test_evaluating_what_is_not_trained_is_refused(config, data_root, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        main(["evaluate", str(tmp_path / "nothing"), "--data-root", str(data_root)])
    main(["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "a")])
    (run,) = (tmp_path / "a" / "toy" / "united").glob("*/seed_0")
    with pytest.raises(UserError, match=r"checkpoint\.pt: is a file; name the folder of the experiment, .*seed_0$"):
        main(["evaluate", str(run / "checkpoint.pt"), "--data-root", str(data_root)])
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:500])
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged checkpoint .*delete it"):
        main(["evaluate", str(run), "--data-root", str(data_root)])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("lr: expected a number"), 2, "error: lr: expected a number"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/a.csv"), 2, "results/a.csv: No space left on device"),
        (KeyboardInterrupt(), 130, "same command again"),
    ],
)
def test_errors_are_one_line_and_a_code(capsys, error, code, words):
    def failing(_):
        raise error

    with pytest.raises(SystemExit) as caught:
        exit_codes.run(failing)
    assert caught.value.code == code
    told = capsys.readouterr().err.strip()
    assert words in told
    assert "\n" not in told


def test_devices():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="--device tpu9"):
        choose_device("tpu9")


COMMANDS = ("init", "phantom", "prepare", "check", "study", "train", "train_eval", "evaluate", "predict", "export", "report", "port")
HELP = [["-m", "anomaly_detection"], ["run_experiments.py"], *(["-m", "anomaly_detection", name] for name in COMMANDS)]


@pytest.mark.parametrize("command", [*HELP, ["-m", "anomaly_detection", "prepare", "lits"]], ids=lambda command: command[-1])
def test_help_teaches_and_loads_nothing_large(command):
    program = [sys.executable, "-X", "importtime", *command, "--help"]
    done = subprocess.run(program, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout
    if command[-1] in ("train", "train_eval", "study", "run_experiments.py"):
        assert "--set KEY=VALUE" in done.stdout
    if command[-1] in ("study", "run_experiments.py"):
        assert "gaussian, feature_ae, memae, ganomaly" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in loaded
    assert not loaded & {"torch", "torchvision", "numpy", "scipy", "sklearn", "PIL", "pydicom", "nibabel", "matplotlib", "joblib"}


def test_the_help_lists_every_command():
    folder = Path(__file__).parents[1] / "anomaly_detection" / "commands"
    declared = {path.stem for path in folder.glob("*.py") if "\ndef add(" in path.read_text(encoding="utf-8")}
    assert {module.__name__.rpartition(".")[2] for module in __main__.COMMANDS} == declared
    assert declared == set(COMMANDS)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"anomaly-detection {anomaly_detection.__version__}\n"


def test_an_unknown_model_is_told_before_torch_is_imported():
    program = [sys.executable, "-X", "importtime", "run_experiments.py", "--models", "no_such_model"]
    done = subprocess.run(program, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: no model 'no_such_model'; the choices are gaussian")
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_importing_the_package_loads_nothing_large():
    program = "import sys, anomaly_detection; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "yaml", "tqdm"}


def test_advice_names_the_command_that_every_install_has():
    """`maddr COMMAND`, in messages, help and docstrings; what was typed is `prog`'s to show."""
    typed = {"anomaly_detection/__main__.py": 2}  # the two ways to start it
    root = Path(__file__).parents[1]
    for path in (root / "anomaly_detection").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        count = text.count("python -m anomaly_detection") + text.count("run_experiments")
        assert count == typed.get(path.relative_to(root).as_posix(), 0), path
