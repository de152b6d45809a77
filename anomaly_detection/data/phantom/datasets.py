"""Phantoms: small anatomical datasets rendered from random bodies, laid out on disk as the real ones.

One body model serves three datasets: liver CT (portal venous phase, liver window), chest CT (lung window) and posterior-anterior chest radiographs.
They let every part of the project run, and be tested, without patient data, and they are an instrument: what a detector sees can be read over the
size and the contrast of lesions that are known. They are no substitute for patients: a method that finds every lesion here may find none there.

`patient` draws who a body is, `body` paints it in Hounsfield units, `lesions` adds disease and states where its distributions come from, `rendering`
makes images, `protocol` says of what, `strata` how conspicuous a lesion in them is, `pairs` puts these together; this file decides which images there
are and writes them:

    DATASET/{normal,abnormal}/   the images
    DATASET/masks/               where the lesions of the abnormal ones are
    DATASET/twins/               each abnormal image again, same body, same noise, without its lesions
    folds/train_test_split/      which image is for what; twins are in none of these lists
    twins.csv                    of each abnormal image its twin
    phantoms.csv                 of each abnormal image its lesions, see `Conspicuity`
    datasets.yaml, PHANTOM
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from anomaly_detection.data.catalog import PHANTOM, DatasetSpec, mark_phantom
from anomaly_detection.data.formats.pictures import write_png
from anomaly_detection.data.masks import mask_path
from anomaly_detection.data.phantom.body import sample_patient
from anomaly_detection.data.phantom.pairs import CLINICAL, Pair, radiograph_pair, slice_pair
from anomaly_detection.data.phantom.protocol import STEP_MM
from anomaly_detection.data.phantom.strata import STRATA, Conspicuity
from anomaly_detection.data.splits import SPLITS
from anomaly_detection.data.twin_lists import FACTS, TWINS
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text, whole_folder
from anomaly_detection.system.processes import map_jobs

VERSION = 4  # of what is rendered: with any other, other pixels or files come of the same seed
IMAGES = dict(zip(SPLITS, (300, 40, 50, 75), strict=True))  # of a dataset in each split; half a minute of two cores
DATASETS = {"lits": (0, "liver", "ct"), "covid_ct": (1, "lung", "ct"), "covid_xray": (2, "lung", "xray")}  # label, organ, modality
BODY = r"0*(\d+)"  # in a file's name: the patient, one and the same in all datasets

Mixture = Literal["strata", "clinical"]


class Job(NamedTuple):
    """One body, the side of the split it is on, and the datasets that take an image of it; a stratum (or CLINICAL) if it is to have lesions."""

    patient: int
    stratum: str | None
    split: str
    datasets: tuple[str, ...]


class Written(NamedTuple):
    """An image on disk: its dataset, its path there, and of an abnormal one its lesions and the path of its twin."""

    dataset: str
    image: str
    facts: Conspicuity | None = None
    twin: str | None = None


def phantom_catalog() -> dict[str, DatasetSpec]:
    """The datasets by name, as the datasets.yaml beside them describes them."""
    entries = ((name, dict(zip(("label", "organ", "modality"), values, strict=True))) for name, values in DATASETS.items())
    return {name: DatasetSpec(name=name, root=name, patient=BODY, **values) for name, values in entries}


def other_version(data_root: Path) -> str | None:
    """A clause that says so where phantoms were rendered by another version of this module; None of today's, and of all that it did not write."""
    marker = data_root / PHANTOM
    told = re.search(r"^version (\d+)$", read_text(marker), re.MULTILINE) if marker.is_file() else None
    if told is None or int(told[1]) == VERSION:
        return None
    return f"{data_root} holds phantoms of version {told[1]}, and what is rendered now is version {VERSION}"


def plan_jobs(images: int | None = None, lesions: Mixture = "strata") -> list[Job]:
    """Share `images` over datasets and splits; no two images of a dataset are of one body, and a body is on one side of every split.

    With the mixture "strata" the abnormal ones are of each stratum in turn.
    """
    counts = _share_out(images)
    jobs: list[Job] = []
    for kind, split in SPLITS:
        for number in range(max(counts[name, kind, split] for name in DATASETS)):
            takers = tuple(name for name in DATASETS if counts[name, kind, split] > number)
            stratum = None if kind == "normal" else STRATA[number % len(STRATA)] if lesions == "strata" else CLINICAL
            jobs.append(Job(len(jobs), stratum, split, takers))
    return jobs


def _share_out(images: int | None) -> dict[tuple[str, str, str], int]:
    """Images per (dataset, kind, split), in the proportions of IMAGES, at least one each, summing to `images`."""
    cells = {(name, *split): count for name in DATASETS for split, count in IMAGES.items()}
    if images is None:
        return cells
    if images < len(cells):
        raise UserError(f"phantoms: {images} images are too few, ask for {len(cells)} or more (three datasets, four splits each)")
    exact = {cell: 1 + (images - len(cells)) * count / sum(cells.values()) for cell, count in cells.items()}
    counts = {cell: int(value) for cell, value in exact.items()}
    by_rest = sorted(cells, key=lambda cell: counts[cell] - exact[cell])
    for cell in by_rest[: images - sum(counts.values())]:
        counts[cell] += 1
    return counts


def render_patient(job: Job, seed: int, size: int) -> list[tuple[str, str, Pair]]:
    """The pictures of a body: (dataset, file name, pair)."""
    patient = sample_patient(np.random.default_rng([seed, job.patient]))
    rendered = []
    for name in job.datasets:
        label, organ, modality = DATASETS[name]
        key = [seed, job.patient, 1 + label]
        pair = slice_pair(patient, organ, job.stratum, key, size) if modality == "ct" else radiograph_pair(patient, job.stratum, key, size)
        rendered.append((name, _file_name(name, job, pair), pair))
    return rendered


def _file_name(dataset: str, job: Job, pair: Pair) -> str:
    """As files of the public dataset are named."""
    if dataset == "lits":
        return f"volume-{job.patient}_{round((pair.level + 260) / STEP_MM):03d}.png"
    return f"{job.patient}%0.png" if dataset == "covid_ct" else f"CHNCXR_{job.patient:04d}_{int(job.stratum is not None)}.png"


def _write_patient(job: Job, seed: int, size: int, folder: Path) -> list[Written]:
    """Render a body's pictures into their folders."""
    written = []
    for dataset, name, pair in render_patient(job, seed, size):
        if pair.diseased is None:
            write_png(pair.healthy, folder / dataset / "normal" / name)
            written.append(Written(dataset, f"normal/{name}"))
            continue
        image, twin = f"abnormal/{name}", f"twins/{name}"
        for path, pixels in ((image, pair.diseased.picture), (mask_path(image), pair.diseased.mask), (twin, pair.healthy)):
            write_png(pixels, folder / dataset / path)
        written.append(Written(dataset, image, pair.diseased.facts, twin))
    return written


def write_phantoms(
    out: Path, images: int | None = None, seed: int = 0, size: int = 160, workers: int | None = None, lesions: Mixture = "strata"
) -> None:
    """Write three phantom datasets (liver CT, lung CT, chest radiograph) with masks, twins, split files and `datasets.yaml` into `out`.

    Args:
        out: a folder that does not exist or is empty. It appears under this name only when it is complete.
        images: how many images in all, twins not counted; more than a thousand if None.
        seed: the same seed gives the same bytes, however many workers there are.
        size: side of the images in pixels.
        workers: processes to use; as many as there are processors if None.
        lesions: "strata": a third of the abnormal images each obvious, typical and subtle; "clinical": lesions as a clinic sees them.

    Raises:
        UserError: `out` holds something, or `images` or `size` is too small.
    """
    if size < 64:
        raise UserError(f"phantoms: images of {size} pixels are too small to show a lesion, use 64 or more")
    jobs = plan_jobs(images, lesions)
    with whole_folder(out) as unfinished:
        for dataset in DATASETS:
            for kind in ("normal", "abnormal", "masks", "twins"):
                (unfinished / dataset / kind).mkdir(parents=True)
        written = _write_images(jobs, seed, size, unfinished, workers)
        _write_facts(unfinished, [image for images in written for image in images if image.facts is not None])
        _write_lists(unfinished, jobs, written, seed, size, lesions)


def _write_images(jobs: list[Job], seed: int, size: int, folder: Path, workers: int | None) -> list[list[Written]]:
    """Write the images of every job, in parallel; returns them job by job."""
    return list(map_jobs(partial(_write_patient, seed=seed, size=size, folder=folder), jobs, workers, "phantoms", "patient"))


def _write_facts(folder: Path, abnormal: Sequence[Written]) -> None:
    """Write twins.csv and phantoms.csv."""
    abnormal = sorted(abnormal, key=lambda each: (list(DATASETS).index(each.dataset), each.image))
    units = {name: "HU" if modality == "ct" else "grey" for name, (_, _, modality) in DATASETS.items()}
    _write_csv(folder / TWINS, ("dataset", "image", "twin"), [(each.dataset, each.image, each.twin) for each in abnormal])
    rows = [(each.dataset, each.image, units[each.dataset], *map(_rounded, each.facts)) for each in abnormal]
    _write_csv(folder / FACTS, ("dataset", "image", "unit", *Conspicuity._fields), rows)


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _write_lists(folder: Path, jobs: list[Job], written: list[list[Written]], seed: int, size: int, lesions: Mixture) -> None:
    """Write the split files, `datasets.yaml` and, last, the marker PHANTOM."""
    lines: dict[tuple[str, str], list[str]] = {split: [] for split in SPLITS}
    for job, images in zip(jobs, written, strict=True):
        kind = "normal" if job.stratum is None else "anomaly"
        lines[kind, job.split] += [f"{each.image} {each.dataset}" for each in images]
    for (kind, split), rows in lines.items():
        counts = Counter(row.rsplit(" ", 1)[1] for row in rows)
        header = f"# phantoms, seed {seed}: {len(rows)} images: " + ", ".join(f"{counts[name]} {name}" for name in DATASETS)
        file = folder / "folds" / "train_test_split" / kind / split
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([header, *sorted(rows, key=lambda row: row.rsplit(" ", 1)[::-1])]) + "\n", encoding="utf-8")
    specs = phantom_catalog().values()
    keys = ("label", "organ", "modality", "root", "patient")
    entries = (f"{spec.name}:\n" + "".join(f"  {key}: {getattr(spec, key)}\n" for key in keys) for spec in specs)
    (folder / "datasets.yaml").write_text("".join(entries), encoding="utf-8")
    text = [f"Phantoms: {sum(map(len, written))} computed images of {len(jobs)} random bodies, no patient data."]
    text += [f"version {VERSION}", f"seed {seed}", f"size {size}", f"lesions {lesions}"]
    mark_phantom(folder, "\n".join(text))
