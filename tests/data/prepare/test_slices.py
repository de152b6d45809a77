"""Patients of few slices among patients of many, and volumes of which no mask says where the lesion is."""

import re

import numpy as np
import pytest

from anomaly_detection.data.manifest import Row
from anomaly_detection.data.prepare.slices import POOLED, unequal_warning, unmarked_series_warning, unmarked_warning
from anomaly_detection.evaluation.normals import HIGHEST, pooled


def rows(normal, abnormal, patients=5, suffix=".nii.gz", mask_pixels=None):
    """So many images of each patient."""
    counts = {0: normal, 1: abnormal}
    return [
        Row(f"{kind}/{who}_{k}.png", kind, f"{kind}/{who}", f"{who}{suffix}", "", "", mask_pixels if kind else None, "file")
        for kind, count in counts.items() for who in range(patients) for k in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("normal", "abnormal", "words"),
    [
        (
            20,
            4,
            "have 4 in all, the others 20; .* lower over fewer: AUROC over patients comes out too low; --max-slices 4 takes about as few",
        ),
        (1, 20, "have 20 in all, the others 1; .* higher over more: AUROC over patients comes out too high$"),
        (20, 10, None),
        (3, 1, None),
        (20, 0, None),
    ],
)
def test_patients_of_far_fewer_or_more_slices_are_told(normal, abnormal, words):
    line = unequal_warning(rows(normal, abnormal))
    assert line is None if words is None else re.search(words, line)


def test_the_score_of_a_patient_is_lower_over_fewer_slices():
    """As the warning says, of slices that differ in nothing; up to as many as count there is no difference."""
    assert POOLED == HIGHEST
    scores = np.random.default_rng(0).normal(size=(20000, 20))
    means = {count: pooled(scores[:, :count].ravel(), np.repeat(np.arange(len(scores)), count)).mean() for count in (1, 3, 4, 20)}
    assert abs(means[1]) < 0.03
    assert abs(means[3]) < 0.03
    assert means[20] > means[4] + 0.9 > means[3] + 0.9


def test_pictures_get_no_advice_for_volumes():
    line = unequal_warning(rows(20, 4, suffix=".png"))
    assert "too low" in line
    assert "--max-slices" not in line


def test_abnormal_volumes_without_masks_are_told():
    assert unmarked_warning(rows(20, 20)) == (
        "5 abnormal volumes have no mask: all 100 slices taken of them count as abnormal, lesion or not; with --masks DIR those without are left out"
    )
    assert unmarked_warning(rows(20, 20, mask_pixels=7)) is None
    assert unmarked_warning(rows(20, 20, suffix=".png")) is None
    assert unmarked_warning(rows(20, 0)) is None


@pytest.mark.parametrize(
    ("modality", "series", "per_file", "told"),
    [
        ("CT", "1.{who}", 1, True),  # a file for each slice
        ("CT", "1.{who}.{k}", 1, False),
        ("CT", "", 1, False),
        ("CT", "", 4, True),
        ("CT", "1.{who}", 4, True),
        ("US", "1.{who}", 4, True),  # a clip
        ("DX", "1.{who}", 1, False),  # views
        ("", "", 4, False),
    ],
)
def test_abnormal_series_are_told_as_volumes_are(modality, series, per_file, told):
    made = [
        Row(f"{kind}/{who}_{k}.png", kind, f"P{who}", f"{kind}/{who}_{k // per_file}.dcm", "", "", None, "header", "", "", each, modality)
        for kind in (0, 1) for who in range(1 + kind) for k in range(4) for each in [series.format(who=who, k=k)]
    ]  # fmt: skip
    assert unmarked_series_warning(made[:4]) is None, "normal ones"
    line = unmarked_series_warning(made)
    assert (line is not None) == told
    assert not told or line.startswith("2 abnormal DICOM series have several slices: all 8 count as abnormal, lesion or not; take those without")
