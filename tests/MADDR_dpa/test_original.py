"""Checkpoints in the form in which the DPA authors' code writes them, of networks of ours (whose parameter names are theirs)."""

import subprocess

import numpy as np
import pytest
import torch

from anomaly_detection.errors import UserError
from anomaly_detection.MADDR_dpa import load_original_checkpoint
from anomaly_detection.MADDR_dpa.networks import Decoder, DecoderSettings, Encoder, EncoderSettings
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, L1Loss, RelativePerceptualL1Loss

FEATURES = {"loss_type": "relative_perceptual_L1", "loss_kwargs": {"weights_per_resolution": {16: {"img_weight": 0, "feature_weights": {"r12": 1}}}}}


def networks(kind: str = "residual18", latent_res: int = 1, max_res: int = 16, resolution: int = 16, channels: int = 1, lowest: int | None = None):
    torch.manual_seed(0)
    dims = [4, 4, 6, 8] if kind != "regular" else [4, 6, 8, 8]
    sizes = {"latent_dim": 8, "latent_res": latent_res, "max_resolution": max_res, "image_dim": channels}
    sizes["resolutions"] = [resolution] if lowest is None else [lowest, resolution]
    return Encoder(EncoderSettings(kind, dims), **sizes), Decoder(DecoderSettings(kind, dims[::-1]), **sizes)


def write(path, encoder, decoder, kind="residual18", latent_res=1, max_res=16, resolution=16, channels=1, loss=None, stage="stab", **config):
    dims = [4, 4, 6, 8] if kind != "regular" else [4, 6, 8, 8]
    content = {
        "niter": 2,
        "config": {
            "enc": {"type": kind, "kwargs": {"inner_dims": dims}},
            "dec": {"type": kind, "kwargs": {"inner_dims": dims[::-1]}},
            "image_dim": channels,
            "latent_dim": 8,
            "latent_res": latent_res,
            "max_image_res": max_res,
            "initial_image_res": max_res,
            "image_rec_loss": loss or {"loss_type": "l1", "loss_kwargs": {}},
            **config,
        },
        "stage": stage,
        "resolution": resolution,
        "progress": np.float64(1.0),
        "enc": encoder if isinstance(encoder, dict) else encoder.state_dict(),
        "dec": decoder if isinstance(decoder, dict) else decoder.state_dict(),
    }
    torch.save(content, path)
    return path


def assert_same(a: torch.Tensor, b: torch.Tensor) -> None:
    """To the precision of float32 relative to the largest value: outputs of untrained networks reach hundreds."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def images(channels: int = 1, size: int = 16) -> torch.Tensor:
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["residual18", "residual9", "regular"])
@pytest.mark.parametrize(("latent_res", "max_res", "channels"), [(1, 16, 1), (4, 16, 3), (8, 32, 1), (1, 32, 3)])
@torch.no_grad()
def test_every_network_comes_back(tmp_path, kind, latent_res, max_res, channels):
    sizes = {"kind": kind, "latent_res": latent_res, "max_res": max_res, "resolution": max_res, "channels": channels}
    encoder, decoder = networks(**sizes)
    detector = load_original_checkpoint(write(tmp_path / "a.tar", encoder, decoder, **sizes))
    x = images(channels, max_res)
    z = encoder(x)
    y = decoder(z)
    assert_same(detector.encode(x), z.mean(dim=(2, 3)))
    assert_same(detector.reconstruct(x), y)
    assert_same(detector.anomaly_score(x), (x - y).abs().mean(dim=(1, 2, 3)))
    assert not detector.training


@torch.no_grad()
def test_a_checkpoint_of_a_lower_resolution_sees_smaller_images(tmp_path):
    encoder, decoder = networks(max_res=32, resolution=16)
    detector = load_original_checkpoint(write(tmp_path / "a.tar", encoder, decoder, max_res=32, resolution=16))
    x = images(size=32)
    small = torch.nn.functional.avg_pool2d(x, 2)  # bilinear by one half
    assert_same(detector.reconstruct(x), decoder(encoder(small)))


@torch.no_grad()
def test_a_checkpoint_of_a_fade_in_keeps_its_progress(tmp_path):
    encoder, decoder = networks(resolution=16, lowest=8)

    def original(state):
        named = {}
        for key, value in state.items():
            layer = "layer1." if "process_res_8" in key else "layer2." if "process_res_16" in key or "res_16" in key else None
            named[key if layer is None else key.replace("model.", f"model.concat.{layer}", 1)] = value
        return {**named, "model.fadein._alpha": torch.tensor([0.3])}

    path = write(tmp_path / "a.tar", original(encoder.state_dict()), original(decoder.state_dict()), stage="trns")
    x = images()
    low = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 2), scale_factor=2)
    expected = decoder(encoder(0.7 * low + 0.3 * x, 16, 0.3), 16, 0.3)
    assert_same(load_original_checkpoint(path).reconstruct(x), expected)


@torch.no_grad()
def test_the_score_is_the_loss_of_the_stored_config(tmp_path):
    statistics = tmp_path / "mean_var.pt"
    torch.save({"r12": (torch.zeros(1, 64, 1, 1), torch.ones(1, 64, 1, 1) * 2)}, statistics)
    compose = {
        "loss_type": "compose",
        "loss_kwargs": {"loss_1": {**FEATURES, "loss_weight": 1}, "loss_2": {"loss_type": "l1", "loss_weight": 0.1, "loss_kwargs": {}}},
    }
    encoder, decoder = networks()
    detector = load_original_checkpoint(write(tmp_path / "a.tar", encoder, decoder, loss=compose), "random:1", str(statistics))
    x = images()
    y = decoder(encoder(x))
    perceptual = RelativePerceptualL1Loss("none", 0, {"r12": 1}, weights="random:1", feature_statistics=str(statistics))
    assert_same(detector.anomaly_score(x), perceptual(x, y) + 0.1 * L1Loss("none")(x, y))


@torch.no_grad()
def test_without_vgg19_all_but_the_score_works(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    detector = load_original_checkpoint(write(tmp_path / "a.tar", *networks(), loss=FEATURES))
    assert detector.encode(images()).shape == (3, 8)
    assert detector.reconstruct(images()).shape == (3, 1, 16, 16)
    with pytest.raises(BackboneError, match="no route to host"):
        detector.anomaly_score(images())


class Payload:
    def __reduce__(self):
        return subprocess.call, (["touch", "owned"],)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"config": Payload()}, "evil.tar")
    with pytest.raises(UserError, match="evil.tar: not a checkpoint of the DPA code"):
        load_original_checkpoint("evil.tar")
    assert not (tmp_path / "owned").exists()


def test_other_files_are_refused_with_their_name(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_original_checkpoint(tmp_path / "nowhere.tar")
    torch.save({"config": {}}, tmp_path / "other.tar")
    with pytest.raises(UserError, match="it has no dec, enc, resolution, stage"):
        load_original_checkpoint(tmp_path / "other.tar")
    path = write(tmp_path / "b.tar", *networks(), loss={"loss_type": "l1", "loss_kwargs": {"sharpness": 3}})
    with pytest.raises(UserError, match="not supported: sharpness"):
        load_original_checkpoint(path)
    encoder, decoder = networks()
    with pytest.raises(UserError, match="b.tar.*size mismatch"):
        load_original_checkpoint(write(tmp_path / "b.tar", encoder, decoder, latent_dim=9))
