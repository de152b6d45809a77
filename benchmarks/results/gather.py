"""The experiments of a study that was run in several places, each taken from the first place that holds it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anomaly_detection.config.layers import read_yaml
from anomaly_detection.evaluation.rows import read_scores
from anomaly_detection.evaluation.twins import read_twin_rows
from anomaly_detection.registry import BASELINES
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.study.results import Result, with_joint_intervals
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, short_hash

FACTS = ("commit", "device", "torch")


@dataclass(frozen=True)
class Source:
    """A folder of results, and what is said of all that was run there where the experiments do not tell it themselves.

    Attributes:
        name: in tables.
        folder: that `maddr study --results` wrote.
        commit: of the package that trained.
        device: that it trained on, in words.
        torch: beginning of the version of those experiments that count; those of others, in the same folder, do not.
    """

    name: str
    folder: Path
    commit: str = ""
    device: str = ""
    torch: str = ""

    @classmethod
    def parse(cls, text: str) -> "Source":
        """From NAME=FOLDER[,commit=...][,device=...][,torch=...].

        Raises:
            UserError: it is not of this form, or there is no such folder.
        """
        (name, _, folder), *facts = (part.partition("=") for part in text.split(","))
        if not name or not folder or not {key for key, _, _ in facts} <= set(FACTS):
            raise UserError(
                f"{text}: a folder of results is told as NAME=FOLDER,{','.join(f'{fact}=...' for fact in FACTS)}, the facts as far as known"
            )
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder")
        return cls(name, Path(folder), **{key: value for key, _, value in facts})


@dataclass(frozen=True)
class Run:
    """A finished experiment, and where it is from.

    Attributes:
        result: its metrics and scores.
        source: name of the source.
        commit, device, torch: what trained and scored it, as its provenance.json tells it, else as the source does.
        pixels: of a side of the images that it saw.
        data: hash of these images, their labels and splits.
        config: hash of its config.yaml.
    """

    result: Result
    source: str
    commit: str
    device: str
    torch: str
    pixels: int
    data: str
    config: str


@dataclass(frozen=True)
class Gathered:
    """A study: its datasets, in the order of columns, and the runs of all seeds that have every dataset, in the order of rows."""

    datasets: tuple[str, ...]
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[Result]:
        """Of the runs."""
        return [run.result for run in self.runs]

    @cached_property
    def joint(self) -> list[Result]:
        """The results but those of ablations, with intervals of the means over seeds."""
        return with_joint_intervals([result for result in self.results if not REGIMES[result.regime].ablation])

    def origins(self, model: str, regime: str) -> str:
        """Where the seeds of a row were run, such as "gpu 0 1; cpu 2"."""
        seeds: dict[str, list[int]] = {}
        for run in self.runs:
            if (run.result.model, run.result.regime) == (model, regime):
                seeds.setdefault(run.source, []).append(run.result.seed)
        return "; ".join(f"{name} {' '.join(map(str, dict.fromkeys(numbers)))}" for name, numbers in seeds.items())


def gather(sources: Sequence[Source]) -> Gathered:
    """All finished experiments of a study.

    Raises:
        UserError: there are none, or two of them were scored on other images, labels or patients.
    """
    found: dict[tuple, Run] = {}
    for source in sources:
        for run in _runs(source):
            found.setdefault((run.result.model, run.result.regime, frozenset(run.result.datasets), run.result.seed), run)
    if not found:
        raise UserError(f"{', '.join(str(source.folder) for source in sources)}: no finished experiment")
    datasets = max((run.result.datasets for run in found.values()), key=len)
    gathered = complete(datasets, list(found.values()))
    _check_same_images(gathered.runs)
    return gathered


def complete(datasets: Sequence[str], runs: Sequence[Run]) -> Gathered:
    """Those of some runs that are of these datasets and whose seed has every one of them, in the order of models, regimes, seeds and datasets."""
    runs = [run for run in runs if _belongs(run.result, datasets)]
    seen: dict[tuple, set[str]] = {}
    for run in runs:
        seen.setdefault(_network(run), set()).update(run.result.datasets)
    models, regimes = [*BASELINES, *sorted({run.result.model for run in runs} - set(BASELINES))], list(REGIMES)

    def place(run: Run) -> tuple[int, ...]:
        result = run.result
        return models.index(result.model), regimes.index(result.regime), result.seed, datasets.index(result.datasets[0])

    return Gathered(tuple(datasets), tuple(sorted((run for run in runs if seen[_network(run)] == set(datasets)), key=place)))


def _belongs(result: Result, datasets: Sequence[str]) -> bool:
    """Whether it is of all the datasets, or of one of them where each has its network."""
    return set(result.datasets) == set(datasets) or (not REGIMES[result.regime].mixed and set(result.datasets) <= set(datasets))


def _network(run: Run) -> tuple[str, str, int]:
    return run.result.model, run.result.regime, run.result.seed


def _runs(source: Source) -> Iterator[Run]:
    """The finished experiments in a folder that count, of regimes that are known."""
    for path in sorted(source.folder.glob("*/*/*/seed_*/metrics.json")):
        folder, origin = path.parent, read_json(path.parent / "provenance.json")
        told = {fact: " and ".join(dict.fromkeys(run[fact] for run in origin.get("runs") or [origin] if run.get(fact))) for fact in FACTS}
        if origin["regime"] not in REGIMES or not told["torch"].startswith(source.torch):
            continue
        config = read_yaml(folder / "config.yaml")
        rows, pairs = read_scores(folder / "scores.csv"), read_twin_rows(folder / "twins.csv")
        result = Result(config["model"], origin["regime"], tuple(config["datasets"]), config["seed"], read_json(path), rows, pairs)
        facts = source.name, told["commit"] or source.commit, told["device"] or source.device, told["torch"], config["image_size"], origin["data"]
        yield Run(result, *facts, short_hash(folder / "config.yaml"))


def _check_same_images(runs: Sequence[Run]) -> None:
    """Raise UserError where two runs were scored on other images of a dataset: their rows could not be compared."""
    first: dict[str, tuple[Run, set]] = {}
    for run in runs:
        for dataset in run.result.datasets:
            lines = run.result.rows.where(dataset=dataset)
            images = set(zip(*(lines.column(name) for name in ("image", "patient", "part", "label")), strict=True))
            other, others = first.setdefault(dataset, (run, images))
            if images != others:
                names = (f"{each.source}: {each.result.model} {each.result.regime} seed {each.result.seed}" for each in (other, run))
                raise UserError(f"{dataset}: {' and '.join(names)} were scored on different images, labels, patients or splits")
