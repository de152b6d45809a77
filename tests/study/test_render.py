"""Tables as Markdown, HTML and CSV."""

import csv
from dataclasses import replace
from html.parser import HTMLParser

from anomaly_detection.study.render import Document, Table, to_html, to_markdown, write_csv

TABLE = Table("one <b>", ["a", "b"], [[1, "–"], ["x & y", ""]])
DOCUMENT = Document("A & B", "words <here>", [TABLE], ["x", "y < z"])


class Page(HTMLParser):
    """The texts of a page by the tag that they stand in, and its rows of cells."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.rows, self._tags = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._tags.pop() == tag, "elements lie in each other"

    def handle_data(self, data):
        if not data.strip():
            return
        if self._tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.texts.setdefault(self._tags[-1], []).append(data)


def test_markdown():
    assert to_markdown(DOCUMENT).splitlines() == [
        *("# A & B", "", "words <here>", ""),
        *("## one <b>", "", "| a | b |", "| --- | --- |", "| 1 | – |", "| x & y |  |", ""),
        *("## Provenance", "", "- x", "- y < z"),
    ]
    assert "Provenance" not in to_markdown(Document("A", "words", [TABLE], []))
    noted = to_markdown(Document("A", "words", [replace(TABLE, note="mind this"), TABLE], []))
    assert noted.count("mind this") == 1
    assert "| x & y |  |\n\nmind this\n\n## one <b>" in noted


def test_a_page_shows_the_texts_as_they_are():
    page = Page(to_html(TABLE, "one <b>"))
    assert page.rows == [["a", "b"], ["1", "–"], ["x & y", ""]]
    assert page.texts == {"caption": ["one <b>"]}
    assert Page(to_html(TABLE)).texts == {}


def test_csv_keeps_all_digits(tmp_path):
    write_csv(Table("t", ["name", "value"], [["a,b", 1 / 3]]), tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "value"]
    assert rows[1][0] == "a,b"
    assert float(rows[1][1]) == 1 / 3
