"""LiTS, the Liver Tumor Segmentation benchmark: CT volumes with segmentations."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_detection.data.formats.nifti import Volume
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.formats.window import WindowChoice
from anomaly_detection.data.patients import patient_of
from anomaly_detection.data.prepare.build import Picture
from anomaly_detection.data.prepare.options import DOWNLOADS, Choice
from anomaly_detection.data.thinning import spread
from anomaly_detection.system.errors import UserError

LIVER, TUMOUR = 1, 2

_NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", re.IGNORECASE)


@dataclass(frozen=True)
class VolumeJob:
    """A volume and its segmentation."""

    sources: tuple[SourceFile, SourceFile]
    choice: Choice
    window: WindowChoice

    def pictures(self, paths: Sequence[Path]) -> Iterator[Picture]:
        """The chosen axial slices; `volume-N_SSS` is slice number SSS as it is stored, counted from 0."""
        volume, segmentation = (Volume(path, str(source)) for path, source in zip(paths, self.sources, strict=True))
        if (volume.shape, volume.orientation) != (segmentation.shape, segmentation.orientation):
            what = f"{volume.shape} {volume.orientation} and {segmentation.shape} {segmentation.orientation}"
            raise UserError(f"{self.sources[0]} and its segmentation differ in shape or orientation ({what}); which one is wrong cannot be known")
        liver, tumour = segmentation.count([LIVER, TUMOUR]) / (np.prod(volume.shape) / volume.slices)
        shows_liver = liver + tumour >= self.choice.min_liver
        stem, window, apart = self.sources[0].stem.lower(), volume.shown(self.window), volume.apart(segmentation)
        for abnormal, chosen in ((False, shows_liver & (tumour == 0)), (True, shows_liver & (tumour >= self.choice.min_tumour))):
            slices = spread(np.flatnonzero(chosen).tolist(), self.choice.max_slices)
            if slices:
                masks = (plane == TUMOUR for plane in segmentation.planes(slices)) if abnormal else [None] * len(slices)
                for number, values, mask in zip(slices, volume.planes(slices), masks, strict=True):
                    name = f"{stem}_{number:03d}"
                    yield Picture(name, patient_of(name, abnormal), abnormal, window.grey(values), mask, apart=apart)


def plan(where: Path, files: Sequence[SourceFile], choice: Choice, window: WindowChoice) -> list[VolumeJob]:
    """A job for each volume, by its number; other files are left alone.

    Raises:
        UserError: no volume is there, one is there twice, or a volume or segmentation lacks its partner.
    """
    found: dict[tuple[str, int], SourceFile] = {}
    for file in files:
        match = _NAME.fullmatch(file.name.rsplit("/", 1)[-1])
        if match:
            first = found.setdefault((match[1].lower(), int(match[2])), file)
            if first is not file:
                raise UserError(f"{file}: is there twice, the other one is {first}; take one away")
    numbers = sorted({number for _, number in found})
    if not any(kind == "volume" for kind, _ in found):
        raise UserError(f"{where}: no volume-N.nii or volume-N.nii.gz is there; what is needed is {DOWNLOADS['lits']}")
    jobs = []
    for number in numbers:
        pair = found.get(("volume", number)), found.get(("segmentation", number))
        if None in pair:
            here, missing = (pair[1], "volume") if pair[0] is None else (pair[0], "segmentation")
            raise UserError(f"{here}: there is no {missing}-{number}.nii beside it; add it, or take this one away")
        jobs.append(VolumeJob(pair, choice, window))
    return jobs
