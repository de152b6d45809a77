"""The model card of an experiment: what its network is, what it was trained on, what was measured and what was not, on one page for who is handed it.

Source: Mitchell et al., Model Cards for Model Reporting, FAT* 2019. Every line is made of facts that the experiment left.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_detection.components.backbones import weights_licence
from anomaly_detection.config.settings import MaddrSettings, Settings
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.formats.window import plain_window
from anomaly_detection.data.patients import counted_as_patients
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.splits import NO_ABNORMAL, SPLITS
from anomaly_detection.evaluation.normals import needed
from anomaly_detection.evaluation.outputs import printable
from anomaly_detection.registry import find_baseline
from anomaly_detection.study.provenance import runs_line
from anomaly_detection.study.regimes import TERMS
from anomaly_detection.study.render import Table, to_table
from anomaly_detection.study.results import MISSING, as_deployed, untold
from anomaly_detection.study.summary import WAYS, shown
from anomaly_detection.study.verdict import CHANCE
from anomaly_detection.system.files import whole_file

CARD = "model_card.md"
Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        name: of the experiment.
        settings, regime: of the experiment.
        described: what the baseline says of itself, see `Baseline.describe`.
        origin: of provenance.json.
        config: a hash of config.yaml.
        trained: whether there is a log of training; a baseline without phases only gathers statistics.
        preprocessing: of each dataset.
        metrics: of metrics.json; None before the network was evaluated.
    """

    name: str
    settings: Settings
    regime: str
    described: Mapping[str, Any]
    origin: Mapping[str, Any]
    config: str
    trained: bool
    preprocessing: Mapping[str, Preprocessing]
    metrics: Metrics | None = None


def write_card(folder: Path, subject: Subject, source: DataSource) -> None:
    """Write model_card.md into the folder of an experiment, whole or not at all."""
    with whole_file(folder / CARD) as partial:
        partial.write_text(printable(card(folder, subject, source)), encoding="utf-8")


def card(folder: Path, subject: Subject, source: DataSource) -> str:
    """The text of a card, in Markdown.

    Args:
        folder: of the experiment.
        subject: what it is about.
        source: of its images, which are counted.
    """
    sections = {
        "Model": _bullets(_model(subject, source)),
        "Data": f"{to_table(_data(subject.settings, source))}\n\n{_bullets(_handling(subject))}",
        "Training": _bullets(_training(subject)),
        "Results": _results(folder, subject.metrics, _untold(subject, source)),
        "Intended use": _bullets(_use(subject.settings, source)),
        "Limits": _bullets(_limits(subject, source)),
    }
    warning = "**Not for clinical use.** This is a research model and no medical device: nothing about a patient may be decided by what it says."
    return "\n\n".join([f"# Model card: {subject.name}", warning, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _model(subject: Subject, source: DataSource) -> Iterator[str]:
    settings = subject.settings
    paper = find_baseline(settings.model).paper
    yield settings.model + (f": {paper}" if paper else "")
    if subject.described:
        yield "; ".join(f"{key}: {value}" for key, value in subject.described.items())
    backbone, weights = (getattr(settings.baseline, key, None) for key in ("backbone", "backbone_weights"))
    if backbone is not None:
        yield f"weights of the frozen backbone: {weights_licence(backbone, weights)}"
    domains = source.domains(settings.datasets)
    yield f"trained in the regime `{subject.regime}`: {WAYS.get(subject.regime, 'one network for all datasets')}"
    if settings.maddr.enabled:
        terms = ", ".join(f"{getattr(settings.maddr, f'{term}_weight'):g} {name}" for term, name in TERMS.items())
        yield f"MADDR terms: {terms}; {_told_of_domains(settings.maddr)}"
        yield from _unpublished(settings.maddr)
    if settings.maddr.probe or len(_heads(settings.maddr)) == 2:
        yield f"it names organ ({', '.join(domains.organs)}) and modality ({', '.join(domains.modalities)}) of an image"
    elif settings.maddr.enabled:
        yield "it names neither organ nor modality of an image, which takes both heads"


def _heads(maddr: MaddrSettings) -> dict[str, int]:
    """What the heads of the constraint tell of an image, and from how many numbers of the latent; a term of weight 0 has no head."""
    names = [name for name in ("organ", "modality") if maddr.enabled and getattr(maddr, f"{name}_weight") > 0]
    return {name: getattr(maddr, f"{name}_dim") for name in names}


def _told_of_domains(maddr: MaddrSettings) -> str:
    """What the parts of the latent tell that heads read."""
    heads = list(_heads(maddr).items())
    if not heads:
        return "no head reads the latent"
    (name, size), *others = heads
    return ", ".join([f"{size} numbers of the latent tell the {name}", *(f"{size} the {name}" for name, size in others)])


def _unpublished(maddr: MaddrSettings) -> Iterator[str]:
    """In what the constraint is another than the published one, of the terms that it has."""
    center = ["one of each pair of organ and modality"] if maddr.center_of == "domain" else []
    if maddr.center_momentum is not None:
        center.append(f"a moving average, of which each step keeps {maddr.center_momentum:g}")
    if center and maddr.center_weight > 0:
        yield f"the center of MADDR: {', '.join(center)}"
    if _heads(maddr) and not maddr.heads_train_encoder:
        yield "the heads of MADDR only watch: their losses do not train the encoder"


def _data(settings: Settings, source: DataSource) -> Table:
    """Images and patients of each split."""
    rows = []
    for name in settings.datasets:
        spec, images, patients = source.catalog[name], source.counts(name), source.patient_counts(name)
        cells = [f"{images[split]} ({_of_patients(patients[split])})" if split in images else "0" for split in SPLITS]
        rows.append([name, shown(spec.organ, spec.modality), *cells])
    return Table("", ["dataset", "shows", "normal, trained on", "normal, validation", "normal, test", "abnormal, test"], rows)


def _of_patients(count: int | None) -> str:
    return "patients unknown" if count is None else f"{count} patient{'' if count == 1 else 's'}"


def _handling(subject: Subject) -> Iterator[str]:
    """What is done to images, of datasets that are treated alike in one line."""
    words: dict[str, list[str]] = {}
    for name, preprocessing in subject.preprocessing.items():
        words.setdefault(_in_words(preprocessing), []).append(name)
    for text, names in words.items():
        yield (f"{', '.join(names)}: " if len(words) > 1 else "") + text
    yield f"data {subject.origin['data']} (a hash of names, labels and pixels)"


def _in_words(preprocessing: Preprocessing) -> str:
    """What is done to an image, in the order in which it is done."""
    window = plain_window(preprocessing.window)
    shades = {None: "shown as the file says", "auto": "shown from the 0.5th to the 99.5th percentile of each file"}
    steps = [f"window of level {window[0]:g} and width {window[1]:g}" if isinstance(window, list) else shades[window]]
    if preprocessing.size is not None:
        fitted = "stretched" if preprocessing.aspect == "stretch" else "padded"
        steps.append(
            f"{'grey' if preprocessing.stored_channels == 1 else 'colours kept'}, {fitted} to {preprocessing.size} x {preprocessing.size} px"
        )
    if preprocessing.crop_size is not None:
        steps.append(f"cropped to the middle {preprocessing.crop_size} px")
    if preprocessing.equalize_hist:
        steps.append("histogram equalised")
    channels = f"{preprocessing.channels} channel{'' if preprocessing.channels == 1 else 's'}"
    return ", ".join([*steps, f"{preprocessing.image_size} x {preprocessing.image_size} px of {channels} for the network"])


def _training(subject: Subject) -> Iterator[str]:
    settings = subject.settings
    if subject.trained:
        kept = "" if subject.metrics is None else f"; kept are the weights of iteration {subject.metrics['best_iteration']}"
        batch = f"{settings.batch_size}{', as many images of each dataset' if settings.balanced else ''}"
        yield f"on normal images alone: at most {settings.iterations} iterations of batch {batch}, seed {settings.seed}{kept}"
    else:
        yield f"nothing but statistics of the normal training images, seed {settings.seed}"
    yield f"{runs_line(subject.origin)}, config {subject.config} (config.yaml beside this file)"


def _untold(subject: Subject, source: DataSource) -> bool:
    """See the function of that name in `results`."""
    specs = [source.catalog[name] for name in subject.settings.datasets]
    return subject.metrics is not None and untold({(spec.organ, spec.modality) for spec in specs}, subject.metrics)


def _results(folder: Path, metrics: Metrics | None, untold: bool) -> str:
    if metrics is None:
        return f"Not measured yet: `maddr evaluate {folder}` does it and writes this card anew."
    rows = []
    for name, values in metrics["datasets"].items():
        alarms, unknown = values["false_alarms"], values["unknown"]
        promised = f"{_percent(alarms['promised'])}{' (estimate)' if not alarms['guaranteed'] else ' (if the domain is told)' if untold else ''}"
        cells = [_number(values, "auroc"), _number(values.get("patients", {}), "auroc"), _number(values, "sensitivity", _percent)]
        rows.append([name, *cells, promised, _measured(alarms, _percent), _measured(unknown, _percent)])
    header = ["dataset", "AUROC of images", "of patients", "abnormal found", "false alarms: promised", "observed", "normals unknown"]
    units = {values["unit"] for values in metrics["datasets"].values()}
    note = f"On test images; [low, high] are 95 % intervals over {' and '.join(sorted(units))}. AUROC 0.5 is chance, 1 is perfect. "
    note += "What is found, and what is a false alarm, follows from thresholds that validation normals set."
    return f"{note}\n\n{to_table(Table('', header, rows))}"


def _number(values: Metrics, name: str, text=lambda value: f"{value:.3f}") -> str:
    if name not in values:
        return MISSING
    interval = values.get("intervals", {}).get(name)
    return text(values[name]) + ("" if interval is None else f" [{', '.join(map(text, interval))}]")


def _measured(share: Metrics, text) -> str:
    return f"{text(share['observed'])} [{', '.join(map(text, share['interval']))}]"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _use(settings: Settings, source: DataSource) -> Iterator[str]:
    kinds = list(dict.fromkeys(shown(source.catalog[name].organ, source.catalog[name].modality) for name in settings.datasets))
    yield f"research on anomaly detection in {', '.join(kinds)}: a score and a map say how far an image is from the normal ones above"
    yield f"not for diagnosis, triage or the exclusion of disease, and not for images of other kinds than {', '.join(kinds)}"


def _limits(subject: Subject, source: DataSource) -> Iterator[str]:
    settings = subject.settings
    for name in settings.datasets:
        spec = source.catalog[name]
        for key in counted_as_patients(source.data_root / spec.root) if spec.patient is None else ():
            told = f"each {key} counts as a patient, since nothing says whose it is"
            yield f"{name}: {told}: one may be trained on and tested, and intervals too narrow"
    if _untold(subject, source):
        yield as_deployed({"": [subject.metrics["pooled"]]})
    for name, values in ({} if subject.metrics is None else subject.metrics["datasets"]).items():
        yield from (f"{name}: {line}" for line in _limits_of(values))
    yield f"one training with seed {settings.seed}: another one would give other numbers"
    if is_phantom(source.data_root):
        yield "its images are phantoms, rendered by a computer: this says nothing about patients"
    yield "not measured: other hospitals, devices and protocols than those of the data; how it differs by age, sex or disease"


def _limits_of(values: Metrics) -> Iterator[str]:
    """What the metrics of a dataset do not say, or say against the detector."""
    alarms = values["false_alarms"]
    units = f"{alarms['units']} validation {alarms['unit'].removesuffix('s') if alarms['units'] == 1 else alarms['unit']}"
    if not alarms["guaranteed"]:
        yield f"{units}: thresholds are estimates; it takes {needed(alarms['promised'])} for a false-alarm rate of {_percent(alarms['promised'])}"
    elif len(alarms["datasets"]) > 1:
        yield f"its false-alarm rate is promised for normals of {' and '.join(alarms['datasets'])} together, not of each"
    if alarms["interval"][0] > alarms["promised"]:
        yield f"more false alarms than promised: {_measured(alarms, _percent)}"
    if values["unit"] == "images":
        yield "whose the test images are is not known: intervals are over images, and too narrow where several are of one patient"
    if not values["abnormal"]:
        yield NO_ABNORMAL
    if interval := values.get("intervals", {}).get("auroc"):
        if interval[0] <= CHANCE <= interval[1]:
            yield f"its AUROC {_number(values, 'auroc')} is not told apart from chance"
        elif interval[1] < CHANCE:
            yield f"its AUROC {_number(values, 'auroc')} is below chance: abnormal images score lower than normal ones"
    unknown = {kind: values.get(f"unknown_{kind}", 0) for kind in ("normal", "abnormal")}
    if any(unknown.values()):
        shares = " and ".join(f"{_percent(share)} of {kind}" for kind, share in unknown.items() if share)
        yield f"it does not know the kind of {shares} test images: of these a score says little"
    patients = values.get("patients", {})
    if patients.get("unknown_slices") and "auroc_all_slices" in patients:
        yield f"its AUROC of patients is of the slices that it knows; of all it is {_number(patients, 'auroc_all_slices')}"
    if "named_rightly" in values and values["named_rightly"] < 1:
        yield f"it names organ and modality of {_percent(1 - values['named_rightly'])} of test images wrongly, and judges these by wrong thresholds"
    if values["abnormal"] and "pixel_auroc" not in values:
        yield "where its map points was not measured, since no masks of lesions are known"
