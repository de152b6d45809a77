"""Where the files of a study lie that a user edits: the data root's before the project's."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"


def find_catalog(data_root: Path, project_root: Path = PROJECT) -> Path:
    """The datasets.yaml that belongs to the data: in `data_root` if it is there, otherwise the project's own."""
    own = Path(data_root) / "datasets.yaml"
    return own if own.is_file() else Path(project_root) / "configs" / "datasets.yaml"


def find_folds(data_root: Path, project_root: Path = PROJECT) -> Path:
    """The folder of split files that belongs to the data: in `data_root` if it is there, otherwise the project's own."""
    own = Path(data_root) / "folds"
    return own if own.is_dir() else Path(project_root) / "folds"
