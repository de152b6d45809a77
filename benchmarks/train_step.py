"""Seconds of a training step with MADDR, its data included: the plain implementation, the project, and the limit, taken in turns.

The limit is the time of the convolutions and matrix products of the project's step alone, at the rate of this machine's fastest matrix product.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from anomaly_detection.baseline import Phase
from benchmarks.cases import Case, Plain, Project, benchmark_images, cases
from benchmarks.measure import Peak, add_losses, add_models, add_rounds, benchmark_parser, in_turns, operations, parse, show
from benchmarks.plain import READERS

Rows = Callable[[Case, Any, Peak], Iterator[dict[str, Any]]]


def rows(case: Case, arguments, peak: Peak) -> Iterator[dict[str, Any]]:
    """One for each phase of the baseline that is asked for."""
    images, paths = benchmark_images(arguments.data_root, case.size)
    project, plain = Project(case, images, arguments.device), Plain(case, images, paths, arguments.device)
    phases = project.baseline.phases()
    for phase in asked_for(phases, arguments):
        rivals = {"plain": lambda phase=phase: plain.step(phase), "project": lambda phase=phase: project.step(phase), "peak": peak.measure}
        times = in_turns(rivals, arguments.rounds, arguments.steps, arguments.device, READERS)
        limit = operations(project.step(phase)) / peak.rate
        yield {
            "model": case.model,
            "loss": case.loss or (phase.name if len(phases) > 1 else ""),
            "size": case.size,
            "batch": case.batch,
            "device": arguments.device.type,
            "seconds_plain": times["plain"],
            "seconds": times["project"],
            "seconds_limit": limit,
            "speedup": times["plain"] / times["project"],
            "over_limit": times["project"] / limit,
        }


def add_phases(parser: ArgumentParser) -> None:
    """--phases, for a benchmark of training steps."""
    parser.add_argument("--phases", nargs="+", metavar="PHASE", help="such as gan and encoder of f_anogan (default: all)")


def asked_for(phases: Sequence[Phase], arguments: Namespace) -> list[Phase]:
    """Those of --phases."""
    return [phase for phase in phases if arguments.phases is None or phase.name in arguments.phases]


def measure(description: str | None, rows: Rows, argv: Sequence[str] | None) -> None:
    """Print a table of training steps: the rows of each case that the command line asks for, as they are measured."""
    parser = benchmark_parser(description, add_models, add_losses, add_phases, add_rounds)
    arguments = parse(parser, argv)
    peak = Peak(arguments.device)
    wanted = list(cases(arguments.models, arguments.losses, arguments.sizes, arguments.batches))
    if not show((row for case in tqdm(wanted, unit="case", disable=None) for row in rows(case, arguments, peak)), arguments.json):
        parser.error(f"no phase of {', '.join(arguments.models)} is named {' or '.join(arguments.phases)}")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    measure(__doc__, rows, argv)


if __name__ == "__main__":
    main()
