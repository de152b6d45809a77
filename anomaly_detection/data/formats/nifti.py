"""Axial slices of NIfTI volumes, read one after the other so that memory does not grow with the volume."""

import gzip
import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
from nibabel import FileHolder, Nifti1Header, Nifti1Image, Nifti2Image

from anomaly_detection.data.formats.sources import one_line
from anomaly_detection.data.formats.window import NO_WINDOW, Window, WindowChoice, telling
from anomaly_detection.system.errors import UserError

NIFTI = (".nii", ".nii.gz")
PAIR = (".hdr", ".img", ".hdr.gz", ".img.gz")
AUTO_SLICES = 32  # of a volume tell its automatic window
ROUNDING = 0.6  # voxels by which affines of one place differ: programs round, and some count from the edge of the first voxel, half a one away
BLOCK = 32  # slices in memory where they lie across the file
GZIP = b"\x1f\x8b"
GEOMETRY = (
    *("sform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
ADVICE = "with nibabel: `nibabel.save(nibabel.load(FILE).slicer[..., 0], 'one.nii.gz')`"


def is_nifti(name: str) -> bool:
    """Whether its suffix says so."""
    return name.lower().endswith(NIFTI)


class Volume:
    """A NIfTI volume; its voxels are read when they are asked for.

    A file is unpacked where its content is gzip's, whatever its name says. Lengths of 1 behind the third are left out.

    Args:
        path: a .nii or .nii.gz file.
        name: what error messages call it.

    Attributes:
        shape: voxels along the three stored axes.
        orientation: such as "LPS": where each stored axis leads to, nearest to the axes of the patient.
        slices: how many axial slices there are.
        positions: (slices,) where each lies along the normal of the slices that leads to the head, in mm from the origin of the affine.

    Raises:
        UserError: not a NIfTI file, not three-dimensional, not of grey values, or the header does not tell the orientation.
    """

    def __init__(self, path: Path, name: str):
        self._name = name
        with self._told():
            self._image = self._open(path)
        shape, kind = self._image.shape, self._image.get_data_dtype()
        if len(shape) < 3 or min(shape) < 1:
            raise UserError(f"{name}: has the shape {shape}, not three dimensions; save it as a volume, or its images as PNG")
        if max(shape[3:], default=1) > 1:
            raise UserError(f"{name}: has the shape {shape}, which is several volumes; save one volume to a file, {ADVICE}")
        if kind.names:
            raise UserError(f"{name}: holds colours; save its slices as PNG, or one channel as a volume of grey values")
        if kind.kind not in "iuf":
            raise UserError(f"{name}: holds values of type {kind}, not grey ones; save their magnitude as a volume")
        header = self._image.header
        if not header["sform_code"] and not header["qform_code"]:
            raise UserError(f"{name}: its header does not tell the orientation (sform and qform code 0); save it with an affine")
        if not np.isfinite(self._image.affine).all():
            raise UserError(f"{name}: its affine holds what is no number, so that the place of its voxels is unknown; save it with a proper one")
        with self._told():
            self._axes = nibabel.io_orientation(self._image.affine)
        if np.isnan(self._axes).any():
            raise UserError(f"{name}: its affine is singular, so that the orientation is unknown; save it with a proper one")
        self.shape: tuple[int, ...] = shape[:3]
        self.orientation = "".join(nibabel.orientations.ornt2axcodes(self._axes))
        self._axial = int(np.flatnonzero(self._axes[:, 0] == 2)[0])
        self.slices = self.shape[self._axial]
        self.positions = self._positions()

    def _positions(self) -> np.ndarray:
        across, down = (self._image.affine[:3, axis] for axis in self._plane())
        normal = np.cross(across, down)
        normal /= np.copysign(np.linalg.norm(normal), normal[2])
        first, step = normal @ self._image.affine[:3, 3], normal @ self._image.affine[:3, self._axial]
        return first + step * np.arange(self.slices)

    def apart(self, other: "Volume") -> float:
        """By how many mm the affine of another volume of this shape puts a corner elsewhere, at most; 0 where that is rounding along each axis."""
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, length - 1) for length in self.shape))])
        shifts = (corners @ (other._image.affine - self._image.affine).T)[:, :3]
        voxels = shifts @ np.linalg.inv(self._image.affine[:3, :3]).T
        return float(np.linalg.norm(shifts, axis=1).max()) if np.abs(voxels).max() > ROUNDING else 0.0

    def _open(self, path: Path) -> Nifti1Image | Nifti2Image:
        with open(path, "rb") as file:
            packed = file.read(2) == GZIP
        stream = (gzip.open if packed else open)(path, "rb")
        weakref.finalize(self, stream.close)  # slices are read from it as long as the volume lives
        start = stream.read(Nifti2Image.header_class.sizeof_hdr)
        stream.seek(0)
        for kind in (Nifti1Image, Nifti2Image):
            if kind.header_class.may_contain_header(start):
                return kind.from_file_map({"image": FileHolder(fileobj=stream)}, mmap=False, keep_file_open=True)
        raise ValueError("its content is not that of a .nii file; convert it to .nii.gz")

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
        """How many voxels each axial slice (slices,) holds that are above 0."""
        counts = np.zeros(self.slices, np.int64)
        for k, slab in self._slabs():
            counts[k if self._axial == 2 else slice(None)] += np.count_nonzero(slab > 0, axis=None if self._axial == 2 else 1 - self._axial)
        return counts

    def read(self, slices: Sequence[int]) -> np.ndarray:
        """Axial slices by their stored number, as float32 (n, rows, columns); one pass over the file.

        Upright as radiologists see them, from the feet: the patient's front is up, the patient's right is left in the image.
        """
        values, plane = self._as_stored(slices), self._plane()
        if self._axes[plane[0], 0] == 0:  # the first axis of the plane runs across the patient: make it the columns
            values, plane = values.swapaxes(1, 2), plane[::-1]
        for axis, stored in zip((1, 2), plane, strict=True):
            if self._axes[stored, 1] > 0:  # leads to the front or to the right: must run the other way
                values = np.flip(values, axis)
        return values

    def planes(self, slices: Sequence[int]) -> Iterator[np.ndarray]:
        """The same one after the other, (rows, columns) each, with few of them in memory; `slices` are to ascend."""
        block = 1 if self._axial == 2 else BLOCK
        for start in range(0, len(slices), block):
            yield from self.read(slices[start : start + block])

    def put(self, voxels: np.ndarray, number: int, plane: np.ndarray) -> None:
        """Lay an upright slice where `read` takes it from.

        Args:
            voxels: of `shape`, changed in place.
            number: of the slice.
            plane: (rows, columns).
        """
        axes = self._plane()
        upright = np.moveaxis(voxels, self._axial, 0)[number]  # a view of `voxels`, turned as in `read`
        if self._axes[axes[0], 0] == 0:
            upright, axes = upright.T, axes[::-1]
        for axis, stored in enumerate(axes):
            if self._axes[stored, 1] > 0:
                upright = np.flip(upright, axis)
        upright[...] = plane

    def header_for(self, kind: np.dtype | type) -> Nifti1Header:
        """The header of a file with other values on the same voxels: of its shape, lengths of 1 behind the third, too, affines and units.

        Args:
            kind: of the values.
        """
        source = self._image.header
        header = type(source)()
        header.set_data_dtype(kind)
        header.set_data_shape(self._image.shape)
        for key in GEOMETRY:
            header[key] = source[key]
        return header

    def shown(self, window: WindowChoice) -> Window:
        """The values that are shown of this volume; "auto" covers what slices spread over all of it hold.

        Raises:
            UserError: `window` is None, and there are more than 8 bits. A NIfTI file states no window: what it may have for one (cal_min, cal_max)
                is most often its own least and greatest value.
        """
        if window == "auto":
            return Window.covering(self._as_stored(telling(self.slices, AUTO_SLICES)), overwrite=True)
        if window is None and (self._image.get_data_dtype() != np.uint8 or self._image.dataobj.slope != 1 or self._image.dataobj.inter != 0):
            raise UserError(f"{self._name}: {NO_WINDOW}")
        return window or Window(127.5, 255)

    def _as_stored(self, slices: Sequence[int]) -> np.ndarray:
        """Axial slices, float32 (n, ...), with the other two axes as they lie in the file."""
        wanted = {number: place for place, number in enumerate(slices)}
        with self._told():  # a damaged header may ask for more than there is memory
            values = np.empty((len(wanted), *(self.shape[axis] for axis in self._plane())), np.float32)
        for k, slab in self._slabs(None if self._axial != 2 else sorted(wanted)):
            if self._axial == 2:
                values[wanted[k]] = slab
            else:
                values[:, :, k] = np.take(slab, list(wanted), axis=self._axial).swapaxes(0, self._axial)
        return values

    def _plane(self) -> list[int]:
        """The stored axes that lie in an axial slice."""
        return [axis for axis in range(3) if axis != self._axial]

    def _slabs(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """The planes across the last stored axis, in the order in which they lie in the file, with their numbers."""
        for k in range(self.shape[2]) if numbers is None else numbers:
            with self._told():
                slab = np.asarray(self._image.dataobj[(slice(None), slice(None), k, *[0] * (self._image.ndim - 3))])
            yield k, slab

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A damaged file makes nibabel raise ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error and more."""
        try:
            yield
        except Exception as error:
            raise UserError(f"{self._name}: cannot be read as NIfTI ({one_line(error)}); download it again, or leave it out") from None
