"""The recipes of docs/porting.md, read from that page: what to change in the codebase that each is for."""

import re
from dataclasses import dataclass

from anomaly_detection.config.paths import SHIPPED
from anomaly_detection.system.errors import UserError

RECIPES = ("dpa", "ganomaly", "memae", "f_anogan")
PAGE = SHIPPED / "docs" / "porting.md"


@dataclass(frozen=True)
class Hunk:
    """A change at one place of a file.

    Args:
        file: relative to the clone, with forward slashes.
        scope: "class NAME" where the place is looked for in that class alone, "" for the whole file.
        lines: of the place, without line endings, each with its sign before it: " " stays, "-" goes, "+" comes.
    """

    file: str
    scope: str
    lines: tuple[str, ...]

    def before(self) -> list[str]:
        return [line[1:] for line in self.lines if line[0] != "+"]

    def reverse(self) -> "Hunk":
        return Hunk(self.file, self.scope, tuple({"+": "-", "-": "+"}.get(line[0], " ") + line[1:] for line in self.lines))


@dataclass(frozen=True)
class Recipe:
    """What the page says of one codebase.

    Args:
        name: the command's word for it; one of RECIPES.
        repository: its address.
        commit: the one that the recipe was written for.
        destination: where rec_losses.py goes, relative to the clone.
        hunks: the changes, in the page's order.
        then: what remains to be done by hand, one line.
    """

    name: str
    repository: str
    commit: str
    destination: str
    hunks: tuple[Hunk, ...]
    then: str

    def files(self) -> list[str]:
        """The files that it changes, each once."""
        return list(dict.fromkeys(hunk.file for hunk in self.hunks))

    def size(self) -> str:
        """The number of lines that it changes, such as "+11 -2 in 1 file"."""
        signs = [line[0] for hunk in self.hunks for line in hunk.lines]
        files = len(self.files())
        return f"+{signs.count('+')} -{signs.count('-')} in {files} {'file' if files == 1 else 'files'}"


def read_recipes() -> dict[str, Recipe]:
    """The recipes of docs/porting.md by name.

    Raises:
        UserError: the page is not there.
    """
    try:
        page = PAGE.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{PAGE}: the page with the recipes is not there; install the package again") from None
    return {recipe.name: recipe for recipe in parse_recipes(page)}


def parse_recipes(page: str) -> list[Recipe]:
    """The sections of the page whose heading is ``TITLE (`port NAME`)``.

    Each holds a line ``Repository: ADDRESS, commit `HASH`.``, one ``Copy `...rec_losses.py` to `PATH`.``, a paragraph ``Then: ...``, and ```diff
    blocks, each below a line that is the path of its file in backquotes and a colon.

    Raises:
        ValueError: a section lacks one of these, or a block does not stand below a path.
    """
    sections = re.findall(r"^## [^\n]*\(`port (\w+)`\)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return [_parse_recipe(name, text) for name, text in sections]


def _parse_recipe(name: str, text: str) -> Recipe:
    repository = re.search(r"^Repository: (\S+), commit `(\w+)`", text, re.MULTILINE)
    copy = re.search(r"^Copy `\S*rec_losses\.py` to `([^`]+)`\.$", text, re.MULTILINE)
    then = re.search(r"^Then: (.+?)\n\n", text, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^`([^`\n]+)`:\n\n```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if not (repository and copy and then and blocks) or len(blocks) != text.count("```diff"):
        raise ValueError(f"recipe {name}: lacks its repository, copy or then line, or a block does not stand below the path of its file")
    hunks = tuple(hunk for file, block in blocks for hunk in _parse_block(file, block))
    return Recipe(name, repository[1], repository[2], copy[1], hunks, " ".join(then[1].split()))


def _parse_block(file: str, block: str) -> list[Hunk]:
    places = re.split(r"^@@ ?(.*)\n", "@@\n" + block, flags=re.MULTILINE)[1:]
    pairs = zip(places[::2], places[1::2], strict=True)
    return [Hunk(file, scope, tuple(line or " " for line in text.splitlines())) for scope, text in pairs if text]
