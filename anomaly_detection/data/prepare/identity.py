"""Whose images are: as --patient says, else the header of the file, else its subfolder; else every study, series or file is a patient of its own."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from anomaly_detection.data.folders import are_parts, common_folders, name_nobody, subfolders
from anomaly_detection.data.formats.archives import is_archive
from anomaly_detection.data.formats.sources import same_name
from anomaly_detection.data.manifest import Key, Row
from anomaly_detection.data.patients import merge_patients

_BY_PLACE: tuple[Key, ...] = ("folder", "study", "series")  # where an image lies or belongs, not who it is of


def settle_patients(rows: Sequence[Row], told_by: Key) -> list[Row]:
    """The rows with a patient for each, and the key by which that is known.

    - A patient that a row has already is kept; `told_by` says how it came to it.
    - PatientID is next. One that all files, or all normal ones, share tells nobody apart, and is passed over; so is then one that all abnormal ones
      share. A file without one is of the patient with whom it shares its study, or, if there is only one with a PatientID there, its subfolder.
    - The subfolder is next, unless such folders are called as sequences, kinds or parts are and there is a study that tells patients apart: the first
      folder on the way that is not the same for all files of a kind. Subfolders of one name below the normal and the abnormal images are one patient,
      also where it differs in case alone; so is a folder that all files of one kind lie in, where it is such a subfolder of the other kind.
    - The study is next, as long as not all files share it, and likewise the series.
    - At last the file, which is then told apart from one of its name in the other folder.
    - Patients by subfolder that share a study or series are one, since a study may have a folder for each series.
    """
    patients, studies, series = (_telling([(row, getattr(row, key)) for row in rows]) for key in ("patient_id", "study", "series"))
    sources = {kind: [row.source for row in rows if row.abnormal == kind] for kind in (0, 1)}
    folders = _spelled_alike({kind: _subfolders(sources[kind], sources[1 - kind]) for kind in (0, 1)})
    nobodys = {kind: name_nobody(names) or are_parts(names) for kind in (0, 1) if (names := set(folders[kind].values()))}
    known = [row for row in rows if row.patient_id in patients]
    of_folder = _only_patients((folders[row.abnormal].get(row.source), row.patient_id) for row in known)
    of_study = _only_patients((row.study, row.patient_id) for row in known if row.study in studies)
    settled = []
    for row in rows:
        folder = folders[row.abnormal].get(row.source)
        named = row.patient_id if row.patient_id in patients else of_study.get(row.study) or of_folder.get(folder)
        if row.patient:
            patient, key = row.patient, told_by
        elif named:
            patient, key = named, "header"
        elif folder and not (nobodys[row.abnormal] and row.study in studies):
            patient, key = folder, "folder"
        elif row.study in studies:
            patient, key = row.study, "study"
        elif row.series in series:
            patient, key = row.series, "series"
        else:
            patient, key = f"{row.image.partition('/')[0]}/{_without_suffix(row.source)}", "file"
        settled.append(replace(row, patient=_composed(patient), patient_from=key))
    return _united(settled, studies, series)


def _united(rows: Sequence[Row], studies: set[str], series: set[str]) -> list[Row]:
    """The rows with one patient for all who share a study or series, where neither --patient nor PatientID says who they are.

    Args:
        rows: with a patient each.
        studies, series: that tell patients apart.
    """
    own = [row for row in rows if row.patient_from in _BY_PLACE]
    of_study = [(row.patient, ("study", row.study)) for row in own if row.study in studies]
    of_series = [(row.patient, ("series", row.series)) for row in own if row.series in series]
    owner = merge_patients([*of_study, *of_series])
    return [replace(row, patient=owner.get(row.patient, row.patient)) if row.patient_from in _BY_PLACE else row for row in rows]


def _composed(name: str) -> str:
    """A name with its accents encoded in one of the two ways there are: folders that two systems have made differ in it."""
    return unicodedata.normalize("NFC", name)


def _subfolders(sources: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """The subfolder of each source that has one, which names its patient.

    Args:
        sources: of one kind.
        others: of the other kind. If all sources lie in one folder, which tells none of them apart, it still is a patient's where it tells these
            apart: otherwise the patient whose abnormal images are the only ones would be another one among the normal images.
    """
    patients = {same_name(folder) for folder in subfolders(others).values()}
    shared = next((folder for folder in common_folders(sources) if same_name(folder) in patients), None)
    return dict.fromkeys(sources, shared) if shared else subfolders(sources)


def _spelled_alike(folders: Mapping[int, Mapping[str, str]]) -> dict[int, dict[str, str]]:
    """The folders of each kind with one spelling, the first, of names that some file system takes for one: `p1` is no other patient than `P1`."""
    first: dict[str, str] = {}
    return {
        kind: {source: first.setdefault(same_name(folder), _composed(folder)) for source, folder in own.items()}
        for kind, own in folders.items()
    }  # fmt: skip


def _only_patients(named: Iterable[tuple[str | None, str]]) -> dict[str, str]:
    """The one patient of each folder or study that has one alone."""
    patients: dict[str, set[str]] = defaultdict(set)
    for where, patient in named:
        if where:
            patients[where].add(patient)
    return {where: next(iter(who)) for where, who in patients.items() if len(who) == 1}


def patients_in_words(rows: Sequence[Row]) -> str:
    """How many patients there are, and by which key they were told: `21 patients by header`."""
    keys = {row.patient: row.patient_from for row in rows}
    counts = Counter(keys.values())
    if len(counts) == 1:
        return f"{len(keys)} patients by {next(iter(counts))}"
    return f"{len(keys)} patients ({', '.join(f'{count} by {key}' for key, count in counts.items())})"


def remarks(rows: Sequence[Row]) -> list[str]:
    """What a user must know of how patients were told, a line each."""
    of_headers = (_header_passed_over(rows), _one_ill_patient(rows), _mixed_studies(rows))
    said = (*of_headers, _folders_of_one_study(rows), _folders_of_both_kinds(rows), _files_called_as_folders(rows), _same_pixels(rows))
    return [line for line in said if line]


def patients_folder_warning(abnormal: Path, rows: Sequence[Row]) -> str | None:
    """That --abnormal may be the folder of one patient, whose name says whose the images are but is not in their paths, which begin below it.

    Args:
        abnormal: the folder or archive that was given.
        rows: of the manifest.
    """
    if all(row.patient_from in ("--patient", "header") for row in rows if row.abnormal):
        return None
    name = abnormal.stem if is_archive(abnormal.name) else abnormal.name
    if same_name(name) not in map(same_name, subfolders([row.source for row in rows if not row.abnormal]).values()):
        return None
    advice = "if it is of the same patient, give the folder that it lies in, or the patient may be trained on AND tested"
    return f"--abnormal {abnormal}: has the name of a subfolder of the normal images; {advice}"


def _header_passed_over(rows: Sequence[Row]) -> str | None:
    named = [row for row in rows if row.patient_id]
    over = sorted({row.patient_id for row in named if row.patient_from not in ("header", "--patient")})
    if not over:
        return None
    files = len({(row.abnormal, row.source) for row in named if row.patient_id in over})
    whom = "all" if len(over) == 1 else "all of a kind"
    return f"the header of {files} DICOM files names one patient for {whom}, {', '.join(map(repr, over))}, and is passed over: it tells nobody apart"


def _one_ill_patient(rows: Sequence[Row]) -> str | None:
    ill = [row for row in rows if row.abnormal]
    files, patients = {row.source for row in ill}, {row.patient for row in ill}
    if len(files) < 2 or len(patients) > 1 or ill[0].patient_from not in ("header", "study", "series"):
        return None
    advice = "if that is what anonymisation left, give --patient REGEX, or intervals say nothing"
    return f"all {len(files)} abnormal files are of one patient by their headers, {ill[0].patient!r}; {advice}"


def _mixed_studies(rows: Sequence[Row]) -> str | None:
    patients: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.study and row.patient_from == "header":
            patients[row.study].add(row.patient)
    mixed = [sorted(who)[:2] for who in patients.values() if len(who) > 1]
    if not mixed or len(patients) == 1:  # one study for all is none
        return None
    advice = "a study is of one patient, so --patient REGEX may be needed"
    return f"{len(mixed)} studies have files of several PatientIDs, the first: {', '.join(mixed[0])}; {advice}"


def _folders_of_one_study(rows: Sequence[Row]) -> str | None:
    """Of folders that `_united` has made one patient: that of another one is not on the way to their files."""
    others = {row.source.rpartition("/")[0]: row.patient for row in rows if row.patient_from == "folder" and not _is_on_way(row)}
    if not others:
        return None
    folder, patient = min(others.items())
    return f"{len(others)} folders share a study or series with another one and count as its patient's; the first: {folder}, as {patient}"


def _is_on_way(row: Row) -> bool:
    return same_name(row.patient) in same_name(row.source).split("/")[:-1]


def _folders_of_both_kinds(rows: Sequence[Row]) -> str | None:
    kinds: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row.patient_from == "folder":
            kinds[row.patient].add(row.abnormal)
    both = sorted(patient for patient, labels in kinds.items() if len(labels) == 2)
    if not both:
        return None
    return f"{len(both)} subfolders are among normal and abnormal images alike, each counted as one patient; the first: {both[0]}"


def _files_called_as_folders(rows: Sequence[Row]) -> str | None:
    """That files which count as patients have the names of subfolders of the other kind, which do so, too."""
    patients = {(row.abnormal, same_name(row.patient)) for row in rows if row.patient_from == "folder"}
    stems = {row.source: _without_suffix(row.source).rpartition("/")[2] for row in rows if row.patient_from == "file"}
    alike = sorted({row.source for row in rows if row.source in stems and (1 - row.abnormal, same_name(stems[row.source])) in patients})
    if not alike:
        return None
    advice = f"if they are of these patients, put each into a folder of that name ({stems[alike[0]]}/), or the patient may be trained on AND tested"
    return f"{len(alike)} files are called as subfolders of the other kind, and count as other patients; the first: {alike[0]}; {advice}"


def _same_pixels(rows: Sequence[Row]) -> str | None:
    first: dict[tuple[int, str], Row] = {}  # those that are normal and abnormal are in no split
    pairs = [(row, other) for row in rows if (other := first.setdefault((row.abnormal, row.pixels_sha256), row)) is not row]
    if not pairs:
        return None
    example = f"{pairs[0][0].image}, as {pairs[0][1].image}"
    return f"{len(pairs)} images have the pixels of another one and count as the same patient's; the first: {example}"


def _telling(named: Sequence[tuple[Row, str]]) -> set[str]:
    """The identities that tell patients apart: none where all the files, or all the normal ones, have the same.

    That all the abnormal ones have the same may be so, unless the normal ones have another one likewise.
    """
    telling = {name for _, name in named if name}
    normal = {name for row, name in named if name and not row.abnormal}
    for kinds in ((0, 1), (0,), (1,)):
        if kinds == (1,) and (not normal or normal & telling):
            break
        of_kinds = [(row.source, name) for row, name in named if row.abnormal in kinds and name]
        names = {name for _, name in of_kinds}
        if len(names) == 1 and len({source for source, _ in of_kinds}) > 1:
            telling -= names
    return telling


def _without_suffix(source: str) -> str:
    path = PurePosixPath(source)
    return str(path.with_name(path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem))
