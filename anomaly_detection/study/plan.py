"""From what a study is asked to hold to its experiments. Nothing here reads an image."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_detection.config.layers import Layer, build, read_layers
from anomaly_detection.config.paths import CONFIGS, SHIPPED, configs_of, find_config
from anomaly_detection.config.settings import MaddrSettings
from anomaly_detection.data.catalog import DatasetSpec, is_phantom
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.phantom.datasets import other_version, phantom_catalog
from anomaly_detection.data.prepare.options import DOWNLOADS
from anomaly_detection.registry import build_settings, find_baseline, folder_of
from anomaly_detection.study.experiment import Experiment
from anomaly_detection.study.likeness import unlike
from anomaly_detection.study.regimes import REGIMES, SEPARATE
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

SEEDS, PHANTOM_SEEDS = (0, 1, 2), (0,)
PRESETS = {"phantom": 800, "quick": 200}  # the most iterations of a model that has no file of that name; about those of the models that have one


@dataclass(frozen=True)
class StudyData:
    """The images of a study.

    Attributes:
        root: the data root.
        datasets: in the order of their labels.
        phantom: whether they are phantoms.
        there: False of phantoms that must be rendered first.
    """

    root: Path
    datasets: Mapping[str, DatasetSpec]
    phantom: bool
    there: bool = True


def find_data(data_root: Path | None, phantom: bool, names: Sequence[str] | None) -> StudyData:
    """The datasets that lie in the data root; phantoms when asked for or when there is nothing else.

    Args:
        data_root: None: ./data.
        phantom: whether it is to be phantoms, whatever lies there: those of a data root that was given and holds phantoms, else those in its folder
            phantom/, into which they are rendered.
        names: of the datasets; None: all.

    Raises:
        UserError: a data root was given but holds no dataset, a named dataset is not there, images are there but no split lists them, or phantoms
            that were not named are of another version than those that would be rendered.
    """
    root = data_root or Path("data")
    phantom = phantom and (data_root is None or not is_phantom(data_root))
    if not phantom and (data_root is not None or root.is_dir()):
        source = DataSource(root)
        available = {name: source.catalog[name] for name in source.available()}
        missing = [name for name in names or [] if name not in available]
        unlisted = [name for name, spec in source.catalog.items() if (root / spec.root).is_dir() and name not in available]
        if missing:
            raise UserError(f"{root}: no images or no split of {', '.join(missing)}; there are: {', '.join(available) or 'none'}")
        if available:
            if text := other_version(root):
                logger.warning("%s: numbers of the two are not comparable", text)
            return StudyData(root, _chosen(available, names), is_phantom(root))
        if unlisted:
            page = SHIPPED / "folds" / "README.md"
            raise UserError(f"{root}: no split file lists images of {', '.join(unlisted)}; write {root / 'folds'} as {page} says")
        if data_root is not None:
            raise UserError(f"{root}: none of the datasets of datasets.yaml lies there; `maddr prepare` makes them (maddr prepare --help)")
    if names and not phantom:
        advice = "`maddr prepare` makes a dataset, --data-root says where one lies, --phantom takes phantoms"
        raise UserError(f"{root}: no such folder, and so no images of {', '.join(names)}; {advice}")
    if not phantom:
        downloads = "; ".join(f"{name}: {text}" for name, text in DOWNLOADS.items())
        logger.info("no dataset under %s: the study runs on phantoms. The real ones, for `prepare`: %s", root, downloads)
    return _find_phantoms(root / "phantom", names)


def _find_phantoms(root: Path, names: Sequence[str] | None) -> StudyData:
    there = is_phantom(root)
    if text := other_version(root):
        raise UserError(f"{text}: delete that folder, and they are rendered anew, or use them as they are with --data-root {root}")
    source = DataSource(root) if there else None
    available = phantom_catalog() if source is None else {name: source.catalog[name] for name in source.available()}
    missing = [name for name in names or [] if name not in available]
    if missing:
        raise UserError(f"there are no phantoms of {', '.join(missing)}; there are: {', '.join(available)}")
    return StudyData(root, _chosen(available, names), True, there)


def _chosen(available: Mapping[str, DatasetSpec], names: Sequence[str] | None) -> dict[str, DatasetSpec]:
    return {name: spec for name, spec in available.items() if not names or name in names}


@dataclass(frozen=True)
class Grid:
    """What a study is asked to hold: every combination of these.

    Attributes:
        models, regimes: their names.
        seeds: None: `SEEDS`, or `PHANTOM_SEEDS`.
        ablation: whether the parts of MADDR are measured, too, beside none (united) and all (maddr).
        quick: whether it is a smoke run.
        overrides: settings that go before those of the configs.
    """

    models: Sequence[str]
    regimes: Sequence[str]
    seeds: Sequence[int] | None = None
    ablation: bool = False
    quick: bool = False
    overrides: Sequence[Layer] = ()

    def __post_init__(self):
        for model in self.models:
            find_baseline(model)
        for layer in self.overrides:
            for key, instead in (("seed", "--seeds"), ("datasets", "--datasets"), ("model", "--models")):
                if key in layer.values:
                    raise UserError(f"{layer.source}: the study sets {key} itself; use {instead}")
            constraint = layer.values.get("maddr", {})
            if not isinstance(constraint, Mapping):  # the regimes would lay their values over it, and nobody be told
                build(MaddrSettings, [Layer(f"{layer.source}: maddr", constraint)])  # raises
            for key in ("enabled", "probe"):
                if key in constraint:
                    raise UserError(f"{layer.source}: the regimes of the study set maddr.{key}; use --regimes")


def plan(grid: Grid, data: StudyData, results: Path) -> list[Experiment]:
    """Every experiment of the study, in the order of seeds, models, regimes.

    Raises:
        UserError: the settings of one of them are wrong.
    """
    regimes = [REGIMES[name] for name in grid.regimes]
    if grid.ablation:
        regimes += [regime for regime in REGIMES.values() if regime.mixed and not regime.probe]  # the rows of the table of components
    presets = [name for name, wanted in (("phantom", data.phantom), ("quick", grid.quick)) if wanted]
    experiments = []
    for seed in dict.fromkeys(grid.seeds or (PHANTOM_SEEDS if data.phantom else SEEDS)):
        for model in dict.fromkeys(grid.models):
            for regime in dict.fromkeys(regimes):
                for datasets in [list(data.datasets)] if regime.mixed else [[name] for name in data.datasets]:
                    layers = config_layers(model, datasets)
                    for name in presets:
                        layers += _preset(model, name, layers)
                    layers += [
                        *grid.overrides,
                        Layer("the study", {"datasets": datasets, "seed": seed}, override=True),
                        Layer(f"the regime {regime.name}", regime.settings(), override=True),
                    ]
                    experiments.append(Experiment.place(build_settings(layers), results, regime.name))
    return experiments


def config_layers(model: str, datasets: Sequence[str]) -> list[Layer]:
    """The layers of the model's config for these datasets; common.yaml of a model that has none."""
    path = find_config(configs_of(folder_of(model), CONFIGS), folder_of(model), datasets)
    return read_layers(path) if path.exists() else [*read_layers(CONFIGS / "common.yaml"), Layer(f"--models {model}", {"model": model})]


def _preset(model: str, name: str, below: Sequence[Layer]) -> list[Layer]:
    """The layers of phantom.yaml or quick.yaml; of one that has none, its iterations where `PRESETS` has fewer."""
    path = configs_of(folder_of(model), CONFIGS) / folder_of(model) / f"{name}.yaml"
    if path.exists():
        return read_layers(path)
    set_below = [layer.values["iterations"] for layer in below if "iterations" in layer.values]
    few = bool(set_below) and isinstance(set_below[-1], int) and set_below[-1] <= PRESETS[name]
    return [] if few else [Layer(f"the study, for want of a {name}.yaml", {"iterations": PRESETS[name]})]


def cautions(experiments: Sequence[Experiment]) -> list[str]:
    """What the numbers of planned experiments will not say, in sentences."""
    told = []
    datasets = {name for experiment in experiments for name in experiment.settings.datasets}
    mixed = list(dict.fromkeys(experiment.regime for experiment in experiments if REGIMES[experiment.regime].mixed))
    if len(datasets) == 1 and mixed:
        needless = f"`--regimes {SEPARATE.name}` does all; {', '.join(mixed)} can show nothing of MADDR here"
        told.append(f"With one dataset, {', '.join(datasets)}, there is no domain to tell apart: {needless}.")
    if text := unlike([(experiment.regime, experiment.settings) for experiment in experiments]):
        told.append(f"{text} `--set KEY=VALUE` gives a setting one value for all.")
    return told
