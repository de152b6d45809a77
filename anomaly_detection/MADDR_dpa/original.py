"""Checkpoints of the DPA authors' code (github.com/ninatu/anomaly_detection): their `anomaly_detection.tar` as a baseline of ours."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_detection.config.layers import Layer
from anomaly_detection.MADDR_dpa.dpa import DPA, build_rec_loss
from anomaly_detection.MADDR_dpa.growing import Stage
from anomaly_detection.MADDR_dpa.networks import translate_original
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError
from anomaly_detection.registry import build_settings
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

_PERCEPTUAL = ("perceptual", "relative_perceptual_L1")


def load_original_checkpoint(path: str | Path, backbone_weights: str = "pretrained", feature_statistics: str | None = None) -> DPA:
    """The detector in an `anomaly_detection.tar` (or `anomaly_detection_res_R.tar`): `encode`, `reconstruct`, `anomaly_score`, `anomaly_map`.

    The state of a training run, `checkpoint.tar`, holds the same detector and is taken, too. Networks may be of any type, size of latent, stage and
    option that the authors' code has; minibatch stddev, where used, sees each image alone.

    Images are given at the full resolution of its config; the detector brings them to that of the checkpoint.

    Args:
        path: the file. Only tensors, plain values and numpy's float64 are unpickled from it.
        backbone_weights: VGG19's, see `PerceptualLoss`.
        feature_statistics: path of the authors' file of feature means and divisors. Without it, give `prepare` the normal training images first.

    Returns:
        On the CPU, in evaluation mode. Where VGG19's weights are not to be had, encoding and reconstructing work and scoring raises BackboneError.

    Raises:
        UserError: the file is missing or is no such checkpoint.
    """
    path = Path(path)
    saved = _read(path)
    settings = _settings(path, saved, backbone_weights, feature_statistics)
    without_features = replace(settings, baseline=replace(settings.baseline, rec_loss={"l1": 1.0}))
    resolution = saved["resolution"]
    states = {name: translate_original(saved[name]) for name in ("enc", "dec")}
    fade = states["enc"][1]
    try:
        detector = DPA(without_features, resolutions=[resolution] if saved["stage"] == "stab" else [resolution // 2, resolution])
        detector.encoder.load_state_dict(states["enc"][0])
        detector.decoder.load_state_dict(states["dec"][0])
    except (UserError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        detector.rec_loss = build_rec_loss(settings.baseline)
    except BackboneError as error:
        logger.warning("%s: encoding and reconstructing work, scoring does not: %s", path, error)
        detector.rec_loss = _UnavailableLoss(str(error))
    detector.options = settings.baseline
    detector.stages, detector.progress = [Stage(saved["stage"], resolution, 1)], fade
    return detector.eval()


class _UnavailableLoss(nn.Module):
    """Stands for a loss whose backbone is not to be had; says so when it is asked."""

    def __init__(self, reason: str):
        super().__init__()
        self.reason = reason

    def set_reduction(self, reduction: str) -> None:
        """There is nothing to reduce."""

    def forward(self, x: Tensor, y: Tensor, target: object = None) -> Tensor:
        raise BackboneError(self.reason)

    score_and_map = forward


def _read(path: Path) -> Mapping[str, Any]:
    number = np.float64(0)
    rebuild = number.__reduce__()[0]
    # numpy 1 and 2 write the function that rebuilds the stage's progress under different names.
    names = [(rebuild, "numpy.core.multiarray.scalar"), (rebuild, "numpy._core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals([*names, np.dtype, type(number.dtype)]):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # whatever another file makes of the unpickler
        raise UserError(f"{path}: not a checkpoint of the DPA code: {str(error).splitlines()[0]}") from None
    missing = {"config", "stage", "resolution", "enc", "dec"} - set(saved if isinstance(saved, Mapping) else ())
    if missing:
        raise UserError(f"{path}: not a checkpoint of the DPA code: it has no {', '.join(sorted(missing))}")
    return saved


def _settings(path: Path, saved: Mapping[str, Any], backbone_weights: str, feature_statistics: str | None) -> Any:
    config = saved["config"]
    losses = _losses(path, config["image_rec_loss"])
    features = [kwargs for name, _, kwargs in losses if name in _PERCEPTUAL]
    if len(features) > 1 or any("weights_per_resolution" not in kwargs for kwargs in features):
        raise UserError(f"{path}: a loss of more than one perceptual part, or of one without weights_per_resolution, is not supported")
    per_resolution = (
        {resolution: _feature_weights(weights) for resolution, weights in features[0]["weights_per_resolution"].items()} if features else {}
    )
    own = {
        "enc": {"type": config["enc"]["type"], **config["enc"].get("kwargs", {})},
        "dec": {"type": config["dec"]["type"], **config["dec"].get("kwargs", {})},
        "latent_dim": config["latent_dim"],
        "latent_res": config["latent_res"],
        "rec_loss": {name: sum(weight for each, weight, _ in losses if each == name) for name, _, _ in losses},
        "backbone": "vgg19",
        "backbone_weights": backbone_weights,
        "feature_statistics": feature_statistics or "fit",
        "features": per_resolution.get(saved["resolution"], {"feature_weights": {}}),
        "features_per_resolution": per_resolution,
        "use_smooth_pg": bool(features and features[0].get("use_smooth_pg", False)),
    }
    image = {"image_size": config["max_image_res"], "channels": config["image_dim"]}
    return build_settings([Layer(str(path), {"model": "MADDR_dpa", "datasets": ["original"], "baseline": own, **image})])


def _feature_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """As `FeatureWeights` has them: there None is the backbone's default, in the original no features."""
    return {"img_weight": weights.get("img_weight") or 0, "feature_weights": weights.get("feature_weights") or {}}


def _losses(path: Path, spec: Mapping[str, Any], weight: float = 1.0) -> list[tuple[str, float, Mapping[str, Any]]]:
    """(name, weight, arguments) of a reconstruction loss as the original configs write it; compose is opened."""
    kwargs = spec.get("loss_kwargs") or {}
    if spec["loss_type"] == "compose":
        return [each for part in ("loss_1", "loss_2") for each in _losses(path, kwargs[part], weight * kwargs[part]["loss_weight"])]
    known = {"reduction", "weights_per_resolution", "use_smooth_pg"}
    if set(kwargs) - known:
        raise UserError(f"{path}: the loss {spec['loss_type']} has arguments that are not supported: {', '.join(sorted(set(kwargs) - known))}")
    return [(spec["loss_type"], weight, kwargs)]
