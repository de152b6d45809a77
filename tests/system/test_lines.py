import tracemalloc

import numpy as np
import pytest

from anomaly_detection.evaluation.rows import COLUMNS, read_scores
from anomaly_detection.system.files import write_table
from anomaly_detection.system.lines import BLOCK, Lines


def made(count, seed=0):
    """Lines with a column of each kind: words, some words, floats, some floats, whole numbers, some whole numbers, and nothing at all."""
    rng = np.random.default_rng(seed)
    return [
        {
            "image": f"{i:05}.png",
            "patient": None if i % 5 == 1 else f"P{i // 3}",
            "score": float(rng.normal()),
            "p_value": None if i % 2 else float(rng.random()),
            "label": int(rng.integers(2)),
            "anomalous": None if i % 3 else int(rng.integers(2)),
            "unknown_because": None,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 7, BLOCK + 3])
def test_lines_come_back_as_they_were(count):
    rows = made(count)
    lines = Lines.of(iter(rows))
    assert len(lines) == count
    assert list(lines) == rows
    assert lines == rows
    assert [[type(cell) for cell in line.values()] for line in lines] == [[type(cell) for cell in row.values()] for row in rows]
    assert Lines.of(lines) is lines
    for place in range(-count, count, max(1, count // 50)):
        assert lines[place] == rows[place]
    for place in (count, -count - 1):
        with pytest.raises(IndexError):
            lines[place]
    assert lines[2:-1] == rows[2:-1]
    assert lines[::-1] == rows[::-1]


def test_one_line_costs_nothing_of_the_others():
    lines = Lines.of(made(20000))
    tracemalloc.start()
    try:
        line = lines[-7]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line["image"] == "19993.png"
    assert peak < len(lines), "less than a byte for each"


def test_what_is_chosen_is_what_a_loop_chooses():
    rows = made(200)
    lines = Lines.of(rows)
    for cells in (
        {"label": 1},
        {"label": 0, "patient": "P3"},
        {"patient": None},
        {"p_value": None, "anomalous": 1},
        {"anomalous": None, "label": 1},
        {"anomalous": 0},
        {"score": rows[17]["score"]},
        {"unknown_because": None},
        {"patient": "nobody"},
        {"label": 7},
        {},
    ):
        assert lines.where(**cells) == [row for row in rows if all(row[name] == cell for name, cell in cells.items())], cells
    assert lines.where(label=1).where(anomalous=None) == lines.where(anomalous=None, label=1)
    assert lines.take(np.array([5, 3, 3])) == [rows[5], rows[3], rows[3]]
    assert not lines.where(label=7)
    assert not Lines.of(()).where(label=7)


def test_a_column_is_an_array_of_its_kind():
    rows = made(30)
    lines = Lines.of(rows).where(anomalous=1)
    rows = [row for row in rows if row["anomalous"] == 1]
    assert lines.column("score").dtype == float
    assert lines.column("label").dtype == int
    for name in ("image", "patient", "score", "label", "anomalous", "unknown_because"):
        assert lines.column(name).tolist() == [row[name] for row in rows]
    np.testing.assert_array_equal(lines.column("p_value"), np.array([row["p_value"] for row in rows], float))
    assert Lines.of(()).column("anything").tolist() == []
    with pytest.raises(KeyError):
        lines.column("anything")


def test_a_line_that_lacks_a_column_is_refused_and_whole_numbers_among_floats_are_numbers():
    with pytest.raises(KeyError, match="score"):
        Lines.of([{"image": "a", "score": 1.0}, {"image": "b"}])
    mixed = Lines.of([{"score": 3}, {"score": 0.5}, {"score": np.float64(2)}])
    assert mixed.column("score").tolist() == [3.0, 0.5, 2.0]
    assert Lines.of([{"score": np.float64(2)}, {"score": None}])[1] == {"score": None}


def test_scores_of_many_images_take_a_tenth_of_what_dicts_take(tmp_path):
    words = {"dataset": "lits", "organ": "liver", "modality": "ct", "part": "test", "predicted_organ": "liver", "predicted_modality": "ct"}
    flags = dict.fromkeys(("label", "anomalous", "label_anomalous", "guaranteed", "unknown_domain"), 0)
    numbers = [name for name in COLUMNS if name not in (*words, *flags, "image", "patient", "unknown_because")]
    rng, rows = np.random.default_rng(0), []
    for i in range(10000):
        scores = dict(zip(numbers, rng.random(len(numbers)), strict=True))
        rows.append({"image": f"{i:06}.png", "patient": f"P{i // 20}", **words, **flags, **scores})
    write_table(tmp_path / "scores.csv", rows, COLUMNS)
    before = read_scores(tmp_path / "scores.csv")  # Python's table of words takes megabytes more at once, whenever it has to grow
    tracemalloc.start()
    try:
        lines = read_scores(tmp_path / "scores.csv")
        by_column = tracemalloc.get_traced_memory()[0]
        dicts = list(lines)
        by_line = tracemalloc.get_traced_memory()[0] - by_column
    finally:
        tracemalloc.stop()
    assert len(before) == len(dicts) == 10000
    assert by_column < 150 * 10000
    assert by_line > 5 * by_column, "else there is nothing to save"
