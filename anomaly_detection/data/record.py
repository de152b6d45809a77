"""prepared.json in the folder of a dataset that `prepare` made: how its images were made."""

from pathlib import Path

from anomaly_detection.data.catalog import DatasetSpec
from anomaly_detection.system.files import read_json

RECORD = "prepared.json"
STORED = ("size", "aspect", "window")  # what `prepare` has done to images, beside their channels


def made_otherwise(spec: DatasetSpec, data_root: Path) -> str | None:
    """A line that says what datasets.yaml says otherwise than `prepare` did, which new images would get and the stored ones have not.

    Raises:
        UserError: the record is damaged.
    """
    folder = data_root / spec.root
    if not (folder / RECORD).is_file():
        return None
    record, plain = read_json(folder / RECORD), spec.preprocessing.to_plain()
    said = {**{key: plain[key] for key in STORED}, "channels": plain["stored_channels"]}
    differ = [f"{key} {record[key]}, not {value}" for key, value in said.items() if key in record and record[key] != value]
    if not differ:
        return None
    return f"{folder}: was prepared with {' and '.join(differ)} as datasets.yaml has it; put that back, or delete the folder to prepare it anew"
