"""What an experiment is configured by: the keys of the YAML files under configs/, whose common.yaml explains each of these."""

from dataclasses import dataclass, field
from typing import Any, Literal


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class MaddrSettings:
    """The constraint, see `MADDRConstraint`, or a `Probe` in its place. The weights are relative to the baseline's own loss."""

    enabled: bool = False
    probe: bool = False
    organ_dim: int = 10
    modality_dim: int = 10
    organ_weight: float = 0.1
    modality_weight: float = 0.1
    center_weight: float = 0.1
    focal_alpha: float | Literal["inverse_frequency"] | None = 0.25
    focal_gamma: float = 2.0
    center_of: Literal["all", "domain"] = "all"
    center_momentum: float | None = None
    heads_train_encoder: bool = True

    def __post_init__(self):
        _require(not (self.enabled and self.probe), "enabled and probe are one or the other: with the constraint its heads name domains")
        for key in ("organ_dim", "modality_dim"):
            _require(getattr(self, key) >= 1, f"{key} must be at least 1, not {getattr(self, key)}")
        for key in ("organ_weight", "modality_weight", "center_weight", "focal_gamma"):
            _require(getattr(self, key) >= 0, f"{key} must not be negative, got {getattr(self, key)}")
        momentum = self.center_momentum
        _require(momentum is None or 0 <= momentum < 1, f"center_momentum must be null, or at least 0 and below 1, not {momentum}")
        _require(not isinstance(self.focal_alpha, float) or 0 < self.focal_alpha < 1, f"focal_alpha must be between 0 and 1, not {self.focal_alpha}")


@dataclass(frozen=True)
class MixupSettings:
    """In which iterations of the last phase every image is mixed with another of its batch, and the labels' losses in the same shares.

    These iterations do not count for `Settings.lr_step`: that is how the released MADDR code has it.
    """

    first: int
    last: int

    def __post_init__(self):
        _require(self.first >= 1, f"first must be at least 1, not {self.first}")
        _require(self.last >= self.first, f"last must be at least first, {self.first}, not {self.last}")

    def __contains__(self, iteration: int) -> bool:
        return self.first <= iteration <= self.last


@dataclass(frozen=True)
class Settings:
    """One experiment; `baseline` is an instance of the `Settings` of the baseline that `model` names."""

    model: str
    datasets: list[str]
    baseline: Any = None
    maddr: MaddrSettings = field(default_factory=MaddrSettings)
    seed: int = 0
    image_size: int = 64
    channels: Literal[1, 3] = 1
    iterations: int = 2000
    batch_size: int = 32
    lr: float = 0.001
    lr_step: int | None = None
    lr_gamma: float = 0.8
    mixup: MixupSettings | None = None
    balanced: bool = False
    bf16: bool = True
    feature_cache_mib: int = 2048
    memory_mib: int = 4096
    early_stopping_patience: int | None = 6
    early_stopping_min_delta: float = 0.0
    log_iter: int = 100
    val_iter: int = 100
    sample_iter: int = 1000
    checkpoint_iter: int = 200
    tensorboard: bool = False
    threshold_quantile: float = 0.95

    def __post_init__(self):
        _require(len(self.datasets) > 0, "datasets must name at least one dataset")
        _require(len(set(self.datasets)) == len(self.datasets), "datasets must not name a dataset twice")
        for key in ("image_size", "iterations", "batch_size", "memory_mib", "log_iter", "val_iter", "sample_iter", "checkpoint_iter"):
            _require(getattr(self, key) >= 1, f"{key} must be at least 1, not {getattr(self, key)}")
        _require(self.feature_cache_mib >= 0, f"feature_cache_mib must not be negative, got {self.feature_cache_mib}")
        _require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        _require(self.lr > 0, f"lr must be above 0, not {self.lr}")
        _require(0 < self.lr_gamma <= 1, f"lr_gamma must be above 0 and at most 1, not {self.lr_gamma}")
        _require(self.lr_step is None or self.lr_step >= 1, f"lr_step must be null or at least 1, not {self.lr_step}")
        _require(0 < self.threshold_quantile < 1, f"threshold_quantile must be between 0 and 1, not {self.threshold_quantile}")
