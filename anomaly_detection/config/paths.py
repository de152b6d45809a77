"""Which of the files that a user edits is read: of catalogs and split files that of the data root before that of the project."""

from collections.abc import Sequence
from pathlib import Path

from anomaly_detection.config.layers import read_layers

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "configs"


def find_catalog(data_root: Path, project_root: Path = PROJECT) -> Path:
    """The datasets.yaml that belongs to the data: in `data_root` if it is there, otherwise the project's."""
    path = Path(data_root) / "datasets.yaml"
    return path if path.is_file() else Path(project_root) / "configs" / "datasets.yaml"


def find_folds(data_root: Path, project_root: Path = PROJECT) -> Path:
    """The folder of split files that belongs to the data: in `data_root` if it is there, otherwise the project's."""
    folder = Path(data_root) / "folds"
    return folder if folder.is_dir() else Path(project_root) / "folds"


def find_config(configs: Path, folder: str, datasets: Sequence[str]) -> Path:
    """The config in a model's folder for one dataset, or for several together; base.yaml where there is none for them.

    universal.yaml is for the datasets that it names: a mixture with any other runs on base.yaml.
    """
    configs = configs / folder
    if len(datasets) == 1:
        path = configs / f"{datasets[0]}.yaml"
        return path if path.exists() else configs / "base.yaml"
    universal = configs / "universal.yaml"
    layers = read_layers(universal) if universal.exists() else []
    named = next((layer.values["datasets"] for layer in reversed(layers) if "datasets" in layer.values), [])
    return universal if set(datasets) <= set(named) else configs / "base.yaml"
