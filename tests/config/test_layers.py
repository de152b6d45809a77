import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from anomaly_detection.config.layers import Layer, build, parse_override, read_layers, to_plain
from anomaly_detection.registry import build_settings
from anomaly_detection.system.errors import UserError


@dataclass(frozen=True)
class Inner:
    width: int = 8
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    lr: float
    kind: Literal["wide", "narrow"] = "wide"
    dims: list[int] = field(default_factory=list)
    inner: Inner = Inner()
    limit: int | None = None
    flag: bool = False
    channels: Literal[1, 3] = 1

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr must be above 0, not {self.lr}")


def settings(*overrides: str, **values) -> Outer:
    return build(Outer, [Layer("a.yaml", {"lr": 0.1, **values}), *map(parse_override, overrides)])


def test_overrides_win_and_nested_groups_merge():
    got = settings("inner.width=4", "lr=1e-3", "dims=[1, 2]", inner={"weights": {"a": 1}})
    assert got == Outer(lr=0.001, dims=[1, 2], inner=Inner(4, {"a": 1.0}))


def test_a_mapping_is_replaced_unless_a_key_in_it_is_named():
    assert settings("inner.weights={b: 2}", inner={"weights": {"a": 1}}).inner.weights == {"b": 2.0}
    assert settings("inner.weights.b=2", inner={"weights": {"a": 1}}).inner.weights == {"a": 1.0, "b": 2.0}


def test_a_choice_among_numbers_is_not_met_by_true():
    with pytest.raises(UserError, match="expected one of 1, 3; got True"):
        settings("channels=true")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("lr=abc", ["--set lr=abc", "lr", "a number", "'abc'"]),
        ("lrr=1", ["lrr", "did you mean lr?"]),
        ("inner.widht=1", ["inner.widht", "did you mean width?"]),
        ("inner=3", ["inner", "group of keys", "3"]),
        ("limit=1.5", ["limit", "a whole number or null", "1.5"]),
        ("limit=true", ["limit", "whole number"]),
        ("flag=1", ["flag", "true or false"]),
        ("kind=wied", ["kind", "wide, narrow", "did you mean wide?"]),
        ("dims=[1, x]", ["dims[1]", "whole number", "'x'"]),
        ("lr=-1", ["--set lr=-1", "lr must be above 0"]),
        ("inner.weights={a: b}", ["inner.weights.a", "a number"]),
    ],
)
def test_a_wrong_value_is_one_line_that_names_place_and_remedy(override, parts):
    with pytest.raises(UserError) as caught:
        settings(override)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_an_error_names_the_file_that_set_the_value(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("lr: high\n")
    (tmp_path / "lits.yaml").write_text("extends: base.yaml\nlimit: 3\n")
    with pytest.raises(UserError, match=r"base\.yaml: lr: expected a number, got 'high'"):
        build(Outer, read_layers(tmp_path / "lits.yaml"))


def test_extends_lays_the_file_over_its_base(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("lr: 1\nlimit: 2\n")
    (tmp_path / "lits.yaml").write_text("extends: base.yaml\nlimit: 3\n")
    assert build(Outer, read_layers(tmp_path / "lits.yaml")) == Outer(lr=1.0, limit=3)


def test_an_error_names_a_file_above_by_its_plain_path(tmp_path: Path):
    (tmp_path / "dpa").mkdir()
    (tmp_path / "common.yaml").write_text("lr: high\nlimit: 2\n")
    (tmp_path / "dpa" / "base.yaml").write_text("extends: ../common.yaml\nlr: 2\n")
    (tmp_path / "dpa" / "lits.yaml").write_text("extends: base.yaml\nlimit: 3\n")
    assert build(Outer, read_layers(tmp_path / "dpa" / "lits.yaml")) == Outer(lr=2.0, limit=3)
    (tmp_path / "dpa" / "base.yaml").write_text("extends: ../common.yaml\n")
    with pytest.raises(UserError) as caught:
        build(Outer, read_layers(tmp_path / "dpa" / "lits.yaml"))
    assert str(caught.value).startswith(f"{tmp_path / 'common.yaml'}: lr: ")


def test_extending_oneself_is_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        read_layers(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["- 1\n", "a: [1\n", "lr: 1\nlr: 2\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=r"a\.yaml"):
        read_layers(tmp_path / "a.yaml")


def test_missing_key_and_missing_file():
    with pytest.raises(UserError, match="lr is missing"):
        build(Outer, [Layer("a.yaml", {})])
    with pytest.raises(UserError, match="no such file"):
        read_layers(Path("nowhere.yaml"))


@pytest.mark.parametrize(
    ("files", "overrides", "message"),
    [
        ({"a.yaml": "limit: 2\n"}, ["limit=3"], "a.yaml: the key lr is missing"),
        ({"a.yaml": "extends: b.yaml\n", "b.yaml": "limit: 2\n"}, ["limit=3", "inner.width=4"], "a.yaml: the key lr is missing"),
        ({"a.yaml": "lr: 1\n"}, ["inner=3"], "--set inner=3: inner: expected a group"),
    ],
)
def test_a_missing_key_is_blamed_on_the_file_and_not_on_an_override(tmp_path: Path, files, overrides, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        build(Outer, [*read_layers(tmp_path / "a.yaml"), *map(parse_override, overrides)])
    assert message in str(caught.value)


def test_a_missing_model_is_blamed_on_the_file(tmp_path: Path):
    (tmp_path / "common.yaml").write_text("iterations: 3\n")
    (tmp_path / "mine.yaml").write_text("extends: common.yaml\ndatasets: [lits]\n")
    with pytest.raises(UserError, match=r"mine\.yaml: the key model is missing"):
        build_settings([*read_layers(tmp_path / "mine.yaml"), parse_override("iterations=5")])
    with pytest.raises(UserError, match=r"--set model=3: model: expected the name of a baseline, got 3"):
        build_settings([*read_layers(tmp_path / "mine.yaml"), parse_override("model=3"), parse_override("iterations=5")])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("latent=1", "latent: no such key; the keys there are lr, kind"),
        ("line=1", "line: no such key; the keys there are lr, kind"),
        ("width=1", "width: no such key; did you mean inner.width?"),
        ("limits=1", "did you mean limit?"),
        ("kin=wide", "did you mean kind?"),
        ("widht=1", "did you mean inner.width?"),
        ("inner.latent=1", "the keys there are width, weights"),
    ],
)
def test_only_what_is_near_is_suggested(override, told):
    with pytest.raises(UserError) as caught:
        settings(override)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xef\xbb\xbflr: 1\r\nlimit: 3\r\n", None),
        ("lr: 1\nlimit: 3\n".encode("utf-16"), None),
        (b"lr: 1\rlimit: 3", None),
        (b"lr: 1\nlimit:\t3\n", r"a\.yaml:2: a tab where YAML takes none; .* and put a space behind a colon"),
        (b"lr: 1\ninner:\n\twidth: 3\n", r"a\.yaml:3: a tab where YAML takes none; indent with spaces"),
        (b"lr: 1\n\tlimit: 3\n", r"a\.yaml:2: a tab"),
        (b"lr: 1\ndims: [1\nlimit: 3\n", r"a\.yaml:3: not valid YAML: while parsing a flow sequence"),
        (b"lr: 1\nlr: 2\n", r"a\.yaml:2: not valid YAML: key 'lr' stands there twice"),
        (b"PK\3\4\0", r"a\.yaml: not a text file"),
    ],
)
def test_yaml_is_read_as_editors_save_it_and_a_mistake_is_placed(tmp_path: Path, data, told):
    (tmp_path / "a.yaml").write_bytes(data)
    if told is None:
        assert build(Outer, read_layers(tmp_path / "a.yaml")) == Outer(lr=1.0, limit=3)
        return
    with pytest.raises(UserError, match=told) as caught:
        read_layers(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


def test_plain_settings_build_the_same_settings_again():
    got = settings("inner.width=4", "limit=7")
    assert build(Outer, [Layer("copy", to_plain(got))]) == got
    assert dataclasses.replace(got, limit=8) != got
