"""Does a detector work, where, and how sure is that: a sentence for each, and what the sentences are worth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from anomaly_detection.study.results import Cell, Result, cells
from anomaly_detection.study.summary import counted, deployed, told_regime

CHANCE = 0.5
NAMED = 4  # datasets that a sentence names one by one
TWIN_RATES = {"obvious": "obvious_twin_rate", "all": "twin_rate"}  # of these lesions, where images have healthy twins
MANY = 8  # intervals of which some may exclude chance by chance


@dataclass(frozen=True)
class Verdict:
    """What a study says of one detector.

    Attributes:
        model, regime: which networks it is about, see `told_regime`.
        answer: whether it works, in a few words.
        reason: on which datasets, how sure that is, what lesions do to the score where images have healthy twins, and what it finds at its threshold.
        extent: on how many of the datasets it works; not on all where networks of some are missing.
    """

    model: str
    regime: str
    answer: str
    reason: str
    extent: Literal["all", "some", "none"]


def verdicts(results: Sequence[Result], datasets: Sequence[str]) -> list[Verdict]:
    """One for each detector: it works where the 95 % interval of its AUROC lies above 0.5.

    AUROC is low where bodies differ more than a lesion does. So the answer says, too, on how many datasets lesions raise the score above that of the
    same body without them: where the 95 % interval of the twin rate, of all lesions or of a stratum, lies above 0.5.

    Args:
        results: as `with_joint_intervals` leaves them.
        datasets: of the study.
    """
    return [_verdict(results, model, told_regime(results, model), datasets) for model in dict.fromkeys(result.model for result in results)]


def _verdict(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> Verdict:
    def known(metric: str) -> dict[str, Cell]:
        return {name: cell for name, cell in cells(results, model, regime, datasets, metric).items() if name in datasets and cell.values}

    aurocs, scored = known("auroc"), known("specificity")
    missing = [name for name in datasets if name not in scored]
    twins = {kind: rates for kind, metric in TWIN_RATES.items() if (rates := known(metric))}
    where = f"AUROC {_against_chance(aurocs)}" if aurocs else "No abnormal test images, so nothing says what it finds"
    sentences = [where, _raised(twins), _at_threshold(results, model, regime, datasets), _unscored(missing)]
    better = len(_better(aurocs))
    asked = len(aurocs) + len(missing) if aurocs else 0
    extent = "all" if 0 < better == asked else "some" if better or any(map(_better, twins.values())) else "none"
    return Verdict(model, regime, _answer(better, asked) + _twin_answer(twins), " ".join(f"{each}." for each in sentences if each), extent)


def _unscored(missing: Sequence[str]) -> str:
    """Of which datasets nothing is said, since their networks failed or have not ended."""
    if not missing:
        return ""
    return f"No network was scored on {', '.join(missing) if len(missing) <= NAMED else f'{len(missing)} of the datasets'}"


def _raised(twins: Mapping[str, Mapping[str, Cell]]) -> str:
    """What lesions do to the score of a body: over several datasets from the lowest to the highest share."""
    if not twins:
        return ""
    (kind, rates), *others = ((kind, _range(list(rates.values()))) for kind, rates in twins.items())
    also = "".join(f"; of {other} lesions {each}" for other, each in others)
    return f"Of {kind} lesions {rates} raise the score above that of the same body without them (by chance 50 %){also}"


def _against_chance(known: Mapping[str, Cell]) -> str:
    """Where a rate is better than 0.5, where worse, and where its interval does not say."""
    better, worse = _better(known), [name for name, cell in known.items() if cell.interval and cell.interval[1] < CHANCE]
    unsure = [name for name in known if name not in better + worse]
    groups = {"better than chance on": better, "worse than chance on": worse, "unclear on": unsure}
    return "; ".join(f"{words} {_rates({name: known[name] for name in names})}" for words, names in groups.items() if names)


def _better(known: Mapping[str, Cell]) -> list[str]:
    return [name for name, cell in known.items() if cell.interval and cell.interval[0] > CHANCE]


def _answer(better: int, asked: int) -> str:
    """Of the datasets that have an AUROC, or would have one if their networks had been scored."""
    if not asked:
        return "not measured"
    if not better:
        return "not shown" if asked == 1 else f"not shown (0 of {asked} datasets)"
    if better < asked:
        return f"on {better} of {asked} datasets"
    return "yes" if asked == 1 else f"yes, on all {asked} datasets"


def _twin_answer(twins: Mapping[str, Mapping[str, Cell]]) -> str:
    """The end of an answer: on how many of the datasets with healthy twins lesions raise the score, obvious ones where it is known which are."""
    if not twins:
        return ""
    kind, rates = next(iter(twins.items()))
    return f"; {kind} lesions raise the score more often than by chance on {len(_better(rates))} of {len(rates)}"


def _rates(known: Mapping[str, Cell]) -> str:
    """Such as "lits 0.63 [0.53–0.73]"; of many datasets how far apart they lie."""
    values = {name: mean(cell.values) for name, cell in known.items()}
    if len(known) > NAMED:
        low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
        return f"{len(known)} datasets ({values[low]:.2f} on {low} to {values[high]:.2f} on {high})"
    intervals = {name: " [{:.2f}–{:.2f}]".format(*cell.interval) if cell.interval else "" for name, cell in known.items()}
    return ", ".join(f"{name} {values[name]:.2f}{intervals[name]}" for name in known)


def false_alarms(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> dict[str, Cell]:
    """By dataset, the share of its normal test images that are called abnormal."""
    passes = cells(results, model, regime, datasets, "specificity")
    return {name: passes[name].complement() for name in datasets}


def _at_threshold(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> str:
    """What the networks call abnormal: over several datasets from the lowest to the highest share."""
    hits = cells(results, model, regime, datasets, "sensitivity")
    shares = {"abnormal": [hits[name] for name in datasets], "normal": list(false_alarms(results, model, regime, datasets).values())}
    told = [f"{_range(known)} of {kind}" for kind, each in shares.items() if (known := [cell for cell in each if cell.values])]
    return f"Flagged {', '.join(told)} images" if told else ""


def _range(shares: Sequence[Cell]) -> str:
    values = [100 * mean(cell.values) for cell in shares]
    if len(shares) == 1 and shares[0].interval:
        return "{:.0f} % [{:.0f}–{:.0f}]".format(*values, *(100 * end for end in shares[0].interval))
    ends = dict.fromkeys(f"{each(values):.0f}" for each in (min, max))
    return f"{'–'.join(ends)} %"


def certainty(results: Sequence[Result], datasets: Sequence[str]) -> list[str]:
    """How sure the verdicts are: over whom the intervals are, how many trainings there were, and what the promised false alarms are worth."""
    seeds = Counter(network for network, _ in {((each.model, each.regime, each.datasets), each.seed) for each in results}).values()
    once = "each network was trained once, and another training may differ"
    trained = f"each network was trained with {'–'.join(map(str, sorted({min(seeds), max(seeds)})))} seeds" if max(seeds) > 1 else once
    lines = [f"[low–high] are 95 % intervals over {counted(results, datasets) or 'the images'} of the test part; {trained}."]
    rows = [cells(results, each.model, each.regime, datasets, "auroc") for each in verdicts(results, datasets)]
    if sum(bool(row[name].values) for row in rows for name in datasets) >= MANY:
        lines.append("Of forty such intervals about one lies above 0.5 by chance alone.")
    promises = [(name, each["false_alarms"]) for result in results for name, each in result.metrics["datasets"].items() if "false_alarms" in each]
    promised = " or ".join(dict.fromkeys(f"{100 * each['promised']:.3g} %" for _, each in promises))
    if promised:
        estimates = list(dict.fromkeys(name for name, each in promises if not each["guaranteed"]))
        named = ", ".join(estimates) if len(estimates) <= NAMED else f"{len(estimates)} of {len(datasets)} datasets"
        where = f"; on {named} that is an estimate, for want of validation normals" if estimates else ""
        lines.append(f"Thresholds were set on validation normals, for at most {promised} of normal images called abnormal{where}.")
    return lines + deployed(results, [(each.model, each.regime) for each in verdicts(results, datasets)])
