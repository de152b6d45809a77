"""Write the tables of docs/results.md, and the scores that are kept beside it, from folders of results; or check the page by a second reading.

A study is a name and the folders that hold its experiments, each as NAME=FOLDER,commit=...,device=...,torch=... (the facts as far as known; of
experiments in the folder that were trained with another version of torch nothing is taken). An experiment is taken from the first folder that holds
it. Rows that another benchmark wrote by --json become the table "rows NAME". With --again the tables that follow from the scores that are kept, of
AUROC and of differences, are written anew, as by another version of the intervals. With none of these nothing is written, and the page is checked
against the scores that are kept.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_detection.study.render import Table, to_table
from anomaly_detection.study.results import MISSING
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, whole_file
from benchmarks.results.gather import Gathered, Source, gather
from benchmarks.results.page import fill, table_of
from benchmarks.results.stored import read_stored, write_experiments, write_scores
from benchmarks.results.tables import TABLES
from benchmarks.results.words import words
from benchmarks.second_reading import reading

DOCS = Path(__file__).parents[2] / "docs"
ROUNDING = 0.0005 + 1e-9  # of three decimals


def text_of(gathered: Gathered, kind: str) -> str:
    """What stands between the markers of a kind of table, or of words.

    Raises:
        UserError: no kind has that name.
    """
    if kind == "words":
        return words(gathered)
    if kind not in TABLES:
        raise UserError(f"{kind}: no such table; there are {', '.join(TABLES)} and words")
    table = TABLES[kind](gathered)
    return to_table(table) if table.rows else "*Not run yet.*"


def text_of_kept(gathered: Gathered, kind: str) -> str | None:
    """The same of what follows from scores alone; None of all else."""
    return text_of(gathered, kind) if kind in ("auroc", "differences") else None


def text_of_rows(files: Mapping[str, str], kind: str) -> str | None:
    """A table of the rows in a file; None of one that is not among the files. Numbers have three digits.

    Args:
        files: path by kind, or path:KEY where a file holds several tables.
        kind: of the table.

    Raises:
        UserError: the file cannot be read.
    """
    if kind not in files:
        return None
    path, _, key = files[kind].partition(":")
    rows = read_json(Path(path))
    rows = rows[key] if key else rows
    return to_table(Table("", list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]))


def _cell(value: Any) -> str:
    if value is None or value != value:
        return MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def disagreements(page: str, study: str, scores: Path) -> list[str]:
    """Cells of the tables of AUROC and of differences that are not what a second reading of the scores says, and lines that only one of them has."""
    datasets, lines = reading([scores])
    told = []
    for kind in ("auroc", "differences"):
        header, *rows = table_of(page, study, kind)
        expected = {key: values for key, values in lines.items() if ("-" in key[1]) == (kind == "differences") and "maddr_" not in key[1]}
        shown = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}
        told += [f"{kind}: {' '.join(key)} is in one reading alone" for key in sorted(set(expected) ^ set(shown))]
        for key in sorted(set(expected) & set(shown)):
            values, seeds = expected[key]
            cells = {name: (float(shown[key][name].split()[0]), value) for name, value in zip([*datasets, "mean"], values, strict=True)}
            told += [f"{kind}: {' '.join(key)}, {name}: {a} and {b:.4f}" for name, (a, b) in cells.items() if abs(a - b) > ROUNDING]
            told += [f"{kind}: {' '.join(key)}: {shown[key]['seeds']} and {seeds} seeds"] * (shown[key]["seeds"] != str(seeds))
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Write page and scores, or check them; 1 where two readings disagree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("--study", nargs="+", action="append", default=[], metavar="WORD", help="NAME, and NAME=FOLDER[,commit=...] of each folder")
    parser.add_argument("--rows", nargs="+", action="extend", default=[], metavar="NAME=FILE[:KEY]", help="rows of other benchmarks, as JSON")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="studies whose scores are kept and whose tables are written from them")
    parser.add_argument("--page", type=Path, default=DOCS / "results.md", metavar="FILE", help="(default: docs/results.md)")
    parser.add_argument("--scores", type=Path, default=DOCS / "results", metavar="DIR", help="where scores are kept (default: docs/results)")
    parser.add_argument("--keep", nargs="*", default=["real"], metavar="NAME", help="studies whose scores are kept (default: real)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.study or arguments.rows or arguments.again:
            _write(arguments)
        told = disagreements(arguments.page.read_text(encoding="utf-8"), "real", arguments.scores / "real_scores.csv.gz")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(told) or "both readings agree")
    return int(bool(told))


def _write(arguments: argparse.Namespace) -> None:
    studies = {name: gather([Source.parse(text) for text in texts]) for name, *texts in arguments.study}
    for name in set(arguments.keep) & set(studies):
        write_scores(arguments.scores / f"{name}_scores.csv.gz", studies[name])
    if studies:
        write_experiments(arguments.scores / "experiments.csv", studies)
    tables = {name: partial(text_of_kept, read_stored(arguments.scores, name)) for name in arguments.again}
    tables |= {name: partial(text_of, gathered) for name, gathered in studies.items()}
    tables["rows"] = partial(text_of_rows, dict(text.split("=", 1) for text in arguments.rows))
    text = fill(arguments.page.read_text(encoding="utf-8"), tables)
    with whole_file(arguments.page) as partial_file:
        partial_file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
