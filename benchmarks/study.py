"""Where the seconds of a study go, and what several experiments at a time gain: the stages of `maddr study`, from its start to its page.

They are timed from outside, and together they are all the time that the command takes, its start and end included. Each study is run in a process
of its own, into a folder that is deleted afterwards. With several experiments at a time what these do passes in other processes; the one that is
looked at waits for them, in "experiments". With one at a time that stage is what experiments do beside the stages named before it: they look for
their folder and its lock, build their network, write a checkpoint, a model card and their scores.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from anomaly_detection.system.processes import import_ahead
from benchmarks.measure import show

# stage: where its function is looked up when it is called
STAGES = {
    "check of settings": ("anomaly_detection.study.run", "check_without_images"),
    "rendering": ("anomaly_detection.study.run", "render"),
    "check of images": ("anomaly_detection.study.run", "check_images"),
    "arrays": ("anomaly_detection.data.dataset", "load_images"),
    "fingerprints": ("anomaly_detection.data.dataset", "DataSource.fingerprint"),
    "features": ("anomaly_detection.study.train_and_score", "look_up_features"),
    "training": ("anomaly_detection.study.train_and_score", "train"),
    "evaluation": ("anomaly_detection.study.train_and_score", "evaluate"),
    "experiments": ("anomaly_detection.study.run", "run_all"),
    "tables": ("anomaly_detection.study.report", "Tables.write"),
    "figures and page": ("anomaly_detection.study.report", "write_report"),
}
START, REST, END, WHOLE = "start", "rest", "end", "whole"


class Watch:
    """Seconds by stage, each without those of the stages inside it."""

    def __init__(self, began: float, clock: Callable[[], float] = time.time):
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack, self._clock, self._last = [START], clock, began

    def enter(self, stage: str) -> None:
        """What comes now is of this stage."""
        self._book()
        self._stack.append(stage)

    def leave(self) -> None:
        """What comes now is of the stage before."""
        self._book()
        self._stack.pop()

    def _book(self) -> None:
        now = self._clock()
        self.seconds[self._stack[-1]] += now - self._last
        self._last = now

    def around(self, stage: str, function: Callable) -> Callable:
        """The function, timed as a stage."""

        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            self.enter(stage)
            try:
                return function(*arguments, **options)
            finally:
                self.leave()

        return timed


def measure(began: float, jobs: int, arguments: list[str]) -> dict[str, Any]:
    """In this process, which began at a time: a study by its stages, and whether an experiment failed."""
    if jobs > 1:  # as the command does it, before it imports
        import_ahead("anomaly_detection.study.run")

    import anomaly_detection.study.run  # noqa: F401  what the command imports before it works
    from anomaly_detection.commands.exit_codes import begin_logging
    from anomaly_detection.system.memory import keep_memory
    from run_experiments import main

    watch = Watch(began)
    for stage, (module, names) in STAGES.items():
        *holders, name = names.split(".")
        holder = functools.reduce(getattr, holders, sys.modules[module])
        setattr(holder, name, watch.around(stage, getattr(holder, name)))
    begin_logging()
    keep_memory()
    with redirect_stdout(sys.stderr):
        failed = watch.around(REST, main)([*arguments, "--jobs", str(jobs)])
    return {"seconds": watch.seconds, "failed": failed}


def rows(number: int, jobs: int, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """Of the study of a number, with so many experiments at a time; the last row is the sum of the others, and "end" what no stage has of it."""
    began = time.time()
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "benchmarks.study", "--measure", str(began), "--jobs", str(jobs), "--"]
        command += [*arguments, "--results", results]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        whole = time.time() - began
    if told["failed"]:
        raise SystemExit("experiments failed: their seconds say nothing")
    seconds = {stage: told["seconds"].get(stage, 0.0) for stage in (START, *STAGES, REST)}
    seconds |= {END: whole - sum(seconds.values()), WHOLE: whole}
    for stage, each in seconds.items():
        yield {"study": number, "jobs": jobs, "stage": stage, "seconds": each, "share": each / whole}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    text = "experiments at a time, a study for each (default: 1); 1 1 2 for times to compare: the first study renders and reads what the others find"
    parser.add_argument("--jobs", nargs="+", type=int, default=[1], metavar="N", help=text)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--measure", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    text = "arguments of `maddr study`, after -- (default: --phantom --quick, rendered anew for the first of several)"
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help=text)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, *arguments.jobs, arguments.arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        study = arguments.arguments or ["--phantom", "--quick"]
        if "--data-root" not in study:
            study = [*study, "--data-root", folder]
        show((row for number, jobs in enumerate(arguments.jobs, 1) for row in rows(number, jobs, study)), arguments.json)


if __name__ == "__main__":
    main()
