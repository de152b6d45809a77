"""The networks against functional rebuilds that read the weights by their published names."""

import math
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from anomaly_detection.config import Layer, build
from anomaly_detection.errors import UserError
from anomaly_detection.MADDR_dpa.networks import Decoder, DecoderSettings, Encoder, EncoderSettings, translate_fade_in

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


# --- The functional rebuild --------------------------------------------------------------------------------------------------------------


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def halve(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean(dim=(3, 5))


def double(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class Rebuild:
    """Runs a network from its state dict; `norm` and `reflect` are how it was configured."""

    def __init__(self, network, norm="none", reflect=False):
        self.state = network.state_dict()
        self.norm = norm
        self.reflect = reflect

    def index(self, place):
        """0, or 1 where a reflection stands before the convolution."""
        return 0 if f"{place}.0.weight" in self.state else 1

    def conv(self, place, x, padding):
        """`place` names the Sequential that holds the convolution."""
        index = self.index(place)
        if index == 1:
            padding, x = 0, F.pad(x, (1, 1, 1, 1), mode="reflect")
        weight = self.state[f"{place}.{index}.weight"] * self.state.get(f"{place}.{index}.scale", 1)
        assert (index == 1) == (self.reflect and weight.shape[-1] == 3)
        return F.conv2d(x, weight, None, padding=padding) + self.state[f"{place}.{index}.bias"].view(1, -1, 1, 1)

    def normalise(self, place, x):
        if self.norm == "none":
            return x
        if self.norm == "pixel":
            return x * torch.rsqrt((x**2).mean(1, keepdim=True) + 1e-8)
        if self.norm == "in":
            centred = x - x.mean((2, 3), keepdim=True)
            return centred / ((centred**2).mean((2, 3), keepdim=True) + 1e-5).sqrt()
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (self.state[f"{place}.{name}"].view(1, -1, 1, 1) for name in names)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def block(self, place, x, resize=None):
        first = (1 if resize is None else 2) + (self.norm != "none")
        h = leaky(self.normalise(f"{place}.model.0", x))
        if resize is not None:
            h, x = resize(h), resize(x)
        h = self.conv(f"{place}.model.{first}.model", h, 1)
        h = leaky(self.normalise(f"{place}.model.{first}.model.{1 + self.reflect}", h))
        h = self.conv(f"{place}.model.{first + 1}.model", h, 1)
        skip = f"{place}.skipcon.model" if resize is None else f"{place}.skipcon.1.model"
        return h + (self.conv(skip, x, 0) if f"{skip}.0.weight" in self.state else x)

    # residual types; `more` is 1 for residual18, 0 for residual9

    def from_image(self, x, resolution, more):
        h = self.conv(f"model.preprocess_res_{resolution}.0.model", x, 1)
        for i in range(1 + more):
            h = self.block(f"model.preprocess_res_{resolution}.{i + 1}", h)
        return h

    def resized(self, h, resolution, more, resize):
        h = self.block(f"model.res_{resolution}.0", h, resize)
        return self.block(f"model.res_{resolution}.1", h) if more else h

    def to_image(self, h, resolution):
        return self.conv(f"model.postprocess_res_{resolution}.1.model", leaky(h), 1)

    def to_latent(self, h, latent_res):
        return self.conv("model.res_4.1.model", leaky(h), 0) if latent_res == 1 else self.block(f"model.res_{latent_res}", h)

    def from_latent(self, z, latent_res):
        return self.conv("model.res_4.1.model", leaky(z), 3) if latent_res == 1 else self.block(f"model.res_{latent_res}", z)

    # regular

    def hidden(self, place, x, padding=1):
        norm = 1 + self.index(f"{place}.model")
        return leaky(self.normalise(f"{place}.model.{norm}", self.conv(f"{place}.model", x, padding)))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", RESIDUAL_TYPES)
@pytest.mark.parametrize("latent_res", [1, 4, 8])
@pytest.mark.parametrize(("norm", "pad"), [("none", "zero"), ("bn", "zero"), ("in", "reflect"), ("pixel", "reflect")])
def test_residual_networks_equal_their_rebuild(kind, latent_res, norm, pad):
    options = {"norm": norm, "pad_type": pad}
    encoder, decoder = networks(kind, latent_res=latent_res, enc=options, dec=options)
    more = int(kind == "residual18")
    smallest = max(4, latent_res)
    x = images(32)
    rebuild = Rebuild(encoder, norm, pad == "reflect")
    h = rebuild.from_image(x, 32, more)
    for r in [r for r in (32, 16, 8) if r > smallest]:
        h = rebuild.resized(h, r, more, halve)
    z = encoder(x)
    close(z, rebuild.to_latent(h, latent_res))

    rebuild = Rebuild(decoder, norm, pad == "reflect")
    h = rebuild.from_latent(z, latent_res)
    for r in [r for r in (8, 16, 32) if r > smallest]:
        h = rebuild.resized(h, r, more, double)
    close(decoder(z), rebuild.to_image(h, 32))


@pytest.mark.parametrize("latent_res", [1, 4])
@pytest.mark.parametrize(
    ("norm", "pad", "wscale"), [("none", "zero", False), ("bn", "zero", True), ("pixel", "reflect", True), ("bn", "reflect", False)]
)
def test_regular_networks_equal_their_rebuild(latent_res, norm, pad, wscale):
    options = {"norm": norm, "pad_type": pad, "use_wscale": wscale}
    encoder, decoder = networks("regular", latent_res=latent_res, enc=options, dec=options)
    x = images(32)
    rebuild = Rebuild(encoder, norm, pad == "reflect")
    h = leaky(rebuild.conv("model.preprocess_res_32.model", x, 0))
    for r in (32, 16, 8):
        h = halve(rebuild.hidden(f"model.res_{r}.1", rebuild.hidden(f"model.res_{r}.0", h)))
    h = rebuild.hidden("model.res_4.1", rebuild.hidden("model.res_4.0", h), 0 if latent_res == 1 else 1)
    z = encoder(x)
    close(z, rebuild.conv("model.res_4.2.model", h, 0))

    rebuild = Rebuild(decoder, norm, pad == "reflect")
    h = rebuild.hidden("model.res_4.1", rebuild.hidden("model.res_4.0", z, 3 if latent_res == 1 else 1))
    for r in (8, 16, 32):
        h = rebuild.hidden(f"model.res_{r}.2", rebuild.hidden(f"model.res_{r}.1", double(h)))
    close(decoder(z), rebuild.conv("model.postprocess_res_32.model", h, 0))


def test_regular_options_of_pooling_upsampling_and_the_latent():
    encoder, decoder = networks("regular", max_resolution=8, resolutions=[8], enc={"pool": "max"})
    rebuild = Rebuild(encoder)
    h = leaky(rebuild.conv("model.preprocess_res_8.model", images(8), 0))
    h = rebuild.hidden("model.res_8.1", rebuild.hidden("model.res_8.0", h)).reshape(3, 6, 4, 2, 4, 2).amax(dim=(3, 5))
    h = rebuild.hidden("model.res_4.1", rebuild.hidden("model.res_4.0", h), 0)
    close(encoder(images(8)), rebuild.conv("model.res_4.2.model", h, 0))

    _, decoder = networks("regular", max_resolution=8, resolutions=[8], dec={"upsample_mode": "bilinear", "normalize_latents": True})
    z = torch.randn(2, 7, 1, 1, dtype=torch.float64)
    rebuild = Rebuild(decoder)
    h = z / ((z**2).sum(1, keepdim=True) / 7 + 1e-8).sqrt()
    h = rebuild.hidden("model.res_4.2", rebuild.hidden("model.res_4.1", h, 3))
    # Twice the size, bilinear: the new pixels stand a quarter of a pixel from the old ones, and the border is repeated.
    padded = F.pad(h, (1, 1, 1, 1), mode="replicate")
    for dim in (2, 3):
        old, n = padded, padded.shape[dim] - 2
        middle, before, after = old.narrow(dim, 1, n), old.narrow(dim, 0, n), old.narrow(dim, 2, n)
        padded = torch.stack([0.75 * middle + 0.25 * before, 0.75 * middle + 0.25 * after], dim=dim + 1).flatten(dim, dim + 1)
    h = rebuild.hidden("model.res_8.2", rebuild.hidden("model.res_8.1", padded))
    close(decoder(z), rebuild.conv("model.postprocess_res_8.model", h, 0))


def test_minibatch_stddev_sees_the_batch_in_training_alone():
    encoder, _ = networks("regular", max_resolution=4, resolutions=[4], enc={"use_mbstddev": True})
    x = images(4)
    rebuild = Rebuild(encoder)
    h = leaky(rebuild.conv("model.preprocess_res_4.model", x, 0))
    deviation = ((h - h.mean(0)) ** 2).mean(0).add(1e-8).sqrt().mean()
    for training, spread in ((True, deviation), (False, 1e-4)):
        extra = torch.full_like(h[:, :1], float(spread))
        expected = rebuild.hidden("model.res_4.2", rebuild.hidden("model.res_4.1", torch.cat([h, extra], 1)), 0)
        close(encoder.train(training)(x), rebuild.conv("model.res_4.3.model", expected, 0))
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
def test_residual_fade_in_mixes_both_paths(fade):
    encoder, decoder = networks(resolutions=[8, 16])
    x = images(16)
    rebuild = Rebuild(encoder)
    low = rebuild.from_image(halve(x), 8, 1)
    high = rebuild.resized(rebuild.from_image(x, 16, 1), 16, 1, halve)
    h = rebuild.resized((1 - fade) * low + fade * high, 8, 1, halve)
    z = encoder(x, 16, fade)
    close(z, rebuild.to_latent(h, 1))

    rebuild = Rebuild(decoder)
    h = rebuild.resized(rebuild.from_latent(z, 1), 8, 1, double)
    low, high = double(rebuild.to_image(h, 8)), rebuild.to_image(rebuild.resized(h, 16, 1, double), 16)
    close(decoder(z, 16, fade), (1 - fade) * low + fade * high)


@pytest.mark.parametrize("fade", [0.0, 0.3, 1.0])
def test_regular_fade_in_mixes_both_paths(fade):
    encoder, decoder = networks("regular", resolutions=[4, 8], max_resolution=16)
    x = images(8)
    rebuild = Rebuild(encoder)
    low = leaky(rebuild.conv("model.preprocess_res_4.model", halve(x), 0))
    high = leaky(rebuild.conv("model.preprocess_res_8.model", x, 0))
    high = halve(rebuild.hidden("model.res_8.1", rebuild.hidden("model.res_8.0", high)))
    h = rebuild.hidden("model.res_4.0", (1 - fade) * low + fade * high)
    z = encoder(x, 8, fade)
    close(z, rebuild.conv("model.res_4.2.model", rebuild.hidden("model.res_4.1", h, 0), 0))

    rebuild = Rebuild(decoder)
    h = rebuild.hidden("model.res_4.1", rebuild.hidden("model.res_4.0", z, 3))
    high = rebuild.hidden("model.res_8.2", rebuild.hidden("model.res_8.1", double(h)))
    low, high = (rebuild.conv(f"model.postprocess_res_{r}.model", h, 0) for r, h in ((4, h), (8, high)))
    close(decoder(z, 8, fade), (1 - fade) * double(low) + fade * high)


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


def test_fading_state_dicts_of_the_authors_are_translated():
    original = {
        "model.concat.layer1.preprocess_res_32.0.model.0.bias": torch.tensor([1.0]),
        "model.concat.layer2.preprocess_res_64.0.model.0.bias": torch.tensor([2.0]),
        "model.concat.layer2.res_64.0.skipcon.1.model.0.bias": torch.tensor([3.0]),
        "model.fadein._alpha": torch.tensor([0.25]),
        "model.res_32.0.model.2.model.0.bias": torch.tensor([4.0]),
    }
    translated, fade = translate_fade_in(original)
    assert fade == 0.25
    assert {key: value.item() for key, value in translated.items()} == {
        "model.preprocess_res_32.0.model.0.bias": 1,
        "model.preprocess_res_64.0.model.0.bias": 2,
        "model.res_64.0.skipcon.1.model.0.bias": 3,
        "model.res_32.0.model.2.model.0.bias": 4,
    }
    assert translate_fade_in({"model.res_4.1.model.0.bias": torch.ones(1)}) == ({"model.res_4.1.model.0.bias": torch.ones(1)}, 1.0)
    assert len(original) == 5


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
            weight = weight * state[f"{key}.scale"]
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
