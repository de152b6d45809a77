"""An experiment from its images to its scores: training, or what is left of it, and evaluation, in the experiment's own folder.

Nothing else is left behind, but for first phases of training that several experiments share.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_detection.baseline import Baseline
from anomaly_detection.build import add_calibration, build_baseline, checkpoint_facts, load_trained
from anomaly_detection.components.feature_store import FeatureStore
from anomaly_detection.config.layers import to_plain
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import Part
from anomaly_detection.data.twins import kept_twins
from anomaly_detection.evaluation.evaluate import evaluate
from anomaly_detection.evaluation.pooling import COLUMNS as PATIENT_COLUMNS
from anomaly_detection.evaluation.rows import COLUMNS
from anomaly_detection.evaluation.scores import BATCH, score_images
from anomaly_detection.evaluation.twins import COLUMNS as TWIN_COLUMNS
from anomaly_detection.study import provenance
from anomaly_detection.study.experiment import DRAWN, FREE_KEYS, Experiment, finished_metrics, judged_by, locked_folder, preprocessing_of, why_anew
from anomaly_detection.study.model_card import Subject, write_card
from anomaly_detection.study.regimes import SEPARATE
from anomaly_detection.system.distributed import processes, rank
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import short_hash, whole_file, write_json, write_table
from anomaly_detection.system.precision import training_alone
from anomaly_detection.system.version import __version__
from anomaly_detection.training.checkpoint import VERSION, FirstPhases, load_checkpoint, save_checkpoint
from anomaly_detection.training.loop import runs_in_bf16, train, validate
from anomaly_detection.training.seed import one_at_a_time, seed_everything

logger = logging.getLogger(__name__)

# files that tell of scores.csv and the others: they go before these are written, so that what ends halfway is not taken for finished
TELLING = ("metrics.json", "table.md", "table.csv", "report.html", "figures/*.png", DRAWN)
OF_NETWORK = (*TELLING, "model_card.md", "scores.csv", "patients.csv", "twins.csv", "details.npz")  # go before another is trained in its place


def run_experiment(experiment: Experiment, source: DataSource, device: torch.device) -> dict[str, Any]:
    """Train (or continue), score and write the results; return the metrics. What is finished is not done again, also where another process does it.

    Threads of a process, as workers of dask are, run one after the other: they would draw from each other's random numbers.

    Raises:
        UserError: the folder holds another experiment, or anything in the settings or the data is wrong.
    """
    with one_at_a_time(), locked_folder(experiment, source, wait=True):  # in this order: who works in a folder waits for no thread
        metrics = finished_metrics(experiment)
        reasons = [] if metrics is None else why_anew(metrics, experiment, source)
        if metrics is not None and not reasons:
            return metrics
        if reasons:
            logger.info("%s is scored anew: %s", experiment.name, ", ".join(reasons))
        train_experiment(experiment, source, device)
        return evaluate_experiment(experiment, source, device)


@training_alone()
def train_experiment(experiment: Experiment, source: DataSource, device: torch.device) -> None:
    """Train the baseline from the start or from its checkpoint; to be called in `locked_folder`."""
    settings = experiment.settings
    if rank() == 0:
        provenance.add_run(experiment.folder, device)
        if not (experiment.folder / "checkpoint.pt").exists():
            _delete(experiment.folder, OF_NETWORK)
    if settings.maddr.probe:
        _train_with_probe(experiment, source, device)
        return
    domains = source.domains(settings.datasets)
    preprocessing = preprocessing_of(settings, source)
    _tell_grey(preprocessing)
    train_set, val_set = (source.load(settings.datasets, part, preprocessing, settings.memory_mib).to(device) for part in ("train", "val"))
    seed_everything(settings.seed, device)
    baseline = build_baseline(settings, domains, train_set).to(device)
    if baseline.maddr is not None:
        weights = ", ".join(f"{weight:g} {name}" for name, weight in baseline.maddr.weights.items())
        logger.info("MADDR weights: %s; organs: %s; modalities: %s", weights, " ".join(domains.organs), " ".join(domains.modalities))
    look_up_features(baseline, source, preprocessing, ("train", "val"), device)
    facts = checkpoint_facts(settings, experiment.regime, domains, preprocessing)
    shared = _shared_file(experiment, device) if any(phase.shared for phase in baseline.phases()) else None
    with nullcontext() if shared is None else FirstPhases(shared) as first_phases:
        train(baseline, train_set, val_set, settings, experiment.folder, facts, first_phases)
    if rank() == 0 and finished_metrics(experiment) is None:
        _write_card(experiment, source, baseline.describe())


def _train_with_probe(experiment: Experiment, source: DataSource, device: torch.device) -> None:
    """Train the network without the probe in the folder of its own experiment, unless it is trained, then the probe on its latents."""
    if (experiment.folder / "checkpoint.pt").exists():
        return
    plain, settings = experiment.without_probe(), experiment.settings
    with locked_folder(plain, source, wait=True):
        train_experiment(plain, source, device)
    if rank() > 0:
        return
    network = load_checkpoint(plain.folder / "checkpoint.pt")
    domains, preprocessing = source.domains(settings.datasets), preprocessing_of(settings, source)
    baseline = build_baseline(settings, domains, to_be_loaded=True).to(device)
    baseline.load_state_dict({**baseline.state_dict(), **network["model"]})
    look_up_features(baseline, source, preprocessing, ("train", "val"), device)
    train_set, val_set = (source.load(settings.datasets, part, preprocessing, settings.memory_mib).to(device) for part in ("train", "val"))
    latents = score_images(baseline, (batch.image for batch in train_set.batches(BATCH))).latent
    baseline.probe.fit(torch.from_numpy(latents), train_set.organ, train_set.modality)
    training = {**network["training"], "best": {**network["training"]["best"], "validation": validate(baseline, val_set)}}
    facts = checkpoint_facts(settings, experiment.regime, domains, preprocessing)
    if (plain.folder / "log.csv").exists():
        with whole_file(experiment.folder / "log.csv") as partial:
            partial.write_bytes((plain.folder / "log.csv").read_bytes())
    save_checkpoint(experiment.folder / "checkpoint.pt", {**facts, "model": baseline.state_dict(), "training": training})
    _write_card(experiment, source, baseline.describe())


def look_up_features(
    baseline: Baseline, source: DataSource, preprocessing: Mapping[str, Preprocessing], parts: Sequence[Part], device: torch.device
) -> None:
    """Give a baseline that looks at frozen features those of some parts of the data, which other experiments may have computed already."""
    frozen = baseline.frozen
    if frozen is not None:
        images = [kept for part in parts for kept in source.kept(list(preprocessing), part, preprocessing)]
        if "test" in parts:
            images += [kept for _, kept in kept_twins(source, preprocessing).values()]
        frozen.store = FeatureStore.of(images, source.data_root, frozen.identity(), lambda x: frozen.packed(frozen.compute(x)), device)


def _tell_grey(preprocessing: Mapping[str, Preprocessing]) -> None:
    """Warn of datasets that have no colours for a network that takes some."""
    grey = [name for name, each in preprocessing.items() if each.channels == 3 and each.size is not None and each.stored_channels == 1]
    if grey:
        advice = "the 3 channels that the network takes hold the same; `prepare` with --channels 3 keeps colours"
        logger.warning("%s: prepared in grey: %s", ", ".join(grey), advice)


def _shared_file(experiment: Experiment, device: torch.device) -> Path | None:
    """Where first phases without MADDR lie for all experiments of the model that differ in MADDR alone.

    RESULTS/model/shared/KEY.pt, the key being a hash of everything else that the result depends on. None in several processes, and of a network
    for one dataset without MADDR, from which no other differs in that alone.
    """
    if processes() > 1 or experiment.regime == SEPARATE.name:
        return None
    settings = {key: value for key, value in to_plain(experiment.settings).items() if key not in ("maddr", *FREE_KEYS)}
    data = provenance.read(experiment.folder)["data"]
    versions = [VERSION, __version__, torch.__version__]
    content = [settings, data, versions, device.type, runs_in_bf16(experiment.settings, device)]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return experiment.folder.parents[2] / "shared" / f"{key}.pt"


def evaluate_experiment(experiment: Experiment, source: DataSource, device: torch.device) -> dict[str, Any]:
    """Score validation and test images with the trained baseline, write what they tell, metrics.json last; to be called in `locked_folder`.

    What told of earlier scores is gone then, also where an error ends it: without metrics.json the experiment is one that was not scored.
    """
    settings, folder = experiment.settings, experiment.folder
    provenance.add_run(folder, device)
    trained = load_trained(folder, device)
    if trained.domains != source.domains(settings.datasets):
        known = "; ".join(f"{name}: {' '.join(words)}" for name, words in vars(trained.domains).items())
        raise UserError(f"{folder}: trained with {known}; datasets.yaml numbers them otherwise now")
    preprocessing = preprocessing_of(settings, source)
    look_up_features(trained.baseline, source, preprocessing, ("train", "val", "test"), device)
    outcome = evaluate(trained.baseline, source, preprocessing, round(1 - settings.threshold_quantile, 9), device, settings.memory_mib)
    metrics = {
        **outcome.metrics,
        "threshold_quantile": settings.threshold_quantile,
        "validation": trained.validation,
        "best_iteration": trained.best_iteration,
        "baseline": trained.baseline.describe(),
        **judged_by(experiment, source),
    }
    _delete(folder, TELLING)
    write_table(folder / "scores.csv", outcome.rows, COLUMNS)
    write_table(folder / "patients.csv", outcome.patients, PATIENT_COLUMNS)
    if outcome.twins:
        write_table(folder / "twins.csv", outcome.twins, TWIN_COLUMNS)
    else:
        (folder / "twins.csv").unlink(missing_ok=True)
    with whole_file(folder / "details.npz") as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **outcome.details, map_scale=outcome.map_scale)
    add_calibration(folder, outcome.calibration, outcome.map_scale)
    _write_card(experiment, source, metrics["baseline"], metrics)
    write_json(folder / "metrics.json", metrics)
    return metrics


def _delete(folder: Path, names: Sequence[str]) -> None:
    """Delete files of a folder, of names or patterns."""
    for path in [path for name in names for path in folder.glob(name)]:
        path.unlink(missing_ok=True)


def _write_card(experiment: Experiment, source: DataSource, described: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
    """The model card of a trained network, with what was measured where it was."""
    folder, settings = experiment.folder, experiment.settings
    subject = Subject(
        experiment.name,
        settings,
        experiment.regime,
        described,
        provenance.read(folder),
        short_hash(folder / "config.yaml"),
        (folder / "log.csv").exists(),
        preprocessing_of(settings, source),
        metrics,
    )
    write_card(folder, subject, source)
