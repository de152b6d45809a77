"""An experiment: one baseline trained on one selection of data with one seed, and scored.

Also its folder: whose it is, who works in it, whether all of it is done.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from anomaly_detection.config.layers import Layer, read_yaml, to_plain
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.twins import twins_fingerprint
from anomaly_detection.evaluation import bootstrap
from anomaly_detection.registry import build_settings, folder_of
from anomaly_detection.study import provenance
from anomaly_detection.study.regimes import UNITED, regime_of
from anomaly_detection.system.distributed import rank
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import delete_partials, fitting_name, read_json, whole_file

logger = logging.getLogger(__name__)

# settings that no weight depends on: they may change between two runs of an experiment
FREE_KEYS = ("threshold_quantile", "feature_cache_mib", "log_iter", "sample_iter", "checkpoint_iter", "tensorboard")
DRAWN = "figures/drawn.json"  # the names of all figures, written when all are drawn
REMEDY = "choose another --results, or delete that folder"


@dataclass(frozen=True)
class Experiment:
    """What is run, and where its results lie.

    Attributes:
        settings: everything that the result depends on beside the data.
        regime: the name of one of the `REGIMES`.
        folder: receives config.yaml, provenance.json, checkpoint.pt, model_card.md, log.csv, samples/, scores.csv, patients.csv, twins.csv (of
            data that have twins), details.npz, metrics.json; what is told of it alone, table.md, table.csv, report.html and figures/.
    """

    settings: Settings
    regime: str
    folder: Path

    @classmethod
    def place(cls, settings: Settings, results: Path, regime: str | None = None) -> "Experiment":
        """The experiment in its folder RESULTS/model/regime/datasets/seed_N; without a regime the one that the settings describe.

        The names of the datasets are joined by +; where that is longer than a file system allows, to its beginning and a hash of the whole.
        """
        if regime is None:
            regime = regime_of(len(settings.datasets), settings.maddr).name
        datasets = fitting_name("+".join(settings.datasets))
        return cls(settings, regime, results / folder_of(settings.model) / regime / datasets / f"seed_{settings.seed}")

    def without_probe(self) -> "Experiment":
        """The experiment whose network this one gives a probe."""
        settings = replace(self.settings, maddr=replace(self.settings.maddr, probe=False))
        return Experiment.place(settings, self.folder.parents[3], UNITED.name)

    def begun(self) -> "list[Experiment]":
        """Those in whose folders it works: itself and, with a probe, the one whose network it gives it."""
        return [self, self.without_probe()] if self.settings.maddr.probe else [self]

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.settings.model} {self.regime} {'+'.join(self.settings.datasets)} seed {self.settings.seed}"


@contextmanager
def locked_folder(experiment: Experiment, source: DataSource, wait: bool = False) -> Iterator[None]:
    """Work in the folder of an experiment alone, and only if it is this experiment's; write config.yaml and provenance.json if it is new.

    Of several processes that train together the first does this for all.

    Args:
        experiment: whose folder it is.
        source: of its images.
        wait: until another process that works in the folder is done.

    Raises:
        UserError: the folder holds another experiment, or another process works in it and this one does not wait.
    """
    if rank() > 0:
        yield
        return
    folder = experiment.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _lock(folder, wait):
            check_settings(experiment)
            check_data(experiment, source)
            for place in (folder, folder / "samples"):
                delete_partials(place, alone=True)
            if _lacking(folder):
                _refuse_unknown(folder, "checkpoint.pt")
                _write_identity(experiment, source)
            yield
    except Timeout:
        raise UserError(f"{folder}: another process works on this experiment; wait for it, or choose another --results") from None


def _lock(folder: Path, wait: bool) -> AbstractContextManager:
    """Of a folder, until the context ends; raises Timeout where another process has it and this one does not wait."""
    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
    logger.info("waiting for another process that works in %s", folder)
    return lock.acquire()


def finished_metrics(experiment: Experiment) -> dict[str, Any] | None:
    """The metrics of an experiment that has ended; None of one that was not scored, or whose checkpoint was deleted: it is trained anew."""
    return scored_metrics(experiment) if (experiment.folder / "checkpoint.pt").exists() else None


def scored_metrics(experiment: Experiment) -> dict[str, Any] | None:
    """The metrics of an experiment that was scored, also where its checkpoint is gone, which no table needs; None of one that was not, or that an
    older version scored, whose intervals are over images."""
    path = experiment.folder / "metrics.json"
    metrics = read_json(path) if path.exists() else None
    return metrics if metrics and all("unit" in values for values in metrics["datasets"].values()) else None


def judged_by(experiment: Experiment, source: DataSource) -> dict[str, str | int | None]:
    """What metrics.json says of how a network was judged: hashes of what the source says of images that trains nothing, "patients", and "twins" and
    "masks", None where there are none; "intervals", the version of `bootstrap`.

    Where it is something else, the network is scored anew.

    Raises:
        UserError: as `twins_fingerprint` and `DataSource.masks` do; or a manifest is damaged.
    """
    datasets = experiment.settings.datasets
    return {
        "twins": twins_fingerprint(source, datasets),
        "masks": source.masks_fingerprint(datasets, preprocessing_of(experiment.settings, source)),
        "patients": source.patients_fingerprint(datasets),
        "intervals": bootstrap.VERSION,
    }


def judged_otherwise(metrics: Mapping[str, Any], experiment: Experiment, source: DataSource) -> list[str]:
    """Of what `judged_by` says now metrics say something else, by its keys; what an older version did not know of counts as none."""
    return [key for key, value in judged_by(experiment, source).items() if metrics.get(key) != value]


def same_threshold(metrics: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether metrics are at the threshold that the experiment's settings say, and not at one that `maddr evaluate` or other settings set since."""
    return metrics.get("threshold_quantile") == experiment.settings.threshold_quantile


def why_anew(metrics: Mapping[str, Any], experiment: Experiment, source: DataSource) -> list[str]:
    """Why a network is to be scored again, by the metrics that it has; nothing where it need not be."""
    was, now = metrics.get("threshold_quantile"), experiment.settings.threshold_quantile
    threshold = [] if same_threshold(metrics, experiment) else [f"threshold_quantile was {was}, now it is {now}"]
    return [*threshold, *(f"other {key}" for key in judged_otherwise(metrics, experiment, source))]


def is_finished(experiment: Experiment, source: DataSource) -> bool:
    """Whether nothing of an experiment is left to do on the data that lie in the source."""
    metrics = finished_metrics(experiment)
    return metrics is not None and not why_anew(metrics, experiment, source)


def check_settings(experiment: Experiment) -> None:
    """Refuse a folder that was begun with other settings: its results would be mixed with this experiment's.

    What a setting that came later does by default is what was done before it came.

    Raises:
        UserError: what differs.
    """
    path = experiment.folder / "config.yaml"
    if not path.exists():
        return
    try:
        begun = build_settings([Layer(str(path), read_yaml(path))])
    except UserError as error:
        raise UserError(f"{experiment.folder} was begun with settings that are none any more ({error}); {REMEDY}") from error
    before, now = flat(to_plain(begun)), flat(to_plain(experiment.settings))
    for key in {**now, **before}:  # a group that may be null has keys in one of them alone
        was, is_now = before.get(key, "not there"), now.get(key, "not there")
        if key not in FREE_KEYS and was != is_now:
            raise UserError(f"{experiment.folder} was begun with {key}: {was}, now it is {is_now}; {REMEDY}")


def check_changeable(overrides: Sequence[Layer]) -> None:
    """Refuse to change a setting of a trained network that its training depends on.

    Raises:
        UserError: which is to be changed, and which may be.
    """
    for layer in overrides:
        for key in layer.values:
            if key not in FREE_KEYS:
                free = f"{', '.join(FREE_KEYS[:-1])} and {FREE_KEYS[-1]}"
                raise UserError(f"{layer.source}: the network is trained, and of its settings only {free} can be changed; leave out {key}")


def check_version(experiment: Experiment) -> None:
    """Refuse a folder that an older version of this package began, and one that holds results of which nobody knows what they are of.

    Raises:
        UserError: one did, or that is not known.
    """
    _refuse_unknown(experiment.folder, "metrics.json")
    if (experiment.folder / provenance.FILE).exists() and provenance.is_older(experiment.folder):
        raise UserError(f"{experiment.folder} was begun by an older version of this package; {REMEDY}")


def _refuse_unknown(folder: Path, result: str) -> None:
    if (folder / result).exists() and (lacking := _lacking(folder)):
        raise UserError(f"{folder}: has a {result} and no {lacking[0]}, so that nobody knows what it is of; {REMEDY}")


def _lacking(folder: Path) -> list[str]:
    """What a folder lacks of that which says of which experiment it is."""
    return [name for name in ("config.yaml", provenance.FILE) if not (folder / name).exists()]


def check_data(experiment: Experiment, source: DataSource) -> None:
    """Refuse a folder that was begun with other data, or by an older version of this package.

    Raises:
        UserError: it was.
    """
    folder = experiment.folder
    check_version(experiment)
    if (folder / provenance.FILE).exists() and not same_data(experiment, source):
        raise UserError(f"{folder} was begun with other images or splits than lie in {source.data_root} now; {REMEDY}")


def same_data(experiment: Experiment, source: DataSource) -> bool:
    """Whether an experiment that was begun saw the names, labels, domains and pixels that lie in the source now."""
    return provenance.read(experiment.folder)["data"] == _fingerprint(experiment.settings, source)


def preprocessing_of(settings: Settings, source: DataSource) -> dict[str, Preprocessing]:
    """What is done to the images of each dataset of an experiment."""
    return source.preprocessing(settings.datasets, settings.image_size, settings.channels)


def _fingerprint(settings: Settings, source: DataSource) -> str:
    return source.fingerprint(settings.datasets, preprocessing_of(settings, source))


def _write_identity(experiment: Experiment, source: DataSource) -> None:
    with whole_file(experiment.folder / "config.yaml") as partial:
        partial.write_text(yaml.safe_dump(to_plain(experiment.settings), sort_keys=False), encoding="utf-8")
    facts = {
        "experiment": experiment.name,
        "regime": experiment.regime,
        "data": _fingerprint(experiment.settings, source),
        "data_root": str(source.data_root.resolve()),
        "phantom": is_phantom(source.data_root),
    }
    provenance.begin(experiment.folder, facts)


def load_experiment(folder: Path, overrides: Sequence[Layer] = ()) -> Experiment:
    """The experiment whose results lie in a folder.

    Raises:
        UserError: there is none, or an older version of this package wrote it.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name the folder of the experiment, {folder.parent}")
    if not (folder / provenance.FILE).exists():
        lack = "holds no experiment" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {lack}; name the folder of one, .../seed_0")
    if provenance.is_older(folder):
        raise UserError(f"{folder} was written by an older version of this package; run the experiment again into another --results")
    settings = build_settings([Layer(str(folder / "config.yaml"), read_yaml(folder / "config.yaml")), *overrides])
    return Experiment(settings, provenance.read(folder)["regime"], folder)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: value for name, item in values.items() for key, value in flat(item, f"{prefix}.{name}" if prefix else str(name)).items()}
