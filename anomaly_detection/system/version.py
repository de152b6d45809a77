"""The version of the package: it stands here alone, and setup.py reads it from this file."""

__version__ = "0.2.0"
