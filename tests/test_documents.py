"""Every command, file, option and piece of Python that README.md and docs/ show is there and does what it is shown for.

Commands run as they are shown in a folder of small files where that is cheap; those that train are listed by --dry-run; of the others the arguments
are parsed by the program itself. A command of another kind fails, so that it gets a test of its own.
"""

import argparse
import ast
import inspect
import itertools
import pkgutil
import re
import runpy
import shutil
import sys
import typing
from pathlib import Path

import pytest
import setuptools
import torch
import yaml

import run_experiments
from anomaly_detection import __main__
from anomaly_detection.config.layers import read_layers
from anomaly_detection.data.phantom import datasets, downloads
from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.registry import build_settings
from benchmarks import throughput, train_step
from tests import documents
from tests.documents import PAGES, PORTING, PROJECT
from tests.helpers import toy_images
from tests.workplace import make_data_root, make_workplace

FOREIGN = {"python setup.py install", "python prepare.py Train"}  # typed in the clone of another codebase
PARSED = {"export"}  # takes long
FRESH = {"phantom": 1, "init": 1, "evaluate": 1, "report": 1, "port": 2}  # which of its words names what the command writes to


class Parsed(Exception):
    """Instead of what a program does with its arguments."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workplace")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        make_workplace(folder)
    return folder


@pytest.fixture
def workplace(source, tmp_path, monkeypatch):
    """The working folder: everything in it is that of `source`, but what commands write to."""
    for path in source.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as `python -m` and `maddr` look into the working folder
    small = datasets.write_phantoms
    monkeypatch.setattr(downloads, "write_downloads", lambda out, **options: shutil.copytree(source / "downloads", out))  # made so, but small
    monkeypatch.setattr(datasets, "write_phantoms", lambda out, **options: small(out, images=12, size=64, workers=1, **options))
    return tmp_path


# --- Commands -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", documents.scripts(), ids=lambda script: f"{script.page}: {script.text.strip()[:60]}")
def test_a_command_that_is_shown_works(script, workplace, monkeypatch):
    for words in documents.commands(script.text):
        if script.page == PORTING and " ".join(words) in FOREIGN:
            continue
        for leads, try_it in KINDS.items():
            if tuple(words[: len(leads)]) == leads:
                try_it(words[len(leads) :], workplace, monkeypatch)
                break
        else:
            pytest.fail(f"{script.page}: no test knows this kind of command: {' '.join(words)}")


def _try_package(words: list[str], workplace: Path, monkeypatch) -> None:
    """A command of the package."""
    if len(words) < 2 or words[0] in ("prepare", "port") and len(words) < 3:
        if words and words[0] in ("check", "study"):
            _run_package(words, workplace, monkeypatch)
        else:  # the command itself is spoken of
            with pytest.raises(SystemExit) as left:
                __main__.main([word for word in [*words, "--help"] if word != "COMMAND"])
            assert left.value.code == 0
        return
    arguments = _parse(lambda: __main__.main(words), words)
    if words[0] in ("train", "train_eval"):
        if arguments.config != Path("CONFIG"):
            build_settings(read_layers(PROJECT / arguments.config))
    elif words[0] not in PARSED:
        _run_package(words, workplace, monkeypatch)


def _run_package(words: list[str], workplace: Path, monkeypatch) -> None:
    if words[0] in FRESH and len(words) > FRESH[words[0]]:
        _make_writable(workplace / words[FRESH[words[0]]], keep=words[0] not in ("phantom", "init"))
    arguments = _parse(lambda: __main__.main(words), words)
    if words[0] == "study":
        root = arguments.data_root or Path("data")
        if arguments.datasets:
            make_data_root(root, arguments.datasets)
        words = [*words, "--dry-run", *([] if "--models" in words else ["--models", "gaussian"])]
    elif words[0] in ("prepare", "check"):
        if words[0] == "check" and not arguments.data_root.exists():
            make_data_root(arguments.data_root, ["lits"])
        words = [*words, "--workers", "1", *(["--size", "64"] if words[0] == "prepare" else [])]
    assert __main__.main(words) in (0, None)


def _make_writable(path: Path, keep: bool) -> None:
    """A copy in place of the link that leads to `path`; nothing, where the command makes it anew."""
    link = next((place for place in (path, *path.parents) if place.is_symlink()), None)
    if link is not None:
        target = link.resolve()
        link.unlink()
        if keep:
            shutil.copytree(target, link)


def _parse(program, words: list[str]) -> argparse.Namespace:
    """The arguments that a program reads, with which it is stopped; every option is spelled in full. What stands after -- is of `maddr study`."""
    parser, arguments = _stopped(program)
    if "--" in words:
        place = words.index("--")
        study = ["study", *words[place + 1 :]]
        _parse(lambda: __main__.main(study), study)
        words = words[:place]
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= _options(parser)
    return arguments


def _stopped(program) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parse = argparse.ArgumentParser.parse_args

    def parse_args(parser, args=None, namespace=None):
        raise Parsed(parser, parse(parser, args, namespace))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed) as stopped:
            program()
    return stopped.value.args


def _options(parser: argparse.ArgumentParser) -> set[str]:
    options = {option for action in parser._actions for option in action.option_strings}
    below = [action.choices.values() for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return options.union(*(_options(other) for parsers in below for other in parsers))


def _try_study(words: list[str], workplace: Path, monkeypatch) -> None:
    _parse(lambda: run_experiments.main(words), words)


def _try_module(words: list[str], workplace: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.syspath_prepend(str(PROJECT))
    for name in (words[0], f"{words[0]}.__main__"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # as in a process of its own
    _parse(lambda: runpy.run_module(words[0], run_name="__main__"), words)


def _try_script(words: list[str], workplace: Path, monkeypatch) -> None:
    """A program of the project, at the path that is shown."""
    monkeypatch.setattr(sys, "argv", list(words))
    assert (PROJECT / words[0]).is_file(), words[0]
    _parse(lambda: runpy.run_path(str(PROJECT / words[0]), run_name="__main__"), words)


def _try_torchrun(words: list[str], workplace: Path, monkeypatch) -> None:
    from torch.distributed.run import get_args_parser

    options = _parse(lambda: get_args_parser().parse_args(words), words[: words.index("-m")])
    assert (options.module, options.training_script) == (True, "anomaly_detection")
    _try_package(options.training_script_args, workplace, monkeypatch)


def _try_install(words: list[str], workplace: Path, monkeypatch) -> None:
    """What is installed is the project, with extras that it has."""
    told = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    monkeypatch.chdir(PROJECT)
    runpy.run_path("setup.py")
    (project,) = [word for word in words if word != "-e"]
    assert re.fullmatch(r"\.(\[[\w,]+\])?", project), project
    assert set(re.findall(r"\w+", project)) <= set(told["extras_require"])


def _compile(words: list[str], workplace: Path, monkeypatch) -> None:
    compile(words[0], "-c", "exec")


def _known(words: list[str], workplace: Path, monkeypatch) -> None:
    """Nothing of this project."""


KINDS = {
    ("maddr",): _try_package,
    ("python", "-m", "anomaly_detection"): _try_package,
    ("torchrun",): _try_torchrun,
    ("python", "run_experiments.py"): _try_study,
    ("python", "-m", "pytest"): _known,
    ("python", "-m"): _try_module,
    ("python", "-c"): _compile,
    ("python",): _try_script,
    ("pip", "install"): _try_install,
    ("python3", "-m", "venv"): _known,
    (".", ".venv/bin/activate"): _known,
    ("ruff", "check", "."): _known,
}


def test_an_option_between_backticks_is_one_of_some_command():
    programs = (lambda: __main__.main(["check"]), lambda: throughput.main([]), lambda: train_step.main([]))
    known = set().union(*(_options(_stopped(program)[0]) for program in programs))
    shown = {word for page, _, code in documents.inline() if page != PORTING and code.startswith("--") for word in code.split() if word[:2] == "--"}
    assert len(shown) > 20
    assert shown - known == set()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("a && b 'c d'  # why\nc; d", [["a"], ["b", "c d"], ["c"], ["d"]]),
        ("for x in 1 2; do\n  run $x a/$x --out=$x\ndone\nend", [["run", "1", "a/1", "--out=1"], ["run", "2", "a/2", "--out=2"], ["end"]]),
        ("for x in 1; do a $x; done", [["a", "1"]]),
        ("a \\\n  b", [["a", "b"]]),
    ],
)
def test_scripts_are_read_as_a_shell_reads_them(script, words):
    assert documents.commands(script) == words


def test_a_script_that_is_more_than_that_is_an_error():
    with pytest.raises(ValueError, match=r"\|: is not understood"):
        documents.commands("a | b")


def test_commands_are_found():
    shown = [script.text for script in documents.scripts()]
    assert len(shown) > 40
    assert "maddr check" in shown
    assert any("maddr prepare lits" in text and text.count("\n") > 3 for text in shown)


@pytest.mark.parametrize("table", ["predictions.csv", "patients.csv"])
def test_the_columns_that_are_listed_are_those_that_predict_writes(table, workplace):
    (listed,) = re.findall(rf"^\| `{table}` \| [^:]*: (.*) \|$", PAGES["docs/using.md"], re.MULTILINE)
    assert __main__.main(["predict", "RUN", "image.dcm", "--output", "out", "--no-overlays"]) in (0, None)
    assert (workplace / "out" / table).read_text(encoding="utf-8").splitlines()[0] == listed.replace(", ", ",")


# --- Python, YAML -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [block for block in documents.fenced("python") if block.page != PORTING], ids=lambda block: block.page)
def test_a_block_of_python_runs(block, workplace, monkeypatch):
    """With images under the names that it does not define; one that wants files that cannot be made here is resolved instead."""
    if ".tar" in block.text:
        resolve(block.text)
        return
    monkeypatch.setitem(sys.modules, "rec_losses", rec_losses)
    images = toy_images(24, side=48).images[:, 0].numpy()
    linear = torch.nn.Linear(16, 128)
    moved = []
    monkeypatch.setattr(rec_losses.MADDRConstraint, "to", lambda self, device: moved.append(device) or self)
    names = {
        "normal_images": images,
        "new_images": images[:3],
        "patients": [f"P{number // 2}" for number in range(24)],
        "torch": torch,
        "device": torch.device("cpu"),
        "model": linear,
        "encoder": linear,
        "decoder": torch.nn.Linear(128, 16),
        "your_loss": torch.nn.functional.mse_loss,
        "x": torch.rand(8, 16),
        "organ": torch.arange(8) % 2,
        "modality": torch.arange(8) // 2 % 2,
    }
    exec(compile(block.text, block.page, "exec"), names)
    if "loss" in names:
        assert names["loss"].item() > 0
        assert moved == [names["device"]], "a constraint that stays on the CPU fails where the encoder is on a GPU"
        assert "heads.organ.weight" in torch.load("model.pt", weights_only=True)["maddr"]


@pytest.mark.parametrize("block", [block for block in documents.fenced("python") if block.page == PORTING], ids=lambda block: block.text[:40])
def test_a_block_of_python_for_another_codebase_compiles(block):
    compile(block.text, block.page, "exec")


def resolve(code: str) -> None:
    """Imports are carried out; calls of what they bring are given the arguments shown; attributes of what such calls return are looked up."""
    names, types = {}, {}
    tree = ast.parse(code)
    exec(compile(ast.Module([node for node in tree.body if isinstance(node, ast.ImportFrom)], []), "imports", "exec"), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            call, function = node.value, names[node.value.func.id]
            inspect.signature(function).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
            types[node.targets[0].id] = typing.get_type_hints(function)["return"]
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    assert attributes
    for node in attributes:
        assert hasattr(types[node.value.id], node.attr), node.attr


def test_a_block_of_yaml_is_a_dataset_or_a_config(tmp_path):
    blocks = list(documents.fenced("yaml"))
    assert blocks
    for block in blocks:
        if "root:" in block.text:
            ((_, entry),) = yaml.safe_load(block.text).items()
            known = yaml.safe_load((PROJECT / "configs" / "datasets.yaml").read_text(encoding="utf-8"))
            assert entry.keys() <= known["lits"].keys()
        else:
            (tmp_path / "shown.yaml").write_text(block.text, encoding="utf-8")
            assert list(build_settings(read_layers(tmp_path / "shown.yaml")).datasets) == yaml.safe_load(block.text)["datasets"]


# --- Files and names ----------------------------------------------------------------------------------------------------------------------


def test_links_lead_somewhere():
    for page, target in documents.links():
        if not target.startswith(("http://", "https://", "#")):
            assert (PROJECT / page).parent.joinpath(target.partition("#")[0]).exists(), f"{page}: {target}"


def test_a_file_between_backticks_is_there():
    folders = {path.name for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"data", "results"}
    count = 0
    for page, _, code in documents.inline():
        if page != PORTING and re.fullmatch(r"[\w./-]+", code) and (code.partition("/")[0] in folders and "/" in code or code.endswith(".py")):
            invented = "MODEL/" in code or code == "my_module.py"
            assert invented or (PROJECT / code).exists() or list(PROJECT.rglob(code)), f"{page}: {code}"
            count += 1
    assert count > 10


def test_a_name_of_python_between_backticks_is_there():
    shown = {(page, code) for page, _, code in documents.inline() if re.fullmatch(r"(anomaly_detection|benchmarks|examples)\.[\w.:]+(\(\))?", code)}
    assert len(shown) > 3
    for _, code in shown:
        pkgutil.resolve_name(code.removesuffix("()"))


def first_names(line: str) -> list[str]:
    """The files and folders with which a line of a drawn tree begins."""
    return list(itertools.takewhile(lambda word: re.fullmatch(r"[\w<>./]+(/|\.\w+)", word), line.split()))


def test_the_layout_is_that_of_the_project():
    lines = documents.drawn("Layout").splitlines()
    top, below = ([name for line in lines if line.startswith(" " * 8) == inner for name in first_names(line)] for inner in (False, True))
    for folder, names in ((PROJECT, top), (PROJECT / "anomaly_detection", below)):
        assert [name for name in names if not (folder / name).exists()] == []
    folders = {f"{path.parent.name}/" for path in PROJECT.glob("anomaly_detection/*/__init__.py")}
    assert folders <= set(below)


def test_results_are_those_that_are_listed(source):
    """Neither more nor less, in the folder of the study and in that of the experiment."""
    names = [name for line in documents.drawn("Results").splitlines() for name in first_names(line)]
    study = {name.removeprefix("results/<data>/") for name in names if name.startswith("results/<data>/") and "<model>" not in name}
    files = {name for name in names if not name.startswith("results/")}
    study |= {name for line in documents.drawn("Results").splitlines() if "results/" in line for name in first_names(line)[1:]}
    assert {path.name for path in (source / "results" / "NAME").iterdir() if path.is_file() and path.name[0] != "."} - {"study.json"} == study
    made = {f"{path.name}/" if path.is_dir() else path.name for path in (source / "RUN").iterdir() if not path.name.startswith(".")}
    assert made == files - study


def test_values_that_the_page_on_performance_names_are_the_defaults():
    defaults = yaml.safe_load((PROJECT / "configs" / "common.yaml").read_text(encoding="utf-8"))
    shown = dict(re.findall(r"^\| `(\w+): (\S+)` ", PAGES["docs/performance.md"], re.MULTILINE))
    assert len(shown) == 4
    assert shown == {key: str(defaults[key]).lower() for key in shown}
