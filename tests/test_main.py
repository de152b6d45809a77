"""python -m anomaly_detection, and what the commands share."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import anomaly_detection
from anomaly_detection import __main__, registry
from anomaly_detection.__main__ import main
from anomaly_detection.commands import exit_codes
from anomaly_detection.config.layers import read_yaml
from anomaly_detection.data.catalog import mark_phantom
from anomaly_detection.study.report import Study
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, write_json

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
    """Training, evaluation and report of one network end as a study does: with its table and its sentences, of what scores.csv holds."""
    assert main(["train_eval", str(config), "--results", str(tmp_path / "b"), "--data-root", str(data_root)]) == 0
    told = capsys.readouterr().out.splitlines()
    (run,) = (tmp_path / "b" / "toy" / "united").glob("*/seed_0")
    with open(run / "scores.csv", encoding="utf-8") as file:
        test = [row for row in csv.DictReader(file) if row["part"] == "test"]
    aurocs = {
        name: roc_auc_score(*zip(*((int(row["label"]), float(row["score"])) for row in test if row["dataset"] == name), strict=True))
        for name in ("liver_ct", "lung_ct")
    }
    assert told[0].startswith("AUROC: how often an abnormal image scores higher")
    assert told[1].split() == ["model", "regime", "liver_ct", "lung_ct", "mean"]
    assert told[2].split() == ["toy", "united", *(f"{value:.3f}" for value in (*aurocs.values(), sum(aurocs.values()) / 2))]
    called = [row for row in test if row["dataset"] == "liver_ct" and row["label"] == "1" and float(row["score"]) > float(row["label_threshold"])]
    assert f"toy (one network without MADDR) called abnormal: liver CT (liver_ct) {100 * len(called) / 4:.0f} %" in told[5]
    assert told[-3:] == [
        f"tables in {run / 'table.md'} and {run / 'table.csv'}",
        f"results in {run}",
        f"next: maddr report {run} draws the figures",
    ]
    table = (run / "table.md").read_text()
    assert f"| toy | united | {aurocs['liver_ct']:.3f} [" in table
    assert not (run / "report.html").exists()
    (run / "table.md").unlink()
    assert main(["evaluate", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == told
    for folder in (run, tmp_path / "b"):
        assert main(["report", str(folder)]) == 0
        again = capsys.readouterr().out.splitlines()
        files = f"tables in {folder / 'table.md'} and {folder / 'table.csv'}, with figures in {folder / 'report.html'}"
        assert again == [*told[:-3], files]
        assert (folder / "report.html").exists()
        assert (folder / "table.md").read_text() == table
        assert not (folder / "study.json").exists(), "what is trained there later belongs in its tables, too"
    assert (run / "figures" / "roc.png").exists()


def test_what_is_known_of_patients_is_told_beside_the_images(config, data_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)  # figures take their time
    assert main(["train_eval", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "b")]) == 0
    (run,) = (tmp_path / "b" / "toy" / "united").glob("*/seed_0")
    metrics = read_json(run / "metrics.json")
    patients = {"auroc": 0.75, "normal": 12, "abnormal": 9, "intervals": {"auroc": [0.6, 0.9]}}
    patients |= {"left_out": 1, "unknown_slices": 2, "slices": 40, "auroc_all_slices": 0.8}
    metrics["datasets"]["lung_ct"]["patients"] = patients
    write_json(run / "metrics.json", metrics)
    assert "Patients" not in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    told = capsys.readouterr().out.splitlines()
    start = told.index("Patients")
    assert told[start + 1].split(maxsplit=3)[:3] == ["model", "regime", "dataset"]
    assert re.split("  +", told[start + 2]) == ["toy", "united", "lung_ct", "0.750 [0.600, 0.900]", "12 + 9", "1", "2 of 40 (5.0 %)", "0.800"]
    assert told[start + 3] == ""


def test_a_report_of_single_trainings_has_them_all(config, data_root, tmp_path, capsys, monkeypatch):
    """One network of two datasets and another of one of them, and a third of images in another place."""
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)  # figures take their time
    results, common = tmp_path / "b", ["train_eval", str(config), "--results", str(tmp_path / "b")]
    for options in ([], ["--set", "datasets=[lung_ct]"]):
        assert main([*common, "--data-root", str(data_root), *options]) == 0
    capsys.readouterr()
    assert main(["report", str(results)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split() == ["model", "regime", "liver_ct", "lung_ct", "mean"]
    assert [line.split()[1] for line in told[2:4]] == ["separate", "united"]
    assert told[2].split()[2] == "–"
    shutil.copytree(data_root, tmp_path / "elsewhere")
    assert main([*common, "--data-root", str(tmp_path / "elsewhere"), "--set", "seed=1"]) == 0
    with pytest.raises(UserError, match=r"its experiments saw images of several folders, .*; name one of these: --data-root"):
        main(["report", str(results)])
    assert main(["report", str(results), "--data-root", str(data_root)]) == 0, "a copy has the same images"
    assert "seeds" in capsys.readouterr().out


def test_a_report_of_different_mixtures_is_of_the_largest_and_names_the_others(config, data_root, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)  # figures take their time
    common = ["train_eval", str(config), "--results", str(tmp_path / "b"), "--data-root", str(data_root)]
    for datasets in ("[liver_ct, lung_ct, lung_xray]", "[lung_ct, lung_xray]", "[liver_ct]"):
        assert main([*common, "--set", f"datasets={datasets}"]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "b")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split() == ["model", "regime", "liver_ct", "lung_ct", "lung_xray", "mean"]
    assert [line.split()[1] for line in told[2:4]] == ["separate", "united"]
    other = tmp_path / "b" / "toy" / "united" / "lung_ct+lung_xray" / "seed_0"
    (line,) = [record.message for record in caplog.records if "left out" in record.message]
    assert line.endswith(f"{other}: of other datasets than liver_ct, lung_ct, lung_xray; `maddr report {other}` tells of it alone")
    assert main(["report", str(other)]) == 0
    shutil.rmtree(tmp_path / "b" / "toy" / "united" / "liver_ct+lung_ct+lung_xray")
    assert main(["report", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("tables in")


def test_the_datasets_of_a_config_are_taken_in_the_order_of_labels(config, data_root, tmp_path, capsys):
    """In another order the network is the same, so that it is not trained twice; what an older version began goes on where it lies."""
    common = ["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "r")]
    for datasets in ("[lung_ct, liver_ct]", "[liver_ct, lung_ct]"):
        assert main([*common, "--set", f"datasets={datasets}"]) == 0
    (run,) = (tmp_path / "r" / "toy" / "united").iterdir()
    assert run.name == "liver_ct+lung_ct"
    begun = read_yaml(run / "seed_0" / "config.yaml")
    assert begun["datasets"] == ["liver_ct", "lung_ct"]
    old = run.rename(run.with_name("lung_ct+liver_ct")) / "seed_0"
    (old / "config.yaml").write_text(yaml.safe_dump({**begun, "datasets": ["lung_ct", "liver_ct"]}))
    assert main([*common, "--set", "datasets=[lung_ct, liver_ct]"]) == 0
    assert list((tmp_path / "r" / "toy" / "united").iterdir()) == [old.parent]
    with pytest.raises(UserError, match="no dataset 'lung_cd' in datasets.yaml; did you mean lung_ct"):
        main([*common, "--set", "datasets=[lung_cd]"])


def test_a_report_needs_no_images(config, data_root, tmp_path, capsys, caplog, monkeypatch):
    """What was measured is in the results: they are told where the images are gone, which is said, and that they were phantoms."""
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)  # figures take their time
    mark_phantom(data_root, "rendered")
    assert main(["train_eval", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "b")]) == 0
    (run,) = (tmp_path / "b" / "toy" / "united").glob("*/seed_0")
    assert main(["report", str(run)]) == 0
    told, table = capsys.readouterr().out.splitlines()[-9:], (run / "table.md").read_text()
    assert "These images are phantoms, rendered by a computer: this says nothing about patients." in told
    assert "is gone" not in caplog.text
    data_root.rename(tmp_path / "archive")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.splitlines()[-9:] == told
    assert f"{data_root} is gone" in caplog.text
    assert "- liver_ct: 4 normal val, 4 normal test, 4 anomaly test\n" in (run / "table.md").read_text(), "those that were scored"
    with pytest.raises(UserError, match="nowhere: no such folder; the data root is"):
        main(["report", str(run), "--data-root", str(tmp_path / "nowhere")])
    assert main(["report", str(run), "--data-root", str(tmp_path / "archive")]) == 0
    assert (run / "table.md").read_text() == table


def test_an_experiment_of_a_study_knows_that_it_was_a_smoke_run(config, data_root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)
    assert main(["train_eval", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "b")]) == 0
    (run,) = (tmp_path / "b" / "toy" / "united").glob("*/seed_0")
    Study.of(["liver_ct", "lung_ct"], data_root, phantom=False, quick=True).write(tmp_path / "b")
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert "This was a smoke run (--quick): it shows that everything runs, and its numbers mean nothing." in capsys.readouterr().out
    assert (run / "table.md").read_text().startswith(f"# Anomaly detection on {data_root.name} (quick: a smoke run, not a result)")


def test_report_says_what_to_do(config, data_root, tmp_path, capsys, caplog):
    main(["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "a")])
    (run,) = (tmp_path / "a" / "toy" / "united").glob("*/seed_0")
    assert f"next: maddr evaluate {run}" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"seed_0: nothing to report: not evaluated yet; `maddr evaluate .*seed_0` does it"):
        main(["report", str(run)])
    for place, lack in (("a/toy", "holds no study and no experiment"), ("b", "no such folder"), ("mine.yaml", "is a file")):
        with pytest.raises(UserError, match=f"{place}: {lack}; name the folder of a study, results/NAME, or of an experiment"):
            main(["report", str(tmp_path / place)])
    with pytest.raises(UserError, match="nothing to report: no experiment has ended"):
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
    with pytest.raises(UserError, match="no such folder"):
        main(["evaluate", str(tmp_path / "nothing"), "--data-root", str(data_root)])
    main(["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "a")])
    (run,) = (tmp_path / "a" / "toy" / "united").glob("*/seed_0")
    for place, lack in ((run.parent, "holds no experiment"), (run / "x", "no such folder")):
        with pytest.raises(UserError, match=f"{re.escape(str(place))}: {lack}; name the folder of one, .../seed_0"):
            main(["evaluate", str(place)])
    with pytest.raises(UserError, match=r"checkpoint\.pt: is a file; name the folder of the experiment, .*seed_0$"):
        main(["evaluate", str(run / "checkpoint.pt"), "--data-root", str(data_root)])
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:500])
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged checkpoint .*delete it"):
        main(["evaluate", str(run), "--data-root", str(data_root)])


def test_evaluate_changes_no_setting_that_training_depends_on(config, data_root, tmp_path):
    """Nor tells to delete the network for it."""
    main(["train", str(config), "--data-root", str(data_root), "--results", str(tmp_path / "a")])
    (run,) = (tmp_path / "a" / "toy" / "united").glob("*/seed_0")
    free = "of its settings only threshold_quantile, feature_cache_mib, log_iter, sample_iter, checkpoint_iter and tensorboard can be changed"
    for override, key in (("lr=1", "lr"), ("maddr.enabled=true", "maddr"), ("threshold_quantil=0.9", "threshold_quantil")):
        with pytest.raises(UserError, match=f"^--set {override}: the network is trained, and {free}; leave out {key}$"):
            main(["evaluate", str(run), "--set", override])
    assert main(["evaluate", str(run), "--set", "threshold_quantile=0.9"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("lr: expected a number"), 2, "error: lr: expected a number"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/a.csv"), 2, "results/a.csv: No space left on device; mend that, then run"),
        (NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "a/b"), 2, "error: a/b: Not a directory; name another place"),
        (BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)), 2, "another process: Broken pipe; mend that, then run the same"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 2, "another process: Connection reset by peer; mend that, then"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again for what is left to do"),
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


TWICE = """
import atexit, os, signal
from anomaly_detection.commands.exit_codes import run
def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
    [0 for _ in range(10**6)]  # where Python meets it
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
atexit.register(interrupt)
run(interrupt)
"""


@pytest.mark.skipif(os.name == "nt", reason="other signals")
def test_a_second_interruption_ends_a_command_without_a_traceback():
    ended = subprocess.run([sys.executable, "-c", TWICE], stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr.strip() == "interrupted; run the same command again for what is left to do"


@pytest.mark.skipif(os.name == "nt", reason="keeps the working folder")
def test_a_working_folder_that_is_gone_is_told(tmp_path):
    (tmp_path / "gone").mkdir()
    program = "import os; os.rmdir(os.getcwd()); from anomaly_detection.__main__ import console; console()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(words, cwd=tmp_path / "gone", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: the working folder is gone; change to another\n")


@pytest.mark.skipif(os.name == "nt", reason="other pipes")
@pytest.mark.parametrize("work", ["print('a')", "print('a\\n' * 100_000)", "sys.stderr.write('a')"], ids=["at the end", "in between", "the log"])
def test_output_that_nobody_reads_ends_a_command_without_a_word(work):
    """Neither what stdout gets nor, as in `2>&1 | head`, what stderr gets."""
    program = f"import sys; from anomaly_detection.commands.exit_codes import run; run(lambda _: {work})"
    there, here = os.pipe()
    os.close(there)
    with open(here, "wb") as pipe:
        log = subprocess.STDOUT if "stderr" in work else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", program], stdout=pipe, stderr=log, text=True, check=False)
    assert (done.returncode, done.stderr or "") == (141, "")


@pytest.mark.parametrize("number", ["0", "-3", "two", "1.5", ""])
@pytest.mark.parametrize("command", ["study --jobs", "check --workers", "prepare lits src --workers"])
def test_numbers_of_processes_begin_at_one(command, number, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), number])
    assert caught.value.code == 2
    assert f"{number!r} is not a number from 1 on" in capsys.readouterr().err


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("cpu:0") == choose_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("tpu9", "meta", None):
        with pytest.raises(UserError, match=f"--device {name}"):
            choose_device(name)


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
