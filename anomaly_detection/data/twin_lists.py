"""What a data root says of the healthy twins of its abnormal images, in two files that only phantoms have and nobody needs.

twins.csv has the columns dataset, image and twin (paths in the dataset's folder); phantoms.csv says how conspicuous the lesions of these images are.
"""

from pathlib import Path
from typing import Any

from anomaly_detection.system.files import read_table

TWINS, FACTS = "twins.csv", "phantoms.csv"
# of phantoms.csv, what is said of a lesion beside its stratum; see `Conspicuity`
NUMBERS = ("diameter_mm", "contrast", "noise", "cnr", "area_px", "visible_px", "rose_snr")


def read_twins(data_root: Path) -> dict[tuple[str, str], str]:
    """The twin of each (dataset, image); none where there is no list.

    Raises:
        UserError: it is damaged.
    """
    path = data_root / TWINS
    rows = read_table(path, {"dataset": str, "image": str, "twin": str}) if path.is_file() else []
    return {(row["dataset"], row["image"]): row["twin"] for row in rows}


def read_facts(data_root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What phantoms.csv says of each (dataset, image); empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    if not (data_root / FACTS).is_file():
        return {}
    rows = read_table(data_root / FACTS, {"dataset": str, "image": str, "stratum": str} | dict.fromkeys(NUMBERS, float))
    return {(row["dataset"], row["image"]): {name: row.get(name) for name in ("stratum", "unit", *NUMBERS)} for row in rows}
