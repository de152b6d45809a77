"""A fused network gives the features of the plain one in float64, whatever stands around its convolutions, or it is not taken."""

import copy
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from anomaly_detection.components import fused
from anomaly_detection.components.backbones import default_layers, find_backbone, fold_batch_norms
from anomaly_detection.components.features import FrozenFeatures
from anomaly_detection.components.fused import _Convolution, fuse
from anomaly_detection.MADDR_dpa.rec_losses import FoldedConv

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "efficientnet_b4", "vgg19"])
def test_backbones_give_the_features_of_the_plain_network_in_float64(name, channels):
    layers = list(find_backbone(name, "random:2").layers)[2:5:2]
    frozen = FrozenFeatures(name, "random:2", layers, 4, 64, channels)
    x = drawn(6, channels, 64, 64).clamp(-1, 1)
    features = frozen.compute(x)
    assert frozen._on_cpu() is not frozen.backbone
    for layer, value in find_backbone(name, "random:2").double()(x.double(), layers).items():
        assert (features[layer] - value).abs().max() < 1e-4 * value.std()


@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "groups"),
    [
        ((0, 0, 0, 0), (1, 1), (1, 1), 1),
        ((0, 1, 0, 1), (2, 2), (1, 1), 4),
        ((1, 2, 1, 2), (2, 2), (1, 1), 1),
        ((2, 0, 1, 3), (2, 1), (1, 1), 2),
        ((2, 2, 1, 1), (1, 2), (1, 2), 1),
    ],
)
@pytest.mark.parametrize(("activation", "expected"), [(("none", []), lambda h: h), (("hardtanh", [0.0, 6.0]), lambda h: np.clip(h, 0, 6))])
def test_a_convolution_is_the_loop_in_float64(padding, stride, dilation, groups, activation, expected):
    x, weight, bias = drawn(2, 4, 7, 8), 2 * drawn(4, 4 // groups, 3, 3, seed=1), drawn(4, seed=2)
    found = _Convolution(weight, bias, padding, (stride, dilation, groups), activation)(x)
    left, right, top, bottom = padding
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = ((padded.shape[2 + axis] - 2 * dilation[axis] - 1) // stride[axis] + 1 for axis in (0, 1))
    assert found.shape == (2, 4, rows, columns)
    for b, out, i, j in np.ndindex(found.shape):
        group = slice(out // (4 // groups) * (4 // groups), (out // (4 // groups) + 1) * (4 // groups))
        y, z = i * stride[0], j * stride[1]
        patch = padded[b, group, y : y + 2 * dilation[0] + 1 : dilation[0], z : z + 2 * dilation[1] + 1 : dilation[1]]
        value = (patch * weight[out].double().numpy()).sum() + float(bias[out])
        assert found[b, out, i, j].item() == pytest.approx(expected(value), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "convolutions", "activated"),
    [
        ("efficientnet_lite0", 1 + 2 + 15 * 3, {"hardtanh": 1 + 1 + 15 * 2}),  # the stem, a block that widens nothing, and those that do
        ("vgg19", 16, {}),  # whose activations are layers of their own
        ("resnet18", 1 + 16 + 3, {"relu": 1 + 8}),  # the stem, two in each of eight blocks, three beside a block; the second is added first
        ("wide_resnet50_2", 1 + 48 + 4, {"relu": 1 + 32}),
        ("efficientnet_b4", 1 + 2 * 4 + 30 * 5 + 1, {"swish": 1 + 2 * 2 + 30 * 3 + 1}),  # two and three of each block are of its gate
    ],
)
def test_every_convolution_is_fused(name, convolutions, activated):
    network = find_backbone(name, "random:0")
    fold_batch_norms(network)
    fast = fuse(network, default_layers(network), drawn(1, 1, 64, 64).clamp(-1, 1))
    found = [module for module in fast.modules() if isinstance(module, _Convolution)]
    assert len(found) == convolutions
    assert not [module for module in fast.modules() if isinstance(module, (nn.Conv2d, FoldedConv, nn.BatchNorm2d))]
    assert Counter(module.activation[0] for module in found if module.activation[0] != "none") == activated


class Looks(nn.Module):
    """Does, in its forward pass, something beside, each time that it is looked at and each time that it runs."""

    def __init__(self, beside):
        super().__init__()
        self.conv, self.beside = nn.Conv2d(2, 2, 1), beside

    def forward(self, x):
        self.beside(x)
        return self.conv(x)


def test_other_threads_run_their_networks_while_one_is_fused(monkeypatch):
    monkeypatch.setattr(nn.Module, "__call__", nn.Module.__call__)  # put back, whatever happens
    theirs, found = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), []
    expected = theirs(torch.ones(1, 3))

    def run_theirs(x):
        if isinstance(x, fx.Proxy):
            thread = threading.Thread(target=lambda: found.append(theirs(torch.ones(1, 3))))
            thread.start()
            thread.join()

    chain = Chain(Looks(run_theirs)).eval().requires_grad_(False)
    assert fuse(chain, ["one"], drawn(1, 2, 4, 4)) is not chain
    assert [torch.equal(each, expected) for each in found] == [True]


def test_two_threads_that_fuse_at_once_leave_every_network_whole(monkeypatch):
    before = nn.Module.__call__
    monkeypatch.setattr(nn.Module, "__call__", before)
    monkeypatch.setattr(nn.Module, "__getattr__", nn.Module.__getattr__)
    both = threading.Barrier(2, timeout=20)

    def meet(x):
        if isinstance(x, fx.Proxy):
            both.wait()

    chains = [Chain(Looks(meet)).eval().requires_grad_(False) for _ in range(2)]
    x, fused_ones = drawn(1, 2, 4, 4), {}

    def fuse_one(number):
        fused_ones[number] = fuse(chains[number], ["one"], x)

    threads = [threading.Thread(target=fuse_one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert nn.Module.__call__ is before
    for number, chain in enumerate(chains):
        assert fused_ones[number] is not chain
        torch.testing.assert_close(fused_ones[number](x, ["one"])["one"], chain(x, ["one"])["one"])


def test_many_threads_may_predict_first():
    frozen, x = FrozenFeatures("efficientnet_lite0", "random:1", ["b2"], 4, 32, 1), drawn(2, 1, 32, 32).clamp(-1, 1)
    expected, found = copy.deepcopy(frozen).compute(x)["b2"], []
    threads = [threading.Thread(target=lambda: found.append(frozen.compute(x)["b2"])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [torch.equal(each, expected) for each in found] == [True] * 6


class Skips(nn.Module):
    """What comes before an activation is used as well."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()

    def forward(self, x):
        h = self.conv(x)
        return self.act(h) - h


class Weighs(nn.Conv2d):
    """Does more than a convolution."""

    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.std(), self.bias)


class Branches(nn.Module):
    """Looks at what it is given: cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else self.conv(-x)


PARTS = {
    "activation in place": nn.Sequential(nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
    "activation that is not known": nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Hardtanh(-0.1, 0.1)),
    "padding by name": nn.Sequential(nn.Conv2d(2, 2, 3, padding="same"), nn.SiLU()),
    "padding by reflection": nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.ReLU6()),
    "skip": Skips(),
    "more than a convolution": Weighs(2, 2, 1),
    "branch": Branches(),
    "no convolution": nn.MaxPool2d(2),
}


class Chain(nn.Module):
    """A backbone of one part."""

    def __init__(self, part):
        super().__init__()
        self.name, self.layers = "chain", nn.ModuleDict({"one": part})

    def forward(self, x, names):
        return {"one": self.layers["one"](x)}


@pytest.mark.parametrize("part", PARTS)
def test_whatever_stands_around_a_convolution_is_kept(part):
    chain = Chain(copy.deepcopy(PARTS[part])).eval().requires_grad_(False)
    x = drawn(3, 2, 8, 8)
    fast = fuse(chain, ["one"], x)
    expected = Chain(copy.deepcopy(chain.layers["one"])).double()(x.double(), ["one"])["one"]
    torch.testing.assert_close(fast(x, ["one"])["one"].double(), expected, rtol=1e-5, atol=1e-5)
    names = [name for name, _ in fast.named_modules() if "fused" in name]
    assert bool(names) == (part in ("activation in place", "activation that is not known", "skip"))


def wrong(monkeypatch):
    monkeypatch.setattr(fused, "ACTIVATIONS", {nn.ReLU6: ("relu", [])})


def raising(monkeypatch):
    monkeypatch.setattr(fused, "ACTIVATIONS", {nn.ReLU6: ("of another version", [])})


def absent(monkeypatch):
    monkeypatch.setattr(torch.backends, "mkldnn", SimpleNamespace(is_available=lambda: False))


@pytest.mark.parametrize("trouble", [wrong, raising, absent])
def test_the_plain_network_serves_where_the_fused_one_does_not(trouble, monkeypatch):
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU6()).requires_grad_(False)
    trouble(monkeypatch)
    chain = Chain(network)
    assert fuse(chain, ["one"], 100 * drawn(3, 2, 8, 8)) is chain


def test_a_copy_and_another_precision_have_networks_of_their_own():
    frozen = FrozenFeatures("efficientnet_lite0", "random:1", ["b2"], 4, 32, 1)
    x = drawn(2, 1, 32, 32).clamp(-1, 1)
    before = frozen.compute(x)["b2"]
    assert torch.equal(copy.deepcopy(frozen).compute(x)["b2"], before)
    double = copy.deepcopy(frozen).double()
    assert double._on_cpu() is double.backbone
    torch.testing.assert_close(double.compute(x.double())["b2"], before, rtol=1e-4, atol=1e-4)
    assert torch.equal(double.float().compute(x)["b2"], before)
