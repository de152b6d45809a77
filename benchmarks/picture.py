"""The picture of the README: what a detector trained by the study makes of three phantoms and of their healthy twins.

Nothing is picked by eye: of each dataset it shows the first image, by name, of the stratum `obvious` in phantoms.csv, and its twin of twins.csv.
One scale of the maps for all: its upper end is what they seldom exceed in a normal image (the 99.5th percentile over the pixels of the
validation normals).
"""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from anomaly_detection import load
from anomaly_detection.data.catalog import read_catalog

STRATUM = "obvious"
COLOURS = "inferno"
LOWEST = 0.3  # of the scale of the maps, as a share of its upper end: what most of a normal image exceeds
SIDE = 1.55  # of a panel, in inches of 100 pixels


class Pair(NamedTuple):
    """An abnormal image of a dataset, its healthy twin, and the mask of its lesion, as paths."""

    dataset: str
    image: Path
    twin: Path
    mask: Path


def pairs(data_root: Path) -> list[Pair]:
    """The first pair of the stratum in each dataset, by the image's name; datasets in the order of phantoms.csv."""
    twins = {(row["dataset"], row["image"]): row["twin"] for row in _rows(data_root / "twins.csv")}
    first: dict[str, str] = {}
    for row in _rows(data_root / "phantoms.csv"):
        if row["stratum"] == STRATUM:
            first[row["dataset"]] = min(row["image"], first.get(row["dataset"], row["image"]))
    return [
        Pair(name, data_root / name / image, data_root / name / twins[name, image], data_root / name / "masks" / Path(image).name)
        for name, image in first.items()
    ]


def draw(run: Path, data_root: Path) -> Figure:
    """A column for each image and a column for its twin; the image above, below it the anomaly map on it."""
    detector, catalog = load(run, "cpu"), read_catalog(data_root / "datasets.yaml")
    shown = pairs(data_root)
    figure = Figure(figsize=(2 * len(shown) * SIDE, 2 * SIDE + 0.6), dpi=100, layout="constrained")
    axes = figure.subplots(2, 2 * len(shown), squeeze=False)
    for number, pair in enumerate(shown):
        words = f"{catalog[pair.dataset].organ} {catalog[pair.dataset].modality}"
        for column, path, title in ((2 * number, pair.image, f"{words}\nwith a lesion"), (2 * number + 1, pair.twin, "the same body\nhealthy")):
            prediction = detector.predict(path)
            pixels = np.asarray(Image.open(path).convert("L"))
            above, below = axes[:, column]
            for ax in (above, below):
                ax.imshow(pixels, cmap="gray", vmin=0, vmax=255)
                ax.set_axis_off()
            if path is pair.image:
                above.contour(np.asarray(Image.open(pair.mask)) > 0, levels=[0.5], colors="cyan", linewidths=0.8)
            above.set_title(title, fontsize=9)
            below.set_title(f"score {prediction.calibrated_score:.2f}", fontsize=9)
            height, width = pixels.shape
            share = prediction.anomaly_map / detector.map_scale
            tint = below.imshow(share, cmap=COLOURS, vmin=LOWEST, vmax=1, alpha=0.6, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    bar = figure.colorbar(tint, ax=axes[1], aspect=12)
    bar.set_label("map / normal limit", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    return figure


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(argv: list[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of an experiment on phantoms: .../seed_0")
    parser.add_argument("data_root", type=Path, metavar="DATA_ROOT", help="the phantoms, with phantoms.csv and twins.csv")
    parser.add_argument("picture", type=Path, metavar="FILE", help="a PNG file")
    arguments = parser.parse_args(argv)
    draw(arguments.run, arguments.data_root).savefig(arguments.picture, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
