"""--quiet and --verbose."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anomaly_detection
from anomaly_detection.__main__ import main
from anomaly_detection.commands import exit_codes
from anomaly_detection.commands.verbosity import begin_logging
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.progress import is_quiet, progress_bar

CLONE = Path(__file__).parents[2]


def prepare(folder: Path, *options: str) -> subprocess.CompletedProcess:
    for kind, seed in (("normal", 0), ("abnormal", 1)):
        (folder / kind).mkdir()
        for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (8, 24, 24), np.uint8)):
            Image.fromarray(pixels).save(folder / kind / f"{kind}{i}.png")
    words = ["prepare", "folder", "brain_mri", "--organ", "brain", "--modality", "mri", "--workers", "1", *options]
    words += ["--normal", str(folder / "normal"), "--abnormal", str(folder / "abnormal"), "--data-root", str(folder / "data")]
    return subprocess.run([sys.executable, "-m", "anomaly_detection", *words], cwd=CLONE, capture_output=True, text=True)


@pytest.mark.parametrize("words", [["-q", "check"], ["check", "-q"], ["check", "--quiet"]])
def test_quiet_may_stand_before_a_command_and_behind_it(words, tmp_path, levels):
    with pytest.raises(UserError, match="holds no folder of a dataset"):
        main([*words, "--data-root", str(tmp_path)])
    assert {logger.level for logger in levels.values()} == {logging.WARNING}
    assert is_quiet()
    assert progress_bar(total=2).disable


def test_every_command_takes_both(capsys):
    commands = ["init", "phantom", "prepare", "check", "study", "train", "train_eval", "evaluate", "predict", "export", "report", "port"]
    for words in ([], *([command] for command in commands), *(["prepare", name] for name in ("lits", "covid_ct", "covid_xray", "folder"))):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        assert "-q, --quiet" in (text := capsys.readouterr().out)
        assert "-v, --verbose" in text
    with pytest.raises(SystemExit):
        main(["check", "-q", "-v"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_verbose_tells_versions_and_only_the_package_has_more_to_say(tmp_path, levels, caplog):
    before = levels[None].level
    assert main(["init", str(tmp_path), "-v"]) == 0
    assert levels["anomaly_detection"].level == logging.DEBUG
    assert levels[None].level == before
    assert caplog.messages[0].startswith(f"anomaly-detection {anomaly_detection.__version__} in {CLONE / 'anomaly_detection'}, Python 3.")
    assert f"numpy {np.__version__}, " in caplog.messages[1]
    assert caplog.messages[2] == f"configs in {CLONE / 'configs'}"


def test_other_packages_tell_warnings_alone(levels, monkeypatch):
    """highdicom, for one, names all attributes that it copies."""
    monkeypatch.setattr(levels[None], "handlers", [])
    levels["anomaly_detection"].setLevel(logging.NOTSET)
    begin_logging()
    stranger, module = logging.getLogger("highdicom.base"), logging.getLogger("anomaly_detection.evaluation.predictions")
    assert stranger.isEnabledFor(logging.WARNING)
    assert not stranger.isEnabledFor(logging.INFO)
    assert module.isEnabledFor(logging.INFO)


def test_verbose_tells_where_an_error_comes_from(levels, capsys, caplog):
    def failing(_):
        raise UserError("lr: expected a number")

    levels["anomaly_detection"].setLevel(logging.DEBUG)
    with pytest.raises(SystemExit):
        exit_codes.run(failing)
    assert capsys.readouterr().err.splitlines()[-1] == "error: lr: expected a number"
    assert "in failing" in caplog.text


def test_without_either_nothing_changes(tmp_path, levels):
    before = [logger.level for logger in levels.values()]
    main(["init", str(tmp_path)])
    assert [logger.level for logger in levels.values()] == before


def test_what_is_told_of_the_same_work(tmp_path):
    """Warnings stay, and the result; on the way nothing is told, or more."""
    told = {}
    for option in ("-q", None, "-v"):
        folder = tmp_path / str(option)
        folder.mkdir()
        done = prepare(folder, *([option] if option else []))
        assert done.returncode == 0, done.stderr
        assert "8 normal" in done.stdout or "normal train" in done.stdout
        assert "\r" not in done.stderr
        told[option] = {line.replace(str(folder), "") for line in done.stderr.splitlines()}
    assert any(line.startswith("WARNING: ") for line in told["-q"]), "every file counted as a patient"
    assert told["-q"] <= told[None] < told["-v"]
