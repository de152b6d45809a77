"""The package as a wheel, in no clone and from an empty folder. pip is not asked and nothing is downloaded: what the wheel needs is there."""

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import anomaly_detection

CLONE = Path(__file__).parents[1]
SHIPPED = ("configs", "folds", "examples", "docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages with this one alone: what pip unpacks of the wheel."""
    pytest.importorskip("setuptools", "77")
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "egg").mkdir()
    options = f"egg_info --egg-base {folder}/egg build --build-base {folder}/build bdist_wheel --bdist-dir {folder}/bdist --dist-dir {folder}/dist"
    subprocess.run([sys.executable, "setup.py", "-q", *options.split()], cwd=CLONE, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def maddr(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """The command as the script that pip makes of the wheel's entry point runs it; its folder, not the working folder, is imported from."""
    entry = re.search(r"maddr = ([\w.]+):(\w+)", next(site.glob("*.dist-info/entry_points.txt")).read_text())
    script = site.parent / "bin" / "maddr"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"import sys\nfrom {entry[1]} import {entry[2]}\nsys.exit({entry[2]}())\n")
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, str(script), *words], cwd=folder, env=environment, capture_output=True, text=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_it_brings_along_what_is_read_from_a_clone(site):
    brought = content(site / "anomaly_detection" / "shipped")
    originals = {f"{folder}/{name}": text for folder in SHIPPED for name, text in content(CLONE / folder).items()}
    assert brought == {name: text for name, text in originals.items() if not name.startswith("docs/") or name.endswith(".md")}
    assert "docs/porting.md" in brought
    code = {name: text for name, text in content(site / "anomaly_detection").items() if not name.startswith("shipped")}
    assert code == content(CLONE / "anomaly_detection")
    assert "py.typed" in code
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"anomaly_detection"}, "neither tests nor benchmarks"


def test_its_metadata(site):
    (path,) = site.glob("*.dist-info/METADATA")
    metadata = email.message_from_string(path.read_text(encoding="utf-8"))
    assert metadata["Version"] == anomaly_detection.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (CLONE / "README.md").read_text(encoding="utf-8")
    assert "Programming Language :: Python :: 3.10" in metadata.get_all("Classifier")
    assert {"torch>=2.6", "pyyaml>=6.0"} <= set(metadata.get_all("Requires-Dist"))
    assert (path.parent / "licenses" / "LICENSE").read_bytes() == (CLONE / "LICENSE").read_bytes()


def test_the_version_is_the_same_wherever_it_is_written():
    (latest, *_) = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (CLONE / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    citation = yaml.safe_load((CLONE / "CITATION.cff").read_text(encoding="utf-8"))
    assert latest == citation["version"] == anomaly_detection.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["preferred-citation"]["doi"] == "10.1007/978-3-031-43898-1_23"


def test_the_help_says_what_was_typed(site, tmp_path):
    assert maddr(site, tmp_path, "--version").stdout == f"anomaly-detection {anomaly_detection.__version__}\n"
    assert maddr(site, tmp_path, "study", "--help").stdout.startswith("usage: maddr study ")


def test_it_works_in_an_empty_folder_and_writes_nothing_into_itself(site, tmp_path):
    """Preparing, and a study planned for a baseline of the working folder."""
    before = content(site)
    for kind, seed in (("normal", 0), ("abnormal", 1)):
        (tmp_path / kind).mkdir()
        for i, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (8, 24, 24), np.uint8)):
            Image.fromarray(pixels).save(tmp_path / kind / f"{kind}{i}.png")
    words = "prepare folder brain_mri --organ brain --modality mri --normal normal --abnormal abnormal --workers 1"
    done = maddr(site, tmp_path, *words.split())
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "data/folds/train_test_split/anomaly/test").read_text().splitlines()) >= 8
    (tmp_path / "my_module.py").write_text("from anomaly_detection.baseline import Baseline\n\n\nclass Mine(Baseline):\n    pass\n")
    done = maddr(site, tmp_path, "study", "--dry-run", "--seeds", "0", "--regimes", "separate", "--models", "my_module:Mine", "gaussian")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^to do +(\S+ \S+ \S+)", done.stdout, re.MULTILINE) == ["my_module:Mine separate brain_mri", "gaussian separate brain_mri"]
    assert content(site) == before


def test_init_and_port_have_what_they_need(site, tmp_path):
    done = maddr(site, tmp_path, "init", ".")
    assert done.returncode == 0, done.stderr
    for folder in ("configs", "folds", "examples"):
        assert content(tmp_path / folder) == content(CLONE / folder)
    (tmp_path / "configs/gaussian/base.yaml").write_text("extends: ../common.yaml\nmodel: gaussian\nimage_size: 48\nimag_size: 1\n")
    done = maddr(site, tmp_path, "train", "configs/gaussian/lits.yaml")
    assert done.stderr.startswith("error: configs/gaussian/base.yaml"), "the copy is read"
    assert "imag_size" in done.stderr
    (tmp_path / "clone").mkdir()
    assert "clone: is not" in (done := maddr(site, tmp_path, "port", "memae", "clone")).stderr or done.returncode == 2
    assert "the page with the recipes is not there" not in done.stderr
