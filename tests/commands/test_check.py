"""check finds what makes results wrong."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from anomaly_detection.__main__ import main
from anomaly_detection.system.errors import UserError


def check(root, tmp_path, *words):
    return main(["check", "--data-root", str(root), "--output", str(tmp_path / "sheets"), "--workers", "1", *words])


def line(root, kind, part, text):
    with open(root / "folds" / "train_test_split" / kind / part, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def test_good_data(data_root, tmp_path, capsys):
    assert check(data_root, tmp_path) == 0
    told = capsys.readouterr().out
    assert told.count("normal train: 8 images, 16x16 pixels") == 3
    assert told.count("anomaly test: 4 images") == 3
    assert "wrong" not in told
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["liver_ct.png", "lung_ct.png", "lung_xray.png"]
    sheet = Image.open(tmp_path / "sheets" / "lung_ct.png")
    assert sheet.height == 4 * 98
    original = Image.open(data_root / "lung_ct" / "normal" / "train_0.png").resize((96, 96), Image.Resampling.BILINEAR)
    assert sheet.crop((0, 0, 96, 96)).convert("L").tobytes() == original.tobytes()


def test_grey_values_are_told(data_root, tmp_path, capsys):
    for path in (data_root / "liver_ct" / "normal").glob("val_*.png"):
        Image.new("L", (int(path.stem[-1]) + 10, 9), 64 + 127 * (path.stem == "val_0")).save(path)
    assert check(data_root, tmp_path, "--datasets", "liver_ct") == 0
    # a quarter of the images 191, the others 64: mean 95.75, deviation 55; the fuller of the 16 bins is the whole bar
    assert f"normal val: 4 images, 10x9 to 13x9 pixels, grey 96 ± 55, 0 |{' ' * 4}█{' ' * 6}▃{' ' * 4}| 255" in capsys.readouterr().out


def test_an_unknown_dataset_is_told(data_root, tmp_path):
    with pytest.raises(UserError, match="did you mean lung_xray"):
        check(data_root, tmp_path, "--datasets", "lung_xrays")


def test_missing_and_damaged_files(data_root, tmp_path, capsys):
    (data_root / "lung_ct" / "normal" / "train_1.png").unlink()
    (data_root / "lung_ct" / "normal" / "train_2.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="2 things are wrong with the data"):
        check(data_root, tmp_path)
    told = capsys.readouterr().out
    assert f"1 of 20 images of lung_ct are missing, the first is {data_root / 'lung_ct' / 'normal' / 'train_1.png'}; put" in told
    assert f"`maddr prepare folder lung_ct ... --data-root {data_root}`" in told
    assert "train_2.png: cannot be read as an image" in told


def test_two_abnormal_images_with_one_mask(data_root, tmp_path, capsys):
    folder = data_root / "lung_ct"
    for name in ("masks", "other"):
        (folder / name).mkdir()
    shutil.copy(folder / "anomaly" / "test_0.png", folder / "other" / "test_1.png")
    line(data_root, "anomaly", "test", "other/test_1.png lung_ct")
    Image.new("L", (16, 16), 1).save(folder / "masks" / "test_1.png")
    with pytest.raises(UserError, match="wrong with the data"):
        check(data_root, tmp_path)
    assert "anomaly/test_1.png and other/test_1.png are two abnormal images with one mask, masks/test_1.png;" in capsys.readouterr().out


def test_the_same_image_in_two_splits(data_root, tmp_path, capsys):
    folder = data_root / "lung_ct"
    Image.open(folder / "normal" / "train_3.png").convert("RGB").save(folder / "anomaly" / "copy.tiff")
    line(data_root, "anomaly", "test", "anomaly/copy.tiff lung_ct")
    with pytest.raises(UserError, match="1 thing is wrong"):
        check(data_root, tmp_path)
    assert "wrong: the same image in several splits: normal/train_3.png in normal/train, anomaly/copy.tiff in anomaly/test" in capsys.readouterr().out


def test_a_patient_on_two_sides(data_root, tmp_path, capsys):
    fields = "image,abnormal,patient,source,source_sha256,pixels_sha256,mask_pixels\n"
    rows = "".join(f"normal/{part}_{i}.png,0,{part[-1]}{i},,,,\n" for part in ("train", "val") for i in range(4)).replace("l2,", "n1,")
    (data_root / "lung_ct" / "manifest.csv").write_text(fields + rows)
    with pytest.raises(UserError, match="1 thing is wrong"):
        check(data_root, tmp_path)
    assert "wrong: patient n1 on several sides: normal/train_1.png in train, normal/val_2.png in val" in capsys.readouterr().out


def test_a_patient_on_two_sides_by_the_name_of_the_files(data_root, tmp_path, capsys):
    folder = data_root / "lung_ct" / "normal"
    for part in ("train", "val"):
        (folder / f"{part}_0.png").rename(folder / f"7%{part}.png")
        split = data_root / "folds" / "train_test_split" / "normal" / part
        split.write_text(split.read_text().replace(f"normal/{part}_0.png lung_ct", f"normal/7%{part}.png lung_ct"))
    with pytest.raises(UserError, match="1 thing is wrong"):
        check(data_root, tmp_path, "--datasets", "lung_ct")
    told = capsys.readouterr().out
    assert "wrong: patient NonCOVID 7 on several sides: normal/7%train.png in train, normal/7%val.png in val" in told
    assert "whose 18 images are is not known" in told, "of 20"


def test_the_mask_of_an_image_of_another_format_is_found(data_root, tmp_path, capsys):
    folder = data_root / "lung_ct"
    Image.open(folder / "anomaly" / "test_0.png").save(folder / "anomaly" / "test_0.jpg", quality=95)
    split = data_root / "folds" / "train_test_split" / "anomaly" / "test"
    split.write_text(split.read_text().replace("anomaly/test_0.png lung_ct", "anomaly/test_0.jpg lung_ct"))
    (folder / "masks").mkdir()
    mask = Image.new("L", (16, 16))
    mask.paste(1, (6, 4, 11, 9))
    mask.save(folder / "masks" / "test_0.png")
    assert check(data_root, tmp_path, "--datasets", "lung_ct") == 0
    told = capsys.readouterr().out
    assert "anomaly test: 4 images, 1 with a mask, 16x16 pixels" in told
    assert "masks of no" not in told
    sheet = np.asarray(Image.open(tmp_path / "sheets" / "lung_ct.png")).astype(int)
    red = sheet[..., 0] - sheet[..., 1] > 60
    top, left = 3 * 98, 0
    assert red[top + 4 * 6 + 3 : top + 9 * 6 - 3, left + 6 * 6 + 3 : left + 11 * 6 - 3].all()
    assert red.sum() < 40 * 40, "and nothing else is red"
    (folder / "masks" / "test_0.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="1 thing is wrong"):
        check(data_root, tmp_path, "--datasets", "lung_ct")
    assert "masks/test_0.png: cannot be read as an image" in capsys.readouterr().out


def test_masks_that_are_of_no_image_are_told(data_root, tmp_path, capsys):
    """Of `prepare`'s images some may be in no list, whose masks are no mistake."""
    folder = data_root / "lung_ct"
    (folder / "masks").mkdir()
    for name in ("test_0.PNG", "test_1.png.png", "patient_7.png", ".test_2.png"):
        Image.new("L", (16, 16), 1).save(folder / "masks" / name, "PNG")
    assert check(data_root, tmp_path, "--datasets", "lung_ct") == 0
    advice = "that of anomaly/test_0.png would be masks/test_0.png\n"
    assert f"  masks of no abnormal image that is listed: masks/patient_7.png and 2 more; {advice}" in capsys.readouterr().out
    fields = "image,abnormal,patient,source,source_sha256,pixels_sha256,mask_pixels\n"
    (folder / "manifest.csv").write_text(f"{fields}abnormal/patient_7.png,1,7,,,,\n")
    assert check(data_root, tmp_path, "--datasets", "lung_ct") == 0
    assert f"  masks of no abnormal image that is listed: masks/test_0.PNG and 1 more; {advice}" in capsys.readouterr().out


def test_an_empty_split(data_root, tmp_path, capsys):
    val = data_root / "folds" / "train_test_split" / "normal" / "val"
    val.write_text("\n".join(text for text in val.read_text().splitlines() if "lung_ct" not in text))
    with pytest.raises(UserError, match="1 thing is wrong"):
        check(data_root, tmp_path)
    assert "wrong: no image is listed in normal/val" in capsys.readouterr().out


def test_nothing_to_check(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        check(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match="holds no folder of a dataset"):
        check(tmp_path, tmp_path)


HEADER = "image,abnormal,patient,source,source_sha256,pixels_sha256,mask_pixels\n"


def manifest(folder, patient, source=lambda image: image.replace("/", "_"), digest=lambda image: ""):
    """A manifest of the dataset in a folder, as functions of the images' paths say."""
    counts = {"normal/train": 8, "normal/val": 4, "normal/test": 4, "anomaly/test": 4}
    images = [f"{split}_{i}.png" for split, count in counts.items() for i in range(count)]
    lines = [f"{image},{int(image[0] == 'a')},{patient(image)},{source(image)},{digest(image)},," for image in images]
    (folder / "manifest.csv").write_text(HEADER + "\n".join(lines) + "\n")


def number(image):
    return image[-5]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"patient": lambda image: "p" + image}, None),
        ({"patient": lambda image: "ANON"}, "wrong: patient ANON on several sides: normal/train_0.png in train"),
        ({"patient": lambda image: number(image)}, "wrong: patient 0 on several sides: normal/train_0.png in train"),
        (
            {"patient": lambda image: "p" + image, "digest": lambda image: "aa" if image in ("normal/train_2.png", "normal/val_3.png") else image},
            "wrong: one source file on several sides: normal/train_2.png in train, normal/val_3.png in val",
        ),
        (
            {"patient": lambda image: "p" + image, "source": lambda image: f"s{number(image)}/{image.replace('/', '_')}"},
            "WARNING: images of one folder, s0, on several sides: normal/train_0.png in train, normal/val_0.png in val, normal/test_0.png in test",
        ),
        ({"patient": lambda image: "p" + image, "source": lambda image: f"all/{image.replace('/', '_')}"}, None),
        # who has said whose the images are is believed
        ({"patient": lambda image: "p" + image.split("_")[0], "source": lambda image: f"s{number(image)}/{image.replace('/', '_')}"}, None),
        ({"patient": lambda image: "1,5E+12" if image == "normal/val_1.png" else "p" + image}, "WARNING: manifest.csv: patient 1,5E+12"),
    ],
    ids=["a patient each", "one for all", "patient", "source", "folder", "one folder", "folder, but patients are known", "rounded"],
)
def test_every_key_by_which_a_patient_is_on_two_sides(data_root, tmp_path, capsys, changed, told):
    manifest(data_root / "lung_ct", **changed)
    path = data_root / "lung_ct" / "manifest.csv"
    path.write_text(path.read_text().replace("1,5E+12", '"1,5E+12"'))
    if told and told.startswith("wrong"):
        with pytest.raises(UserError, match="wrong with the data"):
            check(data_root, tmp_path, "--datasets", "lung_ct")
    else:
        check(data_root, tmp_path, "--datasets", "lung_ct")
    printed = capsys.readouterr().out
    assert (told in printed) if told else not {"wrong:", "WARNING"} & set(printed.split()), printed
    assert ("1 WARNING, see above" in printed) == bool(told and told.startswith("WARNING"))


def test_what_is_in_two_datasets(data_root, tmp_path, capsys):
    for name, part in (("lung_ct", "train"), ("lung_xray", "test")):
        manifest(data_root / name, lambda image: f"Doe{number(image)}" if image.startswith(f"normal/{part}") else image.split("_")[0])
    shutil.copy(data_root / "lung_ct" / "normal" / "train_3.png", data_root / "liver_ct" / "anomaly" / "test_1.png")
    os.link(data_root / "lung_xray" / "normal" / "val_0.png", data_root / "lung_ct" / "normal" / "more.png")
    line(data_root, "normal", "test", "normal/more.png lung_ct")
    with pytest.raises(UserError, match="2 things are wrong"):
        check(data_root, tmp_path)
    told = capsys.readouterr().out.partition("across datasets\n")[2]
    assert "wrong: the same file in several splits: normal/more.png of lung_ct in normal/test, normal/val_0.png of lung_xray in normal/val" in told
    assert "wrong: the same image in several splits: anomaly/test_1.png of liver_ct in anomaly/test, normal/train_3.png of lung_ct in normal" in told
    assert "WARNING: lung_ct and lung_xray: 4 patients of one name on several sides: Doe0: normal/train_0.png of lung_ct in train, " in told
    assert "2 WARNINGS, see above" in told, "the other: no manifest names more.png"


def test_images_of_one_grey_are_not_one_image(data_root, tmp_path):
    for part in ("train", "val"):
        Image.new("L", (16, 16)).save(data_root / "lung_ct" / "normal" / f"{part}_0.png")
    assert check(data_root, tmp_path) == 0


def test_a_list_from_which_a_spreadsheet_took_zeros(data_root, tmp_path, capsys):
    folder = data_root / "lung_ct" / "normal"
    (folder / "train_0.png").rename(folder / "007.png")
    split = data_root / "folds" / "train_test_split" / "normal" / "train"
    split.write_text(split.read_text().replace("normal/train_0.png lung_ct", "normal/7.png lung_ct"))
    with pytest.raises(UserError, match="1 thing is wrong"):
        check(data_root, tmp_path)
    assert "7.png; 007.png is there: correct the list (did a spreadsheet take zeros away?), or let" in capsys.readouterr().out


def test_a_manifest_that_no_longer_names_the_images_is_told(data_root, tmp_path, capsys):
    manifest(data_root / "lung_ct", lambda image: "p" + image)
    path = data_root / "lung_ct" / "manifest.csv"
    path.write_text(path.read_text().replace("normal/val_2.png", "normal/val_02.png"))
    assert check(data_root, tmp_path, "--datasets", "lung_ct") == 0
    assert "WARNING: manifest.csv says nothing of 1 of 20 images, the first: normal/val_2.png" in capsys.readouterr().out


def rename(root, name):
    """Give the images of lung_ct other names, by split and number, in the split files, too; returns these, split by split."""
    names = {}
    for kind, part, count in (("normal", "train", 8), ("normal", "val", 4), ("normal", "test", 4), ("anomaly", "test", 4)):
        split = root / "folds" / "train_test_split" / kind / part
        lines = split.read_text()
        names[kind, part] = [f"{kind}/{name(kind, part, i)}.png" for i in range(count)]
        for i, new in enumerate(names[kind, part]):
            (root / "lung_ct" / kind / f"{part}_{i}.png").rename(root / "lung_ct" / new)
            lines = lines.replace(f"{kind}/{part}_{i}.png lung_ct", f"{new} lung_ct")
        split.write_text(lines)
    return names


def in_turn(kind, part, i):
    """Images of four runs, shared out among the parts as they come."""
    return f"run{i % 4}_{kind}_{part}_{i:03d}"


def by_run(kind, part, i):
    """Images of runs of two images, each in one part."""
    return f"run{['train', 'val', 'test'].index(part)}{i // 2}_{kind}_{i:03d}"


@pytest.mark.parametrize("name", [in_turn, by_run])
@pytest.mark.parametrize("prepared", [True, False])
def test_files_that_share_beginnings_are_told_where_they_are_on_several_sides(data_root, tmp_path, capsys, name, prepared):
    """Also of images that nobody prepared: a folder, and lists by hand."""
    names = rename(data_root, name)
    if prepared:  # without --patient: every file is a patient
        images = [(kind, image) for (kind, _), each in names.items() for image in each]
        rows = [f"{image},{int(kind == 'anomaly')},{image[:-4]},{image.partition('/')[2]},,,,file" for kind, image in images]
        (data_root / "lung_ct" / "manifest.csv").write_text("\n".join([HEADER.strip() + ",patient_from", *rows]) + "\n")
    assert check(data_root, tmp_path, "--datasets", "lung_ct") == 0
    told = capsys.readouterr().out
    assert ("WARNING: 20 files, each counted as a patient of its own, but names share their beginnings" in told) == prepared
    sides = "WARNING: images whose names begin alike, normal run0, on several sides: normal/run0_normal_train_000.png in train"
    assert (sides in told) == (name is in_turn)
    assert ("see above: numbers on these data may be too good to be true" in told) == (prepared or name is in_turn)


DICOM = HEADER.strip() + ",patient_from,patient_id,study,series\n"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("--patient,{n},,", "WARNING: images of PatientID 0 on several sides: normal/train_0.png in train, normal/val_0.png in val"),
        ("--patient,,1.{n},", "wrong: one study on several sides: normal/train_0.png in train, normal/val_0.png in val"),
        ("--patient,,,2.{n}", "wrong: one series on several sides: normal/train_0.png in train, normal/val_0.png in val"),
        ("--patient,same,1.2,1.2.3", None),
        ("header,p{image},1.{image},1.2.{image}", None),
    ],
    ids=["PatientID", "study", "series", "one for all", "in order"],
)
def test_what_headers_say_is_compared_whatever_told_the_patient(data_root, tmp_path, capsys, fields, told):
    manifest(data_root / "lung_ct", lambda image: "p" + image)
    path = data_root / "lung_ct" / "manifest.csv"
    lines = path.read_text().splitlines()[1:]
    path.write_text(DICOM + "".join(f"{line},{fields.format(n=number(line.split(',')[0]), image=line.split(',')[0])}\n" for line in lines))
    if told and told.startswith("wrong"):
        with pytest.raises(UserError, match="4 things are wrong"):
            check(data_root, tmp_path, "--datasets", "lung_ct")
    else:
        check(data_root, tmp_path, "--datasets", "lung_ct")
    printed = capsys.readouterr().out
    assert (told in printed) if told else not {"wrong:", "WARNING"} & set(printed.split()), printed
