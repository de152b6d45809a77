"""Whether networks whose numbers stand side by side were trained alike: in which settings they differ beside data, seed and constraint."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from anomaly_detection.config.layers import to_plain
from anomaly_detection.config.settings import Settings
from anomaly_detection.study.experiment import FREE_KEYS, flat
from anomaly_detection.study.regimes import REGIMES

# what a study varies, and what changes no weight
APART = ("model", "datasets", "seed", "maddr", *FREE_KEYS, "log_iter", "sample_iter", "checkpoint_iter", "tensorboard")
SHOWN = 4  # settings that a sentence names one by one


class Network(NamedTuple):
    """Which network of a model it is."""

    regime: str
    datasets: tuple[str, ...]
    seed: int


def unlike(networks: Sequence[tuple[str, Settings]]) -> str:
    """A sentence that says which networks were trained otherwise than those they are compared with, and how; "" where all were trained alike.

    Where a model has several regimes they are held against its first network of the most datasets. Networks of one regime are of different datasets
    and compared with none; their seeds, of which tables show the mean, are held against the first.

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
    first: dict[tuple[str, ...], dict[str, Any]] = {}
    otherwise: dict[str, list[Network]] = {}
    for network, values in own:
        other = widest if several else first.setdefault(network.datasets, values)
        if text := _differences(values, other):
            otherwise.setdefault(text, []).append(network)
    among = [network for network, _ in own]
    return "; ".join(f"{named(networks, among)}: {text}" for text, networks in otherwise.items())


def _differences(values: dict[str, Any], other: dict[str, Any]) -> str:
    """Such as "iterations 16000 instead of 2000"; settings of the baseline last, since a reader of tables knows the others."""
    keys = [key for key in {**values, **other} if values.get(key) != other.get(key)]  # a group that may be null has keys in one of them alone
    keys.sort(key=lambda key: key.startswith("baseline."))
    texts = [f"{key} {_word(values.get(key))} instead of {_word(other.get(key))}" for key in keys]
    shown, more = texts[:SHOWN], len(texts[SHOWN:])
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _word(value: Any) -> str:
    return "null" if value is None else str(value)


def named(networks: Sequence[Network], among: Sequence[Network]) -> str:
    """Networks of a model by regime, by dataset where each has one of its own, and by seed where not all seeds among those there are are meant."""
    names = []
    for regime, datasets in dict.fromkeys((each.regime, each.datasets) for each in networks):
        seeds, others = ([each.seed for each in group if (each.regime, each.datasets) == (regime, datasets)] for group in (networks, among))
        name = regime if REGIMES[regime].mixed else f"{regime} {'+'.join(datasets)}"
        names.append(name if set(seeds) == set(others) else f"{name} seed {' '.join(map(str, sorted(seeds)))}")
    return ", ".join(names)
