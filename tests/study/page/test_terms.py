"""No measure and no regime without a definition."""

import pytest

from anomaly_detection.evaluation.localisation import PIXEL_METRICS
from anomaly_detection.evaluation.metrics import METRICS
from anomaly_detection.evaluation.twins import TWIN_METRICS
from anomaly_detection.study.page.terms import MEASURES, TERMS, definitions, term
from anomaly_detection.study.regimes import MADDR, PROBE, SEPARATE, UNITED
from anomaly_detection.study.tables import PATIENT_METRIC


def test_every_measure_is_defined():
    assert set(MEASURES) == {*METRICS, *PIXEL_METRICS, *TWIN_METRICS, PATIENT_METRIC}
    assert all(text.endswith(".") for text in [*MEASURES.values(), *TERMS.values()])


def test_every_regime_is_explained():
    assert all(f"{regime.name}:" in TERMS["regime"] for regime in (SEPARATE, UNITED, PROBE, MADDR))


def test_a_word_opens_its_definition():
    text = definitions()
    for name in TERMS:
        (target,) = (part.split('"')[1] for part in term(name).split() if part.startswith("popovertarget"))
        assert f'<div popover id="{target}"><b>{name}</b>: {TERMS[name][:20]}' in text
    with pytest.raises(KeyError, match="nonsense: no such term"):
        term("nonsense")
