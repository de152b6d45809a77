"""A recipe that is taken back."""

import os
import re
from pathlib import Path

import pytest

from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.porting import recipes
from anomaly_detection.porting.changes import RECORD
from tests.porting.clones import PAGE, blocks, edit, hunks, patched, port, refused, tree
from tests.porting.miniatures import MINIATURES


def endings(text: str, newline: str, last: bool) -> str:
    return (text if last else text.rstrip("\n")).replace("\n", newline)


@pytest.mark.parametrize("last", [True, False], ids=["", "no newline at the end"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_undo_gives_every_byte_back(recipe, newline, last, clones):
    root = clones(recipe, **{file: endings(text, newline, last) for file, text in MINIATURES[recipe].items()})
    before = tree(root)
    port(recipe, root)
    for file, diff in blocks(recipe).items():
        assert (root / file).read_bytes().decode() == endings(patched(MINIATURES[recipe][file], diff), newline, last)
    port(recipe, root, "--undo")
    assert tree(root) == before


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_undo_leaves_the_users_other_edits(recipe, clones):
    root = clones(recipe)
    port(recipe, root)
    for file in blocks(recipe):
        text = (root / file).read_text()
        (root / file).write_text(f"# mine\n{text}# mine, too\n")
    port(recipe, root, "--undo")
    for file in blocks(recipe):
        assert (root / file).read_text() == f"# mine\n{MINIATURES[recipe][file]}# mine, too\n"
    assert not (root / RECORD).exists()


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_undo_takes_adapted_lines_back(recipe, clones, capsys):
    root = clones(recipe)
    before = tree(root)
    port(recipe, root)
    adapted = 0
    for path in [path for path in root.rglob("*.py") if path.name != "rec_losses.py"]:
        text = path.read_text()
        changed = re.sub(r"^DOMAINS = {.*}", "DOMAINS = {'brain': (0, 0), 'knee': (1, 1)}", text, flags=re.MULTILINE)
        changed = re.sub(r"(?<== MADDRConstraint\()", "num_organs=3, ", changed)
        adapted += changed != text
        path.write_text(changed)
    assert adapted
    capsys.readouterr()
    port(recipe, root, "--undo", "--dry-run")
    assert "-DOMAINS = {'brain': (0, 0)" in capsys.readouterr().out
    port(recipe, root, "--undo")
    assert tree(root) == before


def test_two_lines_that_could_be_the_adapted_one_are_not_guessed_at(clones):
    root = clones("ganomaly")
    port("ganomaly", root)
    path = root / "lib" / "model.py"
    path.write_text(re.sub(r"^DOMAINS = {.*}(.*)$", r"DOMAINS = {}\1\nDOMAINS = {'knee': (0, 0)}\1", path.read_text(), flags=re.MULTILINE))
    refused("ganomaly", root, "--undo", words="the line `DOMAINS = .*` does not stand there")


def test_undo_of_a_file_that_was_continued(clones):
    """The last line had no newline when it was ported, and has one since."""
    root = clones("f_anogan", **{"fanogan/train_encoder_izif.py": MINIATURES["f_anogan"]["fanogan/train_encoder_izif.py"].rstrip("\n")})
    port("f_anogan", root)
    file = root / "fanogan/train_encoder_izif.py"
    file.write_text(file.read_text() + "\n# mine\n")
    port("f_anogan", root, "--undo")
    assert file.read_text() == MINIATURES["f_anogan"]["fanogan/train_encoder_izif.py"] + "# mine\n"


@pytest.mark.parametrize(("recipe", "number"), hunks())
def test_undo_refuses_where_the_places_were_edited(recipe, number, clones):
    root, hunk = clones(recipe), recipes.read_recipes()[recipe].hunks[number]
    port(recipe, root)
    line = next(line[1:] for line in hunk.lines if line[0] == "+")
    edit(root / hunk.file, line + "\n", line + "  # mine\n")
    refused(recipe, root, "--undo", words=f"{re.escape(hunk.file)}: the line `{re.escape(line.strip())}` does not stand there")


def test_undo_refuses_an_edited_copy(clones):
    root = clones("memae")
    port("memae", root)
    edit(root / "rec_losses.py", "SMALLEST_DEVIATION = 0.01", "SMALLEST_DEVIATION = 0.02")
    refused("memae", root, "--undo", words=r"rec_losses\.py: was edited after the port")


def test_a_deleted_copy_is_told(clones):
    root = clones("ganomaly")
    port("ganomaly", root)
    (root / "lib/rec_losses.py").unlink()
    refused("ganomaly", root, words="holds the recipe already")
    refused("ganomaly", root, "--undo", words=r"rec_losses\.py: No such file")


def test_undo_needs_a_port(clones):
    root = clones("memae")
    refused("memae", root, "--undo", words=r"without the record of its port, \.maddr_port\.json; there is none")
    port("memae", root)
    (root / RECORD).write_text('{"recipe": "memae"}')
    refused("memae", root, "--undo", words=r"\.maddr_port\.json: damaged")


def test_a_later_page_neither_ports_again_nor_keeps_from_undoing(clones, monkeypatch, tmp_path):
    root = clones("ganomaly")
    before = tree(root)
    port("ganomaly", root)
    (tmp_path / "porting.md").write_text(PAGE.replace("0.1 * self.maddr(", "0.2 * self.maddr("), encoding="utf-8")
    monkeypatch.setattr(recipes, "PAGE", tmp_path / "porting.md")
    ported = tree(root)
    port("ganomaly", root)
    assert tree(root) == ported
    port("ganomaly", root, "--undo")
    assert tree(root) == before


def test_bytes_that_are_no_text_and_the_mode_stay(clones):
    root = clones("f_anogan")
    file = root / "fanogan/train_encoder_izif.py"
    file.write_bytes(b"# Norm\xe9n \x0c\n" + file.read_bytes())
    file.chmod(0o755)
    before = tree(root)
    port("f_anogan", root)
    assert file.read_bytes().startswith(b"# Norm\xe9n \x0c\nimport os\n")
    assert os.stat(file).st_mode & 0o777 == 0o755
    port("f_anogan", root, "--undo")
    assert tree(root) == before


def test_a_copy_made_before_is_given_back(clones):
    root = clones("memae", **{"rec_losses.py": "older\n"})
    before = tree(root)
    port("memae", root)
    assert tree(root)["rec_losses.py"] == Path(rec_losses.__file__).read_bytes()
    port("memae", root, "--undo")
    assert tree(root) == before
