"""What the README says."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_section_on_baselines_names_the_methods_and_the_example_that_there_are():
    from anomaly_detection.baseline import Baseline

    text = section("Add a baseline")
    for method in ("phases", "optimizers", "training_step", "assess", "prepare", "begin_phase", "validation_loss", "sample", "describe", "heads"):
        assert f"{method}" in text
        assert hasattr(Baseline, method)
    assert (Path(__file__).parents[1] / "examples" / "autoencoder.py").is_file()


def test_the_keys_that_the_section_on_baselines_names_make_a_config(tmp_path):
    from anomaly_detection.config.layers import read_layers
    from anomaly_detection.registry import build_settings

    keys = re.findall(r"`(\w+: [^`]+)`", section("Add a baseline").split("train_eval`")[1])
    (tmp_path / "own.yaml").write_text("\n".join(keys), encoding="utf-8")
    settings = build_settings(read_layers(tmp_path / "own.yaml"))
    assert settings.model == "examples.autoencoder:Autoencoder"
    assert list(settings.datasets) == ["lits", "covid_ct", "covid_xray"]
