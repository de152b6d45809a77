"""The study's tables: a row per model and regime, a column per dataset, mean and standard deviation over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean, stdev
from typing import Any

from anomaly_detection.config.settings import Settings
from anomaly_detection.data.splits import NO_ABNORMAL
from anomaly_detection.evaluation.localisation import PIXEL_METRICS
from anomaly_detection.evaluation.metrics import METRICS
from anomaly_detection.evaluation.twins import TWIN_METRICS, twin_samples
from anomaly_detection.study.comparison import Scored, differences, intervals_over_seeds, scored, twin_intervals_over_seeds
from anomaly_detection.study.likeness import Network, unlike, unlike_thresholds
from anomaly_detection.study.regimes import MADDR, PROBE, REGIMES, SEPARATE, TERMS, UNITED
from anomaly_detection.study.render import Document, Table
from anomaly_detection.system.lines import Lines

NOTE = "± is the standard deviation over seeds, [low, high] the 95 % bootstrap interval over the {} of the test part{}."
MISSING = "–"
CALLED = ("f1", "accuracy", "sensitivity", "specificity")  # the metrics that depend on the thresholds
PATIENT_METRIC = "patient_auroc"
# all test images with one threshold: the columns of their scores and of what is called abnormal; None: above the threshold of the pool
POOLED = {
    "pooled": ("plain_score", None),
    "pooled_calibrated": ("calibrated_score", "anomalous"),
    "pooled_label_calibrated": ("label_calibrated_score", "label_anomalous"),
}


@dataclass(frozen=True)
class Result:
    """The metrics of one finished experiment, as metrics.json holds them."""

    model: str
    regime: str
    datasets: tuple[str, ...]
    seed: int
    metrics: dict[str, Any]
    rows: Lines = field(default_factory=lambda: Lines.of(()))  # of scores.csv
    pairs: Sequence[Mapping[str, Any]] = ()  # of twins.csv
    settings: Settings | None = None  # None: nobody knows, and nothing is said of them


@dataclass(frozen=True)
class Cell:
    """A metric over seeds, with the 95 % interval of their mean; empty where an experiment is missing."""

    values: tuple[float, ...]
    interval: Sequence[float] | None = None

    def __str__(self) -> str:
        if not self.values:
            return MISSING
        text = f"{mean(self.values):.3f}" + (f" ± {stdev(self.values):.3f}" if len(self.values) > 1 else "")
        return text + (" [{:.3f}, {:.3f}]".format(*self.interval) if self.interval else "")

    def average(self) -> "Cell":
        """The mean over seeds alone."""
        return Cell((mean(self.values),)) if self.values else self

    def complement(self) -> "Cell":
        """Of a share the share of the others."""
        return Cell(tuple(1 - value for value in self.values), self.interval and [1 - each for each in reversed(self.interval)])

    @classmethod
    def of(cls, metrics: Sequence[Mapping[str, Any]], name: str) -> "Cell":
        """From the metrics of each seed, as `with_joint_intervals` leaves them; seeds that lack it are left out."""
        having = [each for each in metrics if name in each]
        return cls(tuple(each[name] for each in having), having[0].get("intervals", {}).get(name) if having else None)


def with_joint_intervals(results: Sequence[Result]) -> list[Result]:
    """The same results; where a network was trained with several seeds, each metric has the interval of its mean over them instead of its own.

    Without the rows of all its seeds it has none.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.model, result.regime, result.datasets), []).append(result)
    joint = {key: _joint_intervals(group) for key, group in groups.items() if len(group) > 1}
    found = []
    for result in results:
        intervals = joint.get((result.model, result.regime, result.datasets))
        if intervals is not None:
            datasets = {name: {**values, "intervals": intervals.get(name, {})} for name, values in result.metrics["datasets"].items()}
            pools = {key: {**result.metrics[key], "intervals": intervals.get(key, {})} for key in POOLED if key in result.metrics}
            result = replace(result, metrics={**result.metrics, "datasets": datasets, **pools})
        found.append(result)
    return found


def _joint_intervals(group: Sequence[Result]) -> dict[str, dict[str, list[float]]]:
    """By dataset and kind of pool, the interval of each metric's mean over seeds."""
    if not all(result.rows for result in group):
        return {}
    intervals = {}
    for name in group[0].datasets:
        metrics = [result.metrics["datasets"][name] for result in group]
        trainings = [scored(result.rows, name, called=each["threshold"]) for result, each in zip(group, metrics, strict=True)]
        intervals[name] = intervals_over_seeds(trainings, _by_metric(metrics))
        intervals[name] |= _twin_intervals(group, name)
    for key, (score, called) in POOLED.items():
        metrics = [result.metrics[key] for result in group if key in result.metrics]
        if len(metrics) == len(group):
            calls = [called or each["threshold"] for each in metrics]
            trainings = [scored(result.rows, None, score, each) for result, each in zip(group, calls, strict=True)]
            intervals[key] = intervals_over_seeds(trainings, _by_metric(metrics))
    return intervals


def _by_metric(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What all seeds have, by metric."""
    return {metric: [each[metric] for each in metrics] for metric in METRICS if all(metric in each for each in metrics)}


def _twin_intervals(group: Sequence[Result], dataset: str) -> dict[str, list[float]]:
    """Of what pairs of image and healthy twin say; none where the seeds saw no pairs, or not the same ones."""
    pairs = [[pair for pair in result.pairs if pair["dataset"] == dataset] for result in group]
    seen = [sorted((pair["image"], pair["stratum"] or "") for pair in each) for each in pairs]
    if not seen[0] or any(each != seen[0] for each in seen):
        return {}
    tests = [result.rows.where(dataset=dataset, part="test") for result in group]
    return twin_intervals_over_seeds([twin_samples(*each) for each in zip(pairs, tests, strict=True)])


def cells(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str], metric: str) -> dict[str, Cell]:
    """A row: {dataset: Cell}, "mean" over the datasets (only of seeds that have all of them), and "pooled" where one network saw them all.

    A dataset whose test images are all normal has no part in the mean of what they cannot tell.
    """
    chosen = [result for result in results if (result.model, result.regime) == (model, regime)]
    seeds = sorted({result.seed for result in chosen})
    by_seed = {seed: {d: r.metrics["datasets"][d] for r in chosen if r.seed == seed for d in r.datasets} for seed in seeds}
    row = {dataset: Cell.of([metrics[dataset] for metrics in by_seed.values() if dataset in metrics], metric) for dataset in datasets}
    silent = [d for d in normal_alone(chosen, datasets) if not row[d].values]
    complete = [[metrics[d][metric] for d in datasets if metric in metrics.get(d, {})] for metrics in by_seed.values()]
    row["mean"] = Cell(tuple(mean(values) for values in complete if values and len(values) == len(datasets) - len(silent)))
    row["pooled"] = Cell.of([r.metrics.get("pooled", {}) for r in chosen if len(r.datasets) == len(datasets) > 1], metric)
    return row


def normal_alone(results: Sequence[Result], datasets: Sequence[str]) -> list[str]:
    """The datasets without abnormal test images, as metrics count them."""
    return [name for name in datasets if any(result.metrics["datasets"].get(name, {}).get("abnormal") == 0 for result in results)]


def seeds_of(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> str:
    """How many seeds the cells of a row are over, such as "3"; "2–3" where they differ, since an experiment is missing."""
    row = cells(results, model, regime, datasets, "specificity")
    return _range([len(row[dataset].values) for dataset in datasets])


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
    """AUROC over patients, each scored by the mean of its highest slices, on datasets whose patients are known; without rows where there are none."""
    rows = []
    for name in _by_network(results):
        each = [_patients(results, *name, dataset) for dataset in datasets]
        if any(each):
            rows.append([*name, *map(_patient_words, each)])
    return Table("Patients (auroc; normal + abnormal)", ["model", "regime", *datasets], rows)


def _patients(results: Sequence[Result], model: str, regime: str, dataset: str) -> list[Mapping[str, Any]]:
    """What each seed's patients of a dataset say, where they are known."""
    chosen = [result for result in results if (result.model, result.regime) == (model, regime)]
    return [values["patients"] for result in chosen if "patients" in (values := result.metrics["datasets"].get(dataset, {}))]


def _patient_cell(metrics: Sequence[Mapping[str, Any]]) -> Cell:
    """Over several trainings without an interval: theirs would be over patients alone. These may know different slices, and so different patients."""
    return Cell.of([{**each, "intervals": each["intervals"] if len(metrics) == 1 else {}} for each in metrics], "auroc")


def _patient_words(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The AUROC with the numbers of patients it is of."""
    if not metrics:
        return MISSING
    return f"{_patient_cell(metrics)}; {' + '.join(_range([each[label] for each in metrics]) for label in ('normal', 'abnormal'))}"


def _range(counts: Sequence[int]) -> str:
    """Such as "3", or "2–3"."""
    return "–".join(str(count) for count in dict.fromkeys((min(counts), max(counts))))


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
                cell = Cell(tuple(each["observed"] for each in promises), first["interval"] if len(promises) == 1 else None)
                guaranteed = _guaranteed(promises)
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
        scores = {
            regime.name: scores_by_seed([r for r in results if (r.model, r.regime) == (model, regime.name)], datasets)
            for regime in (MADDR, UNITED, PROBE, SEPARATE)
        }
        for other in (UNITED.name, PROBE.name, SEPARATE.name):
            seeds = sorted(set(scores[MADDR.name]) & set(scores[other]))
            if seeds:
                one, two = ({d: [scores[regime][seed][d] for seed in seeds] for d in datasets} for regime in (MADDR.name, other))
                if added := differences(one, two):
                    rows.append([model, f"{MADDR.name} - {other}", len(seeds), *(added.get(name, MISSING) for name in (*datasets, "mean"))])
    return Table("MADDR against the others (difference of auroc, paired)", ["model", "difference", "seeds", *datasets, "mean"], rows)


def unlike_settings(results: Sequence[Result]) -> str:
    """What makes the networks of a model another comparison than that of their regimes; see `unlike`."""
    return unlike([(result.regime, result.settings) for result in results if result.settings is not None])


def scores_by_seed(results: Sequence[Result], datasets: Sequence[str]) -> dict[int, dict[str, Scored]]:
    """Of the seeds that have every dataset."""
    by_seed: dict[int, dict[str, Scored]] = {}
    for result in results:
        if result.rows:
            by_seed.setdefault(result.seed, {}).update({dataset: scored(result.rows, dataset) for dataset in result.datasets})
    return {seed: scores for seed, scores in by_seed.items() if set(datasets) <= set(scores)}


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
