"""The version of the package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("anomaly-detection")
except PackageNotFoundError:  # run from its sources
    __version__ = "source"
