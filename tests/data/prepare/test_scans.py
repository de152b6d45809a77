"""What the headers of scans say that must be known."""

from pathlib import Path

from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.prepare.scans import masks_elsewhere_warning


def test_the_masks_that_lie_farthest_away_are_named():
    masks = {SourceFile(f"m{mm}.nii", Path(f"m{mm}.nii"), None, 1): float(mm) for mm in (3, 1000, 20, 5, 7, 60)}
    told = masks_elsewhere_warning(masks)
    assert "6 masks lie elsewhere than their volumes: m1000.nii by 1000.0 mm, m60.nii by 60.0 mm, m20.nii by 20.0 mm, m7.nii by 7.0 mm, m5" in told
    assert "m5.nii by 5.0 mm and 1 more; voxels were paired by number" in told
    one = dict(list(masks.items())[:1])
    assert masks_elsewhere_warning(one).startswith("by the affines of both 1 mask lies elsewhere than its volume: m3.nii by 3.0 mm; ")
    assert masks_elsewhere_warning({}) is None
