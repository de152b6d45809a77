"""A CT of a cylinder with a bright lesion, oblique in the patient, as NIfTI and as DICOM series; where the lesion is, is said in millimetres."""

import nibabel
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

SHAPE = (48, 64, 9)  # columns, rows, slices
SPACING = np.array([1.5, 1.25, 4.0])  # of columns, rows and slices, in mm
TURN = Rotation.from_euler("xyz", (8, -6, 15), degrees=True).as_matrix()
CORNER = np.array([-30.0, 25, 410])  # middle of the first voxel, in LPS
LESION = np.array([33, 20, 5])  # column, row, slice
PATIENT = {"PatientID": "P7", "PatientName": "Müller^Zoë", "PatientBirthDate": "19700101", "PatientSex": "F"}
STUDY = {"StudyInstanceUID": generate_uid(), "StudyID": "S1", "StudyDate": "20200102", "StudyTime": "101112", "AccessionNumber": "A5"}
SERIES = {"SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "SeriesNumber": 3, "Modality": "CT"}


def affine() -> np.ndarray:
    """From (column, row, slice) to millimetres in DICOM's axes, to the left, to the back and up."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = TURN * SPACING, CORNER
    return matrix


def place(voxel, matrix=None) -> np.ndarray:
    """Where the middle of a voxel (column, row, slice) is, in mm, LPS."""
    return ((affine() if matrix is None else matrix) @ [*voxel, 1])[:3]


def values() -> np.ndarray:
    """(columns, rows, slices) Hounsfield units; the lesion is brighter than all else, and brightest in its middle."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    middle = (np.array(SHAPE) - 1) / 2
    body = np.hypot(*np.moveaxis((grid - middle)[..., :2] * SPACING[:2], -1, 0)) < 30
    apart = np.linalg.norm((grid - LESION) * SPACING, axis=-1)
    return np.where(apart < 6, 180 - 8 * apart, np.where(body, 40, -200)).astype(np.int16)


def save_nifti(path):
    """In RAS, as NIfTI has it, with the axes in another order and one of them the other way round."""
    ras = np.diag([-1.0, -1, 1, 1]) @ affine()
    image = nibabel.Nifti1Image(values(), ras).as_reoriented([[1, 1], [0, -1], [2, 1]])
    nibabel.save(image, path)
    return path


def plane(number):
    """Position, orientation and spacing of a slice."""
    return {
        "ImagePositionPatient": [f"{each:.8g}" for each in place((0, 0, number))],
        "ImageOrientationPatient": [f"{each:.8g}" for each in (*TURN[:, 0], *TURN[:, 1])],
        "PixelSpacing": [SPACING[1], SPACING[0]],
        "SliceThickness": SPACING[2],
    }


def _dataset(kind, pixels, **tags):
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.set_pixel_data(pixels, "MONOCHROME2", 16)
    data.SpecificCharacterSet = "ISO_IR 100"
    for keyword, value in {**PATIENT, **STUDY, **SERIES, **tags}.items():
        if value is None:
            data.pop(keyword, None)
        else:
            setattr(data, keyword, value)
    return data


def stored():
    """(slices, rows, columns) uint16, 1024 above Hounsfield units."""
    return (values().transpose(2, 1, 0) + 1024).astype(np.uint16)


def save_series(folder, **tags):
    """A file for each slice, under names that say nothing of the order."""
    folder.mkdir()
    names = np.random.default_rng(3).permutation(SHAPE[2])
    paths = []
    for number, pixels in enumerate(stored()):
        data = _dataset(CTImageStorage, pixels, **plane(number), RescaleSlope=1, RescaleIntercept=-1024, **tags)
        paths.append(folder / f"IM{names[number]:04d}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def save_frames(path, **tags):
    """The same as one file of several frames, the orientation told once for all."""

    def item(**keys):
        content = pydicom.Dataset()
        for keyword, value in keys.items():
            setattr(content, keyword, value)
        return content

    data = _dataset(EnhancedCTImageStorage, stored(), **tags)
    organization = generate_uid()
    data.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organization)]
    keywords = plane(0)
    shared = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=keywords["ImageOrientationPatient"])],
        "PixelMeasuresSequence": [item(PixelSpacing=keywords["PixelSpacing"], SliceThickness=SPACING[2])],
        "PixelValueTransformationSequence": [item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
    }
    data.SharedFunctionalGroupsSequence = [item(**shared)]
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=plane(number)["ImagePositionPatient"])],
            FrameContentSequence=[item(DimensionIndexValues=[1, number + 1], StackID="1", InStackPositionNumber=number + 1)],
        )
        for number in range(SHAPE[2])
    ]
    data.save_as(path, enforce_file_format=True)
    return path
