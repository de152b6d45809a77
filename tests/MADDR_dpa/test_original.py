"""Checkpoints in the form in which the DPA authors' code writes them: of plain functions of parameters with their names, and of networks of ours."""

import subprocess

import numpy as np
import pytest
import torch

from anomaly_detection.MADDR_dpa.networks import Decoder, DecoderSettings, Encoder, EncoderSettings
from anomaly_detection.MADDR_dpa.original import load_original_checkpoint
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, L1Loss, RelativePerceptualL1Loss
from anomaly_detection.system.errors import UserError
from tests.MADDR_dpa.plain import Plain, double, double_smoothly, halve, halve_by_largest

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


# --- Parameters that no network of ours has seen -------------------------------------------------------------------------------------------

AS_PLAIN = {  # options of the authors' networks: as those of `Plain`
    ("pad_type", "reflect"): {"reflect": True},
    ("use_wscale", True): {"wscale": True},
    ("pool", "max"): {"halve": halve_by_largest},
    ("use_mbstddev", True): {"spread": 1e-4},  # of an image alone
    ("normalize_latents", True): {"normalize": True},
    ("upsample_mode", "bilinear"): {"double": double_smoothly},
    **{("norm", norm): {"norm": norm} for norm in ("bn", "in", "pixel")},
}


def assert_loads(path, kind, latent_res, stage, enc, dec):
    """Draw the parameters of an autoencoder for 32 pixels, write them as the authors do, and compare what is read with their forward pass."""
    dims, smallest = [4, 5, 6, 7], max(4, latent_res)
    channels = dict(zip([smallest << i for i in range(4) if smallest << i <= 32], dims[::-1], strict=False))
    random = torch.Generator().manual_seed(3)
    states, plain = {}, {}
    for part, options in (("enc", enc), ("dec", dec)):
        translated = {key: value for option in options.items() for key, value in AS_PLAIN[option].items()}
        states[part] = {}
        paths = ("model.concat.layer1.", "model.concat.layer2.")
        plain[part] = Plain(kind, channels, latent_res, states[part], random, paths=paths, **translated)
    x, fade = images(size=32), None
    mixed = x
    if stage == "trns":
        fade = 0.3
        mixed = 0.7 * double(halve(x)) + 0.3 * x
        for state in states.values():
            state["model.fadein._alpha"] = torch.tensor([fade])
    z = plain["enc"].encode(mixed, 7, fade)
    y = plain["dec"].decode(z, 32, 1, fade)
    config = {"latent_dim": 7, "enc": {"type": kind, "kwargs": {"inner_dims": dims, **enc}}, "dec": {"type": kind}}
    config["dec"]["kwargs"] = {"inner_dims": dims[::-1], **dec}
    detector = load_original_checkpoint(write(path, states["enc"], states["dec"], kind, latent_res, 32, 32, stage=stage, **config))
    assert_same(detector.encode(x), z.mean(dim=(2, 3)))
    assert_same(detector.reconstruct(x), y)
    assert_same(detector.anomaly_score(x), (mixed - y).abs().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("stage", ["stab", "trns"])
@pytest.mark.parametrize("latent_res", [1, 4, 8])
@pytest.mark.parametrize("kind", ["residual18", "residual9", "regular"])
@torch.no_grad()
def test_every_kind_of_the_authors_loads(tmp_path, kind, latent_res, stage):
    assert_loads(tmp_path / "a.tar", kind, latent_res, stage, {}, {})


@pytest.mark.parametrize("stage", ["stab", "trns"])
@pytest.mark.parametrize(
    ("kind", "latent_res", "enc", "dec"),
    [
        ("residual18", 1, {"norm": "bn"}, {"norm": "in"}),
        ("residual18", 4, {"norm": "bn", "pad_type": "reflect"}, {"norm": "bn", "pad_type": "reflect"}),
        ("residual9", 1, {"pad_type": "reflect"}, {"pad_type": "reflect", "upsample_mode": "bilinear"}),
        ("residual9", 8, {"norm": "pixel"}, {"norm": "pixel"}),
        ("regular", 1, {"use_wscale": True, "norm": "bn"}, {"use_wscale": True, "norm": "pixel", "normalize_latents": True}),
        ("regular", 1, {"pad_type": "reflect", "pool": "max"}, {"upsample_mode": "bilinear"}),
        ("regular", 4, {"use_wscale": True, "pad_type": "reflect", "norm": "bn"}, {"use_wscale": True, "pad_type": "reflect", "norm": "bn"}),
        ("regular", 8, {"use_mbstddev": True, "use_wscale": True}, {"norm": "in", "normalize_latents": True}),
    ],
)
@torch.no_grad()
def test_every_option_of_the_authors_loads(tmp_path, kind, latent_res, enc, dec, stage):
    assert_loads(tmp_path / "a.tar", kind, latent_res, stage, enc, dec)


def test_the_state_of_a_training_run_is_taken_for_the_detector_in_it(tmp_path):
    """`checkpoint.tar` holds what `anomaly_detection.tar` holds, and the state of the optimizer, the discriminator and the generator of images."""
    path = write(tmp_path / "checkpoint.tar", *networks())
    saved = torch.load(path, weights_only=False)
    more = {"n_iter": 2, "best_val_loss": 0.5, "best_val_iter": 2, "display_x": images()[:4], "ddis": {}, "mix_res_module": {}}
    torch.save(saved | more | {"optimizer": {"image_rec_loss.loss_1._loss.model.c11.weight": torch.zeros(64, 3, 3, 3)}}, path)
    load_original_checkpoint(path)


# --- Networks of ours ------------------------------------------------------------------------------------------------------------------


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
