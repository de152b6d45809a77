"""The YAML files that ship, against the settings that they set."""

import dataclasses
import re
from pathlib import Path

import pytest

from anomaly_detection.config.layers import Layer, read_layers, read_yaml, to_plain
from anomaly_detection.config.paths import OF_NO_DATASET
from anomaly_detection.registry import BASELINES, build_settings

CONFIGS = Path(__file__).parents[2] / "configs"


def keys(values: dict, prefix: str = "") -> set[str]:
    nested = {key: value for key, value in values.items() if isinstance(value, dict) and value and all(isinstance(name, str) for name in value)}
    return {prefix + key for key in values} | {each for key, value in nested.items() for each in keys(value, f"{prefix}{key}.")}


def plain(values: dict, prefix: str = "") -> dict:
    """The values of a YAML file by dotted key."""
    nested = {key: value for key, value in values.items() if isinstance(value, dict) and value and all(isinstance(name, str) for name in value)}
    below = {name: each for key, value in nested.items() for name, each in plain(value, f"{prefix}{key}.").items()}
    return {prefix + key: value for key, value in values.items() if key not in nested} | below


def keys_of(model: str) -> tuple[dict, dict, dict]:
    """What common.yaml and base.yaml say, and the defaults of the dataclasses."""
    common, base = read_yaml(CONFIGS / "common.yaml"), read_yaml(CONFIGS / model / "base.yaml")
    assert base.pop("extends") == "../common.yaml"
    return common, base, to_plain(build_settings([Layer("defaults", {"model": model, "datasets": common["datasets"]})]))


@pytest.mark.parametrize("model", BASELINES)
def test_common_and_base_list_every_key_with_its_default(model):
    common, base, defaults = keys_of(model)
    assert keys(common) | keys(base) == keys(defaults)
    assert plain(base["baseline"]) == plain(defaults["baseline"])
    assert plain(common) == {key: value for key, value in plain(defaults).items() if key != "model" and not key.startswith("baseline.")}


@pytest.mark.parametrize("model", BASELINES)
def test_base_repeats_nothing_of_common(model):
    common, base, _ = keys_of(model)
    assert not {key for key, value in plain(base).items() if key in plain(common) and plain(common)[key] == value}


@pytest.mark.parametrize("model", BASELINES)
def test_every_key_is_explained(model):
    """By a comment in its line, or in that of a group that names it; what is explained of `enc` need not be of `dec`."""
    lines = "".join((CONFIGS / path).read_text(encoding="utf-8") for path in ("common.yaml", f"{model}/base.yaml")).splitlines()
    commented = [re.fullmatch(r" *(\w+):( .*?)? +# (.+)", line) for line in lines]
    explained = {match[1] for match in commented if match}
    explained |= {word for match in commented if match and not (match[2] or "").strip() for word in re.findall(r"\w+", match[3])}
    defaults = keys_of(model)[2]
    assert not {key for key in keys(defaults) if key.rpartition(".")[2] not in explained}


def test_a_file_is_of_a_dataset_or_of_a_name_that_none_may_have():
    """A dataset of that name would be trained by it."""
    assert {path.stem for path in CONFIGS.glob("*/*.yaml")} == {*read_yaml(CONFIGS / "datasets.yaml"), *OF_NO_DATASET}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_builds(path):
    preset = path.name in ("phantom.yaml", "quick.yaml")
    layers = [*read_layers(path.parent / "base.yaml"), *read_layers(path)] if preset else read_layers(path)
    settings = build_settings(layers)
    assert dataclasses.is_dataclass(settings.baseline)


FROZEN = ("gaussian", "feature_ae")  # their backbone is as it was published, and what is trained on it trains in seconds
SCHEDULES = {  # batch size, learning rate, iterations, lr_step
    "MADDR_dpa": (32, 0.001, 16000, 10000),
    "f_anogan": (64, 0.0001, 50000, None),
    "ganomaly": (64, 0.0002, 16000, None),
    "memae": (32, 0.0001, 16000, None),
    "gaussian": (32, 0.001, 300, None),
    "feature_ae": (32, 0.002, 800, None),
}


@pytest.mark.parametrize("model", BASELINES)
def test_the_papers_datasets_run_the_long_schedule_at_full_width(model):
    for name in ("lits", "covid_ct", "covid_xray", "universal"):
        settings = build_settings(read_layers(CONFIGS / model / f"{name}.yaml"))
        assert (settings.batch_size, settings.lr, settings.iterations, settings.lr_step) == SCHEDULES[model]
        assert settings.image_size == (224 if model in FROZEN else 64)
        assert getattr(settings.baseline, "width", 64) == (128 if model == "feature_ae" else 64)
        assert settings.maddr.enabled == (name == "universal")
        assert settings.early_stopping_patience is None
    if model not in FROZEN:
        on_phantoms = [*read_layers(CONFIGS / model / "universal.yaml"), *read_layers(CONFIGS / model / "phantom.yaml")]
        assert build_settings(on_phantoms).early_stopping_patience == 6
        assert build_settings(read_layers(CONFIGS / model / "paper.yaml")).iterations == SCHEDULES[model][2]
