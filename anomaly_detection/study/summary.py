"""What a study shows, in sentences for who reads images rather than tables."""

from collections.abc import Hashable, Mapping, Sequence
from statistics import mean

from anomaly_detection.data.splits import NO_ABNORMAL
from anomaly_detection.study.regimes import MADDR, PROBE, REGIMES, SEPARATE, UNITED
from anomaly_detection.study.results import Cell, Compared, Result, as_deployed, cells, compared, normal_alone
from anomaly_detection.study.tables import unlike_settings

TOLD = (MADDR.name, UNITED.name, SEPARATE.name)  # of a detector the first that there is
AGAINST = {
    UNITED.name: "the same network without it",
    PROBE.name: "the same network without it, whose latent was read for organ and modality afterwards",
    SEPARATE.name: "one network for each dataset",
}
MODALITIES = {"ct": "CT", "mri": "MRI", "mr": "MR", "pet": "PET", "xray": "X-ray"}
WAYS = {MADDR.name: "one network with MADDR", UNITED.name: "one network without MADDR", SEPARATE.name: "one network for each dataset"}


def summary(results: Sequence[Result], datasets: Sequence[str], phantom: bool = False, quick: bool = False) -> list[str]:
    """Lines of plain words: what each detector found and at which false-alarm rate, what MADDR added, and what none of it says.

    Args:
        results: as `with_joint_intervals` leaves them.
        datasets: of the study.
        phantom: whether the images are phantoms.
        quick: whether it was a smoke run.
    """
    if quick:
        return ["This was a smoke run (--quick): it shows that everything runs, and its numbers mean nothing."]
    models = list(dict.fromkeys(result.model for result in results))
    lines = [_detection(results, model, datasets) for model in models]
    if lines:
        lines = [_promise(results), *lines, *deployed(results, [(model, told_regime(results, model)) for model in models])]
    if alone := normal_alone(results, datasets):
        lines.append(f"{', '.join(spoken(results, name) for name in alone)}: {NO_ABNORMAL}.")
    if len(models) > 1:
        lines += _highest(results, models, datasets)
    against = {other: {model: compared(results, model, MADDR.name, other, datasets) for model in models} for other in AGAINST}
    lines += (additions := [line for other in AGAINST if (line := _addition(results, against, other, datasets))])
    if additions and all(len(each.seeds) < 2 for by_model in against.values() for each in by_model.values()):
        lines.append("Each network was trained once: these intervals are over patients alone, and another training may give another difference.")
    if len(additions) * len(models) > 1:
        lines.append("Of twenty such comparisons about one shows a difference by chance alone.")
    domains = {_domain(results, name) for name in datasets}
    if additions and len(domains) == 1 and None not in domains:
        lines.append("All these images are of one organ and one modality: what MADDR does for several together was not asked here.")
    if lines and (unlike := unlike_settings(results)):
        lines.append(unlike)
    if lines and phantom:
        lines.append("These images are phantoms, rendered by a computer: this says nothing about patients.")
    return lines


def _promise(results: Sequence[Result]) -> str:
    """What the calls below were made for; a word for where it is an estimate."""
    alarms = [values["false_alarms"] for result in results for values in result.metrics["datasets"].values() if "false_alarms" in values]
    promised = ", ".join(dict.fromkeys(f"{100 * each['promised']:.3g} %" for each in alarms)) or "few"
    estimate = "" if all(each["guaranteed"] for each in alarms) else " (where there were few normal images to set it by, this is an estimate)"
    return f"Each detector was set to call at most {promised} of the normal images of each dataset abnormal{estimate}. [low–high] are 95 % intervals."


def told_regime(results: Sequence[Result], model: str) -> str:
    """The regime that sentences about a detector are about: with MADDR where there is one, else united, else separate, else what there is."""
    return next(name for name in (*TOLD, *REGIMES) if any((each.model, each.regime) == (model, name) for each in results))


def deployed(results: Sequence[Result], networks: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence on those networks, by model and regime, that `predict` gives other thresholds than they were measured by, if there are any."""
    untold: dict[str, list[Result]] = {}
    for each in results:
        if (each.model, each.regime) in networks and each.untold:
            untold.setdefault(f"{each.model} ({each.regime})", []).append(each)
    most = {name: max(len(each.datasets) for each in own) for name, own in untold.items()}
    pools = {name: [each.metrics["pooled"] for each in own if len(each.datasets) == most[name]] for name, own in untold.items()}
    return [f"{text[0].upper()}{text[1:]}." for text in ([as_deployed(pools)] if pools else [])]


def _detection(results: Sequence[Result], model: str, datasets: Sequence[str]) -> str:
    regime = told_regime(results, model)
    shares = {name: cells(results, model, regime, datasets, name) for name in ("sensitivity", "specificity")}
    parts = []
    for dataset in datasets:
        hits, passes = (shares[name][dataset] for name in shares)
        told = [f"{_share(cell)} of {kind}" for kind, cell in (("abnormal", hits), ("normal", passes.complement())) if cell.values]
        if told:
            parts.append(f"{spoken(results, dataset)} {' and '.join(told)} images")
    return f"{model} ({WAYS.get(regime, regime) if len(datasets) > 1 else 'one network'}) called abnormal: {'; '.join(parts)}."


def spoken(results: Sequence[Result], dataset: str) -> str:
    """A dataset by what it shows, such as "liver CT (lits)"."""
    domain = _domain(results, dataset)
    return f"{shown(*domain)} ({dataset})" if domain else dataset


def _domain(results: Sequence[Result], dataset: str) -> tuple[str, str] | None:
    """Organ and modality of a dataset; None where no line says them."""
    row = next((rows[0] for result in results if (rows := result.rows.where(dataset=dataset))), {})
    return (row["organ"], row["modality"]) if "organ" in row else None


def shown(organ: str, modality: str) -> str:
    """What images show, such as "liver CT"."""
    return f"{organ} {MODALITIES.get(modality, modality)}"


def _highest(results: Sequence[Result], models: Sequence[str], datasets: Sequence[str]) -> list[str]:
    """The detector and way of training with the highest mean AUROC, with what such a choice is worth."""
    ways = dict.fromkeys((result.model, result.regime) for result in results if result.model in models)
    means = {way: mean(values) for way in ways if (values := cells(results, *way, datasets, "auroc")["mean"].values)}
    if not means:
        return []
    (model, regime), value = max(means.items(), key=lambda each: each[1])
    text = f"On these test images {model} ({regime}) has the highest mean AUROC of the {len(means)} rows, {value:.2f}"
    return [f"{text} (0.5 is chance); the same images chose it, so on others expect less."]


def _addition(results: Sequence[Result], against: Mapping[str, Mapping[str, Compared]], other: str, datasets: Sequence[str]) -> str:
    """What MADDR added to each model, over another regime; nothing where no model has both."""
    added = {model: each.added["mean"] for model, each in against[other].items() if each.added}
    if other == PROBE.name:  # of most detectors the score does not depend on the domain: for them this was said of the network without a probe
        added = {model: each for model, each in added.items() if each != against[UNITED.name][model].added.get("mean")}
    same = [model for model, each in added.items() if each.low <= 0 <= each.high]
    trainings = max((len(against[other][model].seeds) for model in same), default=0)
    alone = normal_alone(results, datasets)  # they have no part in what is compared
    tested = counted(results, [name for name in datasets if name not in alone], trainings)
    groups = {
        "raised the mean AUROC of": [model for model, each in added.items() if each.low > 0],
        "lowered the mean AUROC of": [model for model, each in added.items() if each.high < 0],
        f"made no difference to the mean AUROC that these {tested} can show for": same,
    }
    told = [f"{verb} {', '.join(f'{model} ({added[model]})' for model in named)}" for verb, named in groups.items() if named]
    return f"Against {AGAINST[other]}, MADDR {'; it '.join(told)}." if told else ""


def counted(results: Sequence[Result], datasets: Sequence[str], trainings: int = 1) -> str:
    """Who is tested, such as "125 patients"; images where it is not known whose they are. Trainings with other seeds where there are several.

    A patient counts once, in however many datasets.
    """
    units: dict[Hashable, str] = {}
    for dataset in datasets:
        for result in results:
            test = result.rows.where(part="test", dataset=dataset)
            pairs = zip(test.column("patient"), test.column("image"), strict=True)
            units |= {patient or (dataset, image): "patients" if patient else "images" for patient, image in pairs}
    counts = [f"{count} {kind}" for kind in ("patients", "images") if (count := list(units.values()).count(kind))]
    counts += [f"{trainings} trainings"] if trainings > 1 else []
    first, last = ", ".join(counts[:-1]), "".join(counts[-1:])
    return f"{first} and {last}" if first else last


def _share(cell: Cell) -> str:
    text = _percent(mean(cell.values))
    return text + (f" [{100 * cell.interval[0]:.0f}–{100 * cell.interval[1]:.0f}]" if cell.interval else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
