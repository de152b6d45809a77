"""Where an experiment lies, and what it says of its data before it is trained."""

import os
from pathlib import Path

import pytest
import torch
import yaml

from anomaly_detection.config.layers import Layer, to_plain
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.registry import build_settings
from anomaly_detection.study.experiment import Experiment, _lock, check_settings, check_version
from anomaly_detection.study.train_and_score import _shared_file, _tell_grey
from anomaly_detection.system.errors import UserError


def test_an_experiment_lies_where_its_settings_say(tmp_path):
    assert Experiment.place(Settings("memae", ["a", "b"], seed=3), Path("r")).folder == Path("r/memae/united/a+b/seed_3")


def test_many_datasets_with_long_names_have_a_folder(tmp_path):
    names = [f"brain_mri_of_the_university_hospital_{number}" for number in range(12)]
    places = [Experiment.place(Settings("memae", chosen), tmp_path).folder for chosen in (names, [*names[:-1], "another"])]
    for place in places:
        place.mkdir(parents=True)
    assert len(set(places)) == 2


def test_grey_data_for_a_network_of_colours_are_told_once(caplog):
    grey, colour = Preprocessing(size=300, channels=3), Preprocessing(size=300, stored_channels=3, channels=3)
    _tell_grey({"a": colour, "b": Preprocessing(channels=3), "c": Preprocessing(size=300)})
    assert not caplog.records
    _tell_grey({"lits": grey, "skin": colour, "brain": grey})
    (record,) = caplog.records
    assert record.message.startswith(
        "lits, brain: prepared in grey: the 3 channels that the network takes hold the same; `prepare` with --channels 3"
    )


def experiment(results: Path, **settings) -> Experiment:
    return Experiment.place(build_settings([Layer("here", {"model": "memae", "datasets": ["a"], **settings})]), results)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"mixup": {"first": 1, "last": 5}}, {}, "mixup"),
        ({}, {"mixup": {"first": 1, "last": 5}}, "mixup"),
        ({"mixup": {"first": 1, "last": 5}}, {"mixup": {"first": 1, "last": 6}}, "mixup.last: 5, now it is 6"),
        ({"baseline": {"width": 8}}, {"baseline": {"width": 4}}, "baseline.width: 8, now it is 4"),
        ({"lr_step": 3}, {}, "lr_step: 3, now it is None"),
        ({"lr_step": 3}, {"lr_step": 3, "threshold_quantile": 0.9}, None),
        ({}, {"log_iter": 7, "sample_iter": 7, "checkpoint_iter": 7, "tensorboard": True, "feature_cache_mib": 0}, None),
        ({}, {"val_iter": 7}, "val_iter: 100, now it is 7"),
    ],
)
def test_a_setting_that_changed_is_told(tmp_path, before, now, told):
    begun = experiment(tmp_path, **before)
    begun.folder.mkdir(parents=True)
    (begun.folder / "config.yaml").write_text(yaml.safe_dump(to_plain(begun.settings)))
    check_settings(begun)
    if told is None:
        check_settings(experiment(tmp_path, **now))
    else:
        with pytest.raises(UserError, match=f"was begun with {told}"):
            check_settings(experiment(tmp_path, **now))


@pytest.mark.skipif(os.name == "nt", reason="other permissions")
def test_others_of_a_group_can_lock_a_folder_too(tmp_path):
    before = os.umask(0o002)
    try:
        with _lock(tmp_path, wait=False):
            assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


@pytest.mark.parametrize("lacking", ["config.yaml", "provenance.json"])
def test_results_of_which_nobody_knows_what_they_are_of_are_refused(tmp_path, lacking):
    begun = experiment(tmp_path)
    begun.folder.mkdir(parents=True)
    (begun.folder / "config.yaml").write_text(yaml.safe_dump(to_plain(begun.settings)))
    (begun.folder / "provenance.json").write_text('{"regime": "separate", "data": "abc"}')
    check_version(begun)
    (begun.folder / lacking).unlink()
    check_version(begun)
    (begun.folder / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=rf"has a metrics.json and no {lacking}, .*; choose another --results"):
        check_version(begun)


def test_first_phases_are_shared_by_what_differs_in_maddr_alone(tmp_path, monkeypatch):
    def shared(device="cpu", known=None, **settings):
        known = {"provenance.read": lambda _: {"data": "abc"}, "runs_in_bf16": lambda *_: False, **(known or {})}
        with monkeypatch.context() as patch:
            for name, value in known.items():
                patch.setattr(f"anomaly_detection.study.train_and_score.{name}", value)
            return _shared_file(experiment(tmp_path, **{"datasets": ["a", "b"], **settings}), torch.device(device))

    own = shared()
    assert own.parent == tmp_path / "memae" / "shared"
    alike = [{"maddr": {"enabled": True}}, {"maddr": {"enabled": True, "center_weight": 0.3}}, {"threshold_quantile": 0.9}, {"feature_cache_mib": 1}]
    assert [shared(**each) for each in alike] == [own] * len(alike)
    others = [{"seed": 1}, {"datasets": ["b", "a"]}, {"baseline": {"width": 4}}, {"device": "cuda"}]
    facts = {
        "provenance.read": lambda _: {"data": "abd"},
        "runs_in_bf16": lambda *_: True,
        "VERSION": 0,
        "__version__": "0",
        "torch.__version__": "0",
    }
    others += [{"known": {name: value}} for name, value in facts.items()]
    assert len({own, *(shared(**each) for each in others)}) == 1 + len(others)
    assert shared(datasets=["a"]) is None
    assert shared(known={"processes": lambda: 2}) is None
