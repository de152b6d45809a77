"""python -m anomaly_detection COMMAND: one experiment at a time. The whole study is `python run_experiments.py`."""

import argparse
from dataclasses import replace
from pathlib import Path

from anomaly_detection.commands import port
from anomaly_detection.commands.arguments import add_common_arguments, override_layers
from anomaly_detection.commands.check import add_check_parser, run_check
from anomaly_detection.commands.exit_codes import run
from anomaly_detection.commands.prepare import add_prepare_parser, run_prepare
from anomaly_detection.config.layers import read_layers
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.phantom import write_phantoms
from anomaly_detection.data.phantom_downloads import write_downloads
from anomaly_detection.detector import load
from anomaly_detection.evaluation.predictions import add_predict_parser, run_predict
from anomaly_detection.export import export
from anomaly_detection.registry import build_settings
from anomaly_detection.study.experiment import Experiment, evaluate_experiment, load_experiment, own_folder, train_experiment
from anomaly_detection.study.report import Study, write_study
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.distributed import process_group, rank
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m anomaly_detection", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    phantom = commands.add_parser("phantom", help="write three small rendered datasets in the layout of the real ones")
    phantom.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet or is empty")
    phantom.add_argument("--seed", type=int, default=0, help="another seed, other bodies (default: 0)")
    phantom.add_argument("--as-downloads", action="store_true", help="instead in the form of the public downloads, for `prepare`")

    add_prepare_parser(commands)
    add_check_parser(commands)
    add_predict_parser(commands)

    for name, text in (("train", "train one network"), ("train_eval", "train one network, then score it")):
        command = commands.add_parser(name, help=text, epilog=f"example: python -m anomaly_detection {name} configs/MADDR_dpa/universal.yaml")
        command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file such as configs/MADDR_dpa/lits.yaml")
        add_common_arguments(command)

    evaluate = commands.add_parser("evaluate", help="score the images again with a trained network")
    evaluate.add_argument("run", type=Path, metavar="RUN", help="the folder of an experiment: .../seed_0")
    evaluate.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: where they were in training)")
    evaluate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="threshold_quantile=Q: another threshold")
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: auto)")

    text = "write a trained network as one file: NAME.onnx, or NAME.pt2 for torch.export"
    exporting = commands.add_parser("export", help=text, description=text)
    exporting.add_argument("run", type=Path, metavar="RUN", help="the folder of an experiment, .../seed_0, or the checkpoint.pt in it")
    exporting.add_argument("file", type=Path, metavar="FILE", help="NAME.onnx or NAME.pt2")

    report = commands.add_parser("report", help="write the tables and figures of a study again")
    report.add_argument("results", type=Path, metavar="RESULTS", help="the folder of a study: results/NAME")
    report.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the datasets (default: where they were)")

    port.add(commands.add_parser("port", help="put MADDR into a clone of DPA, GANomaly, MemAE or f-AnoGAN"))
    return parser


def _export(arguments: argparse.Namespace) -> None:
    differences = export(load(arguments.run, "cpu"), arguments.file)
    told = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(f"{arguments.file} written; differences from PyTorch on images of three sizes, relative: {told}")


def _report(arguments: argparse.Namespace) -> None:
    study = Study.read(arguments.results)
    study = replace(study, data_root=arguments.data_root or study.data_root)
    if write_study(arguments.results, study, DataSource(study.data_root)) is None:
        raise UserError(f"{arguments.results}: no experiment has ended on the images that lie in {study.data_root} now")
    print(f"tables and figures in {arguments.results / 'report.html'}")


def _write_phantoms(arguments: argparse.Namespace) -> None:
    out = arguments.out
    if arguments.as_downloads:
        write_downloads(out, seed=arguments.seed)
        print(f"phantoms written to {out}; try: python -m anomaly_detection prepare lits {out / 'lits'} --data-root {out / 'data'}")
    else:
        write_phantoms(out, seed=arguments.seed)
        print(f"phantoms written to {out}; try: python run_experiments.py --data-root {out}")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "phantom":
        _write_phantoms(arguments)
        return 0
    simple = {"prepare": run_prepare, "check": run_check, "predict": run_predict, "report": _report, "export": _export, "port": port.run}
    if arguments.command in simple:
        simple[arguments.command](arguments)
        return 0
    device = choose_device(arguments.device)
    if arguments.command == "evaluate":
        experiment = load_experiment(arguments.run, override_layers(arguments.set))
        source = DataSource(arguments.data_root or Path(read_json(arguments.run / "provenance.json")["data_root"]))
        with own_folder(experiment, source):
            evaluate_experiment(experiment, source, device)
    else:
        settings = build_settings([*read_layers(arguments.config), *override_layers(arguments.set)])
        source = DataSource(arguments.data_root or Path("data"))
        experiment = Experiment.place(settings, arguments.results or Path("results") / source.data_root.resolve().name)
        with process_group(device) as own_device, own_folder(experiment, source):
            train_experiment(experiment, source, own_device)
            if arguments.command == "train_eval" and rank() == 0:
                evaluate_experiment(experiment, source, own_device)
            if rank() > 0:
                return 0
    print(f"results in {experiment.folder}")
    return 0


if __name__ == "__main__":
    run(main)
