"""Who goes to which split."""

from collections import Counter, defaultdict

import pytest

from anomaly_detection.data.manifest import Row
from anomaly_detection.data.prepare.assign import assign_splits, order_patients, share_patients
from anomaly_detection.data.prepare.options import Shares
from anomaly_detection.system.errors import UserError


def rows(*images):
    """Rows of (patient, kind, pixels): the pixels default to the image's own."""
    found = []
    for number, (patient, kind, *pixels) in enumerate(images):
        name = f"{'abnormal' if kind == 'a' else 'normal'}/{patient}_{number}.png"
        found.append(Row(name, int(kind == "a"), patient, "", "", pixels[0] if pixels else f"own {patient} {number}", None))
    return found


def sides(made, splits):
    patient = {row.image: row.patient for row in made}
    found = defaultdict(set)
    for (_, part), images in splits.items():
        for image in images:
            found[patient[image]].add(part)
    return found


def many(count, kinds="nna"):
    return rows(*((f"p{number}", kind) for number in range(count) for kind in kinds))


@pytest.mark.parametrize("healthy_first", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_two_sides(healthy_first, seed):
    made = many(15) + rows(*((f"h{number}", "n") for number in range(15)), *((f"i{number}", "a") for number in range(4)))
    splits, left_out = assign_splits(made, Shares(seed=seed), healthy_first)
    assert all(len(found) == 1 for found in sides(made, splits).values())
    kept = sum(map(len, splits.values()))
    assert kept + sum(left_out.values()) == len(made)
    assert {len(splits["normal", part]) > 0 for part in ("train", "val", "test")} == {True}
    assert set(splits["anomaly", "test"]) >= {row.image for row in made if row.patient.startswith("i")}


def test_healthy_patients_are_trained_on_first():
    made = many(8) + rows(*((f"h{number}", "n") for number in range(32)))
    splits, left_out = assign_splits(made, Shares(), healthy_first=True)
    assert len(splits["anomaly", "test"]) == 8
    assert not left_out
    assert sum(assign_splits(made, Shares(), healthy_first=False).left_out.values()) > 0


def test_the_same_image_under_two_names_is_one_patients():
    for seed in range(10):
        made = many(12, "n") + rows(("p1", "n", "twin"), ("p9", "n", "twin"), ("q", "n", "own p3 3"))
        splits, _ = assign_splits(made + rows(("ill", "a")), Shares(seed=seed), True)
        found = sides(made, {key: images for key, images in splits.items() if key[0] == "normal"})
        assert found["p1"] == found["p9"]
        assert found["q"] == found["p3"]


def test_an_image_that_is_normal_and_abnormal_is_neither():
    splits, left_out = assign_splits(many(6, "n") + rows(("ill", "a")) + rows(("x", "n", "both"), ("y", "a", "both")), Shares(), True)
    assert not any("x_" in image or "y_" in image for images in splits.values() for image in images)
    assert left_out == {"images that are there both as normal and as abnormal": 2}


def test_shares_are_those_asked_for_and_other_seeds_give_other_patients():
    names = [f"CHNCXR_{number:04d}_0" for number in range(1, 327)]
    parts = share_patients(order_patients(names, 0), Shares())
    assert [sum(part == wanted for part in parts.values()) for wanted in ("train", "val", "test")] == [228, 33, 65]
    assert share_patients(order_patients(names[::-1], 0), Shares()) == parts
    assert share_patients(order_patients(names, 1), Shares()) != parts


def test_the_order_of_patients_is_fixed_for_good():
    # sha256 of "0:a", "0:b", ... computed with coreutils
    assert order_patients(["a", "b", "c", "d"], 0) == sorted("abcd", key=lambda name: SHA256[name])


SHA256 = {
    "a": "9df3c5fab8ef8fe78a408912e52e76477b5bd838eec3cbf48191a848ec8563d3",
    "b": "e02192fd813f38fd4ce376d30d7e2e888d6fdf56f25505e3152304418b90871e",
    "c": "be086d93a260844f7a75113ea046a2bea2fb0b52b794d6da18708d6ad1872c02",
    "d": "7d98c2ee46f8f0355854bf08ab0d5b27f58d8db7948dfde71eb79378a0f60ba7",
}


def test_training_images_are_thinned_out_evenly():
    made = rows(*((f"p{number}", "n") for number in range(10) for _ in range(number + 1)), ("ill", "a"))
    splits, left_out = assign_splits(made, Shares(train=0.7, train_images=14), True)
    counts = defaultdict(int)
    for image in splits["normal", "train"]:
        counts[image.split("/")[1].split("_")[0]] += 1
    assert sum(counts.values()) == 14
    assert len(counts) == 7
    assert all(count >= min(int(patient[1:]) + 1, max(counts.values()) - 1) for patient, count in counts.items())
    assert sum(left_out.values()) + sum(map(len, splits.values())) == len(made)


def test_what_is_trained_on_is_of_the_inside_of_each_volume():
    """LiTS by its defaults: of the 20 slices of 92 volumes 186 are trained on, 2 or 3 of each, and none is the dome or tip of a liver."""
    made = [Row(f"normal/v{who}_{k:03d}.png", 0, f"v{who}", "", "", f"{who} {k}", None) for who in range(131) for k in range(20)]
    train = assign_splits([*made, *rows(("ill", "a"))], Shares(train_images=186), False).splits["normal", "train"]
    of_volume = defaultdict(list)
    for image in train:
        volume, number = image.removesuffix(".png").split("_")
        of_volume[volume].append(int(number))
    assert (len(train), len(of_volume)) == (186, 92)
    assert Counter(map(tuple, of_volume.values())) == {(5, 15): 90, (3, 10, 16): 2}


def test_images_are_thinned_in_the_order_of_their_numbers():
    made = [Row(f"normal/p{who}_{k}.png", 0, f"p{who}", "", "", f"{who} {k}", None) for who in range(3) for k in range(1, 13)]
    (one,) = assign_splits(sorted(made, key=lambda row: row.image), Shares(train_images=1), True).splits["normal", "train"]
    assert one.endswith("_7.png"), "the middle of 1 to 12, not of 1, 10, 11, 12, 2 to 9"


def test_a_published_split_is_followed_but_for_leaks():
    made = [
        Row(f"{kind}/{name}.png", int(kind == "abnormal"), patient, "", "", name, None)
        for kind, name, patient in (
            ("normal", "1%0", "1"), ("normal", "1%1", "1"), ("normal", "2", "2"), ("normal", "3", "3"), ("normal", "4", "4"),
            ("abnormal", "A", "A"), ("abnormal", "B", "B"), ("abnormal", "3x", "3"),
        )
    ]  # fmt: skip
    published = {"normal/1%0": "train", "normal/1%1": "test", "normal/2": "val", "normal/3": "test", "abnormal/a": "test"}
    published |= dict.fromkeys(("abnormal/b", "abnormal/3x"), "train")  # nothing is trained on these: normal images of 3 may stay
    splits, left_out = assign_splits(made, Shares(), True, published)
    assert splits == {
        ("normal", "train"): ["normal/1%0.png"],
        ("normal", "val"): ["normal/2.png"],
        ("normal", "test"): ["normal/3.png"],
        ("anomaly", "test"): ["abnormal/A.png"],
    }
    assert sorted(left_out.values()) == [1, 1, 2]


def test_a_published_split_tells_files_of_one_stem_apart():
    files = {"CT_NonCOVID/1.png": "1.png", "CT_NonCOVID/1.jpg": "1.jpg", "CT_NonCOVID/2.png": "CT_NonCOVID_2.png", "CT_NonCOVID/3.png": "3"}
    made = [Row(f"normal/{name}.png", 0, source, source, "", source, None) for source, name in files.items()]
    made.append(Row("abnormal/CT_COVID_2.png.png", 1, "ill", "CT_COVID/2.png", "", "ill", None))
    lists = {"normal/1.png": "train", "normal/1.jpg": "val", "normal/2.png": "train", "normal/3": "test", "abnormal/2.png": "test"}
    splits, left_out = assign_splits(made, Shares(), True, lists | {"normal/1": "train", "normal/2": "train", "abnormal/2": "test"})
    assert splits == {
        ("normal", "train"): ["normal/1.png.png", "normal/CT_NonCOVID_2.png.png"],
        ("normal", "val"): ["normal/1.jpg.png"],
        ("normal", "test"): ["normal/3.png"],
        ("anomaly", "test"): ["abnormal/CT_COVID_2.png.png"],
    }
    assert not left_out


def test_too_few_patients_and_empty_splits_are_told():
    with pytest.raises(UserError, match="2 patients with normal images are too few"):
        assign_splits(many(2, "n"), Shares(), True)
    ill_and_trained_on = rows(*((str(number), kind) for number in range(3) for kind in "na"))
    published = {
        "normal/0_0": "train",
        "normal/1_2": "val",
        "normal/2_4": "test",
        "abnormal/0_1": "test",
    }  # of the abnormal images one that is of a patient of the training
    with pytest.raises(UserError, match="no anomaly image is left for test; .*; left out: .* patients who are in training"):
        assign_splits(ill_and_trained_on, Shares(), True, published)
    both = rows(("x", "n", "both"), ("y", "a", "both"))
    with pytest.raises(UserError, match="no anomaly image is left for test; .*; left out: 2 images that are there both as normal and as abnormal"):
        assign_splits(many(5, "n") + both, Shares(), True)
    with pytest.raises(ValueError, match="shares above 0"):
        Shares(train=0.9, val=0.1)


def test_normal_images_alone_are_shared_out_and_none_is_abnormal():
    made = many(10, "n")
    splits, left_out = assign_splits(made, Shares(), True)
    assert {key: len(images) for key, images in splits.items()} == {
        ("normal", "train"): 7,
        ("normal", "val"): 1,
        ("normal", "test"): 2,
        ("anomaly", "test"): 0,
    }
    assert sorted(image for images in splits.values() for image in images) == [row.image for row in made]
    assert not left_out
