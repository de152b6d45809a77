"""A frozen network as oneDNN, torch's library for CPUs, runs it fastest: each convolution pads and activates on its own.

In torch's eager mode a convolution reads a padded copy, and its activation is another pass over memory: together more than half of the time of an
EfficientNet. Nothing is compiled: this costs milliseconds at the start, and needs no compiler.
"""

import copy
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from anomaly_detection.MADDR_dpa.rec_losses import FoldedConv, FrozenBackbone

logger = logging.getLogger(__name__)

# oneDNN's name and numbers of what may follow a convolution
ACTIVATIONS = {nn.ReLU: ("relu", []), nn.ReLU6: ("hardtanh", [0.0, 6.0]), nn.SiLU: ("swish", [])}
ROUNDING = 1e-4  # relative to a layer's largest feature: what another order of sums may change
FAILURES = (RuntimeError, AttributeError, TypeError, ValueError, NotImplementedError, NameError)  # of tracing, and of another torch's operations


@torch.no_grad()
def fuse(network: FrozenBackbone, layers: Sequence[str], x: Tensor) -> FrozenBackbone:
    """A copy of a network in float32 on the CPU that gives the same features but for rounding, several times as fast.

    Parts that cannot be traced, and whatever follows no known pattern, are taken as they are. The network itself is given back where this torch has
    no oneDNN, or where the copy turns out to compute something else.

    Args:
        network: its batch norms folded.
        layers: those whose features are wanted.
        x: images (B, C, H, W) to compare on; later ones have as many channels.
    """
    if not torch.backends.mkldnn.is_available():
        return network
    fast = copy.deepcopy(network)
    try:
        for parent in (fast, *(child for child in fast.children() if isinstance(child, nn.ModuleDict))):
            for name, child in list(parent.named_children()):
                if not isinstance(child, nn.ModuleDict):
                    setattr(parent, name, _fused(child, x.shape[1]))
        expected, features = network(x, layers), fast(x, layers)
        same = all((features[layer] - value).abs().max() <= ROUNDING * value.abs().max() for layer, value in expected.items())
    except FAILURES as error:
        logger.debug("%s is not fused: %s", network.name, error)
        return network
    return fast if same else network


class _Convolution(nn.Module):
    """A convolution with its padding and activation, of tensors with the channels innermost.

    Args:
        weight, bias, stride, dilation, groups: as `torch.nn.functional.conv2d` takes them.
        padding: left, right, top, bottom.
        activation: of `ACTIVATIONS`, or ("none", []).
        ones: whether a channel of ones is put behind those of x, as `FoldedConv` does.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        padding: Sequence[int],
        geometry: tuple[Sequence[int], Sequence[int], int],
        activation: tuple[str, list[float]],
        ones: bool = False,
    ):
        super().__init__()
        left, right, top, bottom = padding
        # oneDNN is asked to pad alike at both ends; zeros beside the kernel make up for the difference
        weight = F.pad(weight, (max(right - left, 0), max(left - right, 0), max(bottom - top, 0), max(top - bottom, 0)))
        stride, dilation, groups = geometry
        self.arguments: tuple[Any, ...] = ([max(top, bottom), max(left, right)], list(stride), list(dilation), groups)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(memory_format=torch.channels_last), *self.arguments, None)
        self.bias = bias
        self.activation = activation
        self.ones = ones

    def forward(self, x: Tensor) -> Tensor:
        if self.ones:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.arguments, *self.activation, "")


class _Tracer(fx.Tracer):
    """Records what a module does with an image, without `fx.Tracer.trace`: that exchanges the call of every module of the process while it looks, so
    that networks which other threads run meanwhile fail, and two traces at once leave it exchanged for good. Here the leaves tell of their own."""

    def record(self, root: nn.Module) -> fx.Graph:
        """What a forward pass of one argument does; a leaf that it calls is a node of the graph."""
        self.root, self.graph, self.tensor_attrs = root, fx.Graph(), {}
        leaves = {name: module for name, module in root.named_modules() if self.is_leaf_module(module, name)}
        try:
            for name, leaf in leaves.items():
                leaf.forward = partial(self._called, name)
            result = root.forward(self.create_proxy("placeholder", "x", (), {}))
        finally:
            for leaf in leaves.values():
                vars(leaf).pop("forward", None)
        self.create_node("output", "output", (self.create_arg(result),), {})
        return self.graph

    def _called(self, name: str, *args: Any, **kwargs: Any) -> fx.Proxy:
        return self.create_proxy("call_module", name, args, kwargs)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (nn.Conv2d, FoldedConv)) or super().is_leaf_module(module, qualified_name)


class _Alone(nn.Module):
    """Hides the optional arguments of a module, and whether it is one that is not looked into."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return self.module(x)


def _fused(module: nn.Module, image_channels: int) -> nn.Module:
    """The module with fused convolutions; itself where it has none, or where its code takes branches that depend on what it is given."""
    alone = _Alone(module)
    try:
        graph = _Tracer().record(alone)
    except FAILURES as error:
        logger.debug("%s is not fused: %s", type(module).__name__, error)
        return module
    modules = dict(alone.named_modules())
    traced = fx.GraphModule(alone, graph)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    fusions = 0
    for node in list(graph.nodes):
        arguments = _arguments(modules[node.target], image_channels) if node.op == "call_module" else None
        if arguments is None:
            continue
        last, activation = _activation(node, modules)
        name = f"fused{fusions}"
        fusions += 1
        traced.add_module(name, _Convolution(**arguments, activation=activation))
        with graph.inserting_before(node):
            fusion = graph.call_module(name, node.args)
        last.replace_all_uses_with(fusion)
        for replaced in dict.fromkeys((last, node)):
            graph.erase_node(replaced)
    if not fusions:
        return module
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _activation(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, tuple[str, list[float]]]:
    """What alone uses a convolution and can be done with it, or else the convolution itself and nothing."""
    if len(node.users) == 1:
        (user,) = node.users
        known = ACTIVATIONS.get(type(modules[user.target])) if user.op == "call_module" else None
        if known is not None:
            return user, known
    return node, ("none", [])


def _arguments(module: nn.Module, image_channels: int) -> dict[str, Any] | None:
    """Those of `_Convolution`, None of what is no convolution that is known here."""
    if isinstance(module, FoldedConv):
        padding = _padding(module.padding, module.pad)
        weight, geometry = module.grey if image_channels == 1 else module.rgb, (module.stride, (1, 1), 1)
    elif type(module) is nn.Conv2d or hasattr(module, "static_padding"):  # others may do more in between
        padding = _padding(module.padding, getattr(module, "static_padding", None)) if module.padding_mode == "zeros" else None
        weight, geometry = getattr(module, "weight", None), (module.stride, module.dilation, module.groups)
    else:
        return None
    shifted = padding is not None and (padding[0] != padding[1] or padding[2] != padding[3])
    if padding is None or (shifted and set(geometry[1]) != {1}):
        return None
    bias = None if module.bias is None else module.bias.detach()
    return {"weight": weight.detach(), "bias": bias, "padding": padding, "geometry": geometry, "ones": isinstance(module, FoldedConv)}


def _padding(padding: Any, before: nn.Module | None) -> list[int] | None:
    """Left, right, top and bottom of a convolution and of the module that pads before it; None where they are not given as numbers."""
    if isinstance(padding, str):
        return None
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    earlier = before.padding if isinstance(before, nn.ZeroPad2d) else (0, 0, 0, 0)
    return [a + b for a, b in zip(earlier, (columns, columns, rows, rows), strict=True)]
