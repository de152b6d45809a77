"""What is measured: a baseline with MADDR on phantoms, as this project runs it and as the published code would."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from anomaly_detection.baseline import Baseline, Batch, Phase
from anomaly_detection.components.backbones import find_backbone
from anomaly_detection.components.features import CPU_CHUNK
from anomaly_detection.config.layers import Layer, read_layers
from anomaly_detection.config.paths import CONFIGS
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource, ImageSet
from anomaly_detection.data.order import ShuffledIndices
from anomaly_detection.data.phantom.datasets import write_phantoms
from anomaly_detection.evaluation.scores import Scores, score_images
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.registry import build_settings, find_baseline
from anomaly_detection.training.loop import EVALUATION_BATCH, Progress, runs_in_bf16, steps
from benchmarks.backbone import by_onnxruntime
from benchmarks.measure import Peak, operations
from benchmarks.plain import PlainImages, plain_batches, plain_class, use_plain_backbone

ON_FEATURES = {"gaussian": 224, "feature_ae": 224}  # models that look at a frozen backbone, and the pixels a side that it takes
REC_LOSS = {"compose": {"relative_perceptual_L1": 1.0, "l1": 0.1}, "l1": {"l1": 1.0}}


@dataclass(frozen=True)
class Case:
    """One row of a table.

    Attributes:
        model: name of the baseline.
        loss: "compose" (VGG19's r32 and r42, and L1) or "l1" for DPA, "" for the others.
        size, batch: pixels a side, images a step.
    """

    model: str
    loss: str
    size: int
    batch: int

    def settings(self) -> Settings:
        """Those of the paper's universal network, with random VGG19 weights: the work is the same."""
        values: dict[str, Any] = {"image_size": self.size, "batch_size": self.batch, "maddr": {"enabled": True}}
        if self.model == "MADDR_dpa":
            values["baseline"] = {"rec_loss": REC_LOSS[self.loss], "backbone": "vgg19", "backbone_weights": "random:1"}
        return build_settings([*read_layers(CONFIGS / self.model / "universal.yaml"), Layer("benchmark", values)])


def cases(models: Sequence[str], losses: Sequence[str], sizes: Sequence[int], batches: Sequence[int]) -> Iterator[Case]:
    """Every combination; only DPA has a choice of losses, and what looks at frozen features has one size."""
    for model in models:
        for loss in losses if model == "MADDR_dpa" else [""]:
            for size in [ON_FEATURES[model]] if model in ON_FEATURES else sizes:
                for batch in batches:
                    yield Case(model, loss, size, batch)


def benchmark_images(root: Path | None, size: int) -> tuple[ImageSet, list[Path]]:
    """The training images of all datasets under a data root and their files; without a root, phantoms of 512 pixels, as CT slices have."""
    if root is None:
        root = Path("data/benchmark")
        if not is_phantom(root):
            write_phantoms(root, images=600, size=512)
    source = DataSource(root)
    datasets = source.available()
    images = source.load(datasets, "train", source.preprocessing(datasets, size, 1))
    folders = {name: root / spec.root for name, spec in source.catalog.items()}
    return images, [folders[dataset] / name for name, dataset in zip(images.names, images.datasets, strict=True)]


class Project:
    """The baseline as the project trains and scores it."""

    def __init__(self, case: Case, images: ImageSet, device: torch.device):
        settings = self.settings = case.settings()
        self.images, self.device = images.to(device), device
        self.baseline = _built(find_baseline(case.model), settings).to(device)
        self.baseline.bf16 = runs_in_bf16(settings, device)
        self.baseline.prepare(self.images.batches(EVALUATION_BATCH))
        self.indices = ShuffledIndices(len(images), seed=0)

    def step(self, phase: Phase) -> Callable[[], dict]:
        """A training step of a phase, its data included."""
        stream = steps(self.baseline, self.images, self.settings, Progress(self.baseline.phases().index(phase)))
        next(stream)  # what begins the phase is no part of a step
        return lambda: next(stream)[2]

    def scoring(self, batch: int) -> Callable[[], Scores]:
        """Scoring of so many images, as commands do it."""
        return lambda: score_images(self.baseline, [self.images.batch(self.indices.take(batch)).image])

    def scoring_rivals(self, batch: int, peak: Peak) -> dict[str, Callable[[], Callable[[], Any]]]:
        """For `in_turns`: scoring, and what `scoring_limit` is told by."""
        rivals = {"project": lambda: self.scoring(batch), "peak": peak.measure}
        if self.baseline.frozen is not None and self.device.type == "cpu":
            options, layers = self.settings.baseline, self.baseline.frozen.layers
            x = self.images.batch(self.indices.take(batch)).image
            engine = by_onnxruntime(find_backbone(options.backbone, options.backbone_weights), layers, x, CPU_CHUNK)
            rivals["engine"] = lambda: engine
        return rivals

    def scoring_limit(self, batch: int, peak: Peak, times: Mapping[str, float]) -> float:
        """Seconds: the convolutions and matrix products at the rate of float32 products; on a CPU those of a frozen backbone, whose convolutions are
        depthwise, in the time of the fastest engine at hand."""
        step = self.scoring(batch)
        if "engine" not in times:
            return operations(step) / peak.rates[torch.float32]
        frozen = self.baseline.frozen
        known = frozen.compute(self.images.batch(self.indices.take(batch)).image)
        with mock.patch.object(frozen, "compute", return_value=known):
            return times["engine"] + operations(step) / peak.rates[torch.float32]


class Plain:
    """The baseline as the published code trains and scores it."""

    def __init__(self, case: Case, images: ImageSet, paths: Sequence[Path], device: torch.device):
        settings = self.settings = replace(case.settings(), feature_cache_mib=0, bf16=False)
        self.device = device
        self.baseline = _built(plain_class(case.model), settings).to(device)
        # Layouts and kernels as torch's defaults have them.
        self.baseline.to(memory_format=torch.contiguous_format)
        if self.baseline.frozen is not None:
            use_plain_backbone(self.baseline)
        self.baseline.prepare(images.to(device).batches(EVALUATION_BATCH))
        self.files = PlainImages(paths, images.organ, images.modality, case.size)

    def batches(self, size: int) -> Iterator[Batch]:
        return plain_batches(self.files, size, self.device)

    def step(self, phase: Phase) -> Callable[[], dict]:
        """A training step of a phase, its data included."""
        baseline, batches = self.baseline, self.batches(phase.batch_size)
        optimizers = baseline.optimizers(phase)
        baseline.phase = phase
        baseline.begin_phase(phase, (), 0)

        def step() -> dict:
            baseline.train()
            losses = baseline.training_step(next(batches), optimizers)
            return losses | baseline.after_step(losses, optimizers)

        return step


def _built(kind: type[Baseline], settings: Settings) -> Baseline:
    torch.manual_seed(0)
    baseline = kind(settings)
    torch.manual_seed(1)  # the same heads, whatever else the networks of one side draw
    baseline.attach(MADDRConstraint(baseline.latent_dim))
    return baseline
