import re

import pytest
import torch

from anomaly_detection.MADDR_dpa.growing import Stage, growing_stages, mix_resolution


def test_stages_alternate_up_to_the_last_resolution():
    assert growing_stages(16, 64, 100, 40, {}) == [
        Stage("stab", 16, 100),
        Stage("trns", 32, 40),
        Stage("stab", 32, 100),
        Stage("trns", 64, 40),
        Stage("stab", 64, 100),
    ]


def test_without_growing_there_is_one_stage():
    assert growing_stages(64, 64, 100, 40) == [Stage("stab", 64, 100)]


def test_iterations_of_single_stages_are_overridden_and_empty_stages_left_out():
    per_resolution = {16: {"stab": 7}, 32: {"stab": 0}, 64: {"trns": 3, "stab": 9}, 256: {"stab": 0}}
    assert growing_stages(16, 64, 100, 40, per_resolution) == [
        Stage("stab", 16, 7),
        Stage("trns", 32, 40),
        Stage("trns", 64, 3),
        Stage("stab", 64, 9),
    ]
    assert growing_stages(32, 64, 100, 0) == [Stage("stab", 32, 100), Stage("stab", 64, 100)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, 64, 0, 40, {}), "iterations of the last stage, stab at 64, must be at least 1"),
        ((16, 64, 100, 40, {64: {"stab": 0}}), "iterations of the last stage, stab at 64, must be at least 1"),
        ((16, 64, 100, 40, {64: {"trans": 3}}), "iters_per_res.64 has the keys stab, trns, not trans"),
        ((16, 64, 100, -1, {}), "iterations of trns at 32 must not be negative, got -1"),
        ((32, 64, 100, 40, {32: {"stab": 0}}), "iterations of 32 must not be 0, the fade-in of 64 starts from there"),
        ((24, 64, 100, 40, {}), "initial_image_res 24 doubled again and again does not reach 64"),
        ((128, 64, 100, 40, {}), "initial_image_res 128 doubled again and again does not reach 64"),
        ((0, 64, 100, 40, {}), "initial_image_res 0 doubled again and again does not reach 64"),
    ],
)
def test_impossible_schedules_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        growing_stages(*arguments)


def ramp(size):
    return torch.arange(float(size * size)).reshape(1, 1, size, size)


def test_stable_stages_see_the_image_resized():
    x = ramp(4)
    assert mix_resolution(x, Stage("stab", 4, 1), 4, 0.3) is x
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]])
    assert torch.equal(mix_resolution(x, Stage("stab", 2, 1), 4, 0.3), expected)


def test_resizing_does_not_antialias():
    # At a quarter of the size bilinear resizing reads the middle 2 x 2 of every 4 x 4 pixels.
    x = torch.zeros(1, 1, 8, 8)
    x[..., 1:3, 1:3] = 4.0
    x[..., 3, :] = 100.0
    x[..., 5, 5] = 8.0
    assert torch.equal(mix_resolution(x, Stage("stab", 2, 1), 8, 1.0), torch.tensor([[[[4.0, 0.0], [0.0, 2.0]]]]))


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_fading_stages_see_a_mix(progress):
    x = ramp(4)
    halves = torch.tensor([[2.5, 2.5, 4.5, 4.5], [2.5, 2.5, 4.5, 4.5], [10.5, 10.5, 12.5, 12.5], [10.5, 10.5, 12.5, 12.5]])
    mixed = mix_resolution(x, Stage("trns", 4, 1), 4, progress)
    torch.testing.assert_close(mixed, (1 - progress) * halves[None, None] + progress * x)


def test_fading_below_the_full_resolution_resizes_both_parts():
    # The part at half the resolution is taken from the full image, not from the resized one.
    x = ramp(8) ** 2
    sharp = x.reshape(1, 1, 4, 2, 4, 2).mean(dim=(3, 5))
    middle = x[..., [1, 2, 5, 6], :][..., [1, 2, 5, 6]].reshape(1, 1, 2, 2, 2, 2).mean(dim=(3, 5))
    blurred = torch.kron(middle, torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(mix_resolution(x, Stage("trns", 4, 1), 8, 0.25), 0.75 * blurred + 0.25 * sharp)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"^images must be \(B, C, 8, 8\), got \(1, 1, 4, 4\)"):
        mix_resolution(ramp(4), Stage("stab", 4, 1), 8, 1.0)
