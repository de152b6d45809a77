"""Which file is read."""

import pytest

from anomaly_detection.config.paths import find_catalog, find_config, find_folds


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
