"""Which image goes to which split: patient by patient, the same on every machine."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from anomaly_detection.data.formats.sources import natural
from anomaly_detection.data.manifest import Row
from anomaly_detection.data.patients import merge_patients
from anomaly_detection.data.prepare.options import Shares
from anomaly_detection.data.splits import NEEDED, SPLITS, Kind, Part
from anomaly_detection.data.thinning import spread
from anomaly_detection.system.errors import UserError


class Assignment(NamedTuple):
    """The images of each split, and how many were left out of all, by reason."""

    splits: dict[tuple[Kind, Part], list[str]]
    left_out: Counter


def assign_splits(rows: Sequence[Row], shares: Shares, healthy_first: bool, published: Mapping[str, Part] | None = None) -> Assignment:
    """Share the images of a dataset out over training, validation and test.

    No patient is on two sides, and images with the same pixels count as one patient's. Patients are taken in the order of a hash of seed and
    name, so that the outcome depends on no machine, no library, and no order of files. All abnormal images are for testing; those whose
    patient is in training or validation are left out.

    Args:
        rows: of the manifest.
        shares: how many patients go where.
        healthy_first: train and validate on patients without abnormal images as far as there are such, so that few of those are lost. False:
            the split follows from the patients' names alone.
        published: a published split that is to be followed instead of `shares`: names of files in lower case, with and without suffix, behind
            `normal/` or `abnormal/`. Images that it does not name are left out, so are those of its test list whose patient it also trains on or
            validates with.

    Raises:
        UserError: there are too few patients, or a split is empty: that of abnormal images may be, where there are none at all.
    """
    left_out: Counter = Counter()
    usable = _without_contradictions(rows, left_out)
    owner = merge_patients((row.patient, row.pixels_sha256) for row in usable)
    if published is None:
        parts = _share_out(usable, owner, shares, healthy_first)
    else:
        usable, parts = _follow(usable, owner, published, left_out)
    splits: dict[tuple[Kind, Part], list[str]] = {key: [] for key in SPLITS}
    for row in usable:
        part = parts.get(owner[row.patient], "test")  # those who have abnormal images alone
        if not row.abnormal:
            splits["normal", part].append(row.image)
        elif part == "test":
            splits["anomaly", part].append(row.image)
        else:
            left_out["abnormal images of patients who are in training or validation"] += 1
    if shares.train_images is not None:
        patient = {row.image: owner[row.patient] for row in usable}
        kept = _thin_out(splits["normal", "train"], patient, shares.train_images)
        left_out["normal images beyond the number to train on"] += len(splits["normal", "train"]) - len(kept)
        splits["normal", "train"] = kept
    needed = SPLITS if any(row.abnormal for row in rows) else NEEDED
    for kind, part in needed:
        if not splits[kind, part]:
            reasons = "".join(f"; left out: {count} {reason}" for reason, count in (+left_out).items())
            raise UserError(f"no {kind} image is left for {part}; more patients, or other shares, are needed{reasons}")
    return Assignment(splits, +left_out)


def order_patients(patients: Sequence[str], seed: int) -> list[str]:
    """Patients in an order that is random, and the same everywhere, whoever else there is."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).digest())


def share_patients(patients: Sequence[str], shares: Shares) -> dict[str, Part]:
    """The part of each patient: the first ones are trained on, the next ones validate, the others are tested.

    Raises:
        UserError: fewer than three patients.
    """
    count = len(patients)
    if count < 3:
        told = "1 patient with normal images is" if count == 1 else f"{count} patients with normal images are"
        raise UserError(f"{told} too few: training, validation and test need one each (--patient tells them apart)")
    train = min(max(1, round(shares.train * count)), count - 2)
    val = min(max(1, round(shares.val * count)), count - train - 1)
    return {patient: "train" if place < train else "val" if place < train + val else "test" for place, patient in enumerate(patients)}


def _without_contradictions(rows: Sequence[Row], left_out: Counter) -> list[Row]:
    """The rows but for images that the data hold both as normal and as abnormal."""
    labels: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        labels[row.pixels_sha256].add(row.abnormal)
    usable = [row for row in rows if len(labels[row.pixels_sha256]) == 1]
    left_out["images that are there both as normal and as abnormal"] += len(rows) - len(usable)
    return usable


def _share_out(rows: Sequence[Row], owner: Mapping[str, str], shares: Shares, healthy_first: bool) -> dict[str, Part]:
    normal = {owner[row.patient] for row in rows if not row.abnormal}
    ill = {owner[row.patient] for row in rows if row.abnormal} if healthy_first else set()
    ordered = order_patients(normal - ill, shares.seed) + order_patients(normal & ill, shares.seed)
    return share_patients(ordered, shares)


def _follow(rows: Sequence[Row], owner: Mapping[str, str], published: Mapping[str, Part], left_out: Counter) -> tuple[list[Row], dict[str, Part]]:
    """The rows that a published split can keep, and the part of each patient: that of the earliest list that names a normal image of theirs."""
    listed = [(row, _listed(row, published)) for row in rows]
    parts: dict[str, Part] = {}
    for part in ("train", "val", "test"):
        for row, own in listed:
            if own == part and not row.abnormal:
                parts.setdefault(owner[row.patient], part)
    kept = []
    for row, own in listed:
        if own is None:
            left_out["images that the published lists do not name"] += 1
        elif row.abnormal and own != "test":
            left_out["abnormal images of the published training and validation lists"] += 1
        elif not row.abnormal and own != parts[owner[row.patient]]:
            left_out["images of a published list whose patient an earlier list names, too"] += 1
        else:
            kept.append(row)
    return kept, parts


def _listed(row: Row, published: Mapping[str, Part]) -> Part | None:
    """The part of an image in a published split: by the name of its file, else by its own, which of files that share a stem is another."""
    kind = row.image.partition("/")[0]
    names = PurePosixPath(row.source).name, PurePosixPath(row.image).stem
    return next((part for name in names if (part := published.get(f"{kind}/{name.lower()}"))), None)


def _thin_out(images: Sequence[str], patient: Mapping[str, str], most: int) -> list[str]:
    """At most `most` images, as many of each patient as of the next one, spread over what each has in the order of names."""
    own: dict[str, list[str]] = defaultdict(list)
    for image in images:
        own[patient[image]].append(image)
    quota = dict.fromkeys(own, 0)
    left = min(most, len(images))
    while left:
        for name in [name for name in own if quota[name] < len(own[name])][:left]:
            quota[name] += 1
            left -= 1
    return sorted(image for name, all_images in own.items() for image in spread(sorted(all_images, key=natural), quota[name]))
