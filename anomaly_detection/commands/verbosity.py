"""How much a command tells: --quiet and --verbose, and the logging that they set."""

import argparse
import logging
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anomaly_detection.system.version import __version__

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "pillow", "pydicom", "nibabel")


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """--quiet and --verbose; without a default, so that they may stand before a subcommand as well as behind it."""
    group = parser.add_mutually_exclusive_group()
    text = "tell warnings, errors and results alone"
    group.add_argument("-q", "--quiet", dest="verbosity", action="store_const", const=logging.WARNING, default=argparse.SUPPRESS, help=text)
    text = "tell versions and details, too, and where an error comes from"
    group.add_argument("-v", "--verbose", dest="verbosity", action="store_const", const=logging.DEBUG, default=argparse.SUPPRESS, help=text)


def begin_logging() -> None:
    """Results go to stdout; everything else is a line of the log, on stderr."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    package = logging.getLogger("anomaly_detection")
    if package.level == logging.NOTSET:
        package.setLevel(logging.INFO)  # of its own modules: others have more to tell than anyone wants to read


def set_verbosity(arguments: argparse.Namespace) -> None:
    """Set the levels of logging as the arguments ask; without any of the two nothing changes."""
    level = getattr(arguments, "verbosity", logging.INFO)
    if level != logging.INFO:
        logging.getLogger("anomaly_detection").setLevel(level)
    if level < logging.INFO:
        _tell_versions()


def _tell_versions() -> None:
    from anomaly_detection.config.paths import CONFIGS  # here, so that --help need not wait for YAML

    place = Path(__file__).parents[1]
    logger.debug("anomaly-detection %s in %s, Python %s, %s", __version__, place, platform.python_version(), platform.platform())
    logger.debug("%s", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    logger.debug("configs in %s", CONFIGS)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
