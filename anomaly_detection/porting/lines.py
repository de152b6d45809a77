"""The lines of a file that is not ours: divided as git divides them, found, and changed without touching the others."""

import re

from anomaly_detection.porting.recipes import Hunk


def places_of(lines: list[str], hunk: Hunk) -> list[int]:
    """Where what a hunk changes stands: the numbers of its first line, from 0."""
    old, texts = hunk.before(), [text_of(line) for line in lines]
    scope = scope_of(lines, hunk.scope)
    return [i for i in scope if i + len(old) <= scope.stop and texts[i : i + len(old)] == old]


def scope_of(lines: list[str], scope: str) -> range:
    """The lines of a class: from its head to the next line that is indented no further. Empty where it is not there exactly once."""
    if not scope:
        return range(len(lines))
    heads = [i for i, line in enumerate(lines) if re.match(rf"\s*{re.escape(scope)}\b", line)]
    if len(heads) != 1:
        return range(0)
    ends = (i for i in range(heads[0] + 1, len(lines)) if lines[i].strip() and _indent(lines[i]) <= _indent(lines[heads[0]]))
    return range(heads[0], next(ends, len(lines)))


def changed(block: list[str], hunk: Hunk, newline: str) -> list[str]:
    """The lines of a place with a hunk made. Lines that stay keep their ending; a file that ended without one still does."""
    newline = ending(block[0]) or newline
    old = iter(block)
    result = []
    for line in hunk.lines:
        kept = line[1:] + newline if line[0] == "+" else next(old)
        if line[0] != "-":
            result.append(kept)
    if not ending(block[-1]):
        result = [text_of(line) + (ending(line) or newline) for line in result]
        result[-1] = text_of(result[-1])
    return result


def split(content: bytes) -> list[str]:
    """The lines with their endings; only line feeds divide them, as they do in git."""
    return re.findall(r"[^\n]*\n|[^\n]+\Z", decode(content))


def ending(line: str) -> str:
    """The line break of a line; "" of a last one that has none."""
    return "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""


def text_of(line: str) -> str:
    """A line without its line break."""
    return line[: len(line) - len(ending(line))]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def decode(content: bytes) -> str:
    """Bytes as text, of which `encode` makes the same bytes, also of what is no UTF-8."""
    return content.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes of what `decode` gave."""
    return text.encode("utf-8", "surrogateescape")
