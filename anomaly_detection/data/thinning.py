"""Which of many slices or images are taken where few are wanted."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of `items`, in their order: the middles of as many equal parts.

    Taken from the ends on, two slices of a volume would be its first and its last, which show air, or the dome and the tip of a liver.
    """
    taken = min(most, len(items))
    return [items[(2 * part + 1) * len(items) // (2 * taken)] for part in range(taken)]
