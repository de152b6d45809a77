"""What would make MADDR's terms help: variants of the constraint on phantoms, each against the same networks without it, over seeds.

Measured are the mean of the datasets' twin rates and that of their AUROCs, minus those of `united_probe`, which names domains, too, and is trained
without any term. Intervals are over patients and seeds, paired in both. With --data-root the same on other images, whose twins nobody knows: for what
was chosen on phantoms and is to be confirmed.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_detection.__main__ import main as maddr
from anomaly_detection.data.phantom.datasets import DATASETS
from anomaly_detection.evaluation.rows import read_scores
from anomaly_detection.evaluation.twins import read_twin_rows
from anomaly_detection.study.comparison import Difference, differences, raised, scored, twin_rate_difference
from anomaly_detection.study.regimes import MADDR, PROBE, TERMS
from benchmarks.measure import show

PHANTOMS = tuple(DATASETS)
WEIGHTS = (0.01, 0.1, 1.0, 10.0)


class Variant(NamedTuple):
    """What is trained: settings, in a regime, of one model alone (None: of each)."""

    settings: Mapping[str, Any]
    regime: str = MADDR.name
    model: str | None = None


def _weights(*values: float) -> Variant:
    return Variant({f"maddr.{term}_weight": value for term, value in zip(TERMS, values, strict=True)})


DENSITY = {"baseline.score": "residual_density"}
HIGHEST = {**DENSITY, "baseline.score_share": 0.125}

VARIANTS: dict[str, Variant] = {
    **{f"all {weight:g}": _weights(weight, weight, weight) for weight in WEIGHTS},
    **{f"{term} {weight:g}": _weights(*(weight if each == term else 0.0 for each in TERMS)) for term in TERMS for weight in WEIGHTS},
    **{f"dimensions {count}": Variant({"maddr.organ_dim": count, "maddr.modality_dim": count}) for count in (2, 32)},
    "a center for each domain": Variant({"maddr.center_of": "domain"}),
    "moving center": Variant({"maddr.center_momentum": 0.99}),
    "a moving center for each domain": Variant({"maddr.center_of": "domain", "maddr.center_momentum": 0.99}),
    "balanced batches": Variant({"balanced": True}),
    "heads that only watch": Variant({"maddr.heads_train_encoder": False}),
    "density of residuals": Variant(DENSITY, model="feature_ae"),
    "density of residuals with a probe": Variant(DENSITY, PROBE.name, "feature_ae"),
    "highest densities of residuals": Variant(HIGHEST, model="feature_ae"),
    "highest densities of residuals with a probe": Variant(HIGHEST, PROBE.name, "feature_ae"),
}


class Images(NamedTuple):
    """What is trained on and tested: names of datasets in a data root, or phantoms where there is none."""

    datasets: Sequence[str] = PHANTOMS
    data_root: Path | None = None

    @property
    def words(self) -> list[str]:
        """For a command line."""
        return ["--phantom"] if self.data_root is None else ["--data-root", str(self.data_root), "--datasets", *self.datasets]


def run(images: Images, model: str, settings: Mapping[str, Any], regime: str, seeds: Sequence[int], results: Path) -> None:
    """The experiments of a model in one regime, those that are not finished.

    Raises:
        RuntimeError: one of them failed.
    """
    overrides = [word for key, value in settings.items() for word in ("--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}")]
    words = [*images.words, "--models", model, "--regimes", regime, "--seeds", *map(str, seeds), "--results", str(results), *overrides]
    if maddr(["study", "--quiet", *words]):
        raise RuntimeError(f"{results}: an experiment failed, as said above")


def folders(images: Images, model: str, regime: str, seeds: Sequence[int], results: Path) -> list[Path]:
    """Of the experiments, in the order of seeds."""
    return [results / model / regime / "+".join(images.datasets) / f"seed_{seed}" for seed in seeds]


def twin_rates(one: Sequence[Path], other: Sequence[Path]) -> Difference:
    """Mean of the datasets' twin rates of networks minus that of others, folders of the same seeds in the same order."""
    read = [[raised(read_twin_rows(folder / "twins.csv"), read_scores(folder / "scores.csv")) for folder in side] for side in (one, other)]
    return twin_rate_difference(*read)


def auroc_difference(one: Sequence[Path], other: Sequence[Path], datasets: Sequence[str]) -> Difference:
    """The same of the mean of the datasets' AUROCs."""
    rows = [[read_scores(folder / "scores.csv") for folder in side] for side in (one, other)]
    return differences(*({name: [scored(each, name) for each in side] for name in datasets} for side in rows))["mean"]


def rows(images: Images, models: Sequence[str], variants: Sequence[str], seeds: Sequence[int], results: Path) -> Iterator[dict[str, Any]]:
    """One for each variant and model."""
    for model in models:
        run(images, model, {}, PROBE.name, seeds, results / "without")
    for name in variants:
        variant = VARIANTS[name]
        for model in (each for each in models if variant.model in (None, each)):
            folder = results / name.replace(" ", "_")
            run(images, model, variant.settings, variant.regime, seeds, folder)
            sides = folders(images, model, variant.regime, seeds, folder), folders(images, model, PROBE.name, seeds, results / "without")
            twins = {} if images.data_root else {"twin rate": str(twin_rates(*sides))}
            yield {"variant": name, "model": model, "seeds": len(seeds), **twins, "auroc": str(auroc_difference(*sides, images.datasets))}


def main(argv: list[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["feature_ae", "memae"], metavar="MODEL", help="(default: feature_ae memae)")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], metavar="N", help="(default: 0 1 2 3 4)")
    parser.add_argument("--results", type=Path, default=Path("results/variants"), metavar="DIR", help="(default: results/variants)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="of other images (default: phantoms)")
    parser.add_argument("--datasets", nargs="+", default=PHANTOMS, metavar="NAME", help="there, in the order of its datasets.yaml")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args(argv)
    images = Images(arguments.datasets, arguments.data_root)
    show(rows(images, arguments.models, arguments.variants, arguments.seeds, arguments.results), arguments.json)


if __name__ == "__main__":
    main()
