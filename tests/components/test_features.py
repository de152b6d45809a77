"""Features on a grid against loops in float64, and what a checkpoint knows of the backbone."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from anomaly_detection.components.backbones import find_backbone, fold_batch_norms
from anomaly_detection.components.features import ChannelSums, FrozenFeatures, chunk_of
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, FrozenBackbone
from anomaly_detection.system.precision import true_float32
from tests.system.test_precision import everything, exact


def images(count: int = 3, side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features(grid: int = 4, weights: str = "random:1", layers=("b3", "b5"), side: int = 64) -> FrozenFeatures:
    return FrozenFeatures("efficientnet_lite0", weights, layers, grid, side, 1)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "efficientnet_b4"])
def test_folded_batch_norms_change_nothing(name):
    plain, folded = find_backbone(name, "random:2"), find_backbone(name, "random:2")
    generator = torch.Generator().manual_seed(0)
    for network in (plain, folded):
        generator.manual_seed(0)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # as training leaves them
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    fold_batch_norms(folded)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) <= 0.1 * norms
    layer = list(plain.layers)[4]
    a, b = (network(images(), [layer])[layer] for network in (plain, folded))
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * a.abs().max().item())


@pytest.mark.parametrize("grid", [2, 3, 4, 8])
def test_the_grid_is_the_float64_loop(grid):
    """b3 has 8 x 8 positions here, b5 4 x 4."""
    frozen = features(grid)
    raw = frozen.compute(images())
    found = frozen.on_grid(raw).double().numpy()
    start = 0
    for value in raw.values():
        value = value.double().numpy()
        side = value.shape[-1]
        for i, j in np.ndindex(grid, grid):
            if side >= grid:  # the mean of the positions that it touches
                rows, columns = (slice(k * side // grid, -(-(k + 1) * side // grid)) for k in (i, j))
                expected = value[:, :, rows, columns].mean(axis=(2, 3))
            else:
                expected = bilinear(value, (i + 0.5) * side / grid - 0.5, (j + 0.5) * side / grid - 0.5)
            np.testing.assert_allclose(found[:, start : start + value.shape[1], i, j], expected, rtol=1e-4, atol=1e-5)
        start += value.shape[1]
    assert start == frozen.channels == found.shape[1]


def bilinear(value: np.ndarray, y: float, x: float) -> np.ndarray:
    last = value.shape[-1] - 1
    y, x = (min(max(place, 0), last) for place in (y, x))
    top, left = int(y), int(x)
    total = 0.0
    for i, v in ((top, 1 - (y - top)), (min(top + 1, last), y - top)):
        for j, w in ((left, 1 - (x - left)), (min(left + 1, last), x - left)):
            total = total + v * w * value[:, :, i, j]
    return total


@pytest.mark.parametrize("cut", [1, 3, 10])
def test_sums_of_channels_are_mean_and_deviation(cut):
    generator = torch.Generator().manual_seed(0)
    values = {"a": torch.randn(10, 3, 4, 4, generator=generator) + 100, "b": torch.randn(10, 2, 2, 2, generator=generator)}
    values["b"][:, 1] = 5.0  # hardly varies: a hundredth of the layer's mean deviation
    sums = ChannelSums()
    for start in range(0, 10, cut):
        sums.add({layer: value[start : start + cut] for layer, value in values.items()})
    mean, deviation = sums.statistics()
    np.testing.assert_allclose(mean[:3], values["a"].double().numpy().mean(axis=(0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(deviation[:3], values["a"].double().numpy().std(axis=(0, 2, 3)), rtol=1e-8)
    first = values["b"][:, 0].double().numpy().std()
    np.testing.assert_allclose(deviation[3:], [first, 0.01 * first / 2], rtol=1e-8)
    with pytest.raises(ValueError, match="no images"):
        ChannelSums().statistics()


def test_packed_and_unpacked_are_the_same_and_chunks_do_not_matter():
    frozen = features()
    x = images(20)
    raw = frozen.compute(x)
    packed = frozen.packed(raw)
    assert packed.shape == (20, sum(value[0].numel() for value in raw.values()))
    again = frozen.unpacked(packed)
    for layer, value in raw.items():
        assert torch.equal(again[layer], value)
        torch.testing.assert_close(frozen.compute(x[3:4])[layer], value[3:4], rtol=1e-4, atol=1e-4 * value.abs().max().item())


def test_on_a_gpu_fewer_images_pass_at_a_time_the_larger_they_are():
    sizes = {224: 64, 448: 16, 64: 784, 5000: 1}
    assert {side: chunk_of(torch.empty(1000, 3, side, side, device="meta")) for side in sizes} == sizes


def test_features_are_computed_in_float32_and_by_cudnn(monkeypatch):
    """As for images on a GPU; on a CPU nothing is touched."""
    frozen, seen, devices = features(), [], []
    frozen._on_cpu().register_forward_hook(lambda *_: seen.append(everything()))
    before = everything()
    frozen.compute(images())
    assert seen == [before]
    as_there = "anomaly_detection.components.features.true_float32"
    monkeypatch.setattr(as_there, lambda device: devices.append(device.type) or true_float32(torch.device("cuda")))
    frozen._on_cpu().register_forward_hook(lambda *_: seen.append((exact(), torch.backends.cudnn.enabled)))
    frozen.compute(images())
    assert devices == ["cpu"]
    assert seen[-1] == (True, before["enabled"])
    assert everything() == before


def test_the_backbone_is_in_no_checkpoint_and_other_weights_are_refused():
    frozen = features()
    state = frozen.state_dict()
    assert set(state) == {"mean", "deviation", "weights_hash"}
    same = features()
    same.load_state_dict(state)
    assert same.identity() == frozen.identity()
    other = features(weights="random:2")
    assert other.identity() != frozen.identity() != features(layers=("b3",)).identity()
    with pytest.raises(BackboneError, match=r"the weights of the backbone efficientnet_lite0 are others \(hash .*\) than it was trained with"):
        other.load_state_dict(state)
    assert frozen.double().backbone.mean.dtype == torch.float64, "it moves with the module"


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(BackboneError, match="no layer 'b99'; the layers are stem, b0, b1"):
        features(layers=["b99"])


@pytest.mark.parametrize("layers", [[], ["b3", "b3"], ["b3", "b5", "b3"]])
def test_layers_are_null_or_each_named_once(layers):
    with pytest.raises(BackboneError, match="layers must be null or name layers of efficientnet_lite0, each once, not"):
        features(layers=layers)


@pytest.mark.parametrize("key", ["conv1.weight", "layer1.0.bn1.bias", "layer2.1.conv2.weight"])
def test_weights_that_are_no_numbers_are_refused(key, tmp_path):
    state = resnet18(weights=None).state_dict()
    state[key].view(-1)[0] = float("nan")
    torch.save(state, tmp_path / "damaged.pth")
    with pytest.raises(BackboneError, match="the weights of resnet18 are damaged: its features at layer2 are not finite"):
        FrozenFeatures("resnet18", str(tmp_path / "damaged.pth"), ["layer2"], 4, 32, 1)


def test_images_that_the_network_cannot_take_are_refused(monkeypatch):
    def forward(*_):
        raise AssertionError("Input height (64)\nshould be divisible by patch size (14).")

    monkeypatch.setattr(FrozenBackbone, "forward", forward)
    with pytest.raises(BackboneError, match=r"takes no images of 64 x 64 pixels \(Input height \(64\) should be .*\); choose another image_size"):
        features()


@pytest.mark.parametrize(("grid", "side"), [(17, 64), (300, 64), (9, 32)])
def test_a_grid_finer_than_the_layers_is_refused(grid, side):
    with pytest.raises(BackboneError, match=f"grid must be at most {side // 4} for images of {side} pixels, not {grid}"):
        features(grid, side=side)
