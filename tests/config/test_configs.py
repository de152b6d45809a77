"""The YAML files that ship, against the settings that they set."""

import dataclasses
import re
from pathlib import Path

import pytest

from anomaly_detection.config.layers import Layer, read_layers, read_yaml, to_plain
from anomaly_detection.registry import BASELINES, build_settings

CONFIGS = Path(__file__).parents[2] / "configs"


def keys(values: dict, prefix: str = "") -> set[str]:
    nested = {key: value for key, value in values.items() if isinstance(value, dict) and value and all(isinstance(name, str) for name in value)}
    return {prefix + key for key in values} | {each for key, value in nested.items() for each in keys(value, f"{prefix}{key}.")}


@pytest.mark.parametrize("model", BASELINES)
def test_base_lists_every_key_with_its_default_and_a_comment(model):
    path = CONFIGS / model / "base.yaml"
    listed = read_yaml(path)
    defaults = to_plain(build_settings([Layer("defaults", {"model": model, "datasets": listed["datasets"]})]))
    assert keys(listed) == keys(defaults)
    settings = to_plain(build_settings(read_layers(path)))
    assert settings["baseline"] == defaults["baseline"]
    assert settings["maddr"] == defaults["maddr"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_builds(path):
    preset = path.name in ("phantom.yaml", "quick.yaml")
    layers = [*read_layers(path.parent / "base.yaml"), *read_layers(path)] if preset else read_layers(path)
    settings = build_settings(layers)
    assert dataclasses.is_dataclass(settings.baseline)


SCHEDULES = {  # batch size, learning rate, iterations, lr_step
    "MADDR_dpa": (32, 0.001, 16000, 10000),
    "f_anogan": (64, 0.0001, 50000, None),
    "ganomaly": (64, 0.0002, 16000, None),
    "memae": (32, 0.0001, 16000, None),
}


@pytest.mark.parametrize("model", BASELINES)
def test_the_papers_datasets_run_the_published_schedule_at_full_width(model):
    for name in ("lits", "covid_ct", "covid_xray", "universal"):
        settings = build_settings(read_layers(CONFIGS / model / f"{name}.yaml"))
        assert (settings.batch_size, settings.lr, settings.iterations, settings.lr_step) == SCHEDULES[model]
        assert settings.image_size == 64
        assert getattr(settings.baseline, "width", 64) == 64
        assert settings.maddr.enabled == (name == "universal")


def test_the_readme_names_what_exists():
    readme = (CONFIGS.parent / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"configs/[\w/]+\.yaml", readme):
        invented = "brain_mri" in path or "linear" in path  # what the README shows how to add
        assert (CONFIGS.parent / path).exists() or invented, path
