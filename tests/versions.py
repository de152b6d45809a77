"""rec_losses.py on real old versions: builds their environments and compares values and gradients with those of today's.

    python tests/versions.py [--folder DIR] [NAME...]

An environment takes minutes and up to 3 GB, once; a Python that is not installed is skipped with a line. Exit code 1 where a supported version
differs by more than 1e-6, or fails. No part of the ordinary tests, which simulate old versions (tests/MADDR_dpa/test_copied_file.py).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

LOSSES = Path(__file__).parents[1] / "anomaly_detection" / "MADDR_dpa" / "rec_losses.py"
PROBE = Path(__file__).with_name("versions_probe.py")
LARGEST = 1e-6


class Version(NamedTuple):
    """A Python with its packages; those that are not `supported` are told of, and may fail."""

    python: str
    packages: tuple[str, ...]
    supported: bool = True


VERSIONS = {
    "dpa": Version("3.6", ("torch==1.4.0", "torchvision==0.5.0", "numpy==1.19.5", "pillow==6.2.2")),  # as DPA and the published MADDR document
    "py38": Version("3.8", ("torch==1.13.1", "numpy==1.24.4")),
    "py310": Version("3.10", ("torch==2.3.1", "numpy==1.26.4")),
    "ganomaly": Version("3.7", ("torch==1.2.0", "numpy==1.19.5"), supported=False),
    "memae": Version("3.6", ("torch==1.0.0", "numpy==1.19.5"), supported=False),  # it documents 0.4.1, which PyPI does not have
}


def interpreter(python: str) -> str | None:
    """An installed Python of that version, on the path or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(map(str, pyenv.glob(f"{python}.*/bin/python"))), shutil.which(f"python{python}")]
    return next((each for each in candidates if each and subprocess.run([each, "-V"], capture_output=True).returncode == 0), None)


def build(version: Version, folder: Path) -> str:
    """Its environment in a folder, made unless it is there; its Python."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        plain = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_CONSTRAINT": ""}
        _run([interpreter(version.python), "-m", "venv", str(folder)], plain)
        _run([str(python), "-m", "pip", "install", "-q", *version.packages], plain)
        (folder / "complete").touch()
    return str(python)


def _run(command: list[str], environment: dict[str, str] | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ...: {(done.stderr.strip() or 'failed').splitlines()[-1]}")


def write_inputs(path: Path) -> None:
    """Eight images, latents and labels; numpy's generator draws the same everywhere."""
    random = np.random.default_rng(0)
    shapes = {"z": (8, 32), "x": (8, 1, 32, 32), "y": (8, 1, 32, 32), "organ_logits": (8, 3)}
    shapes |= {"organ_weight": (3, 10), "organ_bias": (3,), "modality_weight": (2, 10), "modality_bias": (2,), "r12_mean": (1, 64, 1, 1)}
    arrays = {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["r12_divisor"] = random.uniform(0.5, 2, (1, 64, 1, 1)).astype(np.float32)
    np.savez(path, organ=random.integers(3, size=8), modality=random.integers(2, size=8), **arrays)


def probe(python: str, inputs: Path) -> dict[str, np.ndarray]:
    """What a Python computes with rec_losses.py alone in an empty folder: {"section/name": array}."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (LOSSES, PROBE):
            shutil.copy(file, folder)
        _run([python, PROBE.name, str(inputs), "outputs.npz"], folder=Path(folder))
        with np.load(Path(folder) / "outputs.npz") as outputs:
            return {key.replace("|", "/"): outputs[key] for key in outputs.files}


def compare(expected: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> dict[str, float | str]:
    """Of each section the largest difference, relative to the largest number of its array, or why it did not end."""
    sections: dict[str, float | str] = {}
    for key, value in expected.items():
        section = key.partition("/")[0]
        if f"{section}/error" in outputs:
            sections[section] = str(outputs[f"{section}/error"])
        elif value.dtype.kind == "U":
            sections[section] = max(sections.get(section, 0.0), float(str(value) != str(outputs[key])))
        else:
            alike = outputs[key].shape == value.shape
            difference = np.abs(outputs[key].astype(np.float64) - value).max() / max(np.abs(value).max(), 1e-12) if alike else np.inf
            sections[section] = max(sections.get(section, 0.0), float(np.nan_to_num(difference, nan=np.inf)))
    return sections


def main() -> int:
    """Compare the versions that are named, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VERSIONS)} (default: all)")
    kept = Path.home() / ".cache" / "maddr-versions"
    parser.add_argument("--folder", type=Path, default=kept, help="where environments are kept (default: %(default)s)")
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        write_inputs(inputs)
        expected = probe(sys.executable, inputs)
        for name in arguments.names or VERSIONS:
            version = VERSIONS[name]
            title = f"{name} (Python {version.python}, {version.packages[0]})"
            if interpreter(version.python) is None:
                print(f"{title}: skipped, no Python {version.python} here")
                continue
            try:
                sections = compare(expected, probe(build(version, arguments.folder / name), inputs))
            except RuntimeError as error:
                print(f"{title}: {error}")
                failed |= version.supported
                continue
            told = ", ".join(f"{section} {worst:.1e}" if isinstance(worst, float) else f"{section}: {worst}" for section, worst in sections.items())
            failed |= version.supported and any(isinstance(worst, str) or not worst <= LARGEST for worst in sections.values())
            print(f"{title}: {told}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
