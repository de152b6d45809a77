"""Tables as values, and as Markdown, HTML and CSV."""

import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_detection.system.files import whole_file


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header; a cell is shown as `str` makes it. The note is what must be known of them, and stands below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Document:
    """What stands in a table.md: a heading, a note, tables, and a list of where they come from."""

    heading: str
    note: str
    tables: Sequence[Table]
    provenance: Sequence[str]


def to_markdown(document: Document) -> str:
    """The text of a Markdown file."""
    blocks = [f"# {document.heading}", document.note]
    for table in document.tables:
        blocks += [f"## {table.title}", to_table(table), *([table.note] if table.note else [])]
    blocks += ["## Provenance", "\n".join(f"- {line}" for line in document.provenance)] if document.provenance else []
    return "\n\n".join(blocks) + "\n"


def to_table(table: Table) -> str:
    """Header and rows as Markdown."""
    lines = (table.header, ["---"] * len(table.header), *table.rows)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def to_text(table: Table) -> str:
    """Title, header and rows in columns, for a terminal."""
    lines = [[str(cell) for cell in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join([table.title, *padded])


def to_html(table: Table, caption: str = "") -> str:
    """A table of an HTML page; the title is for who writes the page."""
    head, *body = ("".join(_element(tag, cell) for cell in row) for tag, row in _tagged(table))
    told = _element("caption", caption) if caption else ""
    return f"<table>{told}<thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"


def _tagged(table: Table) -> list[tuple[str, Sequence[Any]]]:
    return [("th", table.header), *(("td", row) for row in table.rows)]


def _element(tag: str, content: Any) -> str:
    return f"<{tag}>{html.escape(str(content))}</{tag}>"


def write_csv(table: Table, path: Path) -> None:
    """A CSV file of header and rows; numbers keep all their digits."""
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([table.header, *table.rows])
