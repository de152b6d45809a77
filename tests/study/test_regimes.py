"""The regimes as values."""

import pytest

from anomaly_detection.config.layers import Layer, build
from anomaly_detection.config.settings import MaddrSettings
from anomaly_detection.study.regimes import ABLATIONS, REGIMES, TERMS, regime_of


def weights(name: str) -> dict[str, float] | None:
    """The weights of the terms that act in a regime; None without a constraint."""
    settings = build(MaddrSettings, [Layer("regime", REGIMES[name].settings()["maddr"])])
    return {term: getattr(settings, f"{term}_weight") for term in TERMS if getattr(settings, f"{term}_weight")} if settings.enabled else None


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("separate", None),
        ("united", None),
        ("maddr_organ", ["organ"]),
        ("maddr_modality", ["modality"]),
        ("maddr_center", ["center"]),
        ("maddr_organ_modality", ["organ", "modality"]),
        ("maddr", ["organ", "modality", "center"]),
    ],
)
def test_a_regime_lets_its_terms_act_alone(name, terms):
    assert weights(name) == (None if terms is None else dict.fromkeys(terms, 0.1))


def test_what_is_listed():
    assert list(REGIMES) == ["separate", "united", "united_probe", "maddr_organ", "maddr_modality", "maddr_center", "maddr_organ_modality", "maddr"]
    assert [regime.name for regime in REGIMES.values() if not regime.mixed] == ["separate"]
    assert [regime for regime in REGIMES.values() if regime.ablation] == list(ABLATIONS)


@pytest.mark.parametrize(
    ("datasets", "maddr", "name"),
    [
        (1, {}, "separate"),
        (2, {}, "united"),
        (1, {"enabled": True}, "maddr"),
        (3, {"enabled": True}, "maddr"),
        (2, {"probe": True}, "united_probe"),
    ],
)
def test_a_single_network_has_a_regime(datasets, maddr, name):
    assert regime_of(datasets, MaddrSettings(**maddr)).name == name


def test_constraint_and_probe_are_one_or_the_other():
    with pytest.raises(ValueError, match="enabled and probe are one or the other"):
        MaddrSettings(enabled=True, probe=True)
