from pathlib import Path

from setuptools import find_packages, setup

requirements = [line for line in Path(__file__).with_name("requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
onnx = ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.20"]

# the files that a user edits: read from the clone where there is one, see config/paths.py
shipped = {f"anomaly_detection.shipped.{folder}": folder for folder in ("configs", "folds")}

setup(
    name="anomaly-detection",
    version="0.1.0",
    description="MADDR: one network that detects anomalies in medical images of several organs and modalities",
    packages=[*find_packages(include=["anomaly_detection", "anomaly_detection.*"]), *shipped],
    package_dir=shipped,
    package_data={name: ["*", "*/*", "*/*/*"] for name in shipped},
    python_requires=">=3.10",
    install_requires=requirements,
    extras_require={
        "test": ["pytest>=8.0", "ruff>=0.6", *onnx],
        "onnx": onnx,
        "dask": ["dask[distributed]>=2024.1"],  # --backend dask, ray: experiments on several machines
        "ray": ["ray>=2.9"],
        "tensorboard": ["tensorboard>=2.14"],
        "timm": ["timm>=1.0"],  # backbones timm:NAME
        "dicom": ["pylibjpeg[all]>=2.0"],  # decoders of compressed DICOM beyond those of Pillow
    },
    license="Apache-2.0",
)
