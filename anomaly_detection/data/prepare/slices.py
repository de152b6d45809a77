"""What the number of images that volumes and patients give does to results, said where it matters."""

from collections import Counter
from collections.abc import Sequence

from anomaly_detection.data.formats.nifti import is_nifti
from anomaly_detection.data.manifest import Row

POOLED = 3  # slices whose mean a patient's score is: of so many or fewer its expectation is that of one
CROSS_SECTIONS = ("CT", "MR", "PT", "NM")  # modalities of which a series is a stack of slices
FAR = 2  # times as many images of a patient, and the highest of them are others


def unmarked_warning(rows: Sequence[Row]) -> str | None:
    """That all slices of abnormal volumes count as abnormal where no mask says which of them are; None where there are no such volumes."""
    slices = Counter(row.source for row in rows if row.abnormal and row.mask_pixels is None and is_nifti(row.source))
    if not slices:
        return None
    advice = "with --masks DIR those without are left out"
    volumes = "1 abnormal volume has" if len(slices) == 1 else f"{len(slices)} abnormal volumes have"
    return f"{volumes} no mask: all {slices.total()} slices taken of them count as abnormal, lesion or not; {advice}"


def unmarked_series_warning(rows: Sequence[Row]) -> str | None:
    """The same of DICOM files of several frames and of series of cross-sections, which no mask can tell of; None where there are none."""
    frames = Counter(row.source for row in rows if row.abnormal and row.modality)
    of_series = Counter((row.patient_id, row.series) for row in rows if row.abnormal and row.modality in CROSS_SECTIONS and row.series)
    stacks = Counter(
        (row.patient_id, row.series) if of_series[row.patient_id, row.series] else row.source
        for row in rows if row.abnormal and (of_series[row.patient_id, row.series] > 1 or frames[row.source] > 1)
    )  # fmt: skip
    if not stacks:
        return None
    series = "1 abnormal DICOM series has" if len(stacks) == 1 else f"{len(stacks)} abnormal DICOM series have"
    advice = "take those without out of the folder, or save each as a NIfTI volume and give --masks DIR"
    return f"{series} several slices: all {stacks.total()} count as abnormal, lesion or not; {advice}"


def unequal_warning(rows: Sequence[Row]) -> str | None:
    """That scores of patients compare few slices with many; None where patients with and without abnormal images have about as many."""
    images = Counter(row.patient for row in rows)
    ill = {row.patient for row in rows if row.abnormal}
    means = [_mean([images[who] for who in images if (who in ill) == abnormal]) for abnormal in (False, True)]
    if 0 in means or max(means) <= max(POOLED, FAR * min(means)):
        return None
    healthy, abnormal = means
    outcome, advice = "higher over more: AUROC over patients comes out too high", ""
    if abnormal < healthy:
        outcome = "lower over fewer: AUROC over patients comes out too low"
        if any(is_nifti(row.source) for row in rows):
            advice = f"; --max-slices {max(1, round(abnormal))} takes about as few of each volume"
    counts = f"on average patients with abnormal images have {abnormal:.3g} in all, the others {healthy:.3g}"
    return f"{counts}; a patient's score is the mean of the three highest, which is {outcome}{advice}"


def _mean(counts: Sequence[int]) -> float:
    return sum(counts) / len(counts) if counts else 0
