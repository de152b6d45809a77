"""Phantoms in the form in which the public datasets are handed out, so that `prepare` can be tried, and is tested, without a download.

lits/        volume-N.nii.gz and segmentation-N.nii.gz, stored in several orientations, as LiTS is
covid_ct/    Images-processed/CT_COVID.zip and CT_NonCOVID.zip, and the lists in Data-split/
covid_xray/  CHNCXR_NNNN_0.png and CHNCXR_NNNN_1.png
dicom/       normal/ and abnormal/: lung CT in DICOM files
"""

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from anomaly_detection.data.catalog import mark_phantom
from anomaly_detection.data.phantom.body import sample_patient
from anomaly_detection.data.phantom.lesions import draw_liver_lesions, draw_lung_lesions, points_in
from anomaly_detection.data.phantom.protocol import draw_levels
from anomaly_detection.data.phantom.rendering import LUNG_WINDOW, render_radiograph, render_slice, sample_exposure, sample_scan, window_hu
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_folder
from anomaly_detection.system.processes import map_jobs

ORIENTATIONS = ("LPS", "RAS", "LAS", "LPI", "SAL")  # of volume 0, 1, ...
SLICE_MM = 5.0
SLICES = 24  # of a volume
LUNG_SLICES = 2  # of a patient in COVID-CT


class _Job(NamedTuple):
    dataset: str
    patient: int
    abnormal: bool
    part: str


def write_downloads(out: Path, patients: int = 20, seed: int = 0, size: int = 160, workers: int | None = None) -> None:
    """Write the four folders into `out`.

    Args:
        out: a folder that does not exist or is empty. It appears under this name only when it is complete.
        patients: normal and as many abnormal ones in each set but lits, which has half as many volumes as there are patients.
        seed: the same seed gives the same images, however many workers there are.
        size: side of the images in pixels.
        workers: processes to use; as many as there are processors if None.

    Raises:
        UserError: `out` holds something, or `patients` or `size` is too small.
    """
    if size < 64 or patients < 6:
        raise UserError("phantoms: images of 64 pixels or more and 6 patients or more are needed")
    with whole_folder(out) as unfinished:
        for folder in ("lits", "covid_ct", "covid_xray", "dicom/normal", "dicom/abnormal"):
            (unfinished / folder).mkdir(parents=True)
            mark_phantom(unfinished / folder, f"phantoms, seed {seed}: computed images of random bodies, no patient data")
        jobs = _plan(patients)
        images = list(map_jobs(partial(_render, folder=unfinished, seed=seed, size=size), jobs, workers, "phantoms", "patient"))
        _write_archives(unfinished / "covid_ct", jobs, images)


def _plan(patients: int) -> list[_Job]:
    """Whom to render; in `covid_ct` the first three fifths are for training, the next for validation, the last for test, of either kind."""
    jobs = [_Job("lits", number, True, "") for number in range(max(5, patients // 2))]
    for dataset in ("covid_ct", "covid_xray", "dicom"):
        for number in range(2 * patients):
            place = number % patients / patients
            part = "train" if place < 0.6 else "val" if place < 0.8 else "test"
            jobs.append(_Job(dataset, number, number >= patients, part))
    return jobs


def _render(job: _Job, folder: Path, seed: int, size: int) -> list[tuple[str, bytes]]:
    """Write what one patient has, or return it as (file name, PNG) where it goes into an archive."""
    number = {"lits": 0, "covid_ct": 1, "covid_xray": 2, "dicom": 3}[job.dataset]
    key = [seed, job.patient, 10 + number]
    rng = np.random.default_rng(key)
    patient = sample_patient(rng)
    if job.dataset == "lits":
        _write_volume(patient, job.patient, rng, key, folder / "lits", size)
        return []
    if job.dataset == "covid_xray":
        lesions = draw_lung_lesions(patient, rng, projected=True) if job.abnormal else []
        grey, _ = render_radiograph(patient, sample_exposure(rng), key, size, lesions)
        Image.fromarray(grey).save(folder / "covid_xray" / f"CHNCXR_{job.patient + 1:04d}_{int(job.abnormal)}.png")
        return []
    lesions = draw_lung_lesions(patient, rng) if job.abnormal else []
    scan = sample_scan(rng, size, "lung")
    slices = [
        render_slice(patient, scan, level, "lung", [*key, place], size, lesions).hu
        for place, level in enumerate(draw_levels(patient, "lung", lesions, LUNG_SLICES, rng))
    ]
    if job.dataset == "dicom":
        _write_dicom(slices, job, scan.pixel, folder / "dicom" / ("abnormal" if job.abnormal else "normal"))
        return []
    name = f"2020.03.{job.patient:02d}.20030{job.patient:03d}-p{job.patient}-" if job.abnormal else f"{job.patient}"
    return [(f"{name}%{place}.png", _png(window_hu(hu, *LUNG_WINDOW))) for place, hu in enumerate(slices)]


def _write_volume(patient, number: int, rng: np.random.Generator, key: list[int], folder: Path, size: int) -> None:
    scan = sample_scan(rng, size, "liver")
    lesions = draw_liver_lesions(patient, rng)
    levels = np.median(points_in(patient, "liver", rng)[:, 2]) + (np.arange(SLICES) - SLICES // 2) * SLICE_MM
    slices = [render_slice(patient, scan, float(level), "liver", [*key, place], size, lesions) for place, level in enumerate(levels)]
    labels = [np.where(part.lesion >= 0.5, 2, np.where(part.organ >= 0.5, 1, 0)).astype(np.uint8) for part in slices]
    # an image has its rows from front to back and its columns from the patient's right to left; slices go up
    affine = np.diag([-scan.pixel, -scan.pixel, SLICE_MM, 1.0])
    wanted = nibabel.orientations.axcodes2ornt(ORIENTATIONS[number % len(ORIENTATIONS)])
    for name, planes in (("volume", [np.rint(part.hu).astype(np.int16) for part in slices]), ("segmentation", labels)):
        image = nibabel.Nifti1Image(np.stack([plane.T for plane in planes], axis=2), affine)
        image.header.set_xyzt_units("mm")
        turned = image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), wanted))
        nibabel.save(turned, folder / f"{name}-{number}.nii.gz")


def _write_dicom(slices: list[np.ndarray], job: _Job, pixel: float, folder: Path) -> None:
    for place, hu in enumerate(slices):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[f"{job}{place}"])
        data.Modality, data.PatientID, data.InstanceNumber = "CT", f"phantom-{job.patient}", place + 1
        data.PixelSpacing = [f"{pixel:.4f}"] * 2
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.WindowCenter, data.WindowWidth = LUNG_WINDOW
        data.set_pixel_data(np.rint(hu + 1024).astype(np.uint16), "MONOCHROME2", 16)
        data.save_as(folder / f"{job.patient}_{place}.dcm", enforce_file_format=True)


def _write_archives(folder: Path, jobs: list[_Job], images: list[list[tuple[str, bytes]]]) -> None:
    (folder / "Images-processed").mkdir()
    for kind, abnormal in (("NonCOVID", False), ("COVID", True)):
        lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        with zipfile.ZipFile(folder / "Images-processed" / f"CT_{kind}.zip", "w") as archive:
            for job, files in zip(jobs, images, strict=True):
                if job.dataset == "covid_ct" and job.abnormal == abnormal:
                    for name, data in files:
                        archive.writestr(zipfile.ZipInfo(f"CT_{kind}/{name}"), data)
                        lists[job.part].append(name)
        for part, names in lists.items():
            file = folder / "Data-split" / kind / f"{part}CT_{kind}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(names) + "\n", encoding="utf-8")


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
