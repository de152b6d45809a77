"""Whose an image is, so that no patient is trained on and tested: as the manifest says, otherwise as the names of the public datasets do."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from anomaly_detection.data.manifest import MANIFEST, read_manifest

_SLICE = re.compile(r"(volume-\d+)_\d+", re.IGNORECASE)  # LiTS
_RADIOGRAPH = re.compile(r"CHNCXR_\d{4}_[01]", re.IGNORECASE)  # Shenzhen


def patients_of(folder: Path) -> dict[str, str]:
    """The patient of each image in the folder of a dataset that `prepare` made, by the image's path in it; empty for other folders.

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / MANIFEST
    return {row.image: row.patient for row in read_manifest(path)} if path.is_file() else {}


def patient_of(image: str, abnormal: bool, manifest: Mapping[str, str] | None = None, pattern: str | None = None) -> str | None:
    """Whose an image is; None where that cannot be told.

    Without a line in the manifest the name decides, if it is one of the public datasets: the slice `volume-3_010` is of LiTS's volume 3, every
    radiograph `CHNCXR_0001_0` of Shenzhen is another patient, and `12%3` is cut out of figure 12 of COVID-CT.

    Args:
        image: its path, of which the name counts.
        abnormal: whether it shows disease.
        manifest: see `patients_of`.
        pattern: a regular expression that goes before all else: the patient is its first group, or all that it matches.
    """
    if pattern is not None:
        match = re.search(pattern, image)
        return match and (match[1] if match.re.groups else match[0])
    if manifest and image in manifest:
        return manifest[image]
    name = PurePosixPath(image).stem
    if match := _SLICE.fullmatch(name):
        return match[1].lower()
    if _RADIOGRAPH.fullmatch(name):
        return name
    return figure_of(name, abnormal) if "%" in name else None


def figure_of(name: str, abnormal: bool) -> str:
    """The figure or patient that an image of COVID-CT is of: what stands before "%", told apart by kind, since the kinds are numbered alike."""
    return f"{'COVID' if abnormal else 'NonCOVID'} {name.partition('%')[0]}"
