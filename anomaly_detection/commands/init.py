"""Write copies of configs/, folds/ and examples/ into a folder, to be edited there.

Commands that are run in that folder read its configs and split files instead of those that came with the package. No file that is there is changed.
"""

import argparse
from pathlib import Path

FOLDERS = ("configs", "folds", "examples")


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `init`."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder to work in, new or not")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write what is not there, and say what was kept.

    Raises:
        UserError: DIR is a file.
    """
    from anomaly_detection.config.paths import SHIPPED
    from anomaly_detection.system.errors import UserError
    from anomaly_detection.system.files import whole_file
    from anomaly_detection.system.version import __version__

    folder = arguments.folder
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder to write {', '.join(FOLDERS)} into")
    written, kept = 0, []
    for source in _files(SHIPPED):
        path = folder / source.relative_to(SHIPPED)
        if not path.exists():
            with whole_file(path) as partial:
                partial.write_bytes(source.read_bytes())
            written += 1
        elif path.read_bytes() != source.read_bytes():
            kept.append(path)
    if kept:
        print(f"kept as they are, unlike those of version {__version__} (delete one to have it anew): {', '.join(map(str, kept))}")
    if written:
        print(f"{written} files written to {', '.join(str(folder / name) for name in FOLDERS)}; commands that are run in {folder} read them")
    else:
        print(f"nothing to do: {folder} has all of {', '.join(FOLDERS)}")


def _files(shipped: Path) -> list[Path]:
    """What a user may edit; a package that was installed has compiled its examples, too."""
    return sorted(path for name in FOLDERS for path in (shipped / name).rglob("*") if path.is_file() and path.parent.name != "__pycache__")
