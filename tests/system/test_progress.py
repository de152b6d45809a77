"""A bar on a terminal, lines in a file, nothing where it is hidden."""

import io
import sys

import pytest

from anomaly_detection.system import progress
from anomaly_detection.system.progress import HIDDEN, progress_bar


@pytest.fixture
def stderr(monkeypatch):
    """Puts a file, or a terminal, in the place of stderr; called in the test, since pytest puts its own there between fixtures and test."""
    monkeypatch.delenv(HIDDEN, raising=False)

    def replace(terminal: bool) -> io.StringIO:
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return replace


@pytest.fixture
def hurried(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 1e-9)


def test_a_terminal_has_a_bar(stderr, caplog, hurried):
    caplog.set_level("INFO")
    stream = stderr(terminal=True)
    assert list(progress_bar(range(3), desc="reading", unit="image", mininterval=0)) == [0, 1, 2]
    assert "3/3" in stream.getvalue()
    assert "\r" in stream.getvalue()
    assert not caplog.messages


def test_a_file_has_lines_that_say_how_far_it_is(stderr, caplog, hurried):
    caplog.set_level("INFO")
    stream = stderr(terminal=False)
    with progress_bar(total=4, desc="reading", unit="image") as bar:
        bar.set_postfix({"loss": "0.5"}, refresh=False)
        bar.update()
        bar.update(2)
    assert len(caplog.messages) == 2, "and none for the end, which whoever reads it is told otherwise"
    assert caplog.messages[0].startswith("reading: 1 of 4 image, 00:0")
    assert caplog.messages[0].endswith(" left, loss=0.5")
    assert caplog.messages[1].startswith("reading: 3 of 4 image, ")
    assert not stream.getvalue()


def test_short_work_is_no_line(stderr, caplog):
    caplog.set_level("INFO")
    stream = stderr(terminal=False)
    assert len(list(progress_bar(range(1000), desc="reading", unit="image"))) == 1000
    assert not caplog.messages
    assert not stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(("value", "shown"), [("1", True), ("", False), ("0", False)])
def test_what_is_hidden(stderr, caplog, hurried, monkeypatch, terminal, value, shown):
    caplog.set_level("INFO")
    monkeypatch.setenv(HIDDEN, value)
    stream = stderr(terminal)
    assert list(progress_bar(range(3), shown=shown, desc="reading", unit="image")) == [0, 1, 2]
    assert not caplog.messages
    assert not stream.getvalue()
