"""What tests of the recipes share: the page as it is printed, and commands on the miniature of a codebase."""

import re
from pathlib import Path

import pytest

from anomaly_detection.__main__ import main
from anomaly_detection.porting import recipes
from anomaly_detection.system.errors import UserError

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "porting.md").read_text(encoding="utf-8")
TITLES = {"dpa": "DPA", "ganomaly": "GANomaly", "memae": "MemAE", "f_anogan": "f-AnoGAN"}


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def port(recipe: str, root: Path, *options: str) -> None:
    assert main(["port", recipe, str(root), *options]) == 0


def refused(recipe: str, root: Path, *options: str, words: str) -> None:
    """The command ends in one line that holds the words (a pattern) and leaves every file as it was."""
    before = tree(root)
    with pytest.raises(UserError, match=words) as error:
        main(["port", recipe, str(root), *options])
    assert "\n" not in str(error.value)
    assert tree(root) == before


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


def section(recipe: str) -> str:
    return PAGE.split(f"\n## {TITLES[recipe]} ")[1].split("\n## ")[0]


def blocks(recipe: str) -> dict[str, str]:
    """The ```diff blocks of a section by the path above them, found line by line."""
    found, lines = {}, section(recipe).split("\n")
    for i, line in enumerate(lines):
        if line == "```diff":
            end = lines.index("```", i)
            found[lines[i - 2].strip("`:")] = "".join(text + "\n" for text in lines[i + 1 : end])
    return found


def patched(source: str, diff: str) -> str:
    """The source with a diff applied, hunk by hunk; after `@@ class NAME` only what follows its head counts."""
    for part in re.split(r"^(?=@@)", diff, flags=re.MULTILINE):
        head, _, hunk = part.partition("\n") if part.startswith("@@") else ("", "", part)
        before, after = ("".join(line[1:] + "\n" for line in hunk.splitlines() if line[0] in kinds) for kinds in (" -", " +"))
        skipped = source.index(head.removeprefix("@@ ")) if head.startswith("@@ ") else 0
        rest = source[skipped:]
        assert rest.count(before) == 1, f"{before!r} stands {rest.count(before)} times"
        source = source[:skipped] + rest.replace(before, after)
    return source


def hunks():
    return [(recipe, number) for recipe in recipes.RECIPES for number in range(len(recipes.read_recipes()[recipe].hunks))]
