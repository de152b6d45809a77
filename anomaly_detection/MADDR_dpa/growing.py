"""Progressive growing: which resolution is trained when, and what the images of a stage look like.

Sources: Karras et al., Progressive Growing of GANs, ICLR 2018; Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual
Autoencoders, IEEE Access 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

Kind = Literal["stab", "trns"]


@dataclass(frozen=True)
class Stage:
    """A stretch of training: `trns` fades a resolution in from the one below, `stab` stays at it."""

    kind: Kind
    resolution: int
    iterations: int

    @property
    def name(self) -> str:
        """Of its phase."""
        return f"{self.kind}_{self.resolution}"


def growing_stages(
    initial_resolution: int,
    max_resolution: int,
    stab_iterations: int,
    trns_iterations: int,
    iters_per_res: Mapping[int, Mapping[str, int]] | None = None,
) -> list[Stage]:
    """stab at the initial resolution, then trns and stab at twice that, and so on; the last is stab at max_resolution.

    Args:
        initial_resolution, max_resolution: the second is the first times a power of two; where equal, nothing grows.
        stab_iterations, trns_iterations: of each stage; a stage of 0 is left out.
        iters_per_res: {resolution: {"stab" or "trns": iterations}} for stages that differ; those never come to have no effect.

    Raises:
        ValueError: other resolutions, kinds or iterations; no last stage; or a fade-in from a resolution that no stage has.
    """
    iters_per_res = iters_per_res or {}
    for resolution, own in iters_per_res.items():
        if not set(own) <= set(get_args(Kind)):
            raise ValueError(f"iters_per_res.{resolution} has the keys {', '.join(get_args(Kind))}, not {', '.join(map(str, own))}")
    default = {"stab": stab_iterations, "trns": trns_iterations}
    stages = []
    for resolution in _doublings(initial_resolution, max_resolution):
        for kind in ("stab",) if resolution == initial_resolution else ("trns", "stab"):
            iterations = iters_per_res.get(resolution, {}).get(kind, default[kind])
            if iterations < 0:
                raise ValueError(f"iterations of {kind} at {resolution} must not be negative, got {iterations}")
            if iterations > 0:
                stages.append(Stage(kind, resolution, iterations))
    _check_whole(stages, max_resolution)
    return stages


def mix_resolution(x: Tensor, stage: Stage, max_resolution: int, progress: float) -> Tensor:
    """The images that a stage sees: as sharp as what the networks can draw at that moment.

    stab: x resized to the resolution R of the stage. trns: ``(1 - progress) * up(x at R/2) + progress * x at R``, where up repeats pixels.
    Resizing is bilinear without antialiasing.

    Args:
        x: (B, C, max_resolution, max_resolution).
        progress: in [0, 1], how far R is faded in; `stab` takes no notice.

    Returns:
        (B, C, R, R).

    Raises:
        ValueError: images of another size.
    """
    if x.shape[2:] != (max_resolution, max_resolution):
        raise ValueError(f"images must be (B, C, {max_resolution}, {max_resolution}), got {tuple(x.shape)}")
    sharp = _resize(x, stage.resolution)
    if stage.kind == "stab" or progress == 1:
        return sharp
    blurred = F.interpolate(_resize(x, stage.resolution // 2), scale_factor=2, mode="nearest")
    return (1 - progress) * blurred + progress * sharp


def _doublings(first: int, last: int) -> list[int]:
    doublings = [first]
    while 0 < doublings[-1] < last:
        doublings.append(2 * doublings[-1])
    if doublings[-1] != last:
        raise ValueError(f"initial_image_res {first} doubled again and again does not reach {last}")
    return doublings


def _check_whole(stages: list[Stage], max_resolution: int) -> None:
    if not stages or (stages[-1].kind, stages[-1].resolution) != ("stab", max_resolution):
        raise ValueError(f"iterations of the last stage, stab at {max_resolution}, must be at least 1")
    present = {stage.resolution for stage in stages}
    for stage in stages:
        if stage.kind == "trns" and stage.resolution // 2 not in present:
            raise ValueError(f"iterations of {stage.resolution // 2} must not be 0, the fade-in of {stage.resolution} starts from there")


def _resize(x: Tensor, resolution: int) -> Tensor:
    if x.shape[-1] == resolution:
        return x
    return F.interpolate(x, (resolution, resolution), mode="bilinear", align_corners=False, antialias=False)
