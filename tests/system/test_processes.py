"""How long it takes yet."""

import pytest

from anomaly_detection.system.backends import run_side_by_side
from anomaly_detection.system.processes import Pace


@pytest.mark.parametrize(
    ("kinds", "ended", "at_a_time", "told"),
    [
        ("aaaaa", [], 1, ""),
        ("aaaa", [("a", 60)], 1, ", about 3 min left"),
        ("aa", [("a", 10)], 1, ", about 1 min left"),
        ("aaaa", [("a", 3600), ("a", 3600)], 1, ", about 2.0 h left"),
        ("aaaa", [("a", 1)] * 4, 1, ""),
        ("aaaaa", [("a", 120)], 2, ", about 4 min left"),
        # one of each kind was seen: 2 * 60 + 1 * 600
        ("aaabb", [("a", 60), ("b", 600)], 1, ", about 12 min left"),
        # nobody knows b and c yet, which come after what is quicker: 1 * 60 + 2 * 60 + 1 * 60
        ("aabbc", [("a", 60)], 1, ", at least 4 min left"),
        # c as slow as b, the slowest so far: 1 * 600 + 1 * 600
        ("aabbc", [("a", 60), ("a", 60), ("b", 600)], 1, ", at least 20 min left"),
        # a mean of its own kind: 2 * (60 + 180) / 2
        ("aaaa", [("a", 60), ("a", 180)], 1, ", about 4 min left"),
    ],
)
def test_the_time_left_is_told_by_kinds(kinds, ended, at_a_time, told):
    pace = Pace(list(kinds), at_a_time)
    for kind, seconds in ended:
        pace.ended(kind, seconds)
    assert pace.left() == told


def test_results_come_as_they_are_there():
    outcomes = run_side_by_side(abs, [(-1,), (2,), (-3,)], 2, "loky")
    assert next(outcomes) in (1, 2, 3)
    assert len(list(outcomes)) == 2
