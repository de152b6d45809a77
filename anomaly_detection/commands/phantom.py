"""Write three small rendered datasets in the layout of the real ones."""

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phantom`."""
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet or is empty")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other bodies (default: 0)")
    parser.add_argument("--as-downloads", action="store_true", help="instead in the form of the public downloads, for `prepare`")
    parser.add_argument(
        "--lesions",
        choices=("strata", "clinical"),
        help="strata: a third of the abnormal images each obvious, typical and subtle (default); clinical: lesions as a clinic sees them",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write them.

    Raises:
        UserError: the folder holds something, downloads are to hold strata, or the seed is negative.
    """
    from anomaly_detection.data.phantom.datasets import write_phantoms
    from anomaly_detection.data.phantom.downloads import write_downloads
    from anomaly_detection.system.errors import UserError

    out = arguments.out
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: must be 0 or more")
    if arguments.as_downloads:
        if arguments.lesions == "strata":
            raise UserError("--lesions strata: downloads hold lesions as a clinic sees them; leave it out, or leave --as-downloads out")
        write_downloads(out, seed=arguments.seed)
        print(f"phantoms written to {out}; try: maddr prepare lits {out / 'lits'} --data-root {out / 'data'}")
    else:
        write_phantoms(out, seed=arguments.seed, lesions=arguments.lesions or "strata")
        print(f"phantoms written to {out}; try: maddr study --data-root {out}")
