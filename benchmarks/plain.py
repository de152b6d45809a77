"""The same work as the published code goes about it: float32, channels first, images from PNG files in every epoch by workers of a DataLoader,
two decoder passes where the loss has two parts, features of the original computed again in every step, by the backbone as its package has it, a read
of the loss in every step."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import vgg19

from anomaly_detection.baseline import Assessment, Baseline, Batch
from anomaly_detection.components.backbones import find_backbone
from anomaly_detection.config.settings import Settings
from anomaly_detection.MADDR_dpa.dpa import DPA
from anomaly_detection.MADDR_dpa.rec_losses import RelativePerceptualL1Loss
from anomaly_detection.registry import find_baseline

LAST_LAYER = 22  # of torchvision's vgg19().features: r42
LAYERS = {13: "r32", 22: "r42"}
READERS = min(8, os.cpu_count() or 1)  # processes that read images
AHEAD = 2  # batches that each makes before they are asked for, as torch's default has it


class PlainImages(Dataset):
    """Images read and resized anew whenever one is asked for, with organ, modality and place."""

    def __init__(self, paths: Sequence[Path], organ: Tensor, modality: Tensor, size: int):
        self.paths, self.organ, self.modality = paths, organ, modality
        steps = [transforms.Grayscale(), transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, Tensor, int]:
        return self.transform(Image.open(self.paths[place])), self.organ[place], self.modality[place], place


def plain_batches(images: PlainImages, size: int, device: torch.device) -> Iterator[Batch]:
    """Shuffled batches without end. As many as READERS make beforehand are dropped: they would be there at once, whatever reading takes."""
    sampler = torch.utils.data.RandomSampler(images, replacement=True, num_samples=10**9)
    loader = DataLoader(images, size, sampler=sampler, num_workers=READERS, prefetch_factor=AHEAD, pin_memory=device.type == "cuda")
    for tensors in itertools.islice(loader, READERS * AHEAD, None):
        yield Batch(*(tensor.to(device) for tensor in tensors))


class PlainVGG19(torch.nn.Module):
    """torchvision's VGG19 up to r42, with the random weights that "random:1" names."""

    def __init__(self):
        super().__init__()
        self.features = vgg19(weights=None).features[: LAST_LAYER + 1]
        generator = torch.Generator().manual_seed(1)
        for layer in self.features:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * (2 / (9 * layer.in_channels)) ** 0.5
                layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=generator)
                # The recipe draws for all 16 convolutions in turn; those after the last one used come later.
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = (x.expand(-1, 3, -1, -1) * 0.5 + 0.5 - self.mean) / self.std
        found = {}
        for place, layer in enumerate(self.features):
            # torchvision's in-place ReLU would overwrite what autograd keeps of the layer before only if that were kept: it is not.
            h = layer(h)
            if place in LAYERS:
                found[LAYERS[place]] = h
        return found


class PlainDPA(DPA):
    """DPA with MADDR as published: each part of the loss decodes for itself."""

    def __init__(self, settings: Settings):
        super().__init__(settings)
        self.perceptual = "relative_perceptual_L1" in settings.baseline.rec_loss
        if self.perceptual:
            self.vgg = PlainVGG19()

    def _at_stage(self, x: Tensor) -> Tensor:
        return x

    def relative_perceptual(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,): mean over the layers of mean |f(x) - f(y)| / mean |f(x)|, f less their mean, divided by their deviation."""
        with torch.no_grad():
            of_x = self.vgg(x)
        of_y, terms = self.vgg(y), []
        statistics = next(module for module in self.rec_loss.modules() if isinstance(module, RelativePerceptualL1Loss)).statistics
        for layer in of_x:
            mean, divisor = statistics.of(layer)
            a, b = (of_x[layer] - mean) / divisor, (of_y[layer] - mean) / divisor
            terms.append((a - b).abs().mean(dim=(1, 2, 3)) / a.abs().mean(dim=(1, 2, 3)))
        return torch.stack(terms).mean(dim=0)

    def assess(self, x: Tensor, with_map: bool) -> Assessment:
        z = self._encode(x)
        error = (x - self._decode(z)).abs().mean(dim=(1, 2, 3))
        score = self.relative_perceptual(x, self._decode(z)) + 0.1 * error if self.perceptual else error
        return Assessment(z.flatten(1), score)

    def _autoencoder_step(self, batch: Batch, optimizer: Optimizer) -> dict[str, Tensor]:
        x = batch.image
        z = self._encode(x)
        rec = F.l1_loss(self._decode(z), x)
        if self.perceptual:
            rec = self.relative_perceptual(x, self._decode(z)).mean() + 0.1 * rec
        constraint, log = self.constraint(z.flatten(1), batch)
        loss = rec + constraint
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        return {"loss": loss.detach(), **log}


def use_plain_backbone(baseline: Baseline) -> None:
    """Let a baseline that looks at frozen features compute them of a whole batch at once, batch norms, paddings and activations each by itself."""
    options, layers = baseline.settings.baseline, baseline.frozen.layers
    network = find_backbone(options.backbone, options.backbone_weights).to(baseline.frozen.mean.device, memory_format=torch.contiguous_format)
    baseline.frozen.compute = torch.no_grad()(lambda x: network(x, layers))


def plain_class(model: str) -> type[Baseline]:
    """DPA as published; the other baselines have no published MADDR: their own step, in float32 and channels first, will do."""
    return PlainDPA if model == "MADDR_dpa" else find_baseline(model)
