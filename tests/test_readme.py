"""What the README says."""

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
