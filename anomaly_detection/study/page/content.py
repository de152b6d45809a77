"""What a report is written from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomaly_detection.study.experiment import Experiment
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.study.render import Document
from anomaly_detection.study.results import Result
from anomaly_detection.study.summary import told_regime


@dataclass(frozen=True)
class Content:
    """A study that has ended, or as much of it as has.

    Attributes:
        folder: that receives the page; links are relative to it.
        datasets: in the order of columns and panels.
        document: what table.md holds.
        experiments: finished ones.
        results: theirs, in the same order.
        figures: paths of figures by folder of their experiment, of the first seed of each network.
        phantom: whether the images are phantoms.
        quick: whether it was a smoke run.
    """

    folder: Path
    datasets: Sequence[str]
    document: Document
    experiments: Sequence[Experiment]
    results: Sequence[Result]
    figures: Mapping[Path, Sequence[Path]]
    phantom: bool = False
    quick: bool = False

    @property
    def main(self) -> list[Result]:
        """Results without ablations; all, where there is nothing else."""
        return [result for result in self.results if not REGIMES[result.regime].ablation] or list(self.results)

    def models(self) -> list[str]:
        """In the order of the tables."""
        return list(dict.fromkeys(result.model for result in self.results))

    def first_seeds(self) -> list[tuple[Result, Experiment]]:
        """Of each network that with the lowest seed."""
        chosen: dict[tuple, tuple[Result, Experiment]] = {}
        for result, experiment in zip(self.results, self.experiments, strict=True):
            key = result.model, result.regime, result.datasets
            if key not in chosen or result.seed < chosen[key][0].seed:
                chosen[key] = result, experiment
        return list(chosen.values())

    def told(self, model: str) -> list[tuple[Result, Experiment]]:
        """The networks that sentences about a detector are about, of their first seed."""
        regime = told_regime(self.results, model)
        return [each for each in self.first_seeds() if (each[0].model, each[0].regime) == (model, regime)]
