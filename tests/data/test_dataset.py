import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection.data import mapped
from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.data.dataset import DataSource, Domains, ImageSet, to_bytes, to_floats
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.mapped import MappedImages
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.system.errors import UserError

DATASETS = ("liver_ct", "lung_ct", "lung_xray")  # of the fixture data_root: 8 images to train on, 4 to validate, 4 and 4 to test


@pytest.fixture
def source(data_root):
    return DataSource(data_root)


def load(source, datasets, part, size=16, channels=1, memory_mib=4096):
    return source.load(datasets, part, source.preprocessing(datasets, size, channels), memory_mib)


def fingerprint(source, datasets, parts=("train", "val", "test"), size=16, channels=1):
    return source.fingerprint(datasets, source.preprocessing(datasets, size, channels), parts)


def refusal(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def spec(name, label, organ, modality):
    return DatasetSpec(name=name, label=label, organ=organ, modality=modality, root=name)


def test_ids_follow_the_labels_of_the_datasets():
    specs = [spec("c", 7, "brain", "mri"), spec("a", 2, "lung", "xray"), spec("b", 5, "lung", "ct")]
    assert Domains.of(specs) == Domains(organs=("lung", "brain"), modalities=("xray", "ct", "mri"))


@pytest.mark.parametrize(("part", "kinds", "count"), [("train", ["normal"], 8), ("val", ["normal"], 4), ("test", ["normal", "anomaly"], 4)])
def test_every_image_has_its_pixels_and_labels(data_root, source, part, kinds, count):
    images = load(source, ["lung_xray", "liver_ct", "lung_ct"], part)  # comes in the order of the labels all the same
    rows = [(name, kind, i) for name in DATASETS for kind in kinds for i in range(count)]
    assert len(images) == len(rows)
    assert images.images.dtype == torch.uint8
    assert images.datasets == [name for name, _, _ in rows]
    assert images.names == [f"{kind}/{part}_{i}.png" for _, kind, i in rows]
    assert images.label.tolist() == [int(kind == "anomaly") for _, kind, _ in rows]
    assert images.organ.tolist() == [{"liver_ct": 0, "lung_ct": 1, "lung_xray": 1}[name] for name, _, _ in rows]
    assert images.modality.tolist() == [{"liver_ct": 0, "lung_ct": 0, "lung_xray": 1}[name] for name, _, _ in rows]
    assert {images.organ.dtype, images.modality.dtype, images.label.dtype} == {torch.int64}
    for i, (dataset, name) in enumerate(zip(images.datasets, images.names, strict=True)):
        assert np.array_equal(images.images[i, 0].numpy(), np.asarray(Image.open(data_root / dataset / name)))


def test_the_ids_of_one_dataset_alone_begin_at_0(source):
    images = load(source, ["lung_xray"], "train")
    assert set(images.organ.tolist() + images.modality.tolist()) == {0}
    assert source.domains(["lung_xray"]) == Domains(("lung",), ("xray",))
    assert source.domains(DATASETS) == Domains(("liver", "lung"), ("ct", "xray"))


def test_pixels_lie_in_minus_1_to_1():
    ids = torch.zeros(2, dtype=torch.int64)
    values = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).view(1, 1, 2, 2).repeat(2, 3, 1, 1)
    values[1] = 102
    images = ImageSet(values, ids, ids, ids, ["a", "b"], ["d", "d"])
    got = images.batch(torch.tensor([1, 0, 1])).image
    assert (got.shape, got.dtype) == ((3, 3, 2, 2), torch.float32)
    torch.testing.assert_close(got[1, 2].flatten(), torch.tensor([-1, -0.6, 0.6, 1]))
    torch.testing.assert_close(got[[0, 2]], torch.full((2, 3, 2, 2), -0.2))
    assert images.images[1, 0, 0, 0] == 102  # the set itself is as it was


def test_a_set_moves_whole(source):
    moved = load(source, ["lung_ct"], "val").to("meta")
    assert {tensor.device.type for tensor in (moved.images, moved.organ, moved.modality, moved.label)} == {"meta"}
    assert moved.batch(torch.arange(2)).image.device.type == "meta"
    assert (len(moved), len(moved.names), len(moved.datasets)) == (4, 4, 4)


def test_available_are_datasets_with_a_folder_and_lines(data_root, source):
    assert source.available() == list(DATASETS)
    shutil.rmtree(data_root / "lung_ct")
    assert source.available() == ["liver_ct", "lung_xray"]
    with open(data_root / "datasets.yaml", "a") as file:
        file.write("\nbrain: {label: 9, organ: brain, modality: mri, root: liver_ct}\n")
    assert DataSource(data_root).available() == ["liver_ct", "lung_xray"]


def test_counts_are_those_of_the_split_files(source):
    expected = {("normal", "train"): 8, ("normal", "val"): 4, ("normal", "test"): 4, ("anomaly", "test"): 4}
    assert source.counts("lung_ct") == expected


def test_a_project_catalog_and_folds_serve_data_without_their_own(data_root, tmp_path):
    project = tmp_path / "project"
    (project / "configs").mkdir(parents=True)
    shutil.move(data_root / "datasets.yaml", project / "configs" / "datasets.yaml")
    shutil.move(data_root / "folds", project / "folds")
    assert len(load(DataSource(data_root, project), DATASETS, "train")) == 24


def test_the_fingerprint_is_of_the_content_alone(data_root, source, tmp_path):
    first = fingerprint(source, DATASETS)
    shutil.copytree(data_root, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache"), copy_function=shutil.copyfile)
    os.utime(data_root / "lung_ct" / "normal" / "train_0.png", ns=(1, 1))
    assert fingerprint(DataSource(tmp_path / "copy"), DATASETS) == first == fingerprint(source, DATASETS[::-1])


def change_pixel(root):
    path = root / "lung_ct" / "normal" / "val_2.png"
    pixels = np.array(Image.open(path))
    pixels[3, 3] ^= 1
    Image.fromarray(pixels).save(path)


def change_organ(root):
    path = root / "datasets.yaml"
    path.write_text(path.read_text().replace("liver\n", "lung\n", 1))


def change_split(root):
    path = root / "folds" / "train_test_split" / "normal" / "train"
    path.write_text(path.read_text().replace("normal/train_0.png lung_ct\n", ""))


@pytest.mark.parametrize("change", [change_pixel, change_organ, change_split])
def test_the_fingerprint_shows_a_change(data_root, source, change):
    first = fingerprint(source, DATASETS)
    change(data_root)
    assert fingerprint(DataSource(data_root), DATASETS) != first


def test_the_fingerprint_of_patients_is_of_their_names_alone(data_root, source, tmp_path):
    first, images = source.patients_fingerprint(DATASETS), fingerprint(source, DATASETS)
    shutil.copytree(data_root, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache"))
    change_pixel(data_root)
    assert DataSource(tmp_path / "copy").patients_fingerprint(DATASETS[::-1]) == first == DataSource(data_root).patients_fingerprint(DATASETS)
    path, found = tmp_path / "copy" / "datasets.yaml", {first, source.patients_fingerprint(DATASETS[:1])}
    for number, pattern in enumerate((r"\w+_\d+", r"(val)_\d", r"(train)_0")):
        path.write_text((data_root / "datasets.yaml").read_text().replace("  root:", f"  patient: {pattern}\n  root:", 1))
        changed = DataSource(tmp_path / "copy")
        found.add(changed.patients_fingerprint(DATASETS))
        assert len(found) == 3 + number
        assert fingerprint(changed, DATASETS) == images, "which trains nothing"


def test_images_that_change_after_their_fingerprint_are_not_loaded(data_root, source):
    """The provenance of an experiment would tell of others than it was trained on."""
    first = fingerprint(source, DATASETS)
    os.utime(data_root / "lung_ct" / "normal" / "val_2.png", ns=(1, 1))
    assert len(load(source, DATASETS, "val")) == 12, "the same pixels"
    change_pixel(data_root)
    assert f"{data_root / 'lung_ct'}: images changed while this command ran" in refusal(lambda: load(source, DATASETS, "val"))
    assert len(load(source, ["liver_ct"], "val")) == 4
    assert fingerprint(DataSource(data_root), DATASETS) != first


def test_the_fingerprint_tells_settings_datasets_and_parts_apart(data_root, source):
    prints = [
        fingerprint(source, DATASETS),
        fingerprint(source, ["lung_ct"]),
        fingerprint(source, DATASETS, ["test"]),
        fingerprint(source, DATASETS, size=8),
        fingerprint(source, DATASETS, channels=3),
    ]
    assert len(set(prints)) == 5


def copy_file(root):
    shutil.copy(root / "liver_ct" / "normal" / "train_5.png", root / "lung_ct" / "normal" / "test_1.png")
    return "liver_ct", "normal/test_1.png of lung_ct shows the same pixels as normal/train_5.png of liver_ct in normal/train"


def other_format(root):
    Image.open(root / "lung_ct" / "normal" / "train_5.png").convert("RGB").save(root / "lung_ct" / "anomaly" / "test_1.png", "BMP")
    return "lung_ct", "anomaly/test_1.png of lung_ct shows the same pixels as normal/train_5.png of lung_ct in normal/train"


def link(root):
    (root / "lung_xray" / "normal" / "val_1.png").unlink()
    (root / "lung_xray" / "normal" / "val_1.png").symlink_to(root / "liver_ct" / "anomaly" / "test_0.png")
    return "liver_ct", "normal/val_1.png of lung_xray in normal/val"


def shared_root(root):
    """Another dataset trains on what lung_ct tests, abnormal images among it."""
    with open(root / "datasets.yaml", "a", encoding="utf-8") as file:
        file.write("\nthorax: {label: 9, organ: lung, modality: ct, root: lung_ct}\n")
    with open(root / "folds" / "train_test_split" / "normal" / "train", "a", encoding="utf-8") as file:
        file.write("anomaly/test_2.png thorax\n")
    return "lung_ct", "anomaly/test_2.png of thorax in normal/train"


@pytest.mark.parametrize("leak", [copy_file, other_format, link, shared_root])
def test_an_image_on_two_sides_is_refused_wherever_it_is_known(data_root, leak):
    dataset, told = leak(data_root)
    source = DataSource(data_root)
    text = refusal(lambda: fingerprint(source, sorted({dataset, "lung_ct"})))
    assert told in text, text
    assert str(data_root / "folds" / "train_test_split") in text


@pytest.mark.parametrize(
    ("pattern", "first", "more"),
    [
        (r"(?:train|val)_(3)", 3, ""),
        (r"(?:train|val)_(\d)", 0, "; 4 patients are in several parts, which `check` lists"),
        (r"_(\d)", 0, "; 4 patients"),
    ],
)
def test_a_patient_in_two_parts_is_refused_who_is_known(data_root, pattern, first, more):
    catalog, folds = data_root / "datasets.yaml", data_root / "folds" / "train_test_split" / "normal"
    catalog.write_text(catalog.read_text().replace("root: lung_ct\n", f"root: lung_ct\n  patient: {pattern}\n"))
    source = DataSource(data_root)
    for call in (lambda: load(source, ["lung_ct"], "train"), lambda: fingerprint(source, DATASETS)):
        text = refusal(call)
        assert text.startswith(f"{folds / 'val'}:")
        assert f": normal/val_{first}.png of lung_ct is of patient {first}, as is normal/train_{first}.png in train ({folds / 'train'}:" in text
        assert text.partition("; move all of a patient into one part")[2].startswith(more)
    assert load(source, ["liver_ct", "lung_xray"], "train")


def test_images_of_one_grey_and_those_of_other_experiments_are_no_leak(data_root):
    for part in ("train", "test"):
        Image.new("L", (16, 16), 7).save(data_root / "lung_ct" / "normal" / f"{part}_0.png")
    shutil.copy(data_root / "liver_ct" / "normal" / "train_5.png", data_root / "lung_xray" / "normal" / "test_1.png")
    assert fingerprint(DataSource(data_root), ["lung_ct", "lung_xray"])


def test_mistakes_are_told_in_one_line(data_root, source):
    assert "did you mean lung_ct?" in refusal(lambda: load(source, ["lung_tc"], "train"))
    assert "no dataset is chosen" in refusal(lambda: load(source, [], "train"))
    missing = data_root / "none"
    assert str(missing) in refusal(lambda: DataSource(missing))
    shutil.rmtree(data_root / "lung_xray")
    text = refusal(lambda: load(source, DATASETS, "val"))
    assert all(part in text for part in ["4 of 4 images of lung_xray", str(data_root / "lung_xray" / "normal" / "val_0.png")]), text
    (data_root / "folds" / "train_test_split" / "normal" / "test").unlink()
    text = refusal(lambda: load(DataSource(data_root), ["lung_ct"], "test"))
    assert all(part in text for part in [str(Path("normal") / "test"), "no such split file"]), text


def test_images_beyond_the_memory_are_left_in_their_files_and_are_the_same(source):
    index = torch.tensor([23, 0, 7, 7, 12])
    a, b = load(source, DATASETS, "train", 64), load(source, DATASETS, "train", 64, memory_mib=0)
    assert (a.window, b.window) == (None, 1)
    assert torch.equal(a.batch(index).image, b.to("cpu").batch(index).image)


def test_mapped_images_of_several_arrays_are_those_of_one():
    parts = [np.arange(first, last, dtype=np.uint8).reshape(-1, 1, 1, 1) for first, last in ((0, 3), (3, 8), (8, 10))]
    mapped = MappedImages(parts, budget=4)
    assert (len(mapped), mapped.shape, mapped.window) == (10, (10, 1, 1, 1), 4)
    for index in ([*range(10)], [9, 3, 0, 8, 2, 7, 3], [5]):
        assert mapped[torch.tensor(index)].flatten().tolist() == index


@pytest.mark.parametrize(("most", "times"), [(0, 10), (4, 10), (8, 5), (12, 4), (39, 2), (40, 1), (1000, 1)])
def test_pages_are_let_go_before_more_than_the_limit_is_read(most, times, monkeypatch):
    let_go = []
    monkeypatch.setattr(mapped, "MAPPED", most)
    monkeypatch.setattr(mapped, "release", let_go.append)
    array = np.arange(80, dtype=np.uint8).reshape(20, 1, 2, 2)
    places = [19, 0, 3, 3, 7, 18, 2, 5, 11, 1]
    images = MappedImages([array], budget=8)[torch.tensor(places)]
    assert images.tolist() == [array[place].tolist() for place in places]
    assert len(let_go) == times


def test_batches_are_all_images_in_order(source):
    images = load(source, DATASETS, "val")
    batches = list(images.batches(5))
    assert [len(batch.index) for batch in batches] == [5, 5, 2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(12))
    whole = images.batch(torch.arange(12))
    assert torch.equal(torch.cat([batch.image for batch in batches]), whole.image)
    assert torch.equal(torch.cat([batch.organ for batch in batches]), images.organ)
    assert torch.equal(torch.cat([batch.modality for batch in batches]), images.modality)
    labels = images.batch(torch.tensor([3, 1]), with_image=False)
    assert labels.image is None
    assert torch.equal(torch.stack([labels.organ, labels.modality]), torch.stack([images.organ, images.modality])[:, [3, 1]])
    assert [(part.image, part.index.tolist()) for part in labels.chunks(2)] == [(None, [3]), (None, [1])]


def test_bytes_and_floats_are_each_others_inverse():
    values = torch.arange(256, dtype=torch.uint8)
    assert to_floats(values).tolist() == pytest.approx([value / 127.5 - 1 for value in range(256)], abs=1e-6)
    assert torch.equal(to_bytes(to_floats(values)), values)
    assert torch.equal(to_floats(values), values.div(127.5).sub(1)), "to the last bit, as networks were trained"
    assert to_bytes(torch.tensor([-1.2, 1.7, 0.001])).tolist() == [0, 255, 128]


def test_each_dataset_has_its_preprocessing(data_root):
    path = data_root / "datasets.yaml"
    path.write_text(path.read_text().replace("root: lung_ct", "root: lung_ct\n  window: [1064, 400]\n  aspect: pad\n  size: 300\n  crop_size: 8"))
    source = DataSource(data_root)
    by_dataset = source.preprocessing(["lung_xray", "lung_ct"], 32, 3)
    assert list(by_dataset) == ["lung_ct", "lung_xray"]
    assert by_dataset["lung_xray"] == Preprocessing(image_size=32, channels=3)
    assert by_dataset["lung_ct"] == Preprocessing(Window(1064, 400), "pad", 300, 1, 8, False, 32, 3)
    images = source.load(["lung_ct"], "val", by_dataset)
    expected = [by_dataset["lung_ct"].read(data_root / "lung_ct" / name) for name in images.names]
    assert np.array_equal(images.images.numpy(), expected)


def test_without_abnormal_images_the_test_part_is_the_normal_ones(data_root):
    (data_root / "folds" / "train_test_split" / "anomaly" / "test").unlink()
    images = load(DataSource(data_root), DATASETS, "test")
    assert images.names == [f"normal/test_{i}.png" for i in range(4)] * 3
    assert images.label.tolist() == [0] * 12
