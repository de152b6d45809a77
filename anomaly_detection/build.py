"""From settings to a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_detection.baseline import Baseline
from anomaly_detection.config.layers import Layer, read_yaml
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.dataset import Domains, ImageSet
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, MADDRConstraint
from anomaly_detection.registry import build_settings, find_baseline
from anomaly_detection.system.errors import UserError


def trained_settings(folder: Path, overrides: Sequence[Layer] = ()) -> Settings:
    """The settings of the experiment whose results lie in a folder.

    Raises:
        UserError: there is none.
    """
    return build_settings([Layer(str(folder / "config.yaml"), read_yaml(folder / "config.yaml")), *overrides])


def build_baseline(settings: Settings, domains: Domains, images: ImageSet | None = None) -> Baseline:
    """The baseline of an experiment with its MADDR constraint, on the CPU, untrained.

    Args:
        settings: of the experiment.
        domains: the organs and modalities that the heads tell apart.
        images: the training images, for class weights by inverse frequency.

    Raises:
        UserError: settings that no network can have, or a backbone that is not to be had.
    """
    try:
        baseline = find_baseline(settings.model)(settings)
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
    )


def _inverse_frequency(labels: Tensor, classes: int) -> list[float]:
    """Weights whose mean over the images is 1, the same total for every class."""
    counts = torch.bincount(labels.cpu(), minlength=classes).clamp_min(1)
    return (len(labels) / (classes * counts)).tolist()
