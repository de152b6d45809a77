"""From settings to a network, and from a checkpoint to a trained detector."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_detection.baseline import Baseline
from anomaly_detection.components.probe import Probe
from anomaly_detection.config.layers import Layer, to_plain
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.dataset import Domains, ImageSet
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.evaluation.calibration import Calibration
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, MADDRConstraint
from anomaly_detection.registry import build_settings, find_baseline
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.checkpoint import load_checkpoint, save_checkpoint
from anomaly_detection.training.contract import check_latent_dim
from anomaly_detection.training.seed import one_at_a_time


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network and all that is to be known of it: what one checkpoint.pt holds, wherever the file lies.

    Attributes:
        baseline: the network, in evaluation mode.
        settings: it was trained with.
        regime: it was trained in.
        domains: the organs and modalities that its heads tell apart.
        preprocessing: of each dataset.
        calibration: of its scores; None before it was evaluated, by this version.
        map_scale: what an anomaly map seldom exceeds in a normal image; None before it was evaluated.
        best_iteration: of the last phase, the one whose weights these are.
        validation: what `validate` said of them.
    """

    baseline: Baseline
    settings: Settings
    regime: str
    domains: Domains
    preprocessing: Mapping[str, Preprocessing]
    calibration: Calibration | None
    map_scale: float | None
    best_iteration: int
    validation: Mapping[str, float]


def checkpoint_facts(settings: Settings, regime: str, domains: Domains, preprocessing: Mapping[str, Preprocessing]) -> dict[str, Any]:
    """What training leaves in a checkpoint beside the weights, for `load_trained`."""
    words = {"organs": list(domains.organs), "modalities": list(domains.modalities)}
    plain = {name: each.to_plain() for name, each in preprocessing.items()}
    return {"settings": to_plain(settings), "regime": regime, "domains": words, "preprocessing": plain}


def load_trained(path: Path, device: torch.device) -> Trained:
    """The trained network in a checkpoint, on a device.

    Args:
        path: the checkpoint.pt, or the folder that holds it.

    Raises:
        UserError: there is none, it cannot be read or is of another version, training has not ended, or its baseline is not to be had.
    """
    path = checkpoint_path(path)
    content = load_checkpoint(path)
    if "training" not in content:
        raise UserError(f"{path}: not the checkpoint of an experiment; name a checkpoint.pt, or the folder that holds it")
    if not content["training"]["finished"]:
        raise UserError(f"{path}: training has not ended; run the training command again, it continues")
    settings = build_settings([Layer(str(path), content["settings"])])
    domains = Domains(*(tuple(content["domains"][name]) for name in ("organs", "modalities")))
    with one_at_a_time(), torch.random.fork_rng(devices=[]):  # what is drawn for weights that are replaced is put back
        baseline = build_baseline(settings, domains, to_be_loaded=True).to(device)
    try:
        baseline.load_state_dict(content["model"])
    except RuntimeError as error:
        raise UserError(
            f"{path}: its weights are not those of the network that {settings.model} builds now: {' '.join(str(error).split())}"
        ) from None
    calibration, map_scale = _calibration(content.get("calibration"))
    best = content["training"]["best"]
    preprocessing = {name: Preprocessing.from_plain(each) for name, each in content["preprocessing"].items()}
    facts = settings, content["regime"], domains, preprocessing
    return Trained(baseline.eval(), *facts, calibration, map_scale, best["iteration"], best["validation"])


def _calibration(told: Mapping[str, Any] | None) -> tuple[Calibration | None, float | None]:
    """What a checkpoint tells of scores and maps; nothing where another version of this package told it, by other rules."""
    try:
        return (None, None) if told is None else (Calibration.from_plain(told["scores"]), told["map_scale"])
    except (KeyError, TypeError, ValueError):
        return None, None


def add_calibration(path: Path, calibration: Calibration, map_scale: float) -> None:
    """Put into a finished checkpoint what validation normals tell of its scores and maps, in place of what it may hold already."""
    path = checkpoint_path(path)
    save_checkpoint(path, {**load_checkpoint(path), "calibration": {"scores": calibration.to_plain(), "map_scale": map_scale}})


def checkpoint_path(path: Path) -> Path:
    """The checkpoint that a path means: the file itself, or the one in a folder."""
    return path / "checkpoint.pt" if path.is_dir() else path


def build_baseline(settings: Settings, domains: Domains, images: ImageSet | None = None, to_be_loaded: bool = False) -> Baseline:
    """The baseline of an experiment with its MADDR constraint or its probe, on the CPU, untrained.

    Args:
        settings: of the experiment.
        domains: the organs and modalities that the heads tell apart.
        images: the training images, for class weights by inverse frequency.
        to_be_loaded: whether its weights are those of a checkpoint, see `Baseline.to_be_loaded`.

    Raises:
        UserError: settings that no network can have, a backbone that is not to be had, or a baseline without latent_dim.
    """
    try:
        kind = find_baseline(settings.model)
        baseline = kind.to_be_loaded(settings) if to_be_loaded else kind(settings)
        classes = len(domains.organs), len(domains.modalities)
        baseline.expect_domains(*classes)
        check_latent_dim(baseline)
        if settings.maddr.probe:
            baseline.probe = Probe(baseline.latent_dim, *classes)
        if settings.maddr.enabled:
            # What is drawn for the heads is put back: with one seed the networks and all that follows are drawn as without them.
            with torch.random.fork_rng(devices=[]):
                baseline.attach(_constraint(settings, baseline.latent_dim, domains, images))
        return baseline
    except (BackboneError, ValueError) as error:
        raise UserError(f"{settings.model}: {error}") from None


def _constraint(settings: Settings, latent_dim: int, domains: Domains, images: ImageSet | None) -> MADDRConstraint:
    maddr = settings.maddr
    alpha: Any = maddr.focal_alpha
    if alpha == "inverse_frequency":
        labels = {"organ": (images.organ, len(domains.organs)), "modality": (images.modality, len(domains.modalities))} if images else {}
        alpha = {name: _inverse_frequency(*label) for name, label in labels.items()} or None
    return MADDRConstraint(
        latent_dim,
        maddr.organ_dim,
        maddr.modality_dim,
        len(domains.organs),
        len(domains.modalities),
        maddr.organ_weight,
        maddr.modality_weight,
        maddr.center_weight,
        alpha,
        maddr.focal_gamma,
        maddr.center_of,
        maddr.center_momentum,
        maddr.heads_train_encoder,
    )


def _inverse_frequency(labels: Tensor, classes: int) -> list[float]:
    """Weights whose mean over the images is 1, the same total for every class."""
    counts = torch.bincount(labels.cpu(), minlength=classes).clamp_min(1)
    return (len(labels) / (classes * counts)).tolist()
