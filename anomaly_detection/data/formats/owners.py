"""Whose new images are, as far as the folders on their way tell: what `predict` goes by where no header names a patient."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from anomaly_detection.data.doubts import doubt_of_folders
from anomaly_detection.data.folders import name_nobody, only_views, patient_folders
from anomaly_detection.data.formats.header import Layout
from anomaly_detection.data.formats.nifti import is_nifti
from anomaly_detection.data.formats.pictures import is_picture
from anomaly_detection.data.formats.sources import SourceFile
from anomaly_detection.data.patients import merge_patients

logger = logging.getLogger(__name__)

_LITS = re.compile(r"volume-\d+", re.IGNORECASE)


def folder_owners(files: Sequence[SourceFile], layouts: Sequence[Layout | None]) -> list[str]:
    """The patient of each file by its folder; "" where none tells.

    The folder is looked for below each input, see `patient_folders`. One name below two inputs is two patients, `a/p1` and `b/p1`, unless the inputs
    are called as `normal` and `abnormal` are. Of several inputs one whose folders are all called as sequences and views are is a patient itself. A
    volume of LiTS is a patient whatever its folder.

    Args:
        files: of one or several inputs.
        layouts: of each, see `read_layout`.
    """
    inputs: dict[str, list[tuple[SourceFile, Layout | None]]] = defaultdict(list)
    for file, layout in zip(files, layouts, strict=True):
        inputs[file.origin].append((file, layout))
    owners = {origin: _owners_below(own, alone=len(inputs) == 1) for origin, own in inputs.items()}
    if not name_nobody(set(inputs)):
        owners = _told_apart(owners)
    volumes = _volumes(files)
    settled = _of_one_study([volumes.get(file) or owners[file.origin].get(file.name, "") for file in files], layouts)
    for line in (_unknown_inputs(files, layouts, settled), _one_id_of_all(layouts, settled)):
        if line:
            logger.warning("WARNING: %s", line)
    return settled


def _is_image(file: SourceFile, layout: Layout | None) -> bool:
    return layout is not None or is_picture(file.name) or is_nifti(file.name)


def _unknown_inputs(files: Sequence[SourceFile], layouts: Sequence[Layout | None], owners: Sequence[str]) -> str | None:
    """That nothing tells whose the images of several inputs are, each of which may be a patient, as where a shell made them of `scans/*`."""
    unknown = Counter(
        file.origin for file, layout, owner in zip(files, layouts, owners, strict=True)
        if not owner and _is_image(file, layout) and not (layout and layout.header.patient_id)
    )  # fmt: skip
    inputs = sorted(origin for origin, count in unknown.items() if count > 1)
    if len(inputs) < 2 or name_nobody(set(inputs)):
        return None
    advice = "if each is a patient, give the folder that they lie in, by which patients.csv pools them"
    return f"nothing tells whose the images of {len(inputs)} inputs are, the first: {inputs[0]}; {advice}"


def _one_id_of_all(layouts: Sequence[Layout | None], owners: Sequence[str]) -> str | None:
    """That one PatientID is of all files, though their studies lie in folders as those of several patients do."""
    named = [(layout.header, owner) for layout, owner in zip(layouts, owners, strict=True) if layout is not None and layout.header.patient_id]
    ids, folders = {header.patient_id for header, _ in named}, {owner for _, owner in named if owner}
    homes = {(header.study, owner) for header, owner in named if header.study and owner}
    studies = {study for study, _ in homes}
    if len(ids) != 1 or len(folders) < 2 or len(studies) < len(homes):
        return None
    what = (
        f"PatientID {ids.pop()!r} is of all {len(named)} DICOM files, of {len(studies)} studies in {len(folders)} folders, and counts as one patient"
    )
    return f"{what}; if that is what anonymisation left, give one folder at a time"


def _of_one_study(owners: Sequence[str], layouts: Sequence[Layout | None]) -> list[str]:
    """One owner for all who share a study or series, as `prepare` has it; where no folder tells, a study of several series is one."""
    headers = [layout.header if layout is not None and not layout.header.patient_id else None for layout in layouts]
    series: dict[str, set[str]] = defaultdict(set)
    for header in headers:
        if header is not None and header.study:
            series[header.study].add(header.series)
    named = [owner or (header.study if header and len(series[header.study]) > 1 else "") for owner, header in zip(owners, headers, strict=True)]
    told = [(owner, header) for owner, header in zip(named, headers, strict=True) if owner and header is not None]
    of_study = [(owner, ("study", header.study)) for owner, header in told if header.study]
    of_series = [(owner, ("series", header.series)) for owner, header in told if header.series]
    one = merge_patients([*of_study, *of_series])
    return [one.get(owner, owner) for owner in named]


def _owners_below(files: Sequence[tuple[SourceFile, Layout | None]], alone: bool) -> dict[str, str]:
    """Those of the files of one input, by their names; a warning is given where folders may be no patients."""
    images = [file.name for file, layout in files if _is_image(file, layout)]
    folders = patient_folders([file.name for file, _ in files], images)
    if not folders and not alone and only_views(images):
        return {file.name: file.origin for file, _ in files}
    headed = {file.name for file, layout in files if layout is not None and layout.header.patient_id}
    if doubt := doubt_of_folders({name: folders[name] for name in images if name in folders and name not in headed}):
        logger.warning("WARNING: %s: a line of patients.csv may be of several patients, or a patient have several lines", doubt.fact)
    return folders


def _told_apart(owners: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Owners by input and name, with the input before those who are in several."""
    inputs = Counter(owner for own in owners.values() for owner in set(own.values()))
    return {
        origin: {name: f"{origin}/{owner}" if inputs[owner] > 1 else owner for name, owner in own.items()}
        for origin, own in owners.items()
    }  # fmt: skip


def _volumes(files: Sequence[SourceFile]) -> dict[SourceFile, str]:
    """The patient of each volume that is called as those of LiTS are, and as no other one."""
    named = {file: file.stem.lower() for file in files if is_nifti(file.name) and _LITS.fullmatch(file.stem)}
    counts = Counter(named.values())
    return {file: name for file, name in named.items() if counts[name] == 1}
