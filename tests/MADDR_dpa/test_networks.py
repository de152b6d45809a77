"""The networks against plain functions that read the weights by their published names."""

import math
import re
from dataclasses import replace

import pytest
import torch

from anomaly_detection.config.layers import Layer, build
from anomaly_detection.MADDR_dpa.networks import Decoder, DecoderSettings, Encoder, EncoderSettings, translate_original
from anomaly_detection.system.errors import UserError
from tests.MADDR_dpa.plain import Plain, double_smoothly, halve_by_largest

TYPES = ["residual18", "residual9", "regular"]
RESIDUAL_TYPES = TYPES[:2]
ENC = [3, 4, 5, 6, 6, 7]  # 128, 64, ..., 4 pixels
DEC = [7, 6, 6, 5, 4, 3]


def networks(kind="residual18", resolutions=(32,), latent_dim=7, latent_res=1, max_resolution=32, image_dim=1, enc=None, dec=None):
    arguments = (image_dim, latent_dim, latent_res, max_resolution, list(resolutions))
    torch.manual_seed(0)
    encoder = Encoder(EncoderSettings(kind, ENC, **(enc or {})), *arguments)
    decoder = Decoder(DecoderSettings(kind, DEC, **(dec or {})), *arguments)
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.uniform_(0.5, 2)
    return encoder.double().eval(), decoder.double().eval()


def images(resolution, batch=3, channels=1):
    return torch.rand(batch, channels, resolution, resolution, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


# --- Against plain functions of their state dicts ----------------------------------------------------------------------------------------


def plain(network, kind, latent_res=1, **options):
    """A network for images of 32 pixels as plain functions; see `Plain` for the options."""
    sizes = [r for r in (4, 8, 16, 32) if r >= latent_res]
    return Plain(kind, dict(zip(sizes, DEC, strict=False)), latent_res, network.state_dict(), **options)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def assert_alike(encoder, decoder, x, enc, dec, fade=None):
    """The latents of images, and the images of these latents; every parameter has a part in them."""
    known = () if fade is None else (x.shape[-1], fade)
    z = encoder(x, *known)
    close(z, enc.encode(x, 7, fade))
    close(decoder(z, *known), dec.decode(z, x.shape[-1], x.shape[1], fade))
    assert enc.used == set(enc.state)
    assert dec.used == set(dec.state)


NORMS = [("none", "zero"), ("bn", "zero"), ("in", "reflect"), ("pixel", "reflect")]


@pytest.mark.parametrize("kind", RESIDUAL_TYPES)
@pytest.mark.parametrize("latent_res", [1, 4, 8])
@pytest.mark.parametrize(("norm", "pad"), NORMS)
def test_residual_networks_equal_plain_functions(kind, latent_res, norm, pad):
    options = {"norm": norm, "pad_type": pad}
    encoder, decoder = networks(kind, latent_res=latent_res, enc=options, dec=options)
    enc, dec = (plain(network, kind, latent_res, norm=norm, reflect=pad == "reflect") for network in (encoder, decoder))
    assert_alike(encoder, decoder, images(32), enc, dec)


@pytest.mark.parametrize("latent_res", [1, 4])
@pytest.mark.parametrize(
    ("norm", "pad", "wscale"), [("none", "zero", False), ("bn", "zero", True), ("pixel", "reflect", True), ("bn", "reflect", False)]
)
def test_regular_networks_equal_plain_functions(latent_res, norm, pad, wscale):
    options = {"norm": norm, "pad_type": pad, "use_wscale": wscale}
    encoder, decoder = networks("regular", latent_res=latent_res, enc=options, dec=options)
    enc, dec = (plain(network, "regular", latent_res, norm=norm, reflect=pad == "reflect", wscale=wscale) for network in (encoder, decoder))
    assert_alike(encoder, decoder, images(32), enc, dec)


def test_regular_options_of_pooling_upsampling_and_the_latent():
    encoder, decoder = networks(
        "regular", max_resolution=8, resolutions=[8], enc={"pool": "max"}, dec={"upsample_mode": "bilinear", "normalize_latents": True}
    )
    channels = {4: 7, 8: 6}
    enc = Plain("regular", channels, state=encoder.state_dict(), halve=halve_by_largest)
    dec = Plain("regular", channels, state=decoder.state_dict(), double=double_smoothly, normalize=True)
    assert_alike(encoder, decoder, images(8), enc, dec)


def test_minibatch_stddev_sees_the_batch_in_training_alone():
    encoder, _ = networks("regular", max_resolution=4, resolutions=[4], enc={"use_mbstddev": True})
    x = images(4)
    h = Plain("regular", {4: 7}, state=encoder.state_dict()).from_image("model.", x, 4)
    deviation = ((h - h.mean(0)) ** 2).mean(0).add(1e-8).sqrt().mean().item()
    for training, spread in ((True, deviation), (False, 1e-4)):
        close(encoder.train(training)(x), Plain("regular", {4: 7}, state=encoder.state_dict(), spread=spread).encode(x, 7))
    assert deviation > 0.01  # the two differ


@pytest.mark.parametrize(("kind", "options"), [("residual18", {"norm": "bn"}), ("regular", {"norm": "bn", "use_mbstddev": True})])
def test_an_image_in_a_batch_has_the_latent_it_has_alone(kind, options):
    encoder, _ = networks(kind, enc=options)
    close(encoder(images(32))[1:2], encoder(images(32)[1:2]))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("latent_res", [1, 4, 8])
def test_shapes(kind, resolution, latent_res):
    encoder, decoder = networks(kind, [resolution], latent_res=latent_res, max_resolution=resolution, image_dim=3)
    z = encoder(images(resolution, batch=2, channels=3))
    assert z.shape == (2, 7, latent_res, latent_res)
    assert decoder(z).shape == (2, 3, resolution, resolution)


# --- Sizes and names, as the authors' networks have them ----------------------------------------------------------------------------------

COUNTS = {
    64: (
        {"preprocess_res_64": 9440, "res_64": 32928, "res_32": 36992, "res_16": 36992, "res_8": 131392, "res_4": 131200},
        {"res_4": 131136, "res_8": 48288, "res_16": 36992, "res_32": 36992, "res_64": 12112, "postprocess_res_64": 145},
        (378944, 265665),
    ),
    128: (
        {"preprocess_res_128": 9440, "res_128": 9280, "res_64": 32928, "res_32": 36992, "res_16": 36992, "res_8": 131392, "res_4": 131200},
        {"res_4": 131136, "res_8": 48288, "res_16": 36992, "res_32": 36992, "res_64": 12112, "res_128": 9280, "postprocess_res_128": 145},
        (388224, 274945),
    ),
}


def published(resolution):
    surplus = [8] if resolution == 128 else []
    enc = EncoderSettings("residual18", [*surplus, 16, 16, 16, 32, 32, 32, 64])
    dec = DecoderSettings("residual18", [64, 32, 32, 32, 16, 16, 16, *surplus])
    return Encoder(enc, 1, 128, 1, resolution, [resolution]), Decoder(dec, 1, 128, 1, resolution, [resolution])


@pytest.mark.parametrize("resolution", COUNTS)
def test_parameter_counts_are_the_published_ones(resolution):
    *by_place, totals = COUNTS[resolution]
    for network, places, total in zip(published(resolution), by_place, totals, strict=True):
        assert {name: sum(p.numel() for p in part.parameters()) for name, part in network.model.items()} == places
        assert sum(p.numel() for p in network.parameters()) == total


def test_parameter_names_are_the_published_ones():
    encoder, decoder = published(64)
    enc, dec = list(encoder.state_dict()), list(decoder.state_dict())
    assert (len(enc), len(dec)) == (48, 40)
    assert enc[0] == "model.preprocess_res_64.0.model.0.weight"
    assert enc[-1] == "model.res_4.1.model.0.bias"
    assert [key for key in enc if "res_8" in key and "weight" in key] == [
        "model.res_8.0.model.2.model.0.weight",
        "model.res_8.0.model.3.model.0.weight",
        "model.res_8.0.skipcon.1.model.0.weight",
        "model.res_8.1.model.1.model.0.weight",
        "model.res_8.1.model.2.model.0.weight",
    ]
    assert dec[0] == "model.res_4.1.model.0.weight"
    assert dec[-1] == "model.postprocess_res_64.1.model.0.bias"


# --- Growing -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fade", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("kind", "latent_res", "resolution"), [("residual18", 1, 16), ("residual9", 4, 16), ("regular", 1, 8), ("regular", 8, 16)])
def test_a_fade_in_mixes_both_paths(kind, latent_res, resolution, fade):
    encoder, decoder = networks(kind, resolutions=[resolution // 2, resolution], max_resolution=32, latent_res=latent_res)
    assert_alike(encoder, decoder, images(resolution), plain(encoder, kind, latent_res), plain(decoder, kind, latent_res), fade)


@pytest.mark.parametrize("kind", TYPES)
def test_the_stages_of_one_network_share_its_blocks(kind):
    grown, alone = networks(kind, resolutions=[8, 16, 32]), networks(kind, resolutions=[16])
    for network, small, inputs in zip(grown, alone, (images(16), torch.ones(2, 7, 1, 1).double()), strict=True):
        small.load_state_dict({key: network.state_dict()[key] for key in small.state_dict()})
        close(network(inputs, 16), small(inputs))


def test_at_full_fade_the_low_path_has_no_part():
    encoder, decoder = networks(resolutions=[16, 32])
    decoder(encoder(images(32), fade=1.0)).sum().backward()
    assert {p.grad is None for p in encoder.model["preprocess_res_16"].parameters()} == {True}
    assert {p.grad is None for p in decoder.model["postprocess_res_16"].parameters()} == {True}
    assert all(p.grad is not None for p in encoder.model["preprocess_res_32"].parameters())


def test_state_dicts_of_the_authors_are_translated():
    original = {
        "model.concat.layer1.preprocess_res_32.0.model.0.bias": torch.tensor([1.0]),
        "model.concat.layer2.preprocess_res_64.0.model.0.bias": torch.tensor([2.0]),
        "model.concat.layer2.res_64.0.skipcon.1.model.0.bias": torch.tensor([3.0]),
        "model.fadein._alpha": torch.tensor([0.25]),
        "model.res_32.0.model.2.model.0.bias": torch.tensor([4.0]),
    }
    translated, fade = translate_original(original)
    assert fade == 0.25
    assert {key: value.item() for key, value in translated.items()} == {
        "model.preprocess_res_32.0.model.0.bias": 1,
        "model.preprocess_res_64.0.model.0.bias": 2,
        "model.res_64.0.skipcon.1.model.0.bias": 3,
        "model.res_32.0.model.2.model.0.bias": 4,
    }
    scaled = {"model.res_4.0.model.0.weight": torch.ones(1), "model.res_4.0.model.1.incoming.weight": torch.ones(1)}
    assert translate_original(scaled)[0].keys() == {"model.res_4.0.model.0.weight"}
    assert translate_original({"model.res_4.1.model.0.bias": torch.ones(1)}) == ({"model.res_4.1.model.0.bias": torch.ones(1)}, 1.0)
    assert len(original) == 5


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("latent_res", [4, 8])
def test_names_of_earlier_versions_are_taken(kind, latent_res):
    """They did not number the one residual block beside a latent of several places."""
    both = torch.nn.ModuleDict(dict(zip(("encoder", "decoder"), networks(kind, latent_res=latent_res), strict=True)))
    place = f"model.res_{latent_res}."
    earlier = {name.replace(f"{place}0.", place) if kind != "regular" else name: value + 1 for name, value in both.state_dict().items()}
    assert (earlier.keys() == both.state_dict().keys()) == (kind == "regular")
    expected = list(earlier.values())
    both.load_state_dict(earlier)
    assert all(torch.equal(value, other) for value, other in zip(both.state_dict().values(), expected, strict=True))


def test_a_state_dict_of_another_network_is_refused_in_one_line():
    encoder, decoder = networks("regular", enc={"use_wscale": True})
    scaled, plain = encoder.state_dict(), networks("regular")[0]
    earlier = {name.replace("model.1.", "model.0."): value for name, value in scaled.items()}
    with pytest.raises(UserError, match=r"^the checkpoint has no model.preprocess_res_32.model.1.bias: .* earlier version") as error:
        encoder.load_state_dict(earlier)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^the checkpoint has no model.preprocess_res_32.model.0.bias"):
        plain.load_state_dict(scaled)
    with pytest.raises(UserError, match=r"^the checkpoint has no model.res_4.0"):
        decoder.load_state_dict(encoder.state_dict())


# --- Initial weights ---------------------------------------------------------------------------------------------------------------------


def test_initial_weights_of_the_residual_types():
    torch.manual_seed(0)
    state = Encoder(EncoderSettings("residual18", [32, 128]), 1, 64, 1, 8, [8]).state_dict()
    for key, fan_out, fan_in in (
        ("model.res_8.0.model.2.model.0", 128 * 9, 32 * 9),
        ("model.res_8.0.skipcon.1.model.0", 128, 32),
        ("model.res_4.1.model.0", 64 * 16, 128 * 16),
    ):
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        assert weight.std().item() == pytest.approx(math.sqrt(2 / 1.04 / fan_out), rel=0.05)
        assert weight.abs().max() > 3 * weight.std()  # normal, not uniform
        assert 0.9 / math.sqrt(fan_in) < bias.abs().max().item() <= 1 / math.sqrt(fan_in)


@pytest.mark.parametrize("wscale", [False, True])
def test_initial_weights_of_the_regular_type(wscale):
    torch.manual_seed(0)
    state = Encoder(EncoderSettings("regular", [32, 128], use_wscale=wscale), 1, 64, 1, 8, [8]).state_dict()
    for key, fans, gain in (("model.res_4.0.model.0", (32 + 128) * 9, math.sqrt(2 / 1.04)), ("model.res_4.2.model.0", 128 + 64, 1)):
        weight, bound = state[f"{key}.weight"], gain * math.sqrt(6 / fans)
        if wscale:
            assert weight.square().mean().sqrt().item() == pytest.approx(1, rel=1e-5)
            weight = weight * state[f"{key[:-1]}1.scale"]
        assert 0.99 * bound < weight.abs().max().item() <= bound * (1 + 1e-5)
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_weight_scale_is_not_trained():
    encoder, _ = networks("regular", enc={"use_wscale": True})
    assert not any("scale" in name for name, _ in encoder.named_parameters())
    assert any(name.endswith(".scale") for name, _ in encoder.named_buffers())


# --- Formats -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_memory_format_and_bfloat16_change_little(kind):
    options = {"norm": "pixel"} if kind != "regular" else {"norm": "pixel", "use_mbstddev": True, "use_wscale": True}
    enc, dec = networks(kind, resolutions=[16, 32], enc=options, dec={"norm": "pixel"})
    enc, dec = enc.float().train(), dec.float().train()
    x = images(32, channels=1).float()
    expected = dec(enc(x, 32, 0.5), 32, 0.5)
    last = dec.to(memory_format=torch.channels_last)(enc(x.to(memory_format=torch.channels_last), 32, 0.5), 32, 0.5)
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        z = enc(x, 32, 0.5)
        y = dec(z, 32, 0.5)
    assert z.dtype == torch.bfloat16
    assert (y.float() - expected).abs().max() < 0.1 * expected.abs().max()
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in enc.parameters())


# --- Settings --------------------------------------------------------------------------------------------------------------------------


ARGUMENTS = {"image_dim": 1, "latent_dim": 7, "latent_res": 1, "max_resolution": 32, "resolutions": [32]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_resolution": 48}, "max_resolution must be a power of two from 4 on, not 48"),
        ({"max_resolution": 4, "latent_res": 8}, "max_resolution must be a power of two from 8 on, not 4"),
        ({"max_resolution": 256, "resolutions": [256]}, "inner_dims needs 7 entries from 4 to 256 pixels, has 6"),
        ({"latent_res": 2}, "latent_res must be 1 or a power of two from 4 on, not 2"),
        ({"latent_res": 6}, "latent_res must be 1 or a power of two from 4 on, not 6"),
        ({"resolutions": []}, "resolutions must be some of 4, 8, 16, 32, not []"),
        ({"resolutions": [64]}, "resolutions must be some of 4, 8, 16, 32, not [64]"),
    ],
)
@pytest.mark.parametrize("network", [Encoder, Decoder])
def test_impossible_networks_are_refused(network, change, message):
    settings = EncoderSettings("residual18", ENC) if network is Encoder else DecoderSettings("residual18", DEC)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        network(settings, **{**ARGUMENTS, **change})


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="^use_mbstddev needs the type regular, not residual9"):
        EncoderSettings("residual9", ENC, use_mbstddev=True)
    with pytest.raises(ValueError, match="^inner_dims must be numbers of channels"):
        EncoderSettings("residual9", [])
    with pytest.raises(ValueError, match="^inner_dims must be numbers of channels"):
        DecoderSettings("regular", [8, 0])
    with pytest.raises(ValueError, match=r"^latent_dim 8 must equal inner_dims\[0\], 7, in a residual decoder of latent_res 4"):
        Decoder(DecoderSettings("residual9", DEC), **{**ARGUMENTS, "latent_dim": 8, "latent_res": 4})
    with pytest.raises(ValueError, match="^norm in needs a latent_res above 1"):
        Encoder(EncoderSettings("regular", ENC, norm="in"), **ARGUMENTS)
    # The neighbours of the last two are possible.
    Decoder(DecoderSettings("regular", DEC), **{**ARGUMENTS, "latent_dim": 8, "latent_res": 4})
    Encoder(replace(EncoderSettings("regular", ENC, norm="in"), type="residual9"), **ARGUMENTS)


def test_impossible_calls_are_refused():
    encoder, decoder = networks(resolutions=[16, 32])
    with pytest.raises(ValueError, match=r"^images must be \(B, 1, 32, 32\), got \(3, 1, 16, 16\)"):
        encoder(images(16))
    with pytest.raises(ValueError, match=r"^latents must be \(B, 7, 1, 1\), got \(3, 7\)"):
        decoder(torch.zeros(3, 7))
    with pytest.raises(ValueError, match="^resolution 8 is not one of those of this network, 16, 32"):
        encoder(images(8), 8)
    with pytest.raises(ValueError, match="^resolution 8 is not one of those of this network, 16, 32"):
        encoder(images(16), 16, 0.5)
    with pytest.raises(ValueError, match=r"^fade must be in \[0, 1\], not 1.5"):
        encoder(images(32), 32, 1.5)


def test_settings_are_built_from_yaml_values():
    values = {"type": "regular", "inner_dims": [4, 8], "pool": "max"}
    assert build(EncoderSettings, [Layer("a.yaml", values)]) == EncoderSettings("regular", [4, 8], pool="max")
    with pytest.raises(UserError, match="a.yaml: use_mbstddev: use_mbstddev needs the type regular"):
        build(EncoderSettings, [Layer("a.yaml", {"type": "residual9", "inner_dims": [4], "use_mbstddev": True})])
    with pytest.raises(UserError, match="norm: expected one of none, bn, in, pixel"):
        build(DecoderSettings, [Layer("a.yaml", {"type": "regular", "inner_dims": [4], "norm": "batch"})])
