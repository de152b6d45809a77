"""Every backbone gives the features of the network that it is named after, with the normalisation that this was trained with."""

import hashlib
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from anomaly_detection.components.backbones import default_layers, find_backbone, told, weights_hash
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, PerceptualLoss
from tests.helpers import toy_images
from tests.test_baselines import built, settings_of

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def grey(side: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def standardised(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([((each + 1) / 2).repeat(3, 1, 1).sub(MEAN).div(STD) for each in x])


def saved(name: str, path) -> nn.Module:
    torch.manual_seed(3)
    network = models.get_model(name, weights=None).eval()
    torch.save(network.state_dict(), path)
    return network


def test_a_resnet_of_a_file_gives_what_torchvision_gives(tmp_path):
    network = saved("resnet18", tmp_path / "weights.pth")
    h = network.maxpool(network.relu(network.bn1(network.conv1(standardised(grey())))))
    second = network.layer2(network.layer1(h))
    features = find_backbone("resnet18", str(tmp_path / "weights.pth"))(grey(), ["layer2", "layer3"])
    torch.testing.assert_close(features["layer2"], second, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features["layer3"], network.layer3(second), rtol=1e-4, atol=1e-5)


def test_an_efficientnet_of_a_file_gives_what_torchvision_gives(tmp_path):
    network = saved("efficientnet_b4", tmp_path / "weights.pth")
    expected = network.features[:5](standardised(grey()))
    found = find_backbone("efficientnet_b4", str(tmp_path / "weights.pth"))(grey(), ["b4"])["b4"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg19", "resnet18", "efficientnet_b4"])
def test_default_layers_exist_and_random_weights_follow_the_seed(name):
    before = torch.random.get_rng_state()
    one, same, other = (find_backbone(name, f"random:{seed}") for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    layers = default_layers(one)
    assert set(layers) <= set(one.layers)
    assert set(layers) == set(one.default_weights) or name in ("efficientnet_lite0", "vgg19")
    first, again, different = (backbone(grey(32), layers[:1])[layers[0]] for backbone in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.allclose(first, different)
    assert weights_hash(one) == weights_hash(same) != weights_hash(other)


def test_a_perceptual_loss_takes_a_backbone():
    backbone = find_backbone("resnet18", "random:0")
    loss = PerceptualLoss("none", feature_weights={"layer1": 1.0}, backbone=backbone)
    x, y = grey(), grey(seed=1)
    a, b = (backbone(each, ["layer1"])["layer1"].double().numpy() for each in (x, y))
    np.testing.assert_allclose(loss(x, y).numpy(), ((a - b) ** 2).reshape(2, -1).mean(axis=1), rtol=1e-5)


def test_a_file_is_told_by_its_hash(tmp_path):
    (tmp_path / "some.pth").write_bytes(b"weights")
    assert told("resnet18", str(tmp_path / "some.pth")) == f"resnet18 (some.pth, SHA-256 {hashlib.sha256(b'weights').hexdigest()[:16]})"
    assert told("resnet18", "random:4") == "resnet18 (random:4)"


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("resnet19", "pretrained", "no backbone 'resnet19'; the choices are efficientnet_lite0, vgg19, .*, or timm:NAME; did you mean resnet18?"),
        ("timm", "pretrained", "no backbone 'timm'; the choices are .*, or timm:NAME$"),
        ("resnet18", "absent.pth", "absent.pth: no such file of resnet18 weights; the choices are pretrained, random:SEED"),
        ("resnet18", "random:x", "random:x: no such file"),
        ("resnet18", "pretrained", "no route to host.*resnet18-f37072fd.pth.*checkpoints.*efficientnet_lite0.*random:SEED"),
        ("efficientnet_b4", "pretrained", "no route to host.*efficientnet_b4"),
    ],
)
def test_what_cannot_be_had_is_said_with_the_choices(name, weights, words, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(BackboneError, match=words) as caught:
        find_backbone(name, weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "called"), [("resnet18", "resnet18"), ("efficientnet_lite0", "EfficientNet-Lite0")])
@pytest.mark.parametrize("content", [{"conv1.weight": torch.zeros(64, 3, 7, 7)}, {"some": "text"}, {}])
def test_weights_of_another_network_are_refused(name, called, content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(BackboneError, match=rf"^\S*other\.pth: not the weights of {called}: .*Missing key") as caught:
        find_backbone(name, str(tmp_path / "other.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "vgg19"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_a_damaged_file_of_weights_is_one_line_that_names_the_file_once(name, content, tmp_path):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(BackboneError, match=r"^\S*damaged\.pth: not a file of .* weights, or a damaged one; fetch it again") as caught:
        find_backbone(name, str(tmp_path / "damaged.pth"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("damaged.pth") == 1


@pytest.mark.parametrize("key", ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.bn2.bias"])
def test_one_other_number_anywhere_in_the_weights_changes_their_hash(key, tmp_path):
    state = saved("resnet18", tmp_path / "one.pth").state_dict()
    state[key].view(-1)[-1] += 0.25
    torch.save(state, tmp_path / "other.pth")
    one, other = (weights_hash(find_backbone("resnet18", str(tmp_path / f"{name}.pth"))) for name in ("one", "other"))
    assert one != other


# --- timm, which need not be installed: a stand-in has the few functions that are called


class Patches(nn.Module):
    """Gives each pixel of a standardised image, doubled, at the second layer, and innermost channels where it is told to."""

    def __init__(self, output_fmt="NCHW", layers=("one", "two")):
        super().__init__()
        self.pretrained_cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0)}
        self.feature_info = SimpleNamespace(module_name=lambda: list(layers))
        self.output_fmt = output_fmt
        self.scale = nn.Parameter(torch.rand(1))

    def forward(self, x):
        features = [x, 2 * x]
        return [each.permute(0, 2, 3, 1) for each in features] if self.output_fmt == "NHWC" else features


@pytest.fixture
def timm(monkeypatch):
    module = ModuleType("timm")
    module.is_model = lambda name: name in ("plain", "inner", "dotted", "hub")
    module.list_models = lambda pattern: ["plain"] if pattern == "*plane*" else []

    def create_model(name, features_only, pretrained, **options):
        assert features_only
        if "dynamic_img_size" in options:
            raise TypeError("unexpected keyword")
        if name == "hub":
            raise RuntimeError("the hub\nis not there")
        layers = ("blocks.1", "blocks.3") if name == "dotted" else ("one", "two")
        network = Patches("NHWC" if name == "inner" else "NCHW", layers)
        if pretrained:  # as timm does: whatever the file does not hold stays as it was drawn
            network.load_state_dict(torch.load(options["pretrained_cfg_overlay"]["file"]), strict=False)
        return network

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.parametrize("name", ["plain", "inner"])
def test_a_network_of_timm_sees_its_own_normalisation(name, timm):
    backbone = find_backbone(f"timm:{name}", "random:1")
    assert default_layers(backbone) == ["two"]
    x = grey(8)
    expected = torch.stack([2 * ((x[:, 0] + 1) / 2 - mean) / std for mean, std in zip((0.1, 0.2, 0.3), (0.5, 0.25, 1.0), strict=True)], dim=1)
    torch.testing.assert_close(backbone(x, ["two"])["two"], expected)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(BackboneError, match="no layer 'three'; the layers are one, two"):
        backbone.check_layers(["three"])


@pytest.mark.parametrize(("name", "layer"), [("plain", "two"), ("dotted", "blocks.3")])
def test_dpa_takes_a_network_of_timm_whatever_its_layers_are_called(name, layer, timm, tmp_path):
    """Its features are a line through the pixels here, so that normalised they are the normalised pixels."""
    own = {"rec_loss": {"relative_perceptual_L1": 1.0}, "backbone": f"timm:{name}", "backbone_weights": "random:1"}
    baseline, images = built(settings_of("MADDR_dpa", own=own)).eval(), toy_images(12, side=32)
    assert baseline.describe()["features"].split()[2].rstrip(",") == layer
    baseline.prepare(images.batches(5))
    x = images.batch(torch.arange(12)).image
    with torch.no_grad():
        score, y = baseline.anomaly_score(x), baseline.reconstruct(x).double()
    pixels, center = x.double(), x.double().mean()
    expected = (pixels - y).abs().mean(dim=(1, 2, 3)) / (pixels - center).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(score.double(), expected, rtol=1e-4, atol=0)
    other = built(settings_of("MADDR_dpa", own=own, seed=1)).eval()
    other.load_state_dict(baseline.state_dict())
    assert torch.equal(other.anomaly_score(x), score)
    torch.save({layer: (torch.zeros(3), torch.full((3,), 2.0))}, tmp_path / "statistics.pt")
    of_file = built(settings_of("MADDR_dpa", own={**own, "feature_statistics": str(tmp_path / "statistics.pt")}))
    assert [value.flatten().tolist() for value in of_file.rec_loss.losses[0].loss.statistics.of(layer)] == [[0.0] * 3, [2.0] * 3]


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("plane", "pretrained", "timm has no model 'plane'; did you mean plain?"),
        ("nothing", "random:1", "timm has no model 'nothing'; timm.list_models"),
        ("hub", "pretrained", r"timm:hub cannot be had with the weights pretrained \(the hub is not there\); the choices: connect"),
        ("plain", "absent.pth", "absent.pth: no such file of timm:plain weights"),
    ],
)
def test_what_timm_does_not_have_is_said(name, weights, words, timm):
    with pytest.raises(BackboneError, match=words) as caught:
        find_backbone(f"timm:{name}", weights)
    assert "\n" not in str(caught.value)


def test_timm_takes_no_file_that_leaves_weights_to_chance(tmp_path, timm):
    torch.save({"scale": torch.tensor([0.5]), "head": torch.zeros(3)}, tmp_path / "right.pth")
    assert find_backbone("timm:plain", str(tmp_path / "right.pth")).network.scale.item() == 0.5
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(BackboneError, match=r"wrong\.pth: not the weights of timm:plain: it has none for 1 of its tensors, such as scale"):
        find_backbone("timm:plain", str(tmp_path / "wrong.pth"))


def test_without_timm_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BackboneError, match="needs pip install timm; others are efficientnet_lite0, vgg19"):
        find_backbone("timm:resnet10t", "random:1")


def test_the_door_asks_for_no_package_that_is_not_used():
    program = "import sys, anomaly_detection.components.backbones; print({'timm', 'torchvision', 'efficientnet_lite_pytorch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
