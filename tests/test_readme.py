"""What the README is: short, in a settled order, with a picture and results on its first screen; and the page on baselines."""

import re
from dataclasses import fields

import yaml
from PIL import Image

from anomaly_detection.baseline import Assessment, Baseline
from anomaly_detection.config.layers import Layer
from anomaly_detection.registry import build_settings
from anomaly_detection.study.regimes import regime_of
from tests.documents import PAGES, PROJECT

README = PAGES["README.md"]
ORDER = ["Limits", "Run", "Prepare data", "Results", "Use", "Configure", "Extend", "Port", "Layout"]
SCREEN = 40  # lines of source, which wrap


def test_it_is_short_and_in_order():
    assert len(README.splitlines()) <= 250
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == ORDER


def test_the_first_screen_shows_a_picture_results_and_limits():
    first = "\n".join(README.splitlines()[:SCREEN])
    (picture,) = re.findall(r"!\[[^\]]+\]\((\S+)\)", first)
    assert (PROJECT / picture).stat().st_size < 300_000
    assert Image.open(PROJECT / picture).width > 800
    rows = [line for line in first.splitlines() if line.startswith("| ")]
    assert sum(bool(re.search(r"\.\d{3} \|", row)) for row in rows) == 7
    assert "**Not for clinical use.**" in first


def test_the_means_are_those_of_the_rows():
    """Each figure has three digits: the mean of three may be off by one in the last."""
    for row in re.findall(r"^\|.*\*\*\.\d{3}\*\*.*$", README, re.MULTILINE):
        *datasets, mean = (float(value) for value in re.findall(r"\.\d{3}", row)[:4])
        assert abs(sum(datasets) / 3 - mean) < 0.0011, row


def test_no_page_speaks_of_a_machine():
    for page, text in PAGES.items():
        assert not re.findall(r"(?<![\w.~/:])/(?:home|root|Users|tmp|work|data1?|mnt|opt|usr)\b|[A-Z]:\\", text), page


def test_every_page_is_linked():
    for page in PAGES:
        assert page in ("README.md", "folds/README.md") or f"]({page})" in README, page


def test_the_page_on_baselines_names_the_methods_that_there_are():
    text = PAGES["docs/extending.md"]
    for method in (
        "phases",
        "optimizers",
        "training_step",
        "assess",
        "prepare",
        "begin_phase",
        "after_step",
        "validation_loss",
        "sample",
        "describe",
        "heads",
        "constraint",
    ):
        assert f"{method}" in text
        assert hasattr(Baseline, method)


def test_the_page_on_baselines_tells_the_parts_of_an_assessment():
    told = re.findall(r"^\| `(\w+)` \| \((N, .*|N,)\) \|", PAGES["docs/extending.md"], re.MULTILINE)
    assert {name for name, _ in told} == {each.name for each in fields(Assessment)} - {"by_domain"}
    assert "`self.latent_dim`" in PAGES["docs/extending.md"]


def test_the_config_that_the_page_on_baselines_shows_is_of_the_example():
    (config,) = re.findall(r"```yaml\n(.*?)```", PAGES["docs/extending.md"], re.DOTALL)
    settings = build_settings([Layer("the page", yaml.safe_load(config))])
    assert settings.model == "examples.autoencoder:Autoencoder"
    assert regime_of(len(settings.datasets), settings.maddr).name == "maddr"
    assert (PROJECT / "examples" / "autoencoder.py").is_file()
