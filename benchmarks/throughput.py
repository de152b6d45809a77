"""Images scored a second, reading them included: the plain implementation, the project, and the limit, taken in turns.

The project says more of an image than its score: with MADDR also its organ and modality. The limit is that of `benchmarks.train_step`, at the rate of
float32 products: a network is scored in float32 wherever it was trained, so that its calibration holds on every machine. Of a frozen backbone it is
the time of the fastest engine at hand, see `benchmarks.backbone`.
"""

from typing import Any

import torch
from tqdm import tqdm

from benchmarks.cases import Case, Plain, Project, benchmark_images, cases
from benchmarks.measure import Peak, add_losses, add_models, add_rounds, benchmark_parser, in_turns, parse, show
from benchmarks.plain import READERS


def row(case: Case, arguments, peak: Peak) -> dict[str, Any]:
    """Of one baseline."""
    images, paths = benchmark_images(arguments.data_root, case.size)
    project, plain = Project(case, images, arguments.device), Plain(case, images, paths, arguments.device)

    def plain_turn():
        batches = plain.batches(case.batch)
        plain.baseline.eval()

        @torch.no_grad()
        def score():
            return plain.baseline.anomaly_score(next(batches).image).cpu()

        return score

    times = in_turns({"plain": plain_turn, **project.scoring_rivals(case.batch, peak)}, arguments.rounds, arguments.steps, arguments.device, READERS)
    limit = project.scoring_limit(case.batch, peak, times)
    return {
        "model": case.model,
        "loss": case.loss,
        "size": case.size,
        "batch": case.batch,
        "device": arguments.device.type,
        "images_per_second_plain": case.batch / times["plain"],
        "images_per_second": case.batch / times["project"],
        "images_per_second_limit": case.batch / limit,
        "speedup": times["plain"] / times["project"],
        "over_limit": times["project"] / limit,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    arguments = parse(benchmark_parser(__doc__, add_models, add_losses, add_rounds), argv)
    peak = Peak(arguments.device)
    wanted = list(cases(arguments.models, arguments.losses, arguments.sizes, arguments.batches))
    show((row(case, arguments, peak) for case in tqdm(wanted, unit="case", disable=None)), arguments.json)


if __name__ == "__main__":
    main()
