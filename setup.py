"""What the package is called, needs and brings along. Its version stands in anomaly_detection/system/version.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


requirements = [line for line in read("requirements.txt").splitlines() if line and not line.startswith("#")]
onnx = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]

# What is read from the clone where there is one, see config/paths.py, and of that what `maddr init` writes for the user to edit.
shipped = {f"anomaly_detection.shipped.{folder}": folder for folder in ("configs", "folds", "examples", "docs")}

setup(
    name="anomaly-detection",
    version=re.search(r'__version__ = "(.+)"', read("anomaly_detection/system/version.py"))[1],
    description="MADDR: one network that detects anomalies in medical images of several organs and modalities",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    author="The MADDR developers",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["anomaly detection", "medical imaging", "unsupervised learning", "CT", "X-ray", "MRI", "DICOM", "NIfTI", "PyTorch"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["anomaly_detection", "anomaly_detection.*"]), *shipped],
    package_dir=shipped,
    package_data={
        "anomaly_detection": ["py.typed"],
        "anomaly_detection.study.page": ["*.css", "*.js"],
        **{name: ["*", "*/*", "*/*/*"] for name in shipped},
        "anomaly_detection.shipped.docs": ["*.md"],
    },
    entry_points={"console_scripts": ["maddr = anomaly_detection.__main__:console"]},
    python_requires=">=3.10",
    install_requires=requirements,
    extras_require={
        "test": ["pytest>=8.0", "pytest-xdist>=3.0", "ruff>=0.6", "setuptools>=77", "highdicom>=0.25", *onnx],
        "onnx": onnx,
        "dask": ["dask[distributed]>=2024.1"],  # --backend dask, ray: experiments on several machines
        "ray": ["ray>=2.9"],
        "tensorboard": ["tensorboard>=2.14"],
        "timm": ["timm>=1.0"],  # backbones timm:NAME
        "dicom": ["pylibjpeg[all]>=2.0", "highdicom>=0.25"],  # decoders of compressed DICOM beyond those of Pillow; maps written as DICOM
    },
)
