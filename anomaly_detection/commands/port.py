"""Put MADDR into a clone of DPA, GANomaly, MemAE or f-AnoGAN, as docs/porting.md says."""

import argparse
from pathlib import Path

from anomaly_detection.porting import apply
from anomaly_detection.porting.changes import show, write
from anomaly_detection.porting.recipes import PAGE, RECIPES, read_recipes


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `port`."""
    parser.add_argument("recipe", choices=RECIPES, help="the codebase: %(choices)s")
    parser.add_argument("clone", type=Path, metavar="CLONE", help="the folder of a clone of its repository")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--undo", action="store_true", help="take it back")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run `port` with parsed arguments.

    Raises:
        UserError: the clone is not what the recipe is for, or is changed where the recipe changes it; nothing was changed.
    """
    recipe, clone = read_recipes()[arguments.recipe], arguments.clone
    changes = (apply.undo if arguments.undo else apply.port)(clone, recipe)
    if not changes:
        print(f"{clone}: is ported already, nothing was changed; --undo takes it back")
        return
    print(show(changes, clone))
    if arguments.dry_run:
        print("nothing was changed (--dry-run)")
        return
    write(changes)
    if arguments.undo:
        print(f"{clone}: {recipe.name} is taken back")
    else:
        print(f"{clone}: {recipe.size()}, and {recipe.destination}. Then: {recipe.then}")
        print(f"{PAGE} says how to see that it works; --undo takes it back")
