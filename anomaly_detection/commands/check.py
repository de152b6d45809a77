"""Look for mistakes in the data: counts, damaged files, leaks between splits."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from anomaly_detection.commands.arguments import add_workers
from anomaly_detection.system.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `check`."""
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="folder of the datasets (default: ./data)")
    parser.add_argument("--folds", type=Path, metavar="DIR", help="folder of the split files (default: folds/ in the data root, else the project's)")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="(default: all that lie in the data root)")
    parser.add_argument("--output", type=Path, default=Path("results/check"), metavar="DIR", help="for the contact sheets (default: %(default)s)")
    add_workers(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print what is there, what is wrong with it, and what looks so.

    Raises:
        UserError: something is wrong with the data; what it is was printed.
    """
    from anomaly_detection.config.paths import find_catalog, find_folds, warn_of_overlooked
    from anomaly_detection.data.catalog import read_catalog, unknown_dataset
    from anomaly_detection.data.check import contact_sheet, inspect, known_of, problems, remade, shown, unknown
    from anomaly_detection.data.leaks import leaks_across, likely_leaks_across, warnings
    from anomaly_detection.data.splits import Splits, linked_outside
    from anomaly_detection.system.files import whole_file

    root = arguments.data_root
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --data-root names the folder that holds the folders of the datasets")
    warn_of_overlooked()
    catalog = read_catalog(find_catalog(root))
    splits = Splits(arguments.folds or find_folds(root), catalog)
    for name in arguments.datasets or ():
        if name not in catalog:
            raise UserError(unknown_dataset(name, catalog))
    chosen = arguments.datasets or [name for name, spec in catalog.items() if (root / spec.root).is_dir()]
    if not chosen:
        raise UserError(f"{root}: holds no folder of a dataset; `prepare` makes them")
    wrong, warned, known = 0, 0, []
    for name in chosen:
        spec = catalog[name]
        groups = inspect(spec, root, [entry for entry in splits.entries if entry.dataset == name], arguments.workers)
        print(f"{name} ({spec.organ}, {spec.modality})")
        _tell(shown(groups))
        images = known_of(spec, root, groups)
        known += images
        _tell(unknown(spec, root, images))
        wrong += _tell(problems(spec, root, groups, images), "wrong: ")
        warned += _tell([*warnings(images), *remade(groups, images)], "WARNING: ")
        if groups:
            with whole_file(arguments.output / f"{name}.png") as partial:
                contact_sheet(spec, root, groups).save(partial, "png")
            print(f"  a row of images for each line above: {arguments.output / f'{name}.png'}")
    outside = linked_outside([image.entry for image in known], catalog, root)
    across, likely = list(leaks_across(known)), [*likely_leaks_across(known), *filter(None, [outside])]
    if across or likely:
        print("across datasets")
        wrong += _tell(across, "wrong: ")
        warned += _tell(likely, "WARNING: ")
    if warned:
        print(f"{warned} {'WARNING' if warned == 1 else 'WARNINGS'}, see above: numbers on these data may be too good to be true")
    if wrong:
        raise UserError(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong with the data, see above")


def _tell(lines: Iterable[str], kind: str = "") -> int:
    """Print lines, each as soon as it is known; returns how many there are."""
    count = 0
    for line in lines:
        print(f"  {kind}{line}")
        count += 1
    return count
