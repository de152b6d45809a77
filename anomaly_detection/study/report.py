"""The report of a study: tables and figures in one page that needs nothing beside it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock

from anomaly_detection.config.layers import read_yaml
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.evaluation.outputs import printable
from anomaly_detection.evaluation.rows import read_scores
from anomaly_detection.evaluation.twins import read_twin_rows
from anomaly_detection.registry import BASELINES
from anomaly_detection.study import provenance
from anomaly_detection.study.experiment import DRAWN, Experiment, judged_otherwise, load_experiment, same_data, scored_metrics
from anomaly_detection.study.page.content import Content
from anomaly_detection.study.page.page import to_page
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.study.render import Document, Table, to_markdown, to_text, write_csv
from anomaly_detection.study.results import Result, with_joint_intervals
from anomaly_detection.study.summary import summary
from anomaly_detection.study.tables import numbers_table, patient_table, short_table, study_document
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, short_hash, whole_file, write_json
from anomaly_detection.system.processes import map_jobs

logger = logging.getLogger(__name__)

DRAWING = "anomaly_detection.evaluation.figures"  # what processes that draw begin with


@dataclass(frozen=True)
class Study:
    """What its tables are about; study.json in the results folder of `maddr study`.

    Attributes:
        heading: of the tables; says what data they are from.
        datasets: in the order of their columns.
        data_root: the folder that holds the datasets.
        quick: whether it is a smoke run.
        phantom: whether the images are phantoms.
    """

    heading: str
    datasets: tuple[str, ...]
    data_root: Path
    quick: bool = False
    phantom: bool = False

    def write(self, results: Path) -> None:
        """Leave study.json."""
        facts = {"heading": self.heading, "datasets": list(self.datasets), "data_root": str(self.data_root.resolve())}
        write_json(results / "study.json", {**facts, "quick": self.quick, "phantom": self.phantom})

    @classmethod
    def of(cls, datasets: Sequence[str], data_root: Path, phantom: bool, quick: bool = False) -> "Study":
        """Of some datasets, under the heading that says what they are."""
        data = "phantom: rendered bodies, not patients; short training of narrow networks" if phantom else data_root.resolve().name
        heading = f"Anomaly detection on {data}" + (" (quick: a smoke run, not a result)" if quick else "")
        return cls(printable(heading), tuple(datasets), data_root, quick, phantom)

    @classmethod
    def read(cls, results: Path, data_root: Path | None = None) -> "Study":
        """From study.json; where there is none, of what the experiments say that lie in the folder, or of which it is.

        Args:
            results: the folder of a study, of single trainings, or of an experiment.
            data_root: where the images are now; None: where they were.

        Raises:
            UserError: there are no experiments, or they saw images of several folders, and no data root says which.
        """
        if (results / "study.json").exists():
            return cls._written(results, data_root)
        folders = experiment_folders(results)
        if not folders:
            lack = "holds no study and no experiment" if results.is_dir() else "is a file" if results.exists() else "no such folder"
            raise UserError(f"{results}: {lack}; name the folder of a study, results/NAME, or of an experiment, .../seed_0")
        origins = [provenance.read(folder) for folder in folders if not provenance.is_older(folder)]
        if not origins:
            load_experiment(folders[0])  # says what to do with what an older version wrote
        chosen = sorted((read_yaml(folder / "config.yaml")["datasets"] for folder in folders), key=len, reverse=True)
        every, alone = list(dict.fromkeys(name for names in chosen for name in names)), {names[0] for names in chosen if len(names) == 1}
        datasets = chosen[0] if alone <= set(chosen[0]) else every  # beside the largest mixture no other has a place in tables
        if (around := _study_around(results)) is not None:
            study = cls._written(around, data_root)
            return cls.of(datasets, study.data_root, study.phantom, study.quick)
        roots = sorted({origin["data_root"] for origin in origins}) if data_root is None else [str(data_root)]
        if len(roots) > 1:
            raise UserError(f"{results}: its experiments saw images of several folders, {', '.join(roots)}; name one of these: --data-root")
        return cls.of(datasets, Path(roots[0]), is_phantom(Path(roots[0])) or any(origin.get("phantom") for origin in origins))

    @classmethod
    def _written(cls, results: Path, data_root: Path | None) -> "Study":
        """What `write` left."""
        values = read_json(results / "study.json", {"heading": str, "datasets": list, "data_root": str})
        root = data_root or Path(values["data_root"])
        phantom = values.get("phantom", False) or is_phantom(root)
        return cls(printable(values["heading"]), tuple(values["datasets"]), root, values.get("quick", False), phantom)


def _study_around(results: Path) -> Path | None:
    """The folder of the study in whose folder an experiment lies; None where it lies in none."""
    outer = list(results.resolve().parents)[3:4]
    return outer[0] if outer and (outer[0] / "study.json").exists() and experiment_folders(results) == [results] else None


def tables_around(folder: Path) -> Path | None:
    """The folder of results in which that of an experiment lies, where it has tables or a report: they tell of what was measured before."""
    outer = list(folder.resolve().parents)[3:4]
    return outer[0] if outer and any((outer[0] / name).exists() for name in ("table.md", "table.csv", "report.html")) else None


def experiment_folders(results: Path) -> list[Path]:
    """The folder itself where it is an experiment's, else those of all experiments that were begun in a folder of results."""
    if (results / provenance.FILE).exists():
        return [results]
    return sorted(path.parent for path in results.glob(f"*/*/*/seed_*/{provenance.FILE}"))


class Tables:
    """The tables of a study, written again after each of its experiments: what has not changed since is not read and not computed again.

    Args:
        results: the folder of the study, or of an experiment, whose tables they are then alone.
        study: what they are about.
        source: of its images; None where they are gone, and whether they are those that were measured is not checked.

    Attributes:
        rows: the results that `write` put into them.
    """

    def __init__(self, results: Path, study: Study, source: DataSource | None):
        self.rows: list[Result] = []
        self._results, self._study, self._source = results, study, source
        self._finished: dict[Path, tuple[int, Experiment | None]] = {}  # by metrics.json, with the time of that file
        self._twice: set[Path] = set()  # of which it was told that they are left out
        self._gathered: dict[tuple[Path, int], Result] = {}
        self._joint: dict[tuple, tuple[list[Result], list[Result]]] = {}

    def write(self, figures: bool = False) -> Document | None:
        """Write table.md and table.csv from all finished experiments; what the first holds, None where none is finished.

        Several processes may do this at once: one writes, the others wait.

        Args:
            figures: also report.html.
        """
        self._results.mkdir(parents=True, exist_ok=True)
        with FileLock(self._results / ".tables.lock"):  # so that nobody's older table goes over a newer one
            told = [(each, result) for each in self.experiments() if (result := self._result(each)) is not None]
            if not told:
                return None
            study, finished = self._study, [each for each, _ in told]
            self.rows = self._with_joint_intervals([result for _, result in told])
            document = study_document(self.rows, study.datasets, study.heading, provenance_lines(finished, self.rows, self._counts()))
            with whole_file(self._results / "table.md") as partial:
                partial.write_text(to_markdown(document), encoding="utf-8")
            write_csv(numbers_table(self.rows, study.datasets, study.heading), self._results / "table.csv")
        if figures:
            write_report(self._results, finished, document, self.rows, study)
        return document

    def short(self) -> Table:
        """What `rows` say, for a terminal."""
        return short_table(self.rows, self._study.datasets)

    def patients(self) -> Table:
        """The same over patients; without rows where they are not known."""
        return patient_table(self.rows, self._study.datasets)

    def words(self) -> list[str]:
        """What `rows` say in sentences, see `summary`."""
        return summary(self.rows, self._study.datasets, self._study.phantom, self._study.quick)

    def experiments(self) -> list[Experiment]:
        """Every finished experiment under the results folder that belongs in the tables, also those of earlier commands.

        They stand in the order of models, regimes and seeds. What was measured on other images of the same names, or by a model, in a regime or
        with a version of this package that is not to be had now, stays out, and is told once; so does the mixture of a seed in another order of its
        datasets than the study's where both are there.
        """
        times = {folder / "metrics.json": _written_at(folder / "metrics.json") for folder in experiment_folders(self._results)}
        times = {path: written for path, written in times.items() if written is not None}
        for path, written in times.items():
            if path not in self._finished or self._finished[path][0] != written:
                self._finished[path] = written, _belonging(path.parent, self._study.datasets, self._source)
        experiments = self._once([each for path in times if (each := self._finished[path][1]) is not None])
        models, regimes = [*BASELINES, *sorted({each.settings.model for each in experiments} - set(BASELINES))], list(REGIMES)

        def place(experiment: Experiment) -> tuple[int, ...]:
            settings = experiment.settings
            return models.index(settings.model), regimes.index(experiment.regime), settings.seed, self._study.datasets.index(settings.datasets[0])

        return sorted(experiments, key=place)

    def _once(self, experiments: Sequence[Experiment]) -> list[Experiment]:
        """One experiment of each model, regime, seed and set of datasets: that in the study's order, else the first."""
        kept: dict[tuple, Experiment] = {}
        for each in sorted(experiments, key=lambda one: tuple(one.settings.datasets) != self._study.datasets):
            key = each.settings.model, each.regime, each.settings.seed, frozenset(each.settings.datasets)
            if (first := kept.setdefault(key, each)) is not each and each.folder not in self._twice:
                self._twice.add(each.folder)
                text = "left out of the tables: %s: of the same datasets and seed as %s, in another order"
                logger.warning(text, each.folder, first.folder)
        return list(kept.values())

    def _counts(self) -> dict[str, Mapping[tuple[str, str], int]]:
        """Images of each dataset by kind and part; where the images are gone, those that were scored."""
        if self._source is not None:
            return {name: self._source.counts(name) for name in self._study.datasets}
        scored: dict[tuple[str, str], tuple[str, str]] = {}
        for rows in (result.rows for result in self.rows):
            kinds = ((("normal", "anomaly")[label], part) for label, part in zip(rows.column("label"), rows.column("part"), strict=True))
            scored |= zip(zip(rows.column("dataset"), rows.column("image"), strict=True), kinds, strict=True)
        return {name: Counter(split for (dataset, _), split in scored.items() if dataset == name) for name in self._study.datasets}

    def _result(self, experiment: Experiment) -> Result | None:
        """None where another process has begun to score it anew."""
        key = experiment.folder, self._finished[experiment.folder / "metrics.json"][0]
        if key not in self._gathered:
            if (metrics := scored_metrics(experiment)) is None:
                return None
            self._gathered[key] = _result(experiment, metrics)
        return self._gathered[key]

    def _with_joint_intervals(self, results: Sequence[Result]) -> list[Result]:
        """Those of a group of seeds are drawn again where it has grown."""
        groups: dict[tuple, list[Result]] = {}
        for result in results:
            groups.setdefault((result.model, result.regime, result.datasets), []).append(result)
        for key, group in groups.items():
            before = self._joint.get(key, ([], []))[0]
            if len(before) != len(group) or any(one is not other for one, other in zip(before, group, strict=True)):
                self._joint[key] = group, with_joint_intervals(group)
        joint = {key: iter(self._joint[key][1]) for key in groups}
        return [next(joint[result.model, result.regime, result.datasets]) for result in results]


def tell_results(results: Path, data_root: Path | None = None, figures: bool = False) -> list[str] | None:
    """Write the tables of a folder of results, as `Study.read` knows them; the lines that a command ends with, None where nothing is finished.

    Args:
        results: the folder of a study, of single trainings, or of an experiment.
        data_root: where the images are now; None: where they were.
        figures: also report.html.
    """
    study = Study.read(results, data_root)
    gone = data_root is None and not study.data_root.is_dir()
    if gone:
        text = "%s is gone (or elsewhere: --data-root): the tables are of what was measured there, and whether images changed since is not checked"
        logger.warning(text, study.data_root)
    tables = Tables(results, study, None if gone else DataSource(study.data_root))
    if tables.write(figures) is None:
        return None
    if (results / "study.json").exists():
        study.write(results)  # the images may lie elsewhere now
    written = f"tables in {results / 'table.md'} and {results / 'table.csv'}" + (f", with figures in {results / 'report.html'}" if figures else "")
    shown = [to_text(table) for table in (tables.short(), tables.patients()) if table.rows]
    return ["\n\n".join(shown), "", *tables.words(), "", written]


def _belonging(folder: Path, datasets: Sequence[str], source: DataSource | None) -> Experiment | None:
    """The experiment in a folder with metrics; None, and why, where it belongs in no table of these datasets."""
    try:
        experiment = load_experiment(folder)
    except UserError as error:
        logger.warning("left out of the tables: %s", error)
        return None
    chosen, regime = set(experiment.settings.datasets), REGIMES.get(experiment.regime)
    if regime is None:
        logger.warning("left out of the tables: %s: no regime %s is known", folder, experiment.regime)
    elif not (chosen == set(datasets) or (not regime.mixed and chosen <= set(datasets))):
        text = "left out of the tables: %s: of other datasets than %s; `maddr report %s` tells of it alone"
        logger.warning(text, folder, ", ".join(datasets), folder)
    elif source is not None and not same_data(experiment, source):
        logger.warning("left out of the tables: %s: of other images or splits than lie in %s now", folder, source.data_root)
    elif (metrics := scored_metrics(experiment)) is None:
        if _written_at(folder / "metrics.json") is not None:
            logger.warning("left out of the tables: %s: an older version scored it; `evaluate` does it anew", folder)
    elif source is not None and judged_otherwise(metrics, experiment, source):
        text = "left out of the tables: %s: scored by an older version, or with other twins, masks or patients than %s names; `evaluate` does it anew"
        logger.warning(text, folder, source.data_root)
    else:
        return experiment
    return None


def _written_at(path: Path) -> int | None:
    """When a file was last written, in ns; None where there is none, as of metrics while another process scores an experiment anew."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def provenance_lines(experiments: Sequence[Experiment], results: Sequence[Result], counts: Mapping[str, Mapping[tuple[str, str], int]]) -> list[str]:
    """What the table's numbers come from: how many images of each dataset, by kind and part, and which experiments, whose results they are."""
    lines = [f"{name}: " + ", ".join(f"{count} {' '.join(split)}" for split, count in by_split.items()) for name, by_split in counts.items()]
    described: dict[str, list[str]] = {}
    for experiment, result in zip(experiments, results, strict=True):
        settings, metrics, origin = experiment.settings, result.metrics, provenance.read(experiment.folder)
        facts = [f"{key}: {value}" for key, value in metrics["baseline"].items()]
        facts.append(f"at most {settings.iterations} iterations of batch {settings.batch_size}, {settings.image_size} px")
        facts.append(f"thresholds for a false-alarm rate of {1 - metrics['threshold_quantile']:.3g}")
        facts.append(provenance.runs_line(origin))
        name = f"{experiment.regime} {'+'.join(settings.datasets)} seed {settings.seed}, weights of iteration {metrics['best_iteration']}, "
        name += f"config {short_hash(experiment.folder / 'config.yaml')}, data {origin['data']}"
        described.setdefault(f"{settings.model}: {'; '.join(facts)}", []).append(name)
    return [*lines, *(f"{text} ({'; '.join(names)})" for text, names in described.items())]


def _result(experiment: Experiment, metrics: dict[str, Any]) -> Result:
    settings, path = experiment.settings, experiment.folder / "scores.csv"
    rows, pairs = read_scores(path), read_twin_rows(experiment.folder / "twins.csv")
    scored = Counter(zip(rows.column("dataset"), rows.column("label"), rows.column("part"), strict=True))
    for (name, measured), (label, kind) in product(metrics["datasets"].items(), enumerate(("normal", "abnormal"))):
        if (lines := scored[name, label, "test"]) != measured[kind]:
            raise UserError(f"{path}: has {lines} {kind} test images of {name}, and {measured[kind]} were scored; evaluate the run again")
    return Result(settings.model, experiment.regime, tuple(settings.datasets), settings.seed, metrics, rows, pairs, settings)


def drawn_figures(folder: Path) -> list[Path]:
    """The figures of an experiment, in the order of the page; none where its metrics are newer than what was drawn, or not all is there."""
    drawn = folder / DRAWN
    if not drawn.exists() or drawn.stat().st_mtime <= (folder / "metrics.json").stat().st_mtime:
        return []
    paths = [drawn.with_name(name) for name in read_json(drawn, {"figures": list})["figures"]]
    return paths if all(path.exists() for path in paths) else []


def write_report(results: Path, experiments: Sequence[Experiment], document: Document, rows: Sequence[Result], study: Study) -> None:
    """Draw the figures of each experiment, of its first seed, and write report.html into the results folder; see `to_page`.

    Args:
        results: the folder of the study.
        experiments: finished ones.
        document: what table.md holds.
        rows: the results of the experiments, in their order.
        study: what the page is about.
    """
    first = [e for e in experiments if e.settings.seed == min(x.settings.seed for x in experiments if _kind(x) == _kind(e))]
    drawn = {experiment.folder: drawn_figures(experiment.folder) for experiment in first}
    todo = [experiment for experiment in first if not drawn[experiment.folder]]
    todo.sort(key=lambda experiment: -len(experiment.settings.datasets))  # or one process is left with the longest in the end
    jobs = [(experiment.folder, _parts(experiment)) for experiment in todo]
    new = map_jobs(_draw, jobs, None, "drawing figures", "experiment", fresh=DRAWING)
    drawn |= {folder: paths for (folder, _), paths in zip(jobs, new, strict=True)}
    content = Content(results, study.datasets, document, experiments, rows, drawn, study.phantom, study.quick)
    with whole_file(results / "report.html") as partial:
        partial.write_text(to_page(content), encoding="utf-8")


def _draw(job: tuple[Path, Sequence[int] | None]) -> list[Path]:
    from anomaly_detection.evaluation.figures import draw_figures  # here: matplotlib, which takes a second to import, is for drawing alone

    folder, parts = job
    paths = draw_figures(folder, read_scores(folder / "scores.csv"), read_json(folder / "metrics.json"), parts)
    write_json(folder / DRAWN, {"figures": [path.name for path in paths]})
    return paths


def _kind(experiment: Experiment) -> tuple:
    return experiment.settings.model, experiment.regime, tuple(experiment.settings.datasets)


def _parts(experiment: Experiment) -> list[int] | None:
    maddr = experiment.settings.maddr
    return [maddr.organ_dim, maddr.modality_dim] if maddr.enabled else None
