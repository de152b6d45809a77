"""What is told of images in memory, and their split: by patients, the same everywhere, with no image on both sides."""

import hashlib
import logging

import numpy as np
import pytest
import torch

from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.in_memory import Labels, split

rng = np.random.default_rng(0)


class NothingIsTrue:
    """As pandas' NA."""

    def __ne__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


def pixels_of(count):
    return rng.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)


def names_of(side):
    return [int(name.removeprefix("image ")) for name in side.images.names]


def test_patients_stay_together_and_a_share_of_them_validates():
    patients = [f"p{i // 3}" for i in range(48)]
    sides = split(pixels_of(48), Labels.of(48, None, "liver", "ct", patients), 0.125, 0)
    whose = {part: {patients[place] for place in names_of(side)} for part, side in sides.items()}
    assert not whose["train"] & whose["val"]
    ordered = sorted({f"patient {patient}" for patient in patients}, key=lambda name: hashlib.sha256(f"0:{name}".encode()).digest())
    assert {f"patient {patient}" for patient in whose["val"]} == set(ordered[:2])  # an eighth of 16
    assert sorted(names_of(sides["train"]) + names_of(sides["val"])) == list(range(48))
    for side in sides.values():
        assert side.patients == [patients[place] for place in names_of(side)]


def test_the_split_follows_from_names_and_seed_alone():
    patients = np.array([f"p{i}" for i in range(40)])
    order = rng.permutation(40)

    def validating(labels, seed):
        return set(split(pixels_of(40), labels, 0.25, seed)["val"].patients)

    assert validating(Labels.of(40, None, "a", "b", patients), 0) == validating(Labels.of(40, None, "a", "b", patients[order]), 0)
    assert validating(Labels.of(40, None, "a", "b", patients), 0) != validating(Labels.of(40, None, "a", "b", patients), 1)


def test_each_domain_has_its_share_and_a_patient_of_two_is_on_one_side():
    organ = ["liver"] * 30 + ["lung"] * 60
    patients = [f"p{i}" for i in range(30)] + [f"p{i // 2}" for i in range(60)]
    labels = Labels.of(90, None, organ, "ct", patients)
    assert labels.domains == Domains(("liver", "lung"), ("ct",))
    sides = split(pixels_of(90), labels, 0.2, 3)
    for name in ("liver ct", "lung ct"):
        whose = {part: {who for who, own in zip(side.patients, side.images.datasets, strict=True) if own == name} for part, side in sides.items()}
        assert {part: len(names) for part, names in whose.items()} == {"train": 24, "val": 6}
    assert not set(sides["train"].patients) & set(sides["val"].patients)
    for side in sides.values():
        assert side.images.organ.tolist() == [int(name.startswith("lung")) for name in side.images.datasets]
        assert side.images.modality.tolist() == [0] * len(side.images)


def test_images_with_the_same_pixels_are_on_one_side_but_those_of_one_grey_are_nobodys():
    pixels = pixels_of(60)
    pixels[30:] = pixels[:30]
    for seed in range(3):
        sides = split(pixels, Labels.of(60, None, "a", "b", None), 0.2, seed)
        assert not {place % 30 for place in names_of(sides["train"])} & {place % 30 for place in names_of(sides["val"])}
        assert sides["val"].patients == [None] * 6, "no image is counted twice"
        assert len(sides["train"].images) == 48
    sides = split(pixels, Labels.of(60, None, "a", "b", [None, *map(str, range(59))]), 0.2, 0)
    for side in sides.values():  # of two patients with one image
        assert len(set(side.patients)) == len(side.patients) / 2
        assert all(who is not None for who in side.patients)
    black = split(np.zeros((60, 1, 4, 4), np.uint8), Labels.of(60, None, "a", "b", None), 0.2, 0)
    assert len(black["val"].images) == 12


def test_pixels_and_labels_go_with_each_other():
    pixels = pixels_of(20)
    for side in split(pixels, Labels.of(20, None, "a", "b", None), 0.3, 0).values():
        assert torch.equal(side.images.images, torch.from_numpy(pixels[names_of(side)]))


def test_abnormal_images_are_left_out_with_all_that_is_told_of_them(caplog):
    with caplog.at_level(logging.INFO):
        labels = Labels.of(4, np.array([0, 1, 0, 1]), ["a", "b", "c", "d"], np.array(["x", "x", "y", "y"]), [1, 2, np.nan, None])
    assert Labels.of(4, None, "a", "x", ["", np.datetime64("NaT"), NothingIsTrue(), 0]).patient == [None, None, None, "0"]
    assert Labels.of(4, np.zeros((4, 1)), "a", "x", np.array([["p"]] * 4)).patient == ["p"] * 4  # a column of a table
    assert (labels.places, labels.organ, labels.modality, labels.patient) == ([0, 2], ["a", "c"], ["x", "y"], ["1", None])
    assert caplog.messages == ["2 abnormal images are left out: it is normal ones that are trained on"]


@pytest.mark.parametrize(
    ("told", "error", "message"),
    [
        ({"y": [0, 1]}, ValueError, "^y: 2 labels for 3 images"),
        ({"y": [1, -1, 1]}, ValueError, "^y: expected 0 for normal and 1 for abnormal images, got -1"),
        ({"y": [0, None, 1]}, ValueError, "^y: .* got None"),
        ({"y": [1, 1, 1]}, ValueError, "^y: none of 3 images is normal"),
        ({"organ": ["liver"]}, ValueError, "^organ: 1 words for 3 images; give one word for all, or one for each"),
        (
            {"organ": ["Knee", "hip", "knee "]},
            ValueError,
            "^organ: 'Knee' and 'knee ', two classes, differ in upper and lower case or space alone; write",
        ),
        ({"modality": [1, 2, 3]}, TypeError, "^modality: expected words, got 1"),
        ({"modality": " "}, TypeError, "^modality: expected words"),
        ({"groups": ["a"]}, ValueError, "^groups: 1 patients for 3 images"),
        ({"groups": "abc"}, TypeError, "^groups: expected a list or an array, one value for each image, got 'abc'"),
        ({"groups": {1: 2, 3: 4, 5: 6}}, TypeError, "^groups: expected a list"),
        ({"groups": np.zeros((3, 2))}, TypeError, r"^groups: .* got one of shape \(3, 2\)"),
        ({"groups": 7}, TypeError, "^groups: .* got 7"),
        ({"y": 0}, TypeError, "^y: .* got 0"),
        ({"organ": None}, TypeError, "^organ: .* got None"),
        ({"organ": b"abc"}, TypeError, "^organ: .* got b'abc'"),
    ],
)
def test_labels_that_do_not_fit_are_told(told, error, message):
    with pytest.raises(error, match=message):
        Labels.of(3, **{"y": None, "organ": "a", "modality": "b", "groups": None} | told)


@pytest.mark.parametrize(
    ("groups", "organ", "message"),
    [
        (["p"] * 6, "liver", "^liver ct: 1 patients are too few: training and validation need one each"),
        (None, ["a"] * 5 + ["b"], "^b ct: 1 images are too few"),
        (["p", "q"] * 3, ["a", "a", "b", "b", "c", "d"], "^c ct: 1 patients are too few"),
    ],
)
def test_too_few_patients_are_told(groups, organ, message):
    with pytest.raises(ValueError, match=message):
        split(pixels_of(6), Labels.of(6, None, organ, "ct", groups), 0.125, 0)


@pytest.mark.parametrize("share", [0, 1, -1, 1.5, None, "0.5"])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="validation_share must be between 0 and 1"):
        split(pixels_of(6), Labels.of(6, None, "a", "b", None), share, 0)
