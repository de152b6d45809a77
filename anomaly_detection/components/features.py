"""Features of images at several layers of a frozen backbone, side by side on one grid of positions: what detectors of patches look at."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anomaly_detection.components.backbones import default_layers, find_backbone, fold_batch_norms, weights_hash
from anomaly_detection.components.feature_store import FeatureStore
from anomaly_detection.components.fused import fuse
from anomaly_detection.MADDR_dpa.rec_losses import SMALLEST_DEVIATION, BackboneError, FrozenBackbone
from anomaly_detection.system.precision import true_float32

# What passes through the backbone at a time. On a CPU images: the first layers of more leave the caches (6 MB for each of 224 pixels a side). On a
# GPU pixels: kernels of a few images take as long to launch as to run, and what images take in memory grows with their pixels.
CPU_CHUNK, GPU_PIXELS = 4, 64 * 224**2
FINEST = 4  # pixels a side of a position of the grid, at least; the layers that are looked at by default have 8 and more


class ChannelSums:
    """Sums over images and positions of every channel and its square, in float64."""

    def __init__(self):
        self._sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def add(self, features: Mapping[str, Tensor]) -> None:
        """features: {layer: (B, C, H, W)}."""
        for layer, value in features.items():
            value = doubled(value).transpose(0, 1).flatten(1)
            count, total, square = self._sums.get(layer, (0, 0.0, 0.0))
            self._sums[layer] = count + value.shape[1], total + value.sum(dim=1), square + value.square().sum(dim=1)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C of all layers) of every channel; one that hardly varies has a hundredth of its layer's mean deviation."""
        if not self._sums:
            raise ValueError("no images to take feature statistics from")
        means, deviations = [], []
        for count, total, square in self._sums.values():
            mean = total / count
            deviation = (square / count - mean**2).clamp(min=0).sqrt()
            means.append(mean)
            deviations.append(deviation.clamp(min=SMALLEST_DEVIATION * deviation.mean().item()))
        return torch.cat(means), torch.cat(deviations)


class FrozenFeatures(nn.Module):
    """Images (B, 1 or 3, S, S) in [-1, 1] -> features (B, C, grid, grid) float32, standardised per channel over the training images.

    Layers with more positions than the grid are averaged by area, those with fewer are stretched bilinearly. The backbone is frozen and no part of
    the state_dict; the statistics and the hash of its weights are, and a state_dict of other weights is refused.

    Args:
        backbone, weights: see `find_backbone`.
        layers: by name; None takes `default_layers`.
        grid: positions a side.
        image_size, image_channels: of the images.

    Attributes:
        channels: C.
        store: where features of known images are looked up; None computes them all.

    Raises:
        BackboneError: the backbone, its weights or a layer cannot be had, or it takes no images of this size; the grid is finer than they are.
    """

    def __init__(self, backbone: str, weights: str, layers: Sequence[str] | None, grid: int, image_size: int, image_channels: int):
        super().__init__()
        network = find_backbone(backbone, weights)
        self.layers = default_layers(network) if layers is None else list(layers)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise BackboneError(f"layers must be null or name layers of {backbone}, each once, not {self.layers}")
        network.check_layers(self.layers)
        digest = weights_hash(network)
        fold_batch_norms(network)
        # Hidden in a tuple from the module tree: frozen weights have no place in a checkpoint.
        self._backbone = (network,)
        self._fast: tuple[FrozenBackbone, ...] = ()
        self.grid = grid
        self.image_size, self.image_channels = image_size, image_channels
        if FINEST * grid > image_size:  # beyond that it takes memory and tells nothing new
            raise BackboneError(f"grid must be at most {image_size // FINEST} for images of {image_size} pixels, not {grid}")
        features = _tried(network, self.layers, image_channels, image_size)
        self.shapes = {layer: tuple(features[layer].shape[1:]) for layer in self.layers}
        self.channels = sum(shape[0] for shape in self.shapes.values())
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("deviation", torch.ones(self.channels))
        self.register_buffer("weights_hash", torch.tensor(list(digest), dtype=torch.uint8))
        self.store: FeatureStore | None = None

    @property
    def backbone(self) -> nn.Module:
        """The frozen network."""
        return self._backbone[0]

    def _apply(self, fn, *args, **kwargs):
        self.backbone._apply(fn, *args, **kwargs)
        self._fast = ()
        return super()._apply(fn, *args, **kwargs)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_fast": ()}  # oneDNN's tensors are not copied

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        loaded = state_dict.get(prefix + "weights_hash")
        if loaded is not None and not torch.equal(loaded.cpu(), self.weights_hash.cpu()):
            here, there = (bytes(value.tolist()).hex()[:16] for value in (self.weights_hash, loaded))
            raise BackboneError(f"the weights of the backbone {self.backbone.name} are others (hash {here}) than it was trained with (hash {there})")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def identity(self) -> list:
        """Plain values that tell these features from others: weights, layers and their shapes."""
        return [bytes(self.weights_hash.tolist()).hex(), self.shapes]

    @torch.no_grad()
    def compute(self, x: Tensor) -> dict[str, Tensor]:
        """{layer: features (B, C, H, W)} of images, from the backbone."""
        if torch.compiler.is_compiling():
            return self.backbone(x, self.layers)
        network = self._on_cpu() if x.device.type == "cpu" else self.backbone
        with true_float32(x.device):  # TensorFloat-32 would tell images of another machine apart
            parts = [network(part, self.layers) for part in x.split(chunk_of(x))]
        return {layer: torch.cat([part[layer] for part in parts]).float() for layer in self.layers}

    def _on_cpu(self) -> FrozenBackbone:
        """What is fastest there, made when it is first wanted."""
        if self.mean.dtype != torch.float32:
            return self.backbone
        if not self._fast:
            x = torch.rand(2, self.image_channels, self.image_size, self.image_size, generator=torch.Generator().manual_seed(0)) * 2 - 1
            self._fast = (fuse(self.backbone, self.layers, x),)
        return self._fast[0]

    def raw(self, x: Tensor) -> dict[str, Tensor]:
        """{layer: features (B, C, H, W)} of images, looked up where all of them are known."""
        rows = None if self.store is None or torch.compiler.is_compiling() else self.store.look_up(x)
        return self.compute(x) if rows is None else self.unpacked(rows.to(x.device))

    def packed(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, numbers) of {layer: features}, for `FeatureStore`."""
        return torch.cat([features[layer].permute(0, 2, 3, 1).flatten(1) for layer in self.layers], dim=1)

    def unpacked(self, rows: Tensor) -> dict[str, Tensor]:
        """The inverse of `packed`, in float32."""
        sizes = [c * h * w for c, h, w in self.shapes.values()]
        parts = zip(self.shapes.items(), rows.float().split(sizes, dim=1), strict=True)
        return {layer: part.view(-1, h, w, c).permute(0, 3, 1, 2) for (layer, (c, h, w)), part in parts}

    def on_grid(self, features: Mapping[str, Tensor]) -> Tensor:
        """(B, C, grid, grid) of {layer: features}, not standardised."""
        return torch.cat([_resized(features[layer], self.grid) for layer in self.layers], dim=1)

    def standardise_by(self, sums: ChannelSums) -> None:
        """Take the statistics, for good."""
        for buffer, value in zip((self.mean, self.deviation), sums.statistics(), strict=True):
            buffer.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        mean, deviation = (value.view(1, -1, 1, 1) for value in (self.mean, self.deviation))
        # means of positions, so that it is the same before and after
        return (self.on_grid(self.raw(x)) - mean) / deviation


@torch.no_grad()
def _tried(network: FrozenBackbone, layers: Sequence[str], channels: int, size: int) -> Mapping[str, Tensor]:
    """{layer: features} of a grey image; raises BackboneError where the network cannot take it or its weights are no numbers."""
    try:
        features = network(network.mean.new_zeros(1, channels, size, size), layers)
    except (AssertionError, RuntimeError, ValueError) as error:  # such as a transformer whose patches do not divide the image
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackboneError(f"{network.name} takes no images of {size} x {size} pixels ({reason}); choose another image_size") from None
    for layer, value in features.items():
        if not value.isfinite().all():
            raise BackboneError(f"the weights of {network.name} are damaged: its features at {layer} are not finite numbers; take other weights")
    return features


def chunk_of(x: Tensor) -> int:
    """Of images (B, C, H, W), how many pass through a backbone at a time on their device."""
    return CPU_CHUNK if x.device.type == "cpu" else max(1, GPU_PIXELS // x.shape[2:].numel())


def doubled(value: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return (value.cpu() if value.device.type == "mps" else value).double()


def _resized(features: Tensor, side: int) -> Tensor:
    if features.shape[-1] >= side:
        return F.interpolate(features, (side, side), mode="area") if features.shape[-1] > side else features
    return F.interpolate(features, (side, side), mode="bilinear", align_corners=False)
