"""Folders on the way to images: which of them tells whose an image is, and which are called as nobody is."""

import re
from collections.abc import Collection, Sequence
from itertools import takewhile

from anomaly_detection.data.vocabulary import KINDS, NUMBERED, PARTS, VIEWS

CLASSES = 8  # folders side by side at most: of more, one that is called `normal` may be a patient's


def common_folders(sources: Sequence[str]) -> list[str]:
    """The folders that all the paths begin with.

    Args:
        sources: paths, with "/" between, below the folder that was given.
    """
    return _common([source.split("/")[:-1] for source in sources])


def subfolders(sources: Sequence[str]) -> dict[str, str]:
    """For each source the first folder on the way that is not the same for all of them; nothing for those that lie above it.

    Args:
        sources: paths, with "/" between, below the folder that was given.
    """
    depth = len(common_folders(sources))
    folders = {source: source.split("/")[:-1] for source in sources}
    return {source: parts[depth] for source, parts in folders.items() if len(parts) > depth}


def patient_folders(sources: Sequence[str], images: Collection[str]) -> dict[str, str]:
    """For each source the first folder on the way that may be a person's; nothing for those that have none.

    It differs between images, and is not at a level where folders are called as nobody is, see `name_nobody`. Parts of a dataset may number their
    patients alike, so that such a folder stands before the next one that differs: `batch_1/p7`.

    Args:
        sources: paths, with "/" between, below the folder that was given.
        images: those of them that are images; a note beside their folders changes nothing.
    """
    ways = {source: source.split("/")[:-1] for source in sources}
    before = dict.fromkeys(sources, "")
    while True:
        shared = _common([ways[image] for image in images])
        ways = {source: way[len(shared) :] for source, way in ways.items() if way[: len(shared)] == shared}
        names = {ways[image][0] for image in images if ways[image]}
        if are_parts(names):
            before |= {source: f"{before[source]}{way[0]}/" for source, way in ways.items() if way}
        elif not name_nobody(names):
            return {source: before[source] + way[0] for source, way in ways.items() if way and names}
        ways = {source: way[1:] for source, way in ways.items()}


def only_views(images: Collection[str]) -> bool:
    """Whether the images lie in folders that are called as sequences and views are, each directly in one; those above all folders do not count."""
    return are_views({image.split("/")[-2] for image in images if "/" in image})


def name_nobody(names: Collection[str]) -> bool:
    """Whether folders side by side are called what images show, or how they were taken, so that none is a person's."""
    return are_kinds(names) or are_views(names)


def are_kinds(names: Collection[str]) -> bool:
    """Whether one of a few is called `normal` or the like, in whatever case."""
    return len(names) <= CLASSES and any(re.sub(r"[\W_]+", "", name.casefold()) in KINDS for name in names)


def are_views(names: Collection[str]) -> bool:
    """Whether all are called as sequences, planes, projections, phases or modalities are, but for words that they share: `IXI-T1` and `IXI-PD`."""
    words = [_words(name) for name in names]
    shared = set.intersection(*words) if len(words) > 1 else set()
    return bool(words) and all(own - shared and own - shared <= VIEWS for own in words)


def are_parts(names: Collection[str]) -> bool:
    """Whether all are called as parts of a dataset are: `Training Batch 1`, `fold2`, `test`."""
    return bool(names) and all(_is_part(_words(name)) for name in names)


def _is_part(words: set[str]) -> bool:
    bare = {word.rstrip("0123456789") for word in words} - {""}
    return bool(bare) and bare <= PARTS and (words <= PARTS or bool(bare & NUMBERED))


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[\W_]+", name.casefold()) if word}


def _common(ways: Sequence[Sequence[str]]) -> list[str]:
    levels = zip(*ways, strict=False)  # as deep as the highest file lies
    return [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]
