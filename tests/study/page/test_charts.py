"""Marks lie where their values are, and are told apart without colour."""

import re

import pytest

from anomaly_detection.study.page.charts import LABELS, SHAPES, Mark, Panel, Scale, chart
from anomaly_detection.study.regimes import REGIMES

SCALE = Scale(0.0, 1.0, "AUROC (0.5 = chance, 1 = perfect)", 0.5, "chance: 0.5")


def numbers(pattern: str, text: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found)) for found in re.findall(pattern, text)]


def test_marks_lie_at_their_values():
    marks = [Mark("separate", 0.25, 0.1, 0.4, "first"), Mark("maddr", 0.75, 0.5, 1.0, "second", hollow=True)]
    text = chart([Panel("liver CT", {"memae": marks})], SCALE, 500, "name", "words")
    ticks = {float(value): float(x) for x, value in re.findall(r'x="([\d.]+)" y="[\d.]+">([\d.]+)</text>', text)}
    origin, width = ticks[0.0], ticks[1.0] - ticks[0.0]
    assert width > 300
    lines = numbers(r'd="M([\d.]+) ([\d.]+)H([\d.]+)" stroke', text)
    for mark, (low, y, high), (x, mark_y) in zip(marks, lines, numbers(r"translate\(([\d.]+) ([\d.]+)\)\" d=", text), strict=True):
        assert [(each - origin) / width for each in (low, x, high)] == pytest.approx([mark.low, mark.value, mark.high], abs=1e-3)
        assert y == mark_y
    ((reference, _),) = numbers(r'class="reference" d="M([\d.]+) ([\d.]+)', text)
    assert (reference - origin) / width == pytest.approx(0.5, abs=1e-3)
    assert text.count('fill="#fff"') == 1, "the hollow one"
    for words in ("liver CT", "memae", SCALE.label, "first", "second", "chance: 0.5"):
        assert f">{words}<" in text


def test_long_names_are_told_apart_by_their_ends():
    names = [f"brain_mri_of_the_university_hospital_{number}" for number in range(10, 18)]
    model = "my.package.of.baselines:Autoencoder"
    text = chart([Panel(f"brain MRI ({name})", {model: []}) for name in names], SCALE, 500, "name", "words")
    titles = re.findall(r'class="title" x="0" y="12">([^<]+)<title>([^<]+)</title>', text)
    assert [whole for _, whole in titles] == [f"brain MRI ({name})" for name in names]
    assert len({short for short, _ in titles}) == len(names)
    assert all(short.endswith(f"{number})") for number, (short, _) in zip(range(10, 18), titles, strict=True))
    labels = re.findall(r'class="model"[^>]*>([^<]+)<title>([^<]+)</title>', text)
    assert labels == [("my.p…oencoder", model)] * 2, "no letter is cut off"


def test_every_regime_has_a_shape_of_its_own():
    assert set(SHAPES) == set(REGIMES)
    assert len({shape for shape, _ in SHAPES.values()}) == len(SHAPES)


@pytest.mark.parametrize("count", [1, 4, 5, 20])
def test_panels_stand_in_rows_of_four_each_with_an_axis(count):
    panels = [Panel(f"dataset {number}", {"memae": [Mark("maddr", 0.5, 0.5, 0.5, "x")], "<b>": []}) for number in range(count)]
    text = chart(panels, SCALE, 842, "name", "words")
    places = numbers(r'<g transform="translate\(([\d.]+) ([\d.]+)\)"><text class="title"', text)
    assert len(places) == count
    assert len({y for _, y in places}) == text.count(SCALE.label) == -(-count // 4)
    assert {x for x, _ in places} == {x for x, _ in places[:4]}
    assert min(x for x, _ in places) == LABELS
    assert "&lt;b&gt;" in text


def test_a_panel_without_marks_says_so():
    text = chart([Panel("a", {"memae": []}), Panel("b", {"memae": [Mark("maddr", 0.5, 0.5, 0.5, "x")]})], SCALE, 842, "name", "words")
    assert text.count("not measured") == 1


def test_ticks_of_a_narrow_panel_are_few():
    assert Scale(0.0, 0.8, "x (%)", 0.05, "", percent=True).ticks(2.5) == [0.0, 0.5]
    assert Scale(0.3, 1.0, "x", 0.5, "").ticks(8) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert Scale(0.0, 0.3, "x (%)", 0.05, "", percent=True).told(0.05) == "5"
