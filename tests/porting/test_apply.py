"""The command that applies a recipe, on miniatures of the codebases: what stops it, and that it writes all or nothing."""

import re
import sys
from dataclasses import replace

import pytest

from anomaly_detection.__main__ import main
from anomaly_detection.commands import exit_codes as cli
from anomaly_detection.porting import apply, changes, recipes
from anomaly_detection.system.errors import UserError
from tests.porting.clones import blocks, edit, hunks, patched, port, refused, tree
from tests.porting.miniatures import MINIATURES


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_dry_run_shows_and_changes_nothing(recipe, clones, capsys):
    root = clones(recipe)
    before = tree(root)
    port(recipe, root, "--dry-run")
    assert tree(root) == before
    shown = capsys.readouterr().out
    for file in blocks(recipe):
        assert f"--- a/{file}\n+++ b/{file}\n" in shown
    changed = [line for line in shown.splitlines() if re.match(r"[+-](?!\+\+ |-- )", line)]
    assert sorted(changed) == sorted(line for diff in blocks(recipe).values() for line in diff.splitlines() if line[0] in "+-")
    assert re.search(r"rec_losses\.py: " + ("replaced" if recipe == "dpa" else "new"), shown)


@pytest.mark.parametrize(("recipe", "number"), hunks())
def test_a_missing_place_stops_everything(recipe, number, clones):
    hunk = recipes.read_recipes()[recipe].hunks[number]
    root, line = clones(recipe), hunk.before()[0]
    edit(root / hunk.file, line + "\n", line + "  # edited\n")
    refused(recipe, root, words=f"{re.escape(hunk.file)}: the line `{re.escape(line.strip())}` does not stand there.*Nothing was changed")


@pytest.mark.parametrize(("recipe", "number"), hunks())
def test_an_ambiguous_place_stops_everything(recipe, number, clones):
    hunk = recipes.read_recipes()[recipe].hunks[number]
    root = clones(recipe)
    block = "".join(line + "\n" for line in hunk.before())
    text = (root / hunk.file).read_text()
    start = text.index(hunk.scope) if hunk.scope else 0
    again = text[:start] + text[start:].replace(block, block + block)
    (root / hunk.file).write_text(again)
    where = again[: again.index(block, start)].count("\n") + 1
    words = f"{re.escape(hunk.file)}: `{re.escape(hunk.before()[0].strip())}` stands 2 times.*lines {where}, {where + len(hunk.before())}"
    refused(recipe, root, words=words)


def test_a_class_that_is_there_twice_is_no_place(clones):
    root = clones("dpa")
    file = root / "anomaly_detection/utils/datasets.py"
    file.write_text(file.read_text() + "\n\nclass NIHDataset2(NIHDataset):\n    pass\n")
    port("dpa", root, "--dry-run")  # another name is another class
    file.write_text(file.read_text() + "\n\nclass NIHDataset:\n    pass\n")
    refused("dpa", root, words="does not stand there in class NIHDataset")


def test_a_place_does_not_reach_beyond_its_class(clones):
    hunk = recipes.Hunk("a.py", "class A", ("     x = 1", " y = 2", "+z = 3"))
    recipe = replace(recipes.read_recipes()["f_anogan"], hunks=(hunk,))
    with pytest.raises(UserError, match="the line `y = 2` does not stand there in class A"):
        apply.port(clones("f_anogan", **{"a.py": "class A:\n    x = 1\ny = 2\n"}), recipe)


def test_lines_that_stand_apart_are_no_place(clones):
    hunk = recipes.Hunk("fanogan/train_encoder_izif.py", "", (" import torch", " from torchvision.utils import save_image", "+x"))
    recipe = replace(recipes.read_recipes()["f_anogan"], hunks=(hunk,))
    with pytest.raises(UserError, match="the lines from `import torch` on do not stand together"):
        apply.port(clones("f_anogan"), recipe)


def test_the_wrong_folder_is_told(clones, tmp_path):
    refused("dpa", tmp_path / "nowhere", words=r"no such folder; git clone https://github\.com/ninatu/anomaly_detection")
    refused("dpa", clones("memae"), words="has no anomaly_detection/utils/datasets.py; it looks like the codebase of: port memae")
    refused("memae", clones("f_anogan"), "--undo", words="looks like the codebase of: port f_anogan")
    (tmp_path / "other").mkdir()
    refused("ganomaly", tmp_path / "other", words=r"has no lib/model\.py; a clone of https://github\.com/samet-akcay/ganomaly has it")


def test_a_second_run_changes_nothing(clones, capsys):
    root = clones("memae")
    port("memae", root)
    before = tree(root)
    capsys.readouterr()
    port("memae", root)
    assert "is ported already, nothing was changed" in capsys.readouterr().out
    assert tree(root) == before


def test_what_other_hands_ported_is_not_ported_twice(clones):
    root = clones("f_anogan")
    file = root / "fanogan/train_encoder_izif.py"
    diff = blocks("f_anogan")["fanogan/train_encoder_izif.py"]
    file.write_text(patched(file.read_text(), diff.partition("@@\n")[0]))
    refused("f_anogan", root, words="holds the recipe already, or a part of it .`from fanogan.rec_losses import MADDRConstraint`")


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_clone_that_git_restored_is_ported_again(recipe, clones):
    """`git checkout .` leaves the record, and the copied file where the repository has none."""
    root = clones(recipe)
    before = tree(root)
    port(recipe, root)
    ported = tree(root)
    clones(recipe)
    port(recipe, root)
    assert tree(root) == ported
    port(recipe, root, "--undo")
    assert tree(root) == before


def test_a_part_that_git_restored_is_told(clones):
    root = clones("memae")
    port("memae", root)
    (root / "script_training.py").write_text(MINIATURES["memae"]["script_training.py"])
    refused("memae", root, words=r"memae_3dconv\.py: holds the recipe already, or a part of it")


def test_a_read_only_file_stays(clones):
    root = clones("dpa")
    (root / "anomaly_detection/dpa/train.py").chmod(0o444)
    refused("dpa", root, words=r"train\.py: is read-only")


@pytest.mark.parametrize("option", [(), ("--undo",)])
@pytest.mark.parametrize("number", range(6))
def test_a_failing_write_puts_everything_back(number, option, clones, monkeypatch):
    root = clones("dpa")
    if option:
        port("dpa", root)
    put, calls = changes._put, []

    def failing(path, content):
        calls.append(path)
        if len(calls) == number + 1:
            raise OSError(28, "No space left on device")
        put(path, content)

    monkeypatch.setattr(changes, "_put", failing)
    refused("dpa", root, *option, words="No space left on device; every file is as it was")
    assert len(calls) > number


def test_an_interrupted_write_puts_everything_back(clones, monkeypatch):
    root = clones("memae")
    before, put = tree(root), changes._put

    def interrupted(path, content):
        put(path, content)
        if path.name == "script_training.py":
            monkeypatch.setattr(changes, "_put", put)
            raise KeyboardInterrupt

    monkeypatch.setattr(changes, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["port", "memae", str(root)])
    assert tree(root) == before


def test_the_exit_codes(clones, monkeypatch, capsys):
    for recipe, code in (("ganomaly", 0), ("memae", 2)):
        monkeypatch.setattr(sys, "argv", ["anomaly_detection", "port", recipe, str(clones("ganomaly")), "--dry-run"])
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        assert ended.value.code == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
