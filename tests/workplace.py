"""A folder in which the commands of README.md and docs/ can be typed as they are shown: small files under all the names that they use."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from anomaly_detection.__main__ import main
from anomaly_detection.data.catalog import PHANTOM
from anomaly_detection.data.phantom.downloads import write_downloads
from tests.helpers import toy_images
from tests.porting.miniatures import MINIATURES

MODEL = "tests.helpers:ToyBaseline"
DOMAINS = {"lits": ("liver", "ct"), "covid_ct": ("lung", "ct"), "covid_xray": ("lung", "xray")}
SMALL = ["image_size=16", "iterations=6", "val_iter=3", "batch_size=4"]


def make_workplace(folder: Path) -> None:
    """Fill an empty folder: downloads, images, a clone to port to, a data root, and a study of one experiment on it, which is RUN, too."""
    write_downloads(folder / "downloads", patients=6, size=64, workers=1)
    for name, download in (("LiTS-TRAIN", "lits"), ("SRC", "lits"), ("COVID-CT", "covid_ct")):
        (folder / name).mkdir()
        for path in (folder / "downloads" / download).iterdir():
            if path.name != PHANTOM:  # they stand for real ones
                (folder / name / path.name).symlink_to(path)
    _zip(folder / "SHENZHEN.zip", sorted((folder / "downloads" / "covid_xray").glob("*.png")))
    dicom = sorted((folder / "downloads" / "dicom").rglob("*.dcm"))
    (folder / "image.dcm").write_bytes(dicom[0].read_bytes())
    for kind, shift in (("normal", 0), ("abnormal", 60), ("masks", 0)):
        (folder / "scans" / kind).mkdir(parents=True)
        for number, pixels in enumerate(toy_images(12, seed=shift, side=48).images[:, 0].numpy()):
            shown = np.where(np.indices(pixels.shape).max(axis=0) < 12, 255, 0 if kind == "masks" else pixels) if shift or kind == "masks" else pixels
            Image.fromarray(shown.astype(np.uint8)).save(folder / "scans" / kind / f"{number}.png")
    (folder / "image.png").write_bytes((folder / "scans" / "normal" / "0.png").read_bytes())
    for name in ("scans.zip", "more.zip"):
        _zip(folder / name, sorted((folder / "scans" / "normal").glob("1*.png")))
    (folder / "INPUT...").symlink_to(folder / "scans" / "normal")
    (folder / "my_module.py").write_text("from tests.helpers import ToyBaseline\n\n\nclass MyBaseline(ToyBaseline):\n    pass\n", encoding="utf-8")
    for file, text in MINIATURES["ganomaly"].items():
        path = folder / "path" / "to" / "ganomaly" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    make_data_root(folder / "trained_on", ["lits", "covid_ct"])
    words = ["study", "--data-root", str(folder / "trained_on"), "--models", MODEL, "--regimes", "maddr", "--seeds", "0"]
    assert main([*words, "--results", str(folder / "results" / "NAME"), "--device", "cpu", *(f"--set={key}" for key in SMALL)]) == 0
    (run,) = (folder / "results" / "NAME").glob("*/maddr/*/seed_0")
    (folder / "RUN").symlink_to(run)


def make_data_root(root: Path, names: Sequence[str]) -> None:
    """Make a data root hold these datasets, each of a few images; half of the abnormal ones have twins."""
    catalog = yaml.safe_load((root / "datasets.yaml").read_text(encoding="utf-8")) if (root / "datasets.yaml").exists() else {}
    twins = []
    for name in names:
        if (root / name).exists():
            continue
        organ, modality = DOMAINS.get(name, (name, "ct"))
        label = catalog[name]["label"] if name in catalog else len(catalog)
        catalog[name] = {"label": label, "organ": organ, "modality": modality, "root": name}
        pixels = iter(toy_images(3 * 22, seed=label, side=16).images[label % 3 :: 3, 0].numpy())
        for kind, part, count in (("normal", "train", 8), ("normal", "val", 4), ("normal", "test", 4), ("anomaly", "test", 4), ("twins", "", 2)):
            (root / name / kind).mkdir(parents=True, exist_ok=True)
            images = [f"{kind}/{part}{i}.png" for i in range(count)]
            for image in images:
                Image.fromarray(next(pixels)).save(root / name / image)
            if part:
                split = root / "folds" / "train_test_split" / kind / part
                split.parent.mkdir(parents=True, exist_ok=True)
                with open(split, "a", encoding="utf-8") as file:
                    file.writelines(f"{image} {name}\n" for image in images)
        twins += [f"{name},anomaly/test{i}.png,twins/{i}.png\n" for i in range(2)]
    (root / "datasets.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False), encoding="utf-8")
    if not (root / "twins.csv").exists():
        (root / "twins.csv").write_text("dataset,image,twin\n" + "".join(twins), encoding="utf-8")


def _zip(archive: Path, files: list[Path]) -> None:
    with zipfile.ZipFile(archive, "w") as target:
        for file in files:
            target.write(file, file.name)
