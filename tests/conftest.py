import gc
import logging
import multiprocessing
from multiprocessing import forkserver

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection.data.phantom.strata import STRATA
from anomaly_detection.data.twin_lists import NUMBERS
from anomaly_detection.system.memory import keep_memory, release_memory
from tests.helpers import toy_images


@pytest.fixture(autouse=True, scope="session")
def _fast():
    """The networks of the tests are too small to share: threads would cost more than they bring. Memory is handled as by the commands.

    What was imported stays: to look through it for garbage after each of some hundred experiments would take a quarter of a second each time.
    """
    torch.set_num_threads(1)
    keep_memory()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _frugal():
    """What the tests of a file leave behind goes back to the system, as after an experiment, and with it the server of processes that draw."""
    yield
    release_memory()
    if "forkserver" in multiprocessing.get_all_start_methods():
        forkserver._forkserver._stop()


@pytest.fixture(autouse=True)
def levels():
    """The loggers whose levels commands set; put back as they were."""
    loggers = {name: logging.getLogger(name) for name in (None, "anomaly_detection")}
    before = {name: logger.level for name, logger in loggers.items()}
    yield loggers
    for name, logger in loggers.items():
        logger.setLevel(before[name])


@pytest.fixture
def data_root(tmp_path):
    """Three small datasets on disk in the documented layout: liver CT, lung CT, lung X-ray; abnormal images hold a bright square."""
    root = tmp_path / "images"
    catalog, kinds = [], {"liver_ct": ("liver", "ct"), "lung_ct": ("lung", "ct"), "lung_xray": ("lung", "xray")}
    for number, (name, (organ, modality)) in enumerate(kinds.items()):
        catalog.append(f"{name}:\n  label: {number}\n  organ: {organ}\n  modality: {modality}\n  root: {name}\n")
        for kind, part, count in (("normal", "train", 8), ("normal", "val", 4), ("normal", "test", 4), ("anomaly", "test", 4)):
            images = toy_images(3 * count, seed=hash_of(kind, part), side=16).images[number::3, 0].numpy().copy()
            split = root / "folds" / "train_test_split" / kind / part
            split.parent.mkdir(parents=True, exist_ok=True)
            (root / name / kind).mkdir(parents=True, exist_ok=True)
            for i, pixels in enumerate(images):
                if kind == "anomaly":
                    pixels[4:9, 6:11] = 255
                Image.fromarray(pixels).save(root / name / kind / f"{part}_{i}.png")
            with open(split, "a", encoding="utf-8") as file:
                file.writelines(f"{kind}/{part}_{i}.png {name}\n" for i in range(count))
    (root / "datasets.yaml").write_text("\n".join(catalog), encoding="utf-8")
    return root


@pytest.fixture
def twinned(data_root):
    """The abnormal images of two datasets have twins: the same without the bright square."""
    lines, facts = ["dataset,image,twin"], [",".join(("dataset", "image", "stratum", *NUMBERS, "unit"))]
    for name in ("lung_ct", "lung_xray"):
        for folder in ("twins", "masks"):
            (data_root / name / folder).mkdir()
        for i in range(4):
            pixels = np.asarray(Image.open(data_root / name / "anomaly" / f"test_{i}.png")).copy()
            mask = np.zeros_like(pixels)
            pixels[4:9, 6:11], mask[4:9, 6:11] = 40, 255
            Image.fromarray(pixels).save(data_root / name / "twins" / f"test_{i}.png")
            Image.fromarray(mask).save(data_root / name / "masks" / f"test_{i}.png")
            lines.append(f"{name},anomaly/test_{i}.png,twins/test_{i}.png")
            facts.append(f"{name},anomaly/test_{i}.png,{STRATA[i % 2]}," + ",".join("5" for _ in NUMBERS) + ",HU")
    (data_root / "twins.csv").write_text("\n".join(lines))
    (data_root / "phantoms.csv").write_text("\n".join(facts))
    return data_root


def hash_of(kind: str, part: str) -> int:
    return sum(map(ord, kind + part))
