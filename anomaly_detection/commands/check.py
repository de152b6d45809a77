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
    from anomaly_detection.data.check import contact_sheet, inspect, known_of, problems, remade
    from anomaly_detection.data.leaks import leaks_across, likely_leaks_across, warnings
    from anomaly_detection.data.masks import unclaimed_masks
    from anomaly_detection.data.patients import patients_of
    from anomaly_detection.data.splits import NO_ABNORMAL, Splits, linked_outside
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

    def tell(problems: Iterable[str], warned_of: Iterable[str]) -> None:
        nonlocal wrong, warned
        for problem in problems:
            print(f"  wrong: {problem}")
            wrong += 1
        for warning in warned_of:
            print(f"  WARNING: {warning}")
            warned += 1

    for name in chosen:
        spec = catalog[name]
        groups = inspect(spec, root, [entry for entry in splits.entries if entry.dataset == name], arguments.workers)
        print(f"{name} ({spec.organ}, {spec.modality})")
        for group in groups:
            print(f"  {group.line()}")
        if groups and not any(group.kind == "anomaly" for group in groups):
            print(f"  {NO_ABNORMAL}")
        images = known_of(spec, root, groups)
        if count := sum(image.patient is None for image in images):
            print(f"  whose {count} images are is not known (no manifest.csv names them): see to it that no patient is on two sides")
        # masks of those whom `prepare` has given to training are nobody's in the lists
        abnormal = {image.entry.image: None for image in images if image.entry.kind == "anomaly"} | patients_of(root / spec.root)
        if line := unclaimed_masks(root / spec.root, abnormal):
            print(f"  {line}")
        tell(problems(spec, root, groups, images), [*warnings(images), *remade(groups, images)])
        known += images
        if groups:
            with whole_file(arguments.output / f"{name}.png") as partial:
                contact_sheet(spec, root, groups).save(partial, "png")
            print(f"  a row of images for each line above: {arguments.output / f'{name}.png'}")
    outside = linked_outside([image.entry for image in known], catalog, root)
    across, likely = list(leaks_across(known)), [*likely_leaks_across(known), *filter(None, [outside])]
    if across or likely:
        print("across datasets")
        tell(across, likely)
    if warned:
        print(f"{warned} {'WARNING' if warned == 1 else 'WARNINGS'}, see above: numbers on these data may be too good to be true")
    if wrong:
        raise UserError(f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong with the data, see above")
