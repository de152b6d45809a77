"""From YAML files and `--set key=value` to checked, typed settings.

A schema is a frozen dataclass whose fields are typed with scalars, `Literal`, `list`, `dict`, unions of these, or further dataclasses.
Settings come in layers (a file, what it extends, overrides); every value remembers the layer it came from, so that an error can say where.
"""

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_text


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, and with 1e-3 read as a number (YAML 1.1 wants 1.0e-3)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands there twice", node.value[place][0].start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


@dataclass(frozen=True)
class Layer:
    """Some settings and the place they come from, as an error message names it.

    Attributes:
        source, values: the place and the settings.
        override: whether it changes settings that stand elsewhere, where a key that is missing is to be added.
    """

    source: str
    values: Mapping[str, Any]
    override: bool = False


class _Inside(dict):
    """The way into a group that `--set a.b=value` names: what else the group holds stays, even where the group is a plain mapping."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        UserError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        values = yaml.load(read_text(path), _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_reason(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values


def _reason(error: yaml.YAMLError) -> str:
    """The line that is no YAML, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": not valid YAML: {' '.join(str(error).split())}"
    if "'\\t'" in (error.problem or ""):
        return f":{mark.line + 1}: a tab where YAML takes none; indent with spaces, and put a space behind a colon"
    context = f" {error.context}," if error.context else ""
    return f":{mark.line + 1}: not valid YAML:{context} {error.problem}"


def read_layers(path: Path, _seen: tuple[Path, ...] = ()) -> list[Layer]:
    """The layers of a config file, the one it `extends:` (a path from its folder, such as base.yaml or ../common.yaml) first."""
    path = Path(path)
    if path.resolve() in _seen:
        raise UserError(f"{path}: extends itself")
    values = read_yaml(path)
    base = values.pop("extends", None)
    if base is not None and not isinstance(base, str):
        raise UserError(f"{path}: extends: expected the path of a YAML file, got {base!r}")
    below = [] if base is None else read_layers(Path(os.path.normpath(path.parent / base)), (*_seen, path.resolve()))
    return [*below, Layer(str(path), values)]


def parse_override(text: str) -> Layer:
    """The layer of one `--set a.b=value`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected key=value, such as --set lr=0.001")
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: {value!r} is not a YAML value") from None
    return overriding(f"--set {text}", key.strip(), parsed)


def overriding(source: str, key: str, value: Any) -> Layer:
    """The layer of one key, such as `baseline.width`, that is changed in what stands elsewhere."""
    values: Any = value
    for part in reversed(key.split(".")):
        values = _Inside({int(part) if part.isdigit() else part: values})
    return Layer(source, values, override=True)


def build(schema: type, layers: Sequence[Layer]) -> Any:
    """An instance of the dataclass `schema` from layers of which later ones win; nested dataclasses merge, all else is replaced.

    Raises:
        UserError: unknown or missing key, wrong type, or a value that the dataclass's own checks refuse (ValueError).
    """
    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(schema, merged, layer.values, layer, "", origins)
    return _convert(schema, merged, "", origins)


def to_plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as nested dicts, lists and scalars, as it is written to a YAML file."""
    return dataclasses.asdict(settings)


def _fields(schema: type) -> dict[str, Any]:
    hints = typing.get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def _nested_schema(hint: Any) -> type | None:
    """The dataclass that a field of this type holds, if any: itself or in a union with None."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _merge(schema: type | None, below: Any, above: Any, layer: Layer, prefix: str, origins: dict[str, str]) -> Any:
    replaced = not isinstance(above, Mapping) or (schema is None and not isinstance(above, _Inside))
    if replaced or not layer.override or prefix not in origins:
        origins[prefix] = layer.source
    if replaced:
        return above
    merged = dict(below) if isinstance(below, Mapping) else {}
    fields = {} if schema is None else _fields(schema)
    for key, value in above.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        merged[key] = _merge(_nested_schema(fields.get(key)), merged.get(key), value, layer, name, origins)
    return merged


def _origin(name: str, origins: Mapping[str, str]) -> str:
    """The layer that set a key, or the nearest one above it."""
    while name and name not in origins:
        name = name.rpartition(".")[0]
    return origins.get(name, "settings")


def _fail(name: str, origins: Mapping[str, str], message: str) -> typing.NoReturn:
    raise UserError(f"{_origin(name, origins)}: {name}: {message}" if name else f"{_origin(name, origins)}: {message}")


def _convert(hint: Any, value: Any, name: str, origins: Mapping[str, str]) -> Any:
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass(hint, value, name, origins)
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (Union, types.UnionType):
        return _convert_union(hint, arguments, value, name, origins)
    if kind is Literal:
        if any(value == argument and type(value) is type(argument) for argument in arguments):
            return value
        near = difflib.get_close_matches(str(value), [str(argument) for argument in arguments], 1)
        _fail(name, origins, f"expected one of {', '.join(map(str, arguments))}; got {value!r}" + (f"; did you mean {near[0]}?" if near else ""))
    if kind is list and isinstance(value, list):
        return [_convert(arguments[0], item, f"{name}[{i}]", origins) for i, item in enumerate(value)]
    if kind is dict and isinstance(value, dict):
        return {
            _convert(arguments[0], key, f"{name} (the key {key!r})", origins): _convert(arguments[1], item, f"{name}.{key}", origins)
            for key, item in value.items()
        }
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    _fail(name, origins, f"expected {_describe(hint)}, got {value!r}")


def _convert_dataclass(schema: type, value: Any, name: str, origins: Mapping[str, str]) -> Any:
    if not isinstance(value, Mapping):
        _fail(name, origins, f"expected a group of keys ({', '.join(_fields(schema))}), got {value!r}")
    fields = _fields(schema)
    inside = {key: f"{name}.{key}" if name else str(key) for key in [*value, *fields]}
    for key in value:
        if key not in fields:
            _fail(inside[key], origins, f"no such key; {_meant(str(key), schema)}")
    for field in dataclasses.fields(schema):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in value:
            _fail(name, origins, f"the key {inside[field.name]} is missing")
    arguments = {key: _convert(fields[key], item, inside[key], origins) for key, item in value.items()}
    try:
        return schema(**arguments)
    except ValueError as error:
        key = str(error).split(" ", 1)[0]
        _fail(inside.get(key, name), origins, str(error))


def _meant(key: str, schema: type) -> str:
    """What may be meant by a key that is not there: that of a group, one that is spelled nearly so, here or in a group, or any."""
    fields = _fields(schema)
    inside = {inner: f"{name}.{inner}" for name, hint in fields.items() if (group := _nested_schema(hint)) for inner in _fields(group)}
    near = [inside[key]] if key in inside else _near(key, fields) or [inside[inner] for inner in _near(key, inside)]
    return f"did you mean {near[0]}?" if near else f"the keys there are {', '.join(fields)}"


def _near(key: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(key, names, 1, 0.7)


def _convert_union(hint: Any, options: tuple, value: Any, name: str, origins: Mapping[str, str]) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _convert_dataclass(option, value, name, origins)
    for option in options:
        try:
            return _convert(option, value, name, origins)
        except UserError:
            continue
    _fail(name, origins, f"expected {_describe(hint)}, got {value!r}")


def _describe(hint: Any) -> str:
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if kind is Literal:
        return " or ".join(map(str, arguments))
    if kind is list:
        return f"a list [..] of {_describe(arguments[0])}"
    if kind is dict:
        return f"a mapping {{..}} of {_describe(arguments[0])} to {_describe(arguments[1])}"
    if dataclasses.is_dataclass(hint):
        return "a group of keys"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))
