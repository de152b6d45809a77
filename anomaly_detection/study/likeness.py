"""Whether networks whose numbers stand side by side were trained and set alike, but for what a study varies; if not, what differs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from anomaly_detection.config.layers import to_plain
from anomaly_detection.config.settings import Settings
from anomaly_detection.study.experiment import FREE_KEYS, flat
from anomaly_detection.study.regimes import REGIMES, TERMS

CONSTRAINT = "maddr."  # in which regimes differ, and the seeds of one do not
SWITCHES = (f"{CONSTRAINT}enabled", f"{CONSTRAINT}probe")
WEIGHTS = [f"{CONSTRAINT}{term}_weight" for term in TERMS]  # 0: the term is off
APART = ("model", "datasets", "seed", *FREE_KEYS)  # what else a study varies, and what changes no weight
SHOWN = 4  # settings that a sentence names one by one


class Network(NamedTuple):
    """Which network of a model it is."""

    regime: str
    datasets: tuple[str, ...]
    seed: int


def unlike(networks: Sequence[tuple[str, Settings]]) -> str:
    """A sentence that says which networks were trained otherwise than those they are compared with, and how; "" where all were trained alike.

    Where a model has several regimes they are held against its first network of the most datasets; the constraint of those that have one against the
    first of the most terms, but for the weights of terms that one of both lacks. Networks of one regime are of different datasets and compared with
    none; their seeds, of which tables show the mean, are held against the first, all of the constraint, too.

    Args:
        networks: their regimes and settings.
    """
    by_model: dict[str, list[tuple[Network, dict[str, Any]]]] = {}
    for regime, settings in networks:
        network = Network(regime, tuple(settings.datasets), settings.seed)
        values = {key: value for key, value in flat(to_plain(settings)).items() if key.partition(".")[0] not in APART}
        by_model.setdefault(settings.model, []).append((network, values))
    told = [f"{model} ({text})" for model, own in by_model.items() if (text := _of_model(own))]
    return f"Not compared like for like, since settings differ: {'; '.join(told)}." if told else ""


def _of_model(own: Sequence[tuple[Network, dict[str, Any]]]) -> str:
    several = len({network.regime for network, _ in own}) > 1
    _, widest = max(own, key=lambda each: len(each[0].datasets))
    _, constrained = max(own, key=lambda each: len(_terms(each[1])))
    first: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    otherwise: dict[str, list[Network]] = {}
    for network, values in own:
        seed = first.setdefault((network.regime, network.datasets), values)
        other = {key: value for key, value in widest.items() if not key.startswith(CONSTRAINT)} if several else seed
        other = other | {key: value for key, value in seed.items() if key.startswith(CONSTRAINT)}
        if several and _terms(values):
            lacking = set(WEIGHTS) - (_terms(values) & _terms(constrained))
            other |= {key: value for key, value in constrained.items() if key.startswith(CONSTRAINT) and key not in (*SWITCHES, *lacking)}
        if text := _differences(values, other):
            otherwise.setdefault(text, []).append(network)
    among = [network for network, _ in own]
    return "; ".join(f"{named(networks, among)}: {text}" for text, networks in otherwise.items())


def _terms(values: dict[str, Any]) -> set[str]:
    """The weights of the terms that act; none without the constraint."""
    return {key for key in WEIGHTS if values[SWITCHES[0]] and values[key] > 0}


def _differences(values: dict[str, Any], other: dict[str, Any]) -> str:
    """Such as "iterations 16000 instead of 2000"; settings of the baseline last, since a reader of tables knows the others."""
    keys = [key for key in {**values, **other} if values.get(key) != other.get(key)]  # a group that may be null has keys in one of them alone
    keys.sort(key=lambda key: key.startswith("baseline."))
    texts = [f"{key} {_word(values.get(key))} instead of {_word(other.get(key))}" for key in keys]
    shown, more = texts[:SHOWN], len(texts[SHOWN:])
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def unlike_thresholds(networks: Sequence[tuple[str, Network, float]]) -> str:
    """Sentences that say which networks were set to other shares of false alarms than the most; "" where all were set to one.

    Args:
        networks: of each the model, which one it is, and the share of normals below its threshold.
    """
    by_share: dict[str, dict[str, list[Network]]] = {}
    among: dict[str, list[Network]] = {}
    for model, network, quantile in networks:
        by_share.setdefault(f"{100 * (1 - quantile):.3g} %", {}).setdefault(model, []).append(network)
        among.setdefault(model, []).append(network)
    usual = max(by_share, key=lambda share: sum(map(len, by_share[share].values())), default=None)
    others = {share: models for share, models in by_share.items() if share != usual}
    told = [f"{share} for {', '.join(f'{model} ({named(own, among[model])})' for model, own in models.items())}" for share, models in others.items()]
    advice = "Compare rows of the same; `maddr evaluate RUN --set threshold_quantile=Q` sets another threshold."
    return f"Thresholds were not set for one share of normal images: {'; '.join(told)}, {usual} for the others. {advice}" if told else ""


def named(networks: Sequence[Network], among: Sequence[Network]) -> str:
    """Networks of a model by regime, by dataset where each has one of its own, and by seed where not all seeds among those there are are meant."""
    names = []
    for regime, datasets in dict.fromkeys((each.regime, each.datasets) for each in networks):
        seeds, others = ([each.seed for each in group if (each.regime, each.datasets) == (regime, datasets)] for group in (networks, among))
        name = regime if REGIMES[regime].mixed else f"{regime} {'+'.join(datasets)}"
        names.append(name if set(seeds) == set(others) else f"{name} seed {' '.join(map(str, sorted(seeds)))}")
    return ", ".join(names)
