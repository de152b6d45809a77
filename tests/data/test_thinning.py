"""Which are taken where few are wanted."""

from fractions import Fraction

import pytest

from anomaly_detection.data.thinning import spread


@pytest.mark.parametrize(
    ("count", "most", "taken"),
    [
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 5, [0, 1, 2]),
        (200, 1, [100]),
        (200, 2, [50, 150]),
        (12, 3, [2, 6, 10]),  # thirds of four slices: their middles lie between 1 and 2, 5 and 6, 9 and 10
        (11, 3, [1, 5, 9]),
        (20, 2, [5, 15]),
        (7, 6, [0, 1, 2, 4, 5, 6]),
        (9, 0, []),
        (0, 4, []),
    ],
)
def test_the_middles_of_equal_parts(count, most, taken):
    assert spread(range(count), most) == taken


def test_each_part_gives_the_one_in_its_middle():
    """Of any numbers: an item is as long as 1, and that of a part is the one in which the middle of the part lies."""
    for count in range(1, 60):
        for most in range(1, count + 1):
            taken = spread(range(count), most)
            middles = [Fraction(count * (1 + 2 * part), 2 * most) for part in range(most)]
            assert all(place <= middle < place + 1 for place, middle in zip(taken, middles, strict=True))
            assert abs(taken[0] - (count - 1 - taken[-1])) <= 1, "as far from the first as from the last"
