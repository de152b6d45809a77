"""Which file is read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_detection.config import paths
from anomaly_detection.config.paths import find_catalog, find_config, find_folds, named_config


def test_catalog_and_folds_of_the_data_go_first_each_without_the_other(tmp_path):
    data, project = tmp_path / "data", tmp_path / "project"
    data.mkdir()
    assert find_catalog(data, project) == project / "configs" / "datasets.yaml"
    assert find_folds(data, project) == project / "folds"
    (data / "folds").mkdir()
    assert find_catalog(data, project) == project / "configs" / "datasets.yaml"
    assert find_folds(data, project) == data / "folds"
    (data / "datasets.yaml").write_text("lits: {label: 4, organ: liver, modality: ct, root: lits}\n")
    assert find_catalog(data, project) == data / "datasets.yaml"


@pytest.mark.parametrize(
    ("datasets", "name"),
    [
        (["lits"], "lits.yaml"),
        (["brain_mri"], "base.yaml"),
        (["covid_ct", "lits"], "universal.yaml"),
        (["lits", "brain_mri"], "base.yaml"),
    ],
)
def test_a_config_is_for_the_datasets_that_it_names(tmp_path, datasets, name):
    folder = tmp_path / "dpa"
    folder.mkdir()
    (tmp_path / "common.yaml").write_text("datasets: [all, of, them]\n")
    (folder / "base.yaml").write_text("extends: ../common.yaml\n")
    (folder / "lits.yaml").write_text("extends: base.yaml\n")
    (folder / "universal.yaml").write_text("extends: base.yaml\ndatasets: [lits, covid_ct, covid_xray]\n")
    assert find_config(tmp_path, "dpa", datasets) == folder / name


def test_without_a_config_for_mixtures_all_run_on_base(tmp_path):
    assert find_config(tmp_path, "dpa", ["lits", "covid_ct"]) == tmp_path / "dpa" / "base.yaml"


CLONE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where an ordinary install of the package lies."""
    pytest.importorskip("setuptools")
    site = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(site)], cwd=CLONE, check=True, capture_output=True)
    return site


def test_an_installed_package_has_all_configs_and_folds(installed):
    shipped = installed / "anomaly_detection" / "shipped"
    for folder in ("configs", "folds"):
        originals = [path.relative_to(CLONE) for path in (CLONE / folder).rglob("*") if path.is_file()]
        assert originals
        assert all((shipped / path).read_bytes() == (CLONE / path).read_bytes() for path in originals)


def test_an_installed_package_reads_its_configs_from_any_folder(installed, tmp_path):
    program = "from pathlib import Path; from anomaly_detection.config.paths import *; from anomaly_detection.config.paths import CONFIGS; "
    program += "print(CONFIGS, find_folds(Path()), find_catalog(Path()), named_config(Path('configs/memae/lits.yaml')), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    shipped = installed / "anomaly_detection" / "shipped"
    expected = [shipped / name for name in ("configs", "folds", "configs/datasets.yaml", "configs/memae/lits.yaml")]
    assert done.stdout.splitlines() == [str(path) for path in expected], done.stderr


def test_configs_of_the_working_folder_go_before_those_of_an_installed_package(tmp_path):
    package, folder = tmp_path / "site" / "anomaly_detection", tmp_path / "work"
    (folder / "configs").mkdir(parents=True)
    assert paths._find_project(package, folder) == package / "shipped", "a folder of that name is not enough"
    (folder / "configs" / "common.yaml").touch()
    assert paths._find_project(package, folder) == folder
    (tmp_path / "site" / "configs").mkdir(parents=True)
    (tmp_path / "site" / "configs" / "common.yaml").touch()
    assert paths._find_project(package, folder) == tmp_path / "site", "a clone reads its own"


@pytest.mark.parametrize(
    ("given", "there", "expected"),
    [
        ("configs/memae/lits.yaml", False, CLONE / "configs/memae/lits.yaml"),
        ("configs/memae/lits.yaml", True, Path("configs/memae/lits.yaml")),
        ("configs/memae/typo.yaml", False, Path("configs/memae/typo.yaml")),
        ("memae/lits.yaml", False, Path("memae/lits.yaml")),
    ],
)
def test_a_config_that_is_not_there_is_the_projects(tmp_path, monkeypatch, given, there, expected):
    monkeypatch.chdir(tmp_path)
    if there:
        Path(given).parent.mkdir(parents=True)
        Path(given).touch()
    assert named_config(Path(given)) == expected
