"""A page whose tables stand between markers, <!-- table: STUDY KIND --> and <!-- end -->, and are written from results."""

import re
from collections.abc import Callable, Mapping

from anomaly_detection.system.errors import UserError

BLOCK = re.compile(r"(<!-- table: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, studies: Mapping[str, Callable[[str], str | None]]) -> str:
    """The page with what stands between the markers of some studies written anew; the rest, and the tables of other studies, stay as they are.

    Args:
        page: its text.
        studies: by name, what makes the text of a table of its kind, or None for one that shall stay.

    Raises:
        UserError: a marker has no end.
    """
    if page.count("<!-- table:") != len(BLOCK.findall(page)):
        raise UserError("a marker <!-- table: STUDY KIND --> of the page is misspelled, or has no <!-- end -->")

    def block(found: re.Match) -> str:
        begin, study, kind, end = found.groups()
        text = studies[study](kind) if study in studies else None
        return found[0] if text is None else f"{begin}\n{text}\n\n{end}"

    return BLOCK.sub(block, page)


def table_of(page: str, study: str, kind: str) -> list[list[str]]:
    """The cells of a table of the page, header first.

    Raises:
        UserError: there is no such marker.
    """
    for found in BLOCK.finditer(page):
        if found.group(2, 3) == (study, kind):
            lines = [line.strip("|").split("|") for line in found[0].splitlines() if line.startswith("|")]
            return [[cell.strip() for cell in line] for number, line in enumerate(lines) if number != 1]
    raise UserError(f"the page has no <!-- table: {study} {kind} -->")
