"""README.md, docs/ and what else is written for people, as the tests read it: pages, code blocks, and the code between backticks in the text."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
FILES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md")), *PROJECT.glob("CONTRIBUTING.md"), PROJECT / "folds" / "README.md"]
PAGES = {path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
PORTING = "docs/porting.md"  # most of what it shows belongs to other codebases
FENCE = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NAMES = "maddr|python3?|pip|torchrun|pytest|ruff|git|bash|sh|make|curl|wget|conda|mamba|uv|pipx|docker|unzip|tar|sudo|apt|brew"
PROGRAM = re.compile(rf"({NAMES}) (?!- )\S")  # `maddr - united` is a difference


class Shown(NamedTuple):
    """Something that a page shows: the page, the language of its block ("" between backticks), and the text itself."""

    page: str
    language: str
    text: str


def fenced(*languages: str) -> Iterator[Shown]:
    """The code blocks in these languages, of all pages; as far to the left as they go."""
    for page, text in PAGES.items():
        for indent, language, code in FENCE.findall(text):
            if language in languages:
                yield Shown(page, language, re.sub(f"^{indent}", "", code, flags=re.MULTILINE))


def inline() -> Iterator[Shown]:
    """What stands between backticks outside code blocks, of all pages."""
    for page, text in PAGES.items():
        for code in re.findall(r"`((?:[^`\n]|\n(?!\n))+)`", _prose(text)):
            yield Shown(page, "", " ".join(code.split()))


def drawn(heading: str, page: str = "README.md") -> str:
    """The block of lines indented by four spaces below a heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGES[page], re.MULTILINE | re.DOTALL)
    return "".join(re.findall(r"^    .*\n", section, re.MULTILINE))


def links() -> Iterator[tuple[str, str]]:
    """A page and the target of each of its links and pictures."""
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)\s]+)\)", _prose(text)):
            yield page, target


def scripts() -> list[Shown]:
    """Every sequence of commands shown: a block of shell is one, and so is each command between backticks."""
    shown = [*fenced("sh", "bash", "shell", "console"), *(code for code in inline() if is_command(code.text))]
    return list(dict.fromkeys(shown))


def is_command(code: str) -> bool:
    """Whether code between backticks is a command line."""
    return PROGRAM.match(code) is not None


def commands(script: str) -> list[list[str]]:
    """The words of each command of a script, comments left out, loops rolled out.

    Raises:
        ValueError: the script uses more of the shell than `&&`, `;` and `for NAME in ...; do ... done`.
    """
    parts: list[list[str]] = []
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        parts.append([])
        for word in lexer:
            if word in ("&&", ";"):
                parts.append([])
            elif set(word) <= set(";&|<>"):
                raise ValueError(f"{word}: is not understood in {script!r}")
            else:
                parts[-1].append(word)
    return _rolled_out([part for part in parts if part])


def _rolled_out(parts: Sequence[list[str]]) -> list[list[str]]:
    result: list[list[str]] = []
    for number, part in enumerate(parts):
        if part[0] == "for":
            name, values, end = part[1], part[3:], parts.index(["done"])
            body = [line[line[0] == "do" :] for line in parts[number + 1 : end]]
            result += [[word.replace(f"${name}", value) for word in line] for value in values for line in body if line]
            return result + _rolled_out(parts[end + 1 :])
        result.append(part)
    return result


def _prose(text: str) -> str:
    """Without code blocks, fenced or indented."""
    return re.sub(r"(?<=\n)\n(?:    .*\n)+", "\n", FENCE.sub("", text))
