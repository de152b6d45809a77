"""What the headers of volumes and DICOM files say that whoever prepares a dataset of them must know."""

from collections.abc import Mapping

from anomaly_detection.data.formats.sources import SourceFile

NAMED = 5  # masks in a warning


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
