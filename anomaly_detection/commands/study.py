"""The study: models x regimes x datasets x seeds, trained, scored and put into one table.

Without arguments it looks for the datasets under ./data; where none is there it runs the study on phantoms, rendered bodies that need no download.
What is finished is not done again, what was interrupted continues: after a crash, run the same command again.
"""

import argparse
from pathlib import Path

from anomaly_detection.commands.arguments import add_experiment_arguments, override_layers, positive
from anomaly_detection.registry import BASELINES, folder_of, place_of
from anomaly_detection.study.regimes import REGIMES
from anomaly_detection.system.backends import BACKENDS, LOCAL, check_backend
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.processes import import_ahead


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `study`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "regimes: separate (one network per dataset), united (one network, all datasets),\n"
        "united_probe (united, and linear heads on its latent that name domains), maddr (united, with the constraint)"
    )
    regimes = [name for name, regime in REGIMES.items() if not regime.ablation]
    text = f"of {', '.join(BASELINES)}, or package.module:Class (default: all {len(BASELINES)})"
    parser.add_argument("--models", nargs="+", default=list(BASELINES), metavar="MODEL", help=text)
    parser.add_argument("--regimes", nargs="+", default=regimes, choices=regimes, help="(default: all)")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="of those in datasets.yaml (default: all that lie in the data root)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="(default: 0 1 2; phantoms: 0)")
    text = "also each component of MADDR alone, both heads without the center, beside united and maddr, whatever --regimes says"
    parser.add_argument("--ablation", action="store_true", help=text)
    text = "the study on phantoms, whatever lies in ./data: in data/phantom, or in the folder of --data-root where that holds phantoms"
    parser.add_argument("--phantom", action="store_true", help=text)
    parser.add_argument("--quick", action="store_true", help="a smoke run: few iterations, numbers that mean nothing")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="experiments at a time, each with its share of the cores (default: 1)")
    text = f"what runs the --jobs: processes of this machine, dask or ray (default: {LOCAL})"
    parser.add_argument("--backend", choices=list(BACKENDS), default=LOCAL, help=text)
    text = "only every Nth experiment from the Ith: for N machines with one disk"
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help=text)
    parser.add_argument("--dry-run", action="store_true", help="list the experiments and their state, and do nothing")
    add_experiment_arguments(parser)
    parser.set_defaults(run=run)


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or positive(number) > positive(count):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 2/4, the second of four")
    return int(number), int(count)


def run(arguments: argparse.Namespace) -> int:
    """Run the study.

    Returns:
        The exit code: 0, or 1 when an experiment failed.

    Raises:
        UserError: anything in the arguments, the settings or the data is wrong.
    """
    check_backend(arguments.backend)
    if arguments.backend != LOCAL and arguments.jobs == 1:
        told = f"--backend {arguments.backend}: is for several experiments at a time, and --jobs says 1"
        raise UserError(f"{told}; say how many, such as --jobs 4, or leave the backend out")
    for model in arguments.models:
        place_of(model)
    if arguments.jobs > 1 and arguments.backend == LOCAL and not arguments.dry_run:
        import_ahead("anomaly_detection.study.run")

    # here, so that --help need not wait for torch
    from anomaly_detection.config.paths import warn_of_overlooked
    from anomaly_detection.study.plan import Grid, cautions, find_data, plan
    from anomaly_detection.study.report import Study
    from anomaly_detection.study.run import Workers, run_study, state_of
    from anomaly_detection.system.devices import choose_device

    warn_of_overlooked(folder_of(model) for model in dict.fromkeys(arguments.models))
    device = choose_device(arguments.device)
    overrides = override_layers(arguments.set)
    grid = Grid(arguments.models, arguments.regimes, arguments.seeds, arguments.ablation, arguments.quick, overrides)
    data = find_data(arguments.data_root, arguments.phantom, arguments.datasets)
    name = "phantom" if data.phantom else data.root.resolve().name
    results = arguments.results or Path("results") / (f"{name}_quick" if arguments.quick else name)
    planned = plan(grid, data, results)
    number, count = arguments.shard
    experiments = planned[number - 1 :: count]
    if not arguments.dry_run:
        study = Study.of(list(data.datasets), data.root, data.phantom, arguments.quick)
        return run_study(study, results, planned, experiments, data, Workers(device, arguments.jobs, arguments.backend))
    for experiment in experiments:
        print(f"{state_of(experiment):12} {experiment.name}")
    if not data.there:
        print(f"phantoms are rendered into {data.root} before the first of them")
    for text in cautions(planned):
        print(text)
    return 0
