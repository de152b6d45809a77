"""What training steps and scoring do with their time: the share of each kind of operation, and how far their convolutions are from the limit.

The limits are those of `benchmarks.train_step` and `benchmarks.throughput`: the convolutions and matrix products at the rate of the machine's fastest
matrix product, those of a frozen backbone that scores in the time of the fastest engine at hand. Where the convolutions alone take twice that, no
other way of running them comes nearer: small channels and gradients of weights do not fill the processor.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import Case, Project, benchmark_images
from benchmarks.measure import Peak, in_turns, operations
from benchmarks.train_step import asked_for, measure

# what torch calls its operations, in the order in which they are asked
KINDS = {
    "products": ("conv", "aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "normalisation": ("norm",),
    "activations": ("relu", "clamp", "threshold", "sigmoid", "tanh", "softmax", "dropout"),
    "resampling": ("pool", "upsample"),
    "optimizer": ("adam",),
    "copies": ("aten::copy_", "aten::index", "aten::cat", "aten::stack"),
}
OTHER = "other"
SCORING = "scoring"


def kind_of(operation: str) -> str:
    """Of KINDS, or OTHER, by the name that torch gives an operation."""
    inner = operation.lower() if operation.startswith(("aten::", "mkldnn::", "Optimizer")) else ""
    return next((kind for kind, names in KINDS.items() if any(name in inner for name in names)), OTHER)


def shares(step: Callable[[], Any], device: torch.device, steps: int) -> dict[str, float]:
    """Share of the time that operations take in some steps, by kind, after one more; each counts without what it calls. They add up to 1.
    On a GPU a kernel counts for the operation that launched it; one that none launched, as of a replayed step, is OTHER.
    """
    on_gpu = device.type == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiled:
        for _ in range(steps):
            step()
    spent = Counter(dict.fromkeys([*KINDS, OTHER], 0.0))
    for each in profiled.key_averages():
        if not on_gpu:
            spent[kind_of(each.key)] += each.self_cpu_time_total
        elif each.device_type == DeviceType.CPU:  # an operation, with the time of its kernels, each of which has a row of its own, too
            spent[kind_of(each.key)] += each.self_device_time_total
            spent[OTHER] -= each.self_device_time_total
        elif not each.is_user_annotation:  # which spans kernels
            spent[OTHER] += each.self_device_time_total
    return {kind: value / spent.total() for kind, value in spent.items()}


def rows(case: Case, arguments, peak: Peak) -> Iterator[dict[str, Any]]:
    """One for each phase of the baseline that is asked for, and one for scoring."""
    images, _ = benchmark_images(arguments.data_root, case.size)
    project = Project(case, images, arguments.device)
    phases = asked_for(project.baseline.phases(), arguments)
    rivals = {phase.name: {"project": lambda phase=phase: project.step(phase), "peak": peak.measure} for phase in phases}
    rivals[SCORING] = project.scoring_rivals(case.batch, peak)
    for name, turns in rivals.items():
        times = in_turns(turns, arguments.rounds, arguments.steps, arguments.device)
        spent, turn = times["project"], turns["project"]
        limit = project.scoring_limit(case.batch, peak, times) if name == SCORING else operations(turn()) / peak.rate
        of_each = shares(turn(), arguments.device, arguments.steps)
        yield {
            "model": case.model,
            "loss": case.loss,
            "work": name,
            "size": case.size,
            "batch": case.batch,
            "device": arguments.device.type,
            "seconds": spent,
            "over_limit": spent / limit,
            "products_over_limit": spent * of_each["products"] / limit,
            **of_each,
        }


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    measure(__doc__, rows, argv)


if __name__ == "__main__":
    main()
