"""What docs/papers.md names as options are keys of the configs, and values that they take."""

import re
from pathlib import Path

import pytest

from anomaly_detection.config.layers import Layer, parse_override, read_layers
from anomaly_detection.config.paths import CONFIGS
from anomaly_detection.registry import build_settings

PAGE = (Path(__file__).parents[2] / "docs" / "papers.md").read_text(encoding="utf-8")
MODELS = {"MADDR": "MADDR_dpa", "GANomaly": "ganomaly", "MemAE": "memae", "f-AnoGAN": "f_anogan"}


def named():
    """(model, key, value) of every `key` or `key: value` in the table's last column."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0] in MODELS:
            for key, value in re.findall(r"`((?:baseline|maddr|mixup)[.\w]*)(?:: ([^`]+))?`", cells[2]):
                yield MODELS[cells[0]], key, value


@pytest.mark.parametrize(("model", "key", "value"), list(named()))
def test_an_option_that_the_page_names_is_there(model, key, value):
    layers = read_layers(CONFIGS / model / "base.yaml")
    settings = build_settings([*layers, *([parse_override(f"{key}={value}")] if value else []), Layer("test", {"seed": 1})])
    for part in key.split("."):
        assert hasattr(settings, part), key
        settings = getattr(settings, part)


def test_the_table_is_read():
    assert {model for model, _, _ in named()} == set(MODELS.values())
    assert len(list(named())) >= 10
