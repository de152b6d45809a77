"""Phantoms: small anatomical datasets rendered from random bodies, laid out on disk as the real ones.

One body model serves three datasets: liver CT (portal venous phase, liver window), chest CT (lung window) and posterior-anterior chest
radiographs. They let every part of the project run, and be tested, without patient data. They are no substitute for it: a figure measured
on phantoms says that the code works, not that a method does.

`phantom_patient` draws who a body is, `phantom_body` paints it in Hounsfield units, `phantom_lesions` adds disease and states where its
distributions come from, `phantom_render` makes images; this file decides which images there are and writes them.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from anomaly_detection.data.catalog import DatasetSpec, mark_phantom
from anomaly_detection.data.masks import mask_path
from anomaly_detection.data.phantom.body import sample_patient
from anomaly_detection.data.phantom.lesions import Lesion, draw_liver_lesions, draw_lung_lesions, points_in
from anomaly_detection.data.phantom.patient import Patient
from anomaly_detection.data.phantom.rendering import (
    LIVER_WINDOW,
    LUNG_WINDOW,
    render_radiograph,
    render_slice,
    sample_exposure,
    sample_scan,
    window_hu,
)
from anomaly_detection.data.splits import SPLITS
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_folder
from anomaly_detection.system.processes import map_jobs

VERSION = 1
IMAGES = dict(zip(SPLITS, (180, 40, 50, 60), strict=True))  # of a dataset in each split
DATASETS = {"lits": (0, "liver", "ct"), "covid_ct": (1, "lung", "ct"), "covid_xray": (2, "lung", "xray")}  # label, organ, modality
SLICES = 4  # of a CT patient
LEVEL_MM = 0.5  # no two slices of a patient are closer, and the step of the slice number in a file name
THIN_MM = 4.0  # water-equivalent thickness from which an opacity counts as visible in a radiograph


class Job(NamedTuple):
    """One patient, the side of the split it is on, and how many images of it each dataset takes."""

    patient: int
    abnormal: bool
    split: str
    images: dict[str, int]


def phantom_catalog() -> dict[str, DatasetSpec]:
    """The datasets by name, as the datasets.yaml beside them describes them."""
    entries = ((name, dict(zip(("label", "organ", "modality"), values, strict=True))) for name, values in DATASETS.items())
    return {name: DatasetSpec(name=name, root=name, **values) for name, values in entries}


def plan_jobs(images: int | None = None) -> list[Job]:
    """Share `images` over datasets and splits; a patient is on one side of every split, whatever datasets it serves."""
    counts = _share_out(images)
    jobs: list[Job] = []
    for kind, split in SPLITS:
        wanted = {name: counts[name, kind, split] for name in DATASETS}
        while any(wanted.values()):
            taken = {name: min(left, SLICES if DATASETS[name][2] == "ct" else 1) for name, left in wanted.items()}
            wanted = {name: left - taken[name] for name, left in wanted.items()}
            jobs.append(Job(len(jobs), kind == "anomaly", split, taken))
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


def _spaced_levels(candidates: np.ndarray, count: int) -> list[float]:
    """`count` of the candidate levels (mm), in their order, as far apart as 12 mm or, if that is not to be had, less."""
    for space in (12.0, 8.0, 5.0, 3.0, 1.5, LEVEL_MM):
        chosen: list[float] = []
        for level in candidates:
            if len(chosen) < count and all(abs(level - other) >= space for other in chosen):
                chosen.append(float(level))
        if len(chosen) == count:
            return chosen
    raise ValueError(f"{count} levels wanted of {len(candidates)}")


def draw_levels(patient: Patient, organ: str, lesions: list[Lesion], count: int, rng: np.random.Generator) -> list[float]:
    """Levels (reference mm) at which an organ, or a lesion in it, is cut; frequent where it is large."""
    points = points_in(patient, organ, rng)
    if not lesions:
        return _spaced_levels(points[:, 2], count)
    inside = np.max([lesion.depth(*points.T) for lesion in lesions], axis=0) > 0
    centre, reach = np.array([(lesion.body.centre[2], max(0.6 * lesion.body.axes[2], 4 * LEVEL_MM)) for lesion in lesions]).T
    through = centre + np.linspace(-1, 1, 9)[:, None] * reach  # for lesions that no point hits
    return _spaced_levels(np.concatenate([points[inside, 2], rng.permutation(through.reshape(-1))]), count)


def _mask(share: np.ndarray, threshold: float) -> np.ndarray:
    """Where a lesion covers `threshold`, or half of its most if it is nowhere so much, as 0 / 255."""
    return np.where(share >= min(threshold, float(share.max()) / 2), 255, 0).astype(np.uint8)


def render_patient(job: Job, seed: int, size: int) -> list[tuple[str, str, np.ndarray, np.ndarray | None]]:
    """All images of a patient: (dataset, file name, image, mask or None)."""
    rng = np.random.default_rng([seed, job.patient])
    patient = sample_patient(rng)
    found = []
    for name, (label, organ, modality) in DATASETS.items():
        if job.images[name]:
            key = [seed, job.patient, 1 + label]
            render = _render_ct if modality == "ct" else _render_xray
            found += [(name, *image) for image in render(patient, job, name, organ, key, size)]
    return found


def _render_ct(patient: Patient, job: Job, name: str, organ: str, key: list[int], size: int):
    rng = np.random.default_rng(key)
    scan = sample_scan(rng, size, organ)
    draw, window = (draw_liver_lesions, LIVER_WINDOW) if organ == "liver" else (draw_lung_lesions, LUNG_WINDOW)
    lesions = draw(patient, rng) if job.abnormal else []
    for number, level in enumerate(draw_levels(patient, organ, lesions, job.images[name], rng)):
        hu, _, share = render_slice(patient, scan, level, organ, [*key, number + 1], size, lesions)
        file = f"volume-{job.patient}_{round((level + 260) / LEVEL_MM):03d}.png" if organ == "liver" else f"{job.patient}%{number}.png"
        yield file, window_hu(hu, *window), _mask(share, 0.5) if job.abnormal else None


def _render_xray(patient: Patient, job: Job, name: str, organ: str, key: list[int], size: int):
    rng = np.random.default_rng(key)
    exposure = sample_exposure(rng)
    lesions = draw_lung_lesions(patient, rng, projected=True) if job.abnormal else []
    grey, added = render_radiograph(patient, exposure, key, size, lesions)
    yield f"CHNCXR_{job.patient:04d}_{int(job.abnormal)}.png", grey, _mask(added, THIN_MM) if job.abnormal else None


def _write_patient(job: Job, seed: int, size: int, folder: Path) -> list[tuple[str, str]]:
    """Render a patient's images into their folders; returns (dataset, file name) of each."""
    written = []
    for dataset, name, image, mask in render_patient(job, seed, size):
        path = f"{'abnormal' if job.abnormal else 'normal'}/{name}"
        Image.fromarray(image).save(folder / dataset / path)
        if mask is not None:
            Image.fromarray(mask).save(folder / dataset / mask_path(path))
        written.append((dataset, name))
    return written


def write_phantoms(out: Path, images: int | None = None, seed: int = 0, size: int = 160, workers: int | None = None) -> None:
    """Write three phantom datasets (liver CT, lung CT, chest radiograph) with masks, split files and `datasets.yaml` into `out`.

    Args:
        out: a folder that does not exist or is empty. It appears under this name only when it is complete.
        images: how many images in all; about a thousand if None.
        seed: the same seed gives the same bytes, however many workers there are.
        size: side of the images in pixels.
        workers: processes to use; as many as there are processors if None.

    Raises:
        UserError: `out` holds something, or `images` or `size` is too small.
    """
    if size < 64:
        raise UserError(f"phantoms: images of {size} pixels are too small to show a lesion, use 64 or more")
    jobs = plan_jobs(images)
    with whole_folder(out) as unfinished:
        for dataset in DATASETS:
            for kind in ("normal", "abnormal", "masks"):
                (unfinished / dataset / kind).mkdir(parents=True)
        _write_lists(unfinished, jobs, _write_images(jobs, seed, size, unfinished, workers), seed, size)


def _write_images(jobs: list[Job], seed: int, size: int, folder: Path, workers: int | None) -> list[list[tuple[str, str]]]:
    """Write the images of every job, in parallel; returns their (dataset, file name), job by job."""
    return list(map_jobs(partial(_write_patient, seed=seed, size=size, folder=folder), jobs, workers, "phantoms", "patient"))


def _write_lists(folder: Path, jobs: list[Job], written: list[list[tuple[str, str]]], seed: int, size: int) -> None:
    """Write the split files, `datasets.yaml` and, last, the marker PHANTOM."""
    lines: dict[tuple[str, str], list[str]] = {split: [] for split in SPLITS}
    for job, files in zip(jobs, written, strict=True):
        kind, place = ("anomaly", "abnormal") if job.abnormal else ("normal", "normal")
        lines[kind, job.split] += [f"{place}/{name} {dataset}" for dataset, name in files]
    for (kind, split), rows in lines.items():
        counts = Counter(row.rsplit(" ", 1)[1] for row in rows)
        header = f"# phantoms, seed {seed}: {len(rows)} images: " + ", ".join(f"{counts[name]} {name}" for name in DATASETS)
        file = folder / "folds" / "train_test_split" / kind / split
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([header, *sorted(rows, key=lambda row: row.rsplit(" ", 1)[::-1])]) + "\n", encoding="utf-8")
    specs = phantom_catalog().values()
    entries = (f"{s.name}:\n  label: {s.label}\n  organ: {s.organ}\n  modality: {s.modality}\n  root: {s.root}\n" for s in specs)
    (folder / "datasets.yaml").write_text("".join(entries), encoding="utf-8")
    text = [f"Phantoms: {sum(map(len, written))} computed images of {len(jobs)} random bodies, no patient data."]
    text += [f"version {VERSION}", f"seed {seed}", f"size {size}"]
    mark_phantom(folder, "\n".join(text))
