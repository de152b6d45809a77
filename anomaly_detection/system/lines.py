"""The lines of a table, held by column."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from sys import intern
from typing import Any, overload

import numpy as np

BLOCK = 4096  # dicts that are made at a time


@dataclass(frozen=True)
class _Column:
    """What stands in a column of N lines: its float values (N,), or of each the place (N,) among few `kinds` of others.

    Of floats an empty cell is NaN where it is `optional`.
    """

    values: np.ndarray
    kinds: np.ndarray | None = None
    optional: bool = False

    @classmethod
    def of(cls, cells: Sequence[Any]) -> "_Column":
        types = set(map(type, cells))
        empty, filled = type(None) in types, types - {type(None)}
        if filled and all(issubclass(each, float) for each in filled):
            return cls(np.array(cells, float), optional=empty)
        places: dict[Any, int] = {}
        numbers = [places.setdefault(cell, len(places)) for cell in cells]
        return cls(np.array(numbers, np.min_scalar_type(len(places))), np.array([*places], object if empty or str in types else None))

    def array(self) -> np.ndarray:
        return self.values if self.kinds is None else self.kinds[self.values]

    def cells(self) -> list[Any]:
        cells = self.array().tolist()
        return [None if cell != cell else cell for cell in cells] if self.optional else cells

    def is_equal(self, cell: Any) -> np.ndarray:
        if self.kinds is None:
            return np.isnan(self.values) if cell is None else self.values == cell
        return np.array([kind == cell for kind in self.kinds.tolist()], bool)[self.values]

    def take(self, places: np.ndarray | slice) -> "_Column":
        return replace(self, values=self.values[places])


class Lines(Sequence[dict[str, Any]]):
    """Lines of a table that have the same columns. As a sequence it holds a dict for each, made when it is asked for; columns are there at once.

    A line of scores.csv takes 0.11 kB, and its name 0.1 once for all such tables; as a dict it takes 1.5. Among floats of which some are missing
    (None) there is no NaN, which stands for these.
    """

    def __init__(self, columns: Mapping[str, _Column], count: int):
        self._columns, self._count = columns, count

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> "Lines":
        """Lines as they come; `Lines` as they are.

        Raises:
            KeyError: one lacks a column of the first.
        """
        if isinstance(lines, Lines):
            return lines
        columns: dict[str, list[Any]] = {}
        count = 0
        for line in lines:
            columns = columns or {name: [] for name in line}
            for name, cells in columns.items():
                cell = line[name]
                cells.append(intern(cell) if type(cell) is str else cell)  # words repeat, and names of images do in many tables
            count += 1
        return cls({name: _Column.of(cells) for name, cells in columns.items()}, count)

    def column(self, name: str) -> np.ndarray:
        """(N,) what stands in a column: numbers as such, NaN for floats that are not there, anything else as objects; empty where there are no lines.

        Raises:
            KeyError: there is no such column.
        """
        return self._columns[name].array() if self._count else np.array([])

    def where(self, **cells: Any) -> "Lines":
        """The lines in which these stand in these columns."""
        chosen = np.ones(self._count, bool)
        for name, cell in cells.items():
            chosen &= self._columns[name].is_equal(cell) if self._count else chosen
        return self.take(chosen)

    def take(self, places: np.ndarray | slice) -> "Lines":
        """The lines at some places (n,), in their order, or where a flag (N,) is set."""
        count = len(np.arange(self._count)[places])
        return Lines({name: column.take(places) for name, column in self._columns.items()} if count else {}, count)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> "Lines": ...

    def __getitem__(self, place: int | slice) -> "dict[str, Any] | Lines":
        if isinstance(place, slice):
            return self.take(place)
        if not -self._count <= place < self._count:
            raise IndexError(place)
        place %= self._count
        return {name: column.take(slice(place, place + 1)).cells()[0] for name, column in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, self._count, BLOCK):
            columns = [column.take(slice(start, start + BLOCK)).cells() for column in self._columns.values()]
            yield from (dict(zip(self._columns, cells, strict=True)) for cells in zip(*columns, strict=True))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None
