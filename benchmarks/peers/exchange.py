"""What detectors are given: images and frozen features as this project's `gaussian` takes them, in files that any library reads."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anomaly_detection.build import build_baseline
from anomaly_detection.data.dataset import DataSource, ImageSet
from anomaly_detection.data.splits import Part
from anomaly_detection.evaluation.scores import BATCH
from anomaly_detection.study.experiment import Experiment, preprocessing_of
from anomaly_detection.study.train_and_score import look_up_features
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, whole_folder, write_json, write_table
from benchmarks.peers.measured import timed

PARTS: tuple[Part, ...] = ("train", "val", "test")
COLUMNS = ("file", "part", "dataset", "label", "image", "patient")
CHECKED = 4  # images whose features another network is checked against
TIMED = 128  # images whose features are computed anew, to tell how long it takes
CPU = torch.device("cpu")


@torch.no_grad()
def write_exchange(folder: Path, experiment: Experiment, source: DataSource) -> None:
    """Write, where it is not there yet: manifest.csv, a line for each image, those to train on first; and in its order the features.

    positions.npy (N, positions, C) float32, standardised over the training images; vectors.npy (N, C), their means; images/train and images/rest,
    8-bit PNG of the network's size; check.npz, the first images' bytes and their features by layer, not standardised; exchange.json, where they
    come from, and the seconds that the features of an image take.

    Args:
        folder: a new one, or one that this wrote.
        experiment: of `gaussian`, on several datasets.
        source: of its images.

    Raises:
        UserError: the folder holds other images.
    """
    settings = experiment.settings
    preprocessing = preprocessing_of(settings, source)
    data = source.fingerprint(settings.datasets, preprocessing)
    if folder.exists():
        if read_json(folder / "exchange.json")["data"] != data:
            raise UserError(f"{folder}: holds other images than were asked for now; choose another --work, or delete {folder.parent}")
        return
    sets = {part: source.load(settings.datasets, part, preprocessing, settings.memory_mib) for part in PARTS}
    baseline = build_baseline(settings, source.domains(settings.datasets))
    frozen, train = baseline.frozen, sets["train"]
    first = train.images[:CHECKED]
    check = {layer: value.numpy() for layer, value in frozen.compute(train.batch(torch.arange(len(first))).image).items()}
    some = train.batch(torch.arange(min(TIMED, len(train)))).image
    _, feature_s = timed(lambda: frozen.compute(some))
    look_up_features(baseline, source, preprocessing, PARTS, CPU)
    baseline.prepare(train.batches(BATCH))
    grids = torch.cat([frozen(batch.image) for images in sets.values() for batch in images.batches(BATCH)])
    positions = grids.flatten(2).transpose(1, 2).contiguous()
    with whole_folder(folder) as partial:
        rows: list[dict] = []
        for part, images in sets.items():
            rows += _write_images(partial, part, images, source, len(rows))
        write_table(partial / "manifest.csv", rows, COLUMNS)
        np.save(partial / "positions.npy", positions.numpy())
        np.save(partial / "vectors.npy", positions.mean(dim=1).numpy())
        np.savez(partial / "check.npz", images=first.numpy(), **check)
        told = {"data_root": str(source.data_root.resolve()), "datasets": list(settings.datasets), "feature_s": feature_s / len(some)}
        write_json(partial / "exchange.json", told | {"data": data, **baseline.describe()})


def _write_images(folder: Path, part: Part, images: ImageSet, source: DataSource, before: int) -> list[dict[str, Any]]:
    """Their lines of the manifest. Names of files sort as these do; so many images are there `before` them."""
    rows = []
    side = "train" if part == "train" else "rest"
    (folder / "images" / side).mkdir(parents=True, exist_ok=True)
    described = zip(images.datasets, images.label.tolist(), images.names, source.patients(images), strict=True)
    for number, (dataset, label, name, patient) in enumerate(described):
        file = f"images/{side}/{before + number:06}.png"
        pixels = images.images[torch.tensor([number])][0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / file)
        rows.append({"file": file, "part": part, "dataset": dataset, "label": label, "image": name, "patient": patient})
    return rows
