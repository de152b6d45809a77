"""Which file is read."""

import os
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


def configs_in(folder: Path) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "common.yaml").touch()
    return folder


def test_what_came_along_lies_in_an_installed_package_and_beside_it_in_a_clone(tmp_path):
    clone = configs_in(tmp_path / "clone") / "anomaly_detection"
    assert paths._find_shipped(clone) == tmp_path / "clone"
    installed = configs_in(tmp_path / "site") / "anomaly_detection"  # configs of another package
    (installed / "shipped").mkdir(parents=True)
    assert paths._find_shipped(installed) == installed / "shipped"


def test_configs_of_the_working_folder_go_before_those_that_came_along(tmp_path, monkeypatch):
    work, shipped = tmp_path / "work", tmp_path / "shipped"
    (work / "configs").mkdir(parents=True)
    assert paths._find_project(shipped, work) == shipped, "a folder of that name is not enough"
    (work / "configs" / "common.yaml").touch()
    assert paths._find_project(shipped, work) == work
    monkeypatch.chdir(work)
    assert paths._find_project(shipped, Path()).samefile(work)
    assert paths._find_project(shipped, Path()).is_absolute(), "the working folder may change"


def test_configs_that_are_not_read_for_want_of_a_common_file_are_told(tmp_path, caplog):
    """Not those of other programs, of which nothing is known."""
    configs = tmp_path / "configs"
    for path in (configs / "other.yaml", configs / "resnet" / "base.yaml", tmp_path / "folds" / "1.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    paths.warn_of_overlooked(["memae"], tmp_path)
    assert not caplog.text
    (configs / "memae").mkdir()
    for path in (configs / "datasets.yaml", configs / "memae" / "brain_mri.yaml"):
        path.touch()
    paths.warn_of_overlooked(["memae"], tmp_path)
    told = "there is no configs/common.yaml beside: configs/datasets.yaml, configs/memae/brain_mri.yaml; `maddr init .` adds what is missing"
    assert told.replace("/", os.sep) in caplog.text.replace("/", os.sep)
    caplog.clear()
    (configs / "common.yaml").touch()
    paths.warn_of_overlooked(["memae"], tmp_path)
    assert not caplog.text


def test_a_model_whose_folder_was_deleted_has_the_configs_that_came_along(tmp_path, monkeypatch):
    work, shipped = tmp_path / "work", tmp_path / "shipped"
    monkeypatch.setattr(paths, "SHIPPED", shipped)
    for folder in (work / "configs" / "memae", shipped / "configs" / "memae", shipped / "configs" / "ganomaly"):
        folder.mkdir(parents=True)
    assert paths.configs_of("memae", work / "configs") == work / "configs"
    assert paths.configs_of("ganomaly", work / "configs") == shipped / "configs"
    assert paths.configs_of("mine.Model", work / "configs") == work / "configs", "nobody brought any: the keys that all share"


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
