"""The study's tables: a row per model and regime, a column per dataset, mean and standard deviation over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from anomaly_detection.data.splits import NO_ABNORMAL
from anomaly_detection.evaluation.localisation import PIXEL_METRICS
from anomaly_detection.evaluation.metrics import METRICS
from anomaly_detection.evaluation.twins import TWIN_METRICS
from anomaly_detection.study.likeness import Network, unlike, unlike_thresholds
from anomaly_detection.study.regimes import MADDR, PROBE, REGIMES, SEPARATE, TERMS, UNITED
from anomaly_detection.study.render import Document, Table
from anomaly_detection.study.results import MISSING, Cell, Result, cells, compared, normal_alone, seeds_of, span

NOTE = "± is the standard deviation over seeds, [low, high] the 95 % bootstrap interval over the {} of the test part{}."
CALLED = ("f1", "accuracy", "sensitivity", "specificity")  # the metrics that depend on the thresholds
PATIENT_METRIC = "patient_auroc"
UNKNOWN_SLICES = (
    "`auroc` is of the slices that a network knows; a patient without any is left out. A lesion may be so strong that its slices are unknown, and "
    "have no part in it: read it beside the last column, which is of all patients and slices."
)


def _by_network(results: Sequence[Result]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The metrics of every seed and dataset of each (model, regime)."""
    metrics: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        metrics.setdefault((result.model, result.regime), []).append(result.metrics)
    return metrics


def _metric_table(results: Sequence[Result], datasets: Sequence[str], metric: str) -> Table:
    """Without rows where nothing is known of the metric."""
    rows = [[*name, *cells(results, *name, datasets, metric).values()] for name in _by_network(results)]
    told = any(cell.values for row in rows for cell in row[2:])
    return Table(metric, ["model", "regime", *datasets, "mean", "pooled"], rows if told else [])


def short_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """Mean AUROCs alone, for a terminal; false alarms where no dataset has abnormal test images."""
    metric, shown = "auroc", Cell.average
    title = "AUROC: how often an abnormal image scores higher than a normal one (1: always, 0.5: as by chance)"
    if normal_alone(results, datasets) == list(datasets):
        metric, shown = "specificity", Cell.complement
        title = "False alarms: the share of normal test images that are called abnormal"
    several = len({result.seed for result in results}) > 1
    lines = []
    for name in _by_network(results):
        row = cells(results, *name, datasets, metric)
        lines.append([*name, *(shown(each) for key, each in row.items() if key != "pooled")])
        if several:  # rows that are over fewer than others are not comparable with them yet
            lines[-1].append(seeds_of(results, *name, datasets))
    return Table(title, ["model", "regime", *datasets, "mean", *(["seeds"] if several else [])], lines)


def metric_tables(results: Sequence[Result], datasets: Sequence[str]) -> list[Table]:
    """A table for each metric that is known of anything, of every regime, ablations too; its title is the metric."""
    tables = [_metric_table(results, datasets, metric) for metric in (*METRICS, *PIXEL_METRICS, *TWIN_METRICS)]
    patients = [[*name, *(_patient_cell(_patients(results, *name, dataset)) for dataset in datasets)] for name in _by_network(results)]
    tables.insert(1, Table(PATIENT_METRIC, ["model", "regime", *datasets], patients))
    return [table for table in tables if any(cell.values for row in table.rows for cell in row[2:])]


def component_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """Each term of the constraint alone, and together; without rows where no ablation was run."""
    rows = [
        [model, *("x" if term in regime.terms else "" for term in TERMS), *cells(results, model, regime.name, datasets, "auroc").values()]
        for model in dict.fromkeys(result.model for result in results)
        for regime in REGIMES.values()
        if regime.mixed and not regime.probe
    ]
    ablated = any(REGIMES[result.regime].ablation for result in results)
    return Table("Components of MADDR (auroc)", ["model", *TERMS.values(), *datasets, "mean", "pooled"], rows if ablated else [])


def head_table(results: Sequence[Result]) -> Table:
    """How often MADDR's heads or a probe name domains rightly, and how many test images are of none that they know; without rows without heads."""
    rows = []
    for name, metrics in _by_network(results).items():
        row = [Cell.of([each["validation"] for each in metrics], key) for key in ("val_organ_accuracy", "val_modality_accuracy")]
        datasets = [values for each in metrics for values in each["datasets"].values()]
        row += [Cell.of(datasets, key) for key in ("named_rightly", "unknown_normal", "unknown_abnormal")]
        if any(cell.values for cell in row):
            rows.append([*name, *(f"{mean(cell.values):.3f}" if cell.values else MISSING for cell in row)])
    header = ["validation: organ", "modality", "test (mean of datasets): both right", "unknown: normal", "abnormal"]
    return Table("Domains named rightly, and test images of unknown domain", ["model", "regime", *header], rows)


def domain_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """What it changes who tells the domain of a test image: nobody, the heads (or a probe), or the labels. Of networks of several datasets.

    In each dataset only a score that depends on the domain changes, and what the heads name wrongly; over all images together scores calibrated in
    their domain are compared, with one threshold for all.
    """
    kinds = {"unused": "pooled", "named": "pooled_calibrated", "known": "pooled_label_calibrated"}
    rows = []
    for name, metrics in _by_network([result for result in results if len(result.datasets) > 1]).items():
        means = [cells(results, *name, datasets, f"auroc_{kind}")["mean"] for kind in kinds]
        if any(cell.values for cell in means):
            rows.append([*name, "auroc, mean of datasets", *means])
        for measure in ("auroc", "sensitivity", "specificity"):
            row = [Cell.of([each[key] for each in metrics if key in each], measure) for key in kinds.values()]
            rows.append([*name, f"{measure}, all together", *row])
    return Table("Domain at test time", ["model", "regime", "measure", "not used", "named by heads", "known"], rows)


def patient_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """AUROC over patients, each scored by the mean of its highest slices that the network knows, beside how much it does not know.

    A row for each dataset whose patients are known.
    """
    told = [(*name, dataset) for name in _by_network(results) for dataset in datasets]
    rows = [[*place, *_patient_row(metrics)] for place in told if (metrics := _patients(results, *place))]
    unknown = any(each["unknown_slices"] for place in told for each in _patients(results, *place))
    header = ["auroc", "normal + abnormal", "left out", "unknown slices", "auroc of all slices"]
    return Table("Patients", ["model", "regime", "dataset", *header], rows, UNKNOWN_SLICES if unknown else "")


def _patients(results: Sequence[Result], model: str, regime: str, dataset: str) -> list[Mapping[str, Any]]:
    """What each seed's patients of a dataset say, where they are known."""
    chosen = [result for result in results if (result.model, result.regime) == (model, regime)]
    return [values["patients"] for result in chosen if "patients" in (values := result.metrics["datasets"].get(dataset, {}))]


def _patient_cell(metrics: Sequence[Mapping[str, Any]]) -> Cell:
    """Over several trainings without an interval: theirs would be over patients alone. These may know different slices, and so different patients."""
    if not all("auroc" in each for each in metrics):
        return Cell(())  # of the others alone it would be another mean than the one beside it
    return Cell.of([{**each, "intervals": each["intervals"] if len(metrics) == 1 else {}} for each in metrics], "auroc")


def _patient_row(metrics: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The AUROC, the numbers of patients it is of and of those left out, how many slices are unknown, and the AUROC without regard to that.

    What an older version has measured lacks the number of all slices, and their AUROC.
    """
    normal, abnormal, left_out, unknown = (span([each[key] for each in metrics]) for key in ("normal", "abnormal", "left_out", "unknown_slices"))
    complete = all("slices" in each for each in metrics)
    if complete:
        shares = [f"{each:.1f}" for each in sorted(100 * each["unknown_slices"] / each["slices"] for each in metrics)]
        unknown += f" of {span([each['slices'] for each in metrics])} ({'–'.join(dict.fromkeys((shares[0], shares[-1])))} %)"
    return [_patient_cell(metrics), f"{normal} + {abnormal}", left_out, unknown, Cell.of(metrics if complete else [], "auroc_all_slices")]


def _promise_table(results: Sequence[Result]) -> Table:
    """What was promised of normal images, beside what the normal test images show."""
    rows = []
    for name in _by_network(results):
        chosen = [result for result in results if (result.model, result.regime) == name]
        for dataset in dict.fromkeys(dataset for result in chosen for dataset in result.datasets):
            metrics = [each for r in chosen if "datasets" in (each := r.metrics["datasets"].get(dataset, {})).get("false_alarms", {})]
            for kind in ("false_alarms", "unknown") if metrics else ():
                promises = [each[kind] for each in metrics]
                first = promises[0]
                joint = Cell.of(metrics, "specificity").complement().interval if kind == "false_alarms" else None
                cell = Cell(tuple(each["observed"] for each in promises), first["interval"] if len(promises) == 1 else joint)
                untold = kind == "false_alarms" and any(result.untold for result in chosen)
                guaranteed = "no" if untold else _guaranteed(promises)
                rows.append(
                    [*name, dataset, kind.replace("_", " "), f"{first['promised']:.3g}", guaranteed, f"{first['units']} {first['unit']}", cell]
                )
    header = ["model", "regime", "dataset", "share of normals", "promised", "guaranteed", "calibrated on", "observed (images)"]
    return Table("False alarms in the true domain, and normals called unknown: promised and observed", header, rows)


def _guaranteed(promises: Sequence[Mapping[str, Any]]) -> str:
    """Whether in all trainings; a promise on several datasets is none on each of them."""
    if not all(each["guaranteed"] for each in promises):
        return "no"
    datasets = promises[0]["datasets"]
    return "yes" if len(datasets) == 1 else f"of {' + '.join(datasets)} together"


def _pixel_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """How well the anomaly maps show the lesions, on datasets with masks; without rows where there are none."""
    rows = []
    for name in _by_network(results):
        by_metric = [cells(results, *name, datasets, metric) for metric in PIXEL_METRICS]
        for dataset in datasets:
            if any(row[dataset].values for row in by_metric):
                rows.append([*name, dataset, *(row[dataset] for row in by_metric)])
    return Table("Where the lesion is (pixels of the anomaly map)", ["model", "regime", "dataset", *PIXEL_METRICS], rows)


def _stratum_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """How lesions are seen by how conspicuous they are, where abnormal images have healthy twins; without rows where none have."""
    rows = []
    for name in _by_network(results):
        for metric in TWIN_METRICS:
            by_dataset = cells(results, *name, datasets, metric)
            if any(by_dataset[dataset].values for dataset in datasets):
                rows.append([*name, metric.replace("_", " "), *(by_dataset[dataset] for dataset in datasets), by_dataset["mean"]])
    return Table("By stratum of the lesion, and against healthy twins", ["model", "regime", "measure", *datasets, "mean"], rows)


def _difference_table(results: Sequence[Result], datasets: Sequence[str]) -> Table:
    """AUROC of maddr minus that of united, without and with a probe, and of separate, on the same images and seeds; no rows where two are missing."""
    rows = []
    for model in dict.fromkeys(result.model for result in results):
        for other in (UNITED.name, PROBE.name, SEPARATE.name):
            seeds, added = compared(results, model, MADDR.name, other, datasets)
            if added:
                rows.append([model, f"{MADDR.name} - {other}", len(seeds), *(added.get(name, MISSING) for name in (*datasets, "mean"))])
    return Table("MADDR against the others (difference of auroc, paired)", ["model", "difference", "seeds", *datasets, "mean"], rows)


def unlike_settings(results: Sequence[Result]) -> str:
    """What makes the networks of a model another comparison than that of their regimes; see `unlike`."""
    return unlike([(result.regime, result.settings) for result in results if result.settings is not None])


def study_document(results: Sequence[Result], datasets: Sequence[str], heading: str, provenance: Sequence[str]) -> Document:
    """What table.md holds: the AUROC table, the differences, the component table where an ablation was run, everything else.

    `oracle_*` marks thresholds chosen on the test labels; all others were fixed on validation normals.
    """
    main = [result for result in results if not REGIMES[result.regime].ablation] or results
    compared = [table for table in (_metric_table(main, datasets, "auroc"), _difference_table(main, datasets)) if table.rows]
    if compared:
        compared[-1] = replace(compared[-1], note=unlike_settings(results))
    thresholds = unlike_thresholds([(r.model, Network(r.regime, r.datasets, r.seed), q) for r in main if (q := r.metrics.get("threshold_quantile"))])
    tables = [
        *compared,
        _stratum_table(results, datasets),
        component_table(results, datasets),
        domain_table(main, datasets),
        patient_table(main, datasets),
        replace(_promise_table(main), note=thresholds),
        head_table(results),
        _pixel_table(main, datasets),
        *(replace(_metric_table(main, datasets, name), note=thresholds if name in CALLED else "") for name in METRICS if name != "auroc"),
    ]
    return Document(heading, _note(results, datasets), [table for table in tables if table.rows], provenance)


def _note(results: Sequence[Result], datasets: Sequence[str]) -> str:
    """What ± and the intervals are over, and which rows are over fewer seeds, so that they are not comparable yet."""
    units: dict[str, str] = {}
    for result in results:
        units |= {name: values["unit"] for name, values in result.metrics["datasets"].items() if "unit" in values}
    words = ", ".join(f"{unit} ({', '.join(name for name, its in units.items() if its == unit)})" for unit in dict.fromkeys(units.values()))
    several = len({result.seed for result in results}) > 1
    note = NOTE.format(words or "images", " and over seeds" if several else "")
    if alone := normal_alone(results, datasets):
        note += f" {', '.join(alone)}: {NO_ABNORMAL}."
        if others := [name for name in datasets if name not in alone]:
            note += f" `mean` of what these lack, and `pooled`, are over {', '.join(others)}."
    seeds = {" ".join(name): seeds_of(results, *name, datasets) for name in _by_network(results)}
    if not several or len(set(seeds.values())) == 1:
        return note
    return f"{note} Rows are over different numbers of seeds: {', '.join(f'{name} {count}' for name, count in seeds.items())}."


def numbers_table(results: Sequence[Result], datasets: Sequence[str], heading: str) -> Table:
    """What table.csv holds: a row per model, regime, column and metric, for programs."""
    rows = []
    for name in _by_network(results):
        for metric in (*METRICS, *PIXEL_METRICS, *TWIN_METRICS):
            row = cells(results, *name, datasets, metric)
            rows += [[heading, *name, column, metric, *_numbers(cell)] for column, cell in row.items() if cell.values]
        patients = {dataset: _patient_cell(_patients(results, *name, dataset)) for dataset in datasets}
        rows += [[heading, *name, dataset, PATIENT_METRIC, *_numbers(cell)] for dataset, cell in patients.items() if cell.values]
    return Table(heading, ["data", "model", "regime", "dataset", "metric", "mean", "sd", "seeds", "low", "high"], rows)


def _numbers(cell: Cell) -> list[Any]:
    """Mean, standard deviation, how many seeds, and the ends of the interval; "" for what there is not."""
    deviation = stdev(cell.values) if len(cell.values) > 1 else ""
    return [mean(cell.values), deviation, len(cell.values), *(cell.interval or ("", ""))]
