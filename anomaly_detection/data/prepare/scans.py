"""What whoever prepares a dataset of volumes and DICOM files must know of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.manifest import Row

NAMED = 5  # masks in a warning
RADIOGRAPHS = ("CR", "DX", "MG", "RF")  # of one kind, and pictures of their own in one series


def masks_elsewhere_warning(apart: Mapping[SourceFile, float]) -> str | None:
    """That masks lie elsewhere than their volumes; None where there are none.

    They are taken: an identity in place of the affine is common, of volumes (20 of LiTS have one) and of masks, and their voxels fit all the same.

    Args:
        apart: of each such mask by how many mm, see `Volume.apart`.
    """
    if not apart:
        return None
    farthest = sorted(apart.items(), key=lambda item: -item[1])
    named = ", ".join(f"{mask} by {mm:.1f} mm" for mask, mm in farthest[:NAMED])
    more = f" and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
    masks = "1 mask lies elsewhere than its volume" if len(apart) == 1 else f"{len(apart)} masks lie elsewhere than their volumes"
    advice = "voxels were paired by number, as is right where only a header is wrong; otherwise resample the mask to the grid of its volume"
    return f"by the affines of both {masks}: {named}{more}; {advice}"


def modalities_warning(rows: Sequence[Row]) -> str | None:
    """That DICOM files of several modalities became images, with how many of each; None where there is one at most, or radiographs alone."""
    counts = Counter({(row.abnormal, row.source): row.modality for row in rows if row.modality}.values())
    if len(counts) < 2 or set(counts) <= set(RADIOGRAPHS):
        return None
    named = ", ".join(f"{count} {modality}" for modality, count in counts.most_common())
    advice = "where these are not of the dataset's kind, such as PT beside CT, take them out of the folder"
    return f"DICOM files of {len(counts)} modalities became images: {named}; {advice}"


def other_windows_warning(shown: Iterable[tuple[Row, Iterable[str]]]) -> str | None:
    """That headers state several windows for the slices of a series, as scanners fit them to each; None where all of a series have one.

    Args:
        shown: an image of each file, and the windows of its header, see `read_windows`.
    """
    windows: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row, stated in shown:
        if row.modality not in RADIOGRAPHS:
            windows[row.patient_id, row.series or row.source] |= set(stated)
    several = sum(len(stated) > 1 for stated in windows.values())
    if not several:
        return None
    which = "1 series has" if several == 1 else f"{several} series have"
    return f"{which} several windows by the headers, so that the same tissue has other greys from slice to slice; give --window LEVEL WIDTH"


def single_slices_warning(rows: Sequence[Row], window: list[float] | str | None) -> str | None:
    """That each slice of a series was shown through a window of its own; None where no series lies in files of one slice each.

    Args:
        rows: of the manifest.
        window: of the dataset, as `plain_window` has it.
    """
    if window != "auto":
        return None
    slices = Counter((row.abnormal, row.source) for row in rows)
    files = Counter(
        (row.patient_id, row.series) for row in rows if row.series and row.modality not in RADIOGRAPHS and slices[row.abnormal, row.source] == 1
    )
    series = sum(count > 1 for count in files.values())
    if not series:
        return None
    which = "1 series lies in DICOM files" if series == 1 else f"{series} series lie in DICOM files"
    outcome = "each slice has another window, and one that is nearly empty is stretched to full contrast"
    return f"--window auto is of each file, and {which} of one slice: {outcome}; give --window LEVEL WIDTH"
