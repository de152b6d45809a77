"""Axial slices of NIfTI volumes, read one after the other so that memory does not grow with the volume."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from anomaly_detection.data.formats.sources import one_line
from anomaly_detection.data.formats.window import NO_WINDOW, Window, WindowChoice, spread
from anomaly_detection.system.errors import UserError

NIFTI = (".nii", ".nii.gz")
AUTO_SLICES = 32  # of a volume tell its automatic window


def is_nifti(name: str) -> bool:
    """Whether its suffix says so."""
    return name.lower().endswith(NIFTI)


class Volume:
    """A NIfTI volume; its voxels are read when they are asked for.

    Args:
        path: a .nii or .nii.gz file.
        name: what error messages call it.

    Attributes:
        shape: voxels along the three stored axes.
        orientation: such as "LPS": where each stored axis leads to, nearest to the axes of the patient.
        slices: how many axial slices there are.

    Raises:
        UserError: not a NIfTI file, not three-dimensional, or the header does not tell the orientation.
    """

    def __init__(self, path: Path, name: str):
        self._name = name
        with self._told():
            self._image = nibabel.load(path, mmap=False, keep_file_open=True)
        if not isinstance(self._image, nibabel.Nifti1Pair):
            raise UserError(f"{name}: not a NIfTI file but {type(self._image).__name__}; convert it to .nii.gz")
        if len(self._image.shape) != 3 or min(self._image.shape) < 1:
            raise UserError(f"{name}: has the shape {self._image.shape}, not three dimensions; save one volume to a file")
        if self._image.get_data_dtype().kind not in "iuf":
            raise UserError(f"{name}: holds values of type {self._image.get_data_dtype()}, not grey ones")
        header = self._image.header
        if not header["sform_code"] and not header["qform_code"]:
            raise UserError(f"{name}: its header does not tell the orientation (sform and qform code 0); save it with an affine")
        with self._told():
            self._axes = nibabel.io_orientation(self._image.affine)
        if np.isnan(self._axes).any():
            raise UserError(f"{name}: its affine is singular, so that the orientation is unknown; save it with a proper one")
        self.shape: tuple[int, ...] = self._image.shape
        self.orientation = "".join(nibabel.orientations.ornt2axcodes(self._axes))
        self._axial = int(np.flatnonzero(self._axes[:, 0] == 2)[0])
        self.slices = self.shape[self._axial]

    def count(self, labels: Sequence[int]) -> np.ndarray:
        """How many voxels of each label each axial slice holds: (len(labels), slices); one pass over the file.

        Raises:
            UserError: the file cannot be read, or holds anything but 0 and these labels.
        """
        counts = np.zeros((len(labels), self.slices), np.int64)
        for k, slab in self._slabs():
            known = np.count_nonzero(slab == 0)
            for row, label in zip(counts, labels, strict=True):
                here = np.count_nonzero(slab == label, axis=None if self._axial == 2 else 1 - self._axial)
                row[k if self._axial == 2 else slice(None)] += here
                known += int(np.sum(here))
            if known < slab.size:
                found = ", ".join(f"{value:g}" for value in np.setdiff1d(slab, [0, *labels])[:3])
                raise UserError(f"{self._name}: holds the values {found}, but labels are {', '.join(map(str, [0, *labels]))}")
        return counts

    def count_marked(self) -> np.ndarray:
        """How many voxels each axial slice (slices,) holds that are not 0."""
        counts = np.zeros(self.slices, np.int64)
        for k, slab in self._slabs():
            counts[k if self._axial == 2 else slice(None)] += np.count_nonzero(slab, axis=None if self._axial == 2 else 1 - self._axial)
        return counts

    def read(self, slices: Sequence[int]) -> np.ndarray:
        """Axial slices by their stored number, as float32 (n, rows, columns); one pass over the file.

        Upright as radiologists see them, from the feet: the patient's front is up, the patient's right is left in the image.
        """
        wanted = {number: place for place, number in enumerate(slices)}
        plane = [axis for axis in range(3) if axis != self._axial]
        found = np.empty((len(wanted), *(self.shape[axis] for axis in plane)), np.float32)
        for k, slab in self._slabs(None if self._axial != 2 else sorted(wanted)):
            if self._axial == 2:
                found[wanted[k]] = slab
            else:
                found[:, :, k] = np.take(slab, list(wanted), axis=self._axial).swapaxes(0, self._axial)
        if self._axes[plane[0], 0] == 0:  # the first axis of the plane runs across the patient: make it the columns
            found, plane = found.swapaxes(1, 2), plane[::-1]
        for axis, stored in zip((1, 2), plane, strict=True):
            if self._axes[stored, 1] > 0:  # leads to the front or to the right: must run the other way
                found = np.flip(found, axis)
        return found

    def shown(self, window: WindowChoice) -> Window:
        """The values that are shown of this volume; "auto" covers what slices spread over all of it hold.

        Raises:
            UserError: `window` is None: a NIfTI file states none.
        """
        if window is None:
            raise UserError(f"{self._name}: {NO_WINDOW}")
        return Window.covering(self.read(spread(range(self.slices), AUTO_SLICES))) if window == "auto" else window

    def _slabs(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """The planes across the last stored axis, in the order in which they lie in the file, with their numbers."""
        for k in range(self.shape[2]) if numbers is None else numbers:
            with self._told():
                slab = np.asarray(self._image.dataobj[..., k])
            yield k, slab

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A damaged file makes nibabel raise ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error and more."""
        try:
            yield
        except Exception as error:
            raise UserError(f"{self._name}: cannot be read as NIfTI ({one_line(error)}); download it again") from None
