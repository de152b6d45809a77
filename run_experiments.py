"""The study: models x regimes x datasets x seeds, trained, scored and put into one table.

Without arguments it looks for the datasets under ./data; where none is there it runs the study on phantoms, rendered bodies that need no download.
What is finished is not done again, what was interrupted continues: after a crash, run the same command again.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock

from anomaly_detection.build import build_baseline
from anomaly_detection.commands.arguments import add_common_arguments, override_layers
from anomaly_detection.commands.exit_codes import run
from anomaly_detection.config.layers import Layer, read_layers, to_plain
from anomaly_detection.config.paths import CONFIGS
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.phantom import write_phantoms
from anomaly_detection.registry import BASELINES, build_settings, find_baseline, folder_of
from anomaly_detection.study.experiment import Experiment, check_identity, finished_metrics, preprocessing_of
from anomaly_detection.study.report import Study, write_study
from anomaly_detection.study.run import BACKENDS, attempt, run_side_by_side
from anomaly_detection.study.tables import COMPONENTS, REGIMES
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.log import tensorboard_writer

logger = logging.getLogger(__name__)

DOWNLOADS = (
    "LiTS: competitions.codalab.org/competitions/17094; COVID-CT: github.com/UCSD-AI4H/COVID-CT; "
    "chest X-rays: the Shenzhen set on kaggle.com (raddar/tuberculosis-chest-xrays-shenzhen)"
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="regimes: separate (one network per dataset), united (one network, all datasets), maddr (united, with the constraint)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(BASELINES),
        metavar="MODEL",
        help=f"of {', '.join(BASELINES)}, or package.module:Class (default: all four)",
    )
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES), choices=REGIMES, help="(default: all three)")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="of those in datasets.yaml (default: all that lie in the data root)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="(default: 0 1 2; phantoms: 0)")
    parser.add_argument("--ablation", action="store_true", help="also each component of MADDR alone, and both heads without the center")
    parser.add_argument("--phantom", action="store_true", help="the study on phantoms, whatever lies in ./data")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few iterations, numbers that mean nothing")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="experiments at a time, each with its share of the cores (default: 1)")
    parser.add_argument(
        "--backend", choices=BACKENDS, default="loky", help="what runs the jobs: processes of this machine, dask or ray (default: loky)"
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="only every Nth experiment from the Ith: for N machines with one disk"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the experiments and their state, and do nothing")
    add_common_arguments(parser)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or _positive(number) > _positive(count):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard such as 2/4, the second of four")
    return int(number), int(count)


def find_data(data_root: Path | None, phantom: bool, datasets: Sequence[str] | None, render: bool = True) -> tuple[Path, list[str]]:
    """The data root and the datasets of the study in the order of their labels; phantoms when asked for or when there is nothing else.

    With `render`, phantoms that are not there yet are rendered.

    Raises:
        UserError: a data root was given but holds no dataset, a named dataset is not there, or images are there but no split lists them.
    """
    root = data_root or Path("data")
    if not phantom and (data_root is not None or root.is_dir()):
        source = DataSource(root)
        available = source.available()
        missing = [name for name in datasets or [] if name not in available]
        unlisted = [name for name, spec in source.catalog.items() if (root / spec.root).is_dir() and name not in available]
        if missing:
            raise UserError(f"{root}: no images or no split of {', '.join(missing)}; there are: {', '.join(available) or 'none'}")
        if available:
            return root, [name for name in available if not datasets or name in datasets]
        if unlisted:
            raise UserError(f"{root}: no split file lists images of {', '.join(unlisted)}; write {source.splits.folds} as folds/README.md says")
        if data_root is not None:
            raise UserError(f"{root}: none of the datasets of datasets.yaml lies there; see the README on adding a dataset")
    if not phantom:
        logger.info("no dataset under %s: the study runs on phantoms. Where to get the real ones: %s", root, DOWNLOADS)
    root = root / "phantom"
    if not is_phantom(root):
        if not render:
            raise UserError(f"the study would run on phantoms, which are not rendered yet; python -m anomaly_detection phantom {root} does it")
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.with_name(".phantom.lock")):
            if not is_phantom(root):  # another shard may have rendered them meanwhile
                write_phantoms(root)
    available = DataSource(root).available()
    missing = [name for name in datasets or [] if name not in available]
    if missing:
        raise UserError(f"there are no phantoms of {', '.join(missing)}; there are: {', '.join(available)}")
    return root, [name for name in available if not datasets or name in datasets]


def config_layers(model: str, datasets: Sequence[str]) -> list[Layer]:
    """The settings of a dataset, or of several together, from the YAML files of a model; a model from elsewhere needs none."""
    file = config_file(model, datasets)
    return read_layers(file) if model in BASELINES or file.exists() else [Layer(f"--models {model}", {"model": model})]


def config_file(model: str, datasets: Sequence[str]) -> Path:
    """The config of a dataset, or of several together; base.yaml where there is none for them.

    universal.yaml is for the datasets that it names: a mixture with any other runs on base.yaml.
    """
    folder = CONFIGS / folder_of(model)
    if len(datasets) == 1:
        own = folder / f"{datasets[0]}.yaml"
        return own if own.exists() else folder / "base.yaml"
    universal = folder / "universal.yaml"
    layers = read_layers(universal) if universal.exists() else []
    named = next((layer.values["datasets"] for layer in reversed(layers) if "datasets" in layer.values), [])
    return universal if set(datasets) <= set(named) else folder / "base.yaml"


def plan(arguments: argparse.Namespace, datasets: list[str], phantom: bool, results: Path) -> list[Experiment]:
    """Every experiment of the study, in the order of seeds, models, regimes."""
    regimes = list(arguments.regimes)
    if arguments.ablation:
        regimes += COMPONENTS
    overrides = override_layers(arguments.set)
    for layer in overrides:
        for key, instead in (("seed", "--seeds"), ("datasets", "--datasets"), ("model", "--models")):
            if key in layer.values:
                raise UserError(f"{layer.source}: the study sets {key} itself; use {instead}")
        if "enabled" in (layer.values.get("maddr") or {}):
            raise UserError(f"{layer.source}: the regimes of the study set maddr.enabled; use --regimes")
    experiments = []
    for seed in dict.fromkeys(arguments.seeds or ([0] if phantom else [0, 1, 2])):
        for model in dict.fromkeys(arguments.models):
            find_baseline(model)
            presets = [CONFIGS / folder_of(model) / f"{name}.yaml" for name, wanted in (("phantom", phantom), ("quick", arguments.quick)) if wanted]
            for regime in dict.fromkeys(regimes):
                for chosen in [[name] for name in datasets] if regime == "separate" else [datasets]:
                    layers = [
                        *config_layers(model, chosen),
                        *(layer for preset in presets if preset.exists() for layer in read_layers(preset)),
                        *overrides,
                        Layer("the study", {"datasets": chosen, "seed": seed, "maddr": {"enabled": regime.startswith("maddr")}}),
                    ]
                    settings = build_settings([*layers, *_ablated(regime)])
                    experiments.append(Experiment.place(settings, results, regime))
    return experiments


def _ablated(regime: str) -> list[Layer]:
    """Zero weights for the components that a regime of the ablation leaves out."""
    if regime in REGIMES:
        return []
    weights = zip(("organ_weight", "modality_weight", "center_weight"), COMPONENTS[regime], strict=True)
    return [Layer(f"the regime {regime}", {"maddr": {name: 0.0 for name, on in weights if not on}})]


def check(experiments: Sequence[Experiment], source: DataSource) -> None:
    """Meet every mistake of the user before the first hour of training: folders, images, settings, backbones."""
    seen = []
    for experiment in experiments:
        settings, preprocessing = experiment.settings, preprocessing_of(experiment.settings, source)
        check_identity(experiment, source)
        if settings.tensorboard:
            tensorboard_writer()
        for part in ("train", "val", "test"):
            for dataset in settings.datasets:
                if (preprocessing[dataset], dataset, part) not in seen:
                    source.load([dataset], part, preprocessing, settings.memory_mib)
                    seen.append((preprocessing[dataset], dataset, part))
        if (settings.model, settings.baseline, settings.maddr) not in seen:
            build_baseline(settings, source.domains(settings.datasets))
            seen.append((settings.model, settings.baseline, settings.maddr))


def state_of(experiment: Experiment) -> str:
    """As --dry-run lists it."""
    if finished_metrics(experiment) is not None:
        return "finished"
    return "interrupted" if (experiment.folder / "checkpoint.pt").exists() else "to do"


def warn_of_unlike(experiments: Sequence[Experiment]) -> None:
    """Say where the regimes of a model differ in more than their data and the constraint: then they are not compared like for like."""
    by_model: dict[str, list[dict]] = {}
    for experiment in experiments:
        values = to_plain(experiment.settings)
        by_model.setdefault(experiment.settings.model, []).append({k: v for k, v in values.items() if k not in ("datasets", "seed", "maddr")})
    for model, settings in by_model.items():
        unlike = [key for key in settings[0] if any(each[key] != settings[0][key] for each in settings)]
        if unlike:
            logger.warning("%s: the configs of these datasets differ in %s: the regimes are not compared like for like", model, ", ".join(unlike))


def main(argv: list[str] | None = None) -> int:
    """Run the study; returns the exit code: 0, or 1 when an experiment failed."""
    arguments = _parser().parse_args(argv)
    device = choose_device(arguments.device)
    root, datasets = find_data(arguments.data_root, arguments.phantom, arguments.datasets, render=not arguments.dry_run)
    phantom = is_phantom(root)
    results = arguments.results or Path("results") / (("phantom" if phantom else root.resolve().name) + ("_quick" if arguments.quick else ""))
    planned = plan(arguments, datasets, phantom, results)
    experiments = planned[arguments.shard[0] - 1 :: arguments.shard[1]]
    source = DataSource(root)
    if arguments.dry_run:
        for experiment in experiments:
            print(f"{state_of(experiment):12} {experiment.name}")
        return 0
    check(experiments, source)
    warn_of_unlike(planned)
    results.mkdir(parents=True, exist_ok=True)
    study = Study(_heading(root, phantom, arguments.quick), tuple(datasets), root)
    study.write(results)

    failed = run_all(experiments, source, device, arguments.jobs, arguments.backend)
    elsewhere = [experiment for experiment in planned if experiment not in experiments and finished_metrics(experiment) is None]
    if elsewhere:
        print(f"other shards have {len(elsewhere)} experiments to do; the last to end writes the tables")
    elif text := write_study(results, study, source):
        print(text)
        print(f"tables in {results / 'table.md'} and {results / 'table.csv'}, with figures in {results / 'report.html'}")
    for line in failed:
        print(f"failed: {line}")
    return 1 if failed else 0


def run_all(experiments: Sequence[Experiment], source: DataSource, device: torch.device, jobs: int = 1, backend: str = "loky") -> list[str]:
    """Run what is not finished, going on past what fails; return a line for each failure."""
    todo = [experiment for experiment in experiments if finished_metrics(experiment) is None]
    work = [(experiment, source, _own_device(device, place)) for place, experiment in enumerate(todo)]
    if jobs > 1:
        return run_side_by_side(work, jobs, backend)
    failed = []
    for number, job in enumerate(work, start=1 + len(experiments) - len(todo)):
        logger.info("[%d/%d] %s", number, len(experiments), job[0].name)
        failed.append(attempt(*job))
    return [line for line in failed if line is not None]


def _own_device(device: torch.device, place: int) -> torch.device:
    """The GPUs in turn, unless one was named."""
    return torch.device("cuda", place % torch.cuda.device_count()) if device == torch.device("cuda") else device


def _heading(root: Path, phantom: bool, quick: bool) -> str:
    data = "phantom: rendered bodies, not patients; short training of narrow networks" if phantom else root.resolve().name
    return f"Anomaly detection on {data}" + (" (quick: a smoke run, not a result)" if quick else "")


if __name__ == "__main__":
    run(main)
