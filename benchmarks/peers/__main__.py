"""What a user would take instead of this project, on the same images and splits, each library with its default settings in an environment of its own.

Every detector is trained once on the normal training images of all datasets together. What is finished in the working folder is not run again.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_detection.commands.exit_codes import run as run_command
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json
from anomaly_detection.system.lines import Lines
from benchmarks.measure import show
from benchmarks.peers.exchange import write_exchange
from benchmarks.peers.table import COLUMNS, cost, quality, read_run
from benchmarks.peers.this_project import experiment_of

HERE = Path(__file__).parent
DRAWN = (0, 1, 2)  # seeds of what draws random numbers and takes little time


class Detector(NamedTuple):
    """A row of the table.

    Attributes:
        peer: one of `SCRIPTS`.
        model, on, seeds: see `measured.Task`.
    """

    peer: str
    model: str
    on: str
    seeds: tuple[int, ...] = (0,)


SCRIPTS = {"this_project": None, "pyod": "pyod_on_features.py", "sklearn": "sklearn_on_features.py", "anomalib": "anomalib_models.py"}
DETECTORS = (
    Detector("this_project", "gaussian united", "positions"),
    *(Detector("this_project", f"gaussian {regime}", "positions", DRAWN) for regime in ("united_probe", "maddr")),
    *(Detector("this_project", f"feature_ae {regime}", "positions", DRAWN) for regime in ("united", "united_probe", "maddr")),
    *(Detector("pyod", model, "vectors") for model in ("KNN", "LOF", "ECOD")),
    *(Detector("pyod", model, "vectors", DRAWN) for model in ("IForest", "DeepSVDD")),
    *(Detector("pyod", model, "positions") for model in ("KNN", "LOF", "ECOD")),
    Detector("pyod", "IForest", "positions", DRAWN),
    Detector("pyod", "DeepSVDD", "positions"),
    # Of 45,000 vectors EllipticEnvelope and OneClassSVM would take hours; IsolationForest and LocalOutlierFactor are what PyOD's wrap.
    *(Detector("sklearn", model, "vectors") for model in ("LocalOutlierFactor", "OneClassSVM", "EllipticEnvelope", "GaussianMixture")),
    Detector("sklearn", "IsolationForest", "vectors", DRAWN),
    Detector("sklearn", "GaussianMixture", "positions"),
    *(Detector("anomalib", model, "images") for model in ("PaDiM", "PatchCore", "MH-PatchCore", "GANomaly")),
)


def interpreter(peer: str, environments: Path) -> list[str]:
    """The beginning of a command that runs a peer; its environment is made where it is missing.

    Raises:
        UserError: it cannot be made.
    """
    script = SCRIPTS[peer]
    if script is None:
        return [sys.executable, "-m", f"benchmarks.peers.{peer}"]
    folder = environments / peer
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        requirements = HERE / f"requirements-{peer}.txt"
        try:
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, subprocess.CalledProcessError):
                raise
            raise UserError(f"{requirements}: cannot be installed, as pip says above; leave {peer} out of --peers, or make {folder}") from None
    return [str(python), str(HERE / script)]


def train_and_score(detector: Detector, command: Sequence[str], exchange: Path, folder: Path, minutes: float) -> list[Path]:
    """The files of each seed, without their endings. The first run counts.

    Raises:
        RuntimeError: one does not end well, or not in time.
    """
    outs = []
    for seed in detector.seeds:
        out = folder / "_".join([detector.peer, *detector.model.split(), detector.on, str(seed)])
        if not out.with_suffix(".json").exists():
            words = [*command, str(exchange), str(out), detector.model, detector.on, str(seed)]
            log = out.with_suffix(".log")
            try:
                with open(log, "w", encoding="utf-8") as file:
                    code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, timeout=60 * minutes).returncode
            except subprocess.TimeoutExpired:
                raise RuntimeError(f"not done in {minutes:g} minutes") from None
            if code:
                lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
                raise RuntimeError(f"failed ({code}): {lines[-1]}")
        outs.append(out)
    return outs


def rows(detectors: Sequence[Detector], exchange: Path, environments: Path, minutes: float) -> Iterator[dict[str, Any]]:
    """One of each detector, when it is there; in the row of one that fails stands why."""
    told = read_json(exchange / "exchange.json")
    reference: list[Lines] = []
    empty = dict.fromkeys([*told["datasets"], *COLUMNS], "")
    for detector in detectors:
        name = {"library": detector.peer, "detector": detector.model, "on": detector.on}
        try:
            outs = train_and_score(detector, interpreter(detector.peer, environments), exchange, exchange.parent, minutes)
        except RuntimeError as error:
            yield {**name, **empty, "note": str(error)}
            continue
        runs, facts = [read_run(exchange, out.with_suffix(".csv")) for out in outs], [read_json(out.with_suffix(".json")) for out in outs]
        reference = reference or runs
        costs = cost(facts, 0 if detector.on == "images" else told["feature_s"])
        yield {**name, "library": facts[0]["library"], **quality(runs, reference), **costs, "note": facts[0]["note"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, metavar="DIR", help="folder of the datasets")
    parser.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="of datasets.yaml; two at least")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="receives what detectors are given and what they say")
    parser.add_argument("--peers", nargs="+", default=list(SCRIPTS), choices=SCRIPTS, metavar="NAME", help=f"of {', '.join(SCRIPTS)} (default: all)")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="of the libraries, made where they are missing (default: WORK/environments)")
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="that one training and scoring may take (default: 30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args(argv)
    exchange = arguments.work.resolve() / "exchange"
    experiment = experiment_of(arguments.data_root, arguments.datasets, "gaussian united", 0, arguments.work)
    write_exchange(exchange, experiment, DataSource(arguments.data_root))
    chosen = [detector for detector in DETECTORS if detector.peer in arguments.peers]
    environments = (arguments.environments or arguments.work / "environments").resolve()
    show(rows(chosen, exchange, environments, arguments.minutes), arguments.json)
    return 0


if __name__ == "__main__":
    run_command(main)
