"""The tables of docs/results.md, from the functions that make those of a study; a cell is a mean over seeds with its 95 % interval."""

from collections.abc import Callable, Iterator, Sequence
from statistics import mean
from typing import Any

from anomaly_detection.data.phantom.strata import STRATA
from anomaly_detection.evaluation.bootstrap import OUTSIDE
from anomaly_detection.study.comparison import Difference, mean_auroc_interval, raised, twin_rate_difference
from anomaly_detection.study.regimes import MADDR, PROBE, REGIMES, SEPARATE, UNITED
from anomaly_detection.study.render import Table
from anomaly_detection.study.results import MISSING, Cell, Result, cells, compared, scores_by_seed, seeds_of, with_joint_intervals
from anomaly_detection.study.tables import component_table, domain_table, head_table, patient_table
from benchmarks.results.gather import Gathered

DETECTORS = 6  # of which each is asked, so that the level of an interval that convinces of one is 1 - 0.05 / 6
MARGINS = {UNITED.name: 0.0, SEPARATE.name: -0.02, PROBE.name: 0.0}  # the claim holds where the interval of maddr minus it lies above
WORDS = {"holds": "holds", "fails": "does not hold", "open": "open"}


def networks(gathered: Gathered) -> list[tuple[str, str]]:
    """Models and regimes in the order of rows, without ablations."""
    names = dict.fromkeys((result.model, result.regime) for result in gathered.results)
    return [(model, regime) for model, regime in names if not REGIMES[regime].ablation]


def shown(cell: Any) -> str:
    """A cell as the page shows it: without the deviation over seeds, which the interval holds."""
    if not isinstance(cell, Cell):
        return str(cell)
    return str(Cell((mean(cell.values),), cell.interval)) if cell.values else MISSING


def _as_shown(table: Table) -> Table:
    return Table(table.title, table.header, [[shown(cell) for cell in row] for row in table.rows])


def auroc(gathered: Gathered) -> Table:
    """AUROC over images, and where each seed was run."""
    joint, datasets, rows = gathered.joint, gathered.datasets, []
    for name in networks(gathered):
        row = cells(joint, *name, datasets, "auroc")
        by_seed = scores_by_seed(gathered.results, *name, datasets)
        together = mean_auroc_interval({dataset: [scores[dataset] for scores in by_seed.values()] for dataset in datasets})
        mean_cell = Cell(row["mean"].values, together)
        rows.append([*name, *(row[dataset] for dataset in datasets), mean_cell, len(by_seed), gathered.origins(*name)])
    return _as_shown(Table("auroc", ["detector", "regime", *datasets, "mean", "seeds", "run, seeds"], rows))


def patients(gathered: Gathered) -> Table:
    """AUROC over patients, with how many normal and abnormal ones there are, and how much a network does not know."""
    table = patient_table(gathered.results, gathered.datasets)
    kept = [row for row in table.rows if not REGIMES[row[1]].ablation]
    return Table("patients", ["detector", *table.header[1:]], kept)


def threshold(gathered: Gathered) -> Table:
    """All test images together with one threshold, by who tells the domain. What `united` scores is what `united_probe` scores without its probe."""
    joint = [result for result in gathered.joint if result.regime in (PROBE.name, MADDR.name)]
    table = domain_table(joint, gathered.datasets)
    return _as_shown(Table("threshold", ["detector", *table.header[1:]], table.rows))


def operating(gathered: Gathered) -> Table:
    """Sensitivity and false alarms at the thresholds that validation normals of the true domain set."""
    joint, datasets, rows = gathered.joint, gathered.datasets, []
    for name in networks(gathered):
        hits, passes = (cells(joint, *name, datasets, metric) for metric in ("sensitivity", "specificity"))
        rows.append([*name, "sensitivity", *(hits[dataset] for dataset in datasets)])
        rows.append([*name, "false alarms", *(passes[dataset].complement() for dataset in datasets)])
    return _as_shown(Table("operating", ["detector", "regime", "share", *datasets], rows))


def claims(gathered: Gathered, outside: float = OUTSIDE) -> Iterator[tuple[str, str, int, dict[str, Difference]]]:
    """Model, other regime, number of seeds, and maddr minus it by dataset and in the mean, over the seeds that both have."""
    for model in dict.fromkeys(model for model, _ in networks(gathered)):
        for other in MARGINS:
            seeds, added = compared(gathered.results, model, MADDR.name, other, gathered.datasets, outside)
            if seeds:
                yield model, other, len(seeds), added


def verdict(found: Difference, margin: float) -> str:
    """Whether the claim that a difference is above a margin holds, does not, or is open: the interval lies above it, below it, or around it."""
    return "holds" if found.low > margin else "fails" if found.high < margin else "open"


def difference_rows(gathered: Gathered) -> Table:
    """maddr minus the others, paired, with the verdict of the protocol, and whether that stays at the level of one claim of six."""
    datasets, rows = gathered.datasets, []
    strict = {(model, other): found["mean"] for model, other, _, found in claims(gathered, OUTSIDE / DETECTORS)}
    for model, other, seeds, found in claims(gathered):
        stricter, margin = strict[model, other], MARGINS[other]
        words = [WORDS[verdict(each, margin)] for each in (found["mean"], stricter)]
        interval = f"[{stricter.low:+.3f}, {stricter.high:+.3f}]"
        rows.append([model, f"maddr - {other}", *(found[name] for name in (*datasets, "mean")), seeds, words[0], interval, words[1]])
    level = f"mean at level {1 - OUTSIDE / DETECTORS:.4f}"
    return Table("differences", ["detector", "difference", *datasets, "mean", "seeds", "the claim", level, "the claim then"], rows)


def components(gathered: Gathered) -> Table:
    """Each term alone and together, over the seeds that all regimes of a model have, and minus `united` of the same seeds, paired."""
    listed, rows = [regime.name for regime in REGIMES.values() if regime.mixed and not regime.probe], []
    for model in dict.fromkeys(result.model for result in gathered.results if REGIMES[result.regime].ablation):
        chosen = [result for result in gathered.results if result.model == model and result.regime in listed]
        regimes = list(dict.fromkeys(result.regime for result in chosen))
        seeds = set.intersection(*({result.seed for result in chosen if result.regime == regime} for regime in regimes))
        joint = with_joint_intervals([result for result in chosen if result.seed in seeds])
        for regime, row in zip(listed, component_table(joint, gathered.datasets).rows, strict=bool(seeds)):
            if regime in regimes:
                rows.append([*row[:-1], _minus_united(joint, model, regime, gathered.datasets), len(seeds)])
    header = component_table(gathered.results, gathered.datasets).header
    return _as_shown(Table("components", ["detector", *header[1:-1], "mean minus that of united", "seeds"], rows))


def _minus_united(results: Sequence[Result], model: str, regime: str, datasets: Sequence[str]) -> Any:
    return MISSING if regime == UNITED.name else compared(results, model, regime, UNITED.name, datasets).added.get("mean", MISSING)


def heads(gathered: Gathered) -> Table:
    """How often heads and probes name the domain rightly."""
    table = head_table(gathered.results)
    return Table("heads", ["detector", *table.header[1:]], [row for row in table.rows if row[2] != MISSING])


def strata(gathered: Gathered) -> Table:
    """AUROC and twin rate, means over datasets, of all lesions and by how conspicuous they are."""
    metrics = ("auroc", *(f"{stratum}_auroc" for stratum in STRATA), "twin_rate", *(f"{stratum}_twin_rate" for stratum in STRATA))
    results, rows = gathered.results, []
    for name in networks(gathered):
        means = [cells(results, *name, gathered.datasets, metric)["mean"].average() for metric in metrics]
        rows.append([*name, *means, seeds_of(results, *name, gathered.datasets), gathered.origins(*name)])
    header = [f"{measure}: {which}" for measure in ("AUROC", "twin rate") for which in ("all", *STRATA)]
    return _as_shown(Table("strata", ["detector", "regime", *header, "seeds", "run, seeds"], rows if any(result.pairs for result in results) else []))


def twin_differences(gathered: Gathered) -> Table:
    """Twin rates of maddr minus those of the others, means over datasets, paired."""
    rows = []
    for model in dict.fromkeys(result.model for result in gathered.results if result.pairs):
        for other in MARGINS:
            seeds = [{r.seed for r in gathered.results if (r.model, r.regime) == (model, regime)} for regime in (MADDR.name, other)]
            if both := sorted(set.intersection(*seeds)):
                kinds = (None, *STRATA)
                found = [twin_rate_difference(*(_raised(gathered, model, regime, both, kind) for regime in (MADDR.name, other))) for kind in kinds]
                rows.append([model, f"maddr - {other}", *found, len(both)])
    return Table("twin_differences", ["detector", "difference", "all", *STRATA, "seeds"], rows)


def _raised(gathered: Gathered, model: str, regime: str, seeds: Sequence[int], stratum: str | None) -> list[dict]:
    """Of each seed what the lesions of a stratum, or all, do to the scores of the networks of a regime, by dataset in the study's order."""
    networks_of_seeds = []
    for seed in seeds:
        by_dataset: dict = {}
        for result in gathered.results:
            if (result.model, result.regime, result.seed) == (model, regime, seed):
                by_dataset |= raised([pair for pair in result.pairs if stratum in (None, pair["stratum"])], result.rows)
        networks_of_seeds.append({dataset: by_dataset[dataset] for dataset in gathered.datasets})
    return networks_of_seeds


def runs(gathered: Gathered) -> Table:
    """Where experiments were run, and on what data: a line for each place, version of torch, and selection of datasets."""
    counts: dict[tuple, int] = {}
    for run in gathered.runs:
        key = run.source, run.commit or MISSING, run.torch, run.device or MISSING, " + ".join(run.result.datasets), run.pixels, run.data
        counts[key] = counts.get(key, 0) + 1
    header = ["run", "commit", "torch", "device", "datasets", "pixels", "hash of these data", "experiments"]
    return Table("runs", header, [[*key, count] for key, count in sorted(counts.items())])


TABLES: dict[str, Callable[[Gathered], Table]] = {
    "auroc": auroc,
    "differences": difference_rows,
    "patients": patients,
    "threshold": threshold,
    "operating": operating,
    "components": components,
    "heads": heads,
    "strata": strata,
    "twin_differences": twin_differences,
    "runs": runs,
}
