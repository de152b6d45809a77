"""Which of the files that a user edits is read: of catalogs and split files that of the data root before that of the project."""

from collections.abc import Sequence
from pathlib import Path

from anomaly_detection.config.layers import read_layers


def _find_project(package: Path, folder: Path) -> Path:
    """Where configs/ and folds/ lie: beside the package in a clone; of an installed package in the working folder if it has configs of its own,
    otherwise in the package, into which setup.py maps them."""
    places = [place for place in (package.parent, folder) if (place / "configs" / "common.yaml").is_file()]
    return places[0] if places else package / "shipped"


PROJECT = _find_project(Path(__file__).resolve().parents[1], Path.cwd())
CONFIGS = PROJECT / "configs"


def named_config(path: Path) -> Path:
    """A config as a command names it: the file, or, where there is none, that of the project: configs/memae/lits.yaml is had from any folder."""
    shipped = PROJECT / path
    return shipped if not path.exists() and path.parts[:1] == (CONFIGS.name,) and shipped.exists() else path


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
