"""Which of the files that a user edits is read: of catalogs and split files that of the data root first; then that of the working folder, where
`maddr init` writes them; then the one that came with the package."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomaly_detection.config.layers import read_layers

logger = logging.getLogger(__name__)

# configs in the folder of a model that are not those of the dataset of their name
OF_NO_DATASET = ("base", "universal", "paper", "as_released", "phantom", "quick")


def _find_shipped(package: Path) -> Path:
    """Where configs/, folds/, examples/ and docs/ lie as they came: in an installed package, into which setup.py maps them, or beside it."""
    mapped = package / "shipped"
    return mapped if mapped.is_dir() else package.parent


def _find_project(shipped: Path, folder: Path) -> Path:
    """Whose configs/ and folds/ are read: those of the working folder if it has configs, else the shipped ones."""
    return folder.absolute() if (folder / "configs" / "common.yaml").is_file() else shipped


SHIPPED = _find_shipped(Path(__file__).resolve().parents[1])
PROJECT = _find_project(SHIPPED, Path())  # not Path.cwd(), which raises where that folder was deleted
CONFIGS = PROJECT / "configs"


def warn_of_overlooked(folders: Iterable[str] = (), work: Path | None = None) -> None:
    """Say which files of a working folder are not read for want of a common.yaml, by which its configs/ is told from that of any other program.

    Args:
        folders: of the models that a command trains.
        work: the working folder; None: the current one.
    """
    work = work or Path.cwd()
    configs = work / "configs"
    own = [configs / "datasets.yaml", *(path for folder in folders for path in sorted((configs / folder).glob("*.yaml")))]
    found = [str(path.relative_to(work)) for path in own if path.exists()]
    if found and not (configs / "common.yaml").is_file():
        advice = "`maddr init .` adds what is missing and keeps what is there"
        logger.warning("not read, since there is no configs/common.yaml beside: %s; %s", ", ".join(found), advice)


def named_config(path: Path) -> Path:
    """A config as a command names it: the file, or, where there is none, that of the project: configs/memae/lits.yaml is had from any folder."""
    if path.exists() or path.parts[:1] != (CONFIGS.name,):
        return path
    return next((place / path for place in (PROJECT, SHIPPED) if (place / path).exists()), path)


def configs_of(folder: str, configs: Path = CONFIGS) -> Path:
    """The configs/ to read those of a model from: the project's, or the shipped one where the project's has no such folder: nobody who deletes the
    folder of a model means to train it with the settings that all models share."""
    shipped = SHIPPED / "configs"
    return shipped if not (configs / folder).is_dir() and (shipped / folder).is_dir() else configs


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
