"""In which order training meets its images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # neighbours that are read together
TURNS, GROUPS = 2, 3  # tell these draws from the others with a seed; 1 is `training.mixup.STREAM`


class ShuffledIndices:
    """An endless stream of the indices 0 ... size-1: one seeded permutation after another.

    With a window, for images that are read from a disk: the permutation is one of blocks of neighbours, then of the images within each window of
    blocks. What is read at about the same time lies in few places, and images of a window are met by a few neighbours more than by others.

    Batches run across the end of a permutation, so that none is short and every image is seen equally often. The place in the stream is one number,
    `position`: setting it continues the stream exactly.
    """

    def __init__(self, size: int, seed: int, position: int = 0, window: int | None = None, stream: Sequence[int] = ()):
        """stream: numbers that tell the draws from those of other streams with the same seed."""
        self.size = size
        self.stream = stream
        self.window = window
        self.seed = seed
        self.position = position
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            # One generator an epoch, so that any epoch can be had without those before it. (torch's generator would ignore the seed's upper half.)
            random = np.random.default_rng([self.seed, epoch, *self.stream])
            order = random.permutation(self.size) if self.window is None else self._by_blocks(random)
            self._order, self._epoch = torch.from_numpy(order), epoch
        return self._order

    def _by_blocks(self, random: np.random.Generator) -> np.ndarray:
        blocks = np.split(np.arange(self.size), np.arange(BLOCK, self.size, BLOCK))
        order = np.concatenate([blocks[place] for place in random.permutation(len(blocks))])
        for start in range(0, self.size, self.window):
            random.shuffle(order[start : start + self.window])
        return order

    def take(self, count: int) -> Tensor:
        """The next `count` indices, int64."""
        parts = []
        while count > 0:
            epoch, offset = divmod(self.position, self.size)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            self.position += len(part)
            count -= len(part)
        return torch.cat(parts)


class BalancedIndices:
    """An endless stream of indices in which groups of images take turns, however large they are: of a small one every image is met more often.

    Each group is a `ShuffledIndices` stream of its own draws, so that images do not meet the same ones of other groups again and again. Who is first
    is drawn for each round of turns: every so-and-so-many-th index, which one of several processes takes, is not of one group. `position` continues
    the stream exactly.

    Args:
        groups: (N,) the group of each image, such as the name of its dataset.
        seed, position, window: as in `ShuffledIndices`.
    """

    def __init__(self, groups: Sequence[str], seed: int, position: int = 0, window: int | None = None):
        numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        each = np.array([numbers[name] for name in groups])
        self.places = [torch.from_numpy(np.flatnonzero(each == number)) for number in range(len(numbers))]
        share = None if window is None else max(1, window // len(self.places))
        self.streams = [ShuffledIndices(len(places), seed, window=share, stream=(GROUPS + number,)) for number, places in enumerate(self.places)]
        self.seed = seed
        self.position = position

    def take(self, count: int) -> Tensor:
        """The next `count` indices, int64."""
        done, begun = divmod(self.position, len(self.streams))
        last = (self.position + count - 1) // len(self.streams)
        turns = torch.from_numpy(np.concatenate([self._turns(number) for number in range(done, last + 1)]))
        taken = torch.empty(count, dtype=torch.int64)
        for number, (stream, places) in enumerate(zip(self.streams, self.places, strict=True)):
            mine = turns[begun : begun + count] == number
            stream.position = done + int((turns[:begun] == number).any())
            taken[mine] = places[stream.take(int(mine.sum()))] if bool(mine.any()) else places[:0]
        self.position += count
        return taken

    def _turns(self, number: int) -> np.ndarray:
        """The order of the groups in a round."""
        return np.random.default_rng([self.seed, number, TURNS]).permutation(len(self.streams))
