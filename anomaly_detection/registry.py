"""The baselines by the name that configs and commands use, and their settings. A baseline is imported when it is asked for."""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import field
from importlib import import_module
from typing import TYPE_CHECKING

from anomaly_detection.config.layers import Layer, build
from anomaly_detection.config.settings import Settings
from anomaly_detection.system.errors import UserError

if TYPE_CHECKING:
    from anomaly_detection.baseline import Baseline

# name: module and class; in the order of what training costs on phantoms, so that the first numbers of a study come soon
BASELINES = {
    "gaussian": "anomaly_detection.gaussian.gaussian:GaussianOfFeatures",
    "feature_ae": "anomaly_detection.feature_ae.feature_ae:FeatureAE",
    "memae": "anomaly_detection.memae.memae:MemAE",
    "ganomaly": "anomaly_detection.ganomaly.ganomaly:GANomaly",
    "MADDR_dpa": "anomaly_detection.MADDR_dpa.dpa:DPA",
    "f_anogan": "anomaly_detection.f_anogan.f_anogan:FAnoGAN",
}


def place_of(name: str) -> str:
    """Module and class of a baseline, of which nothing is imported.

    Raises:
        UserError: the name is none of `BASELINES`, and no package.module:Class.
    """
    place = BASELINES.get(name, name)
    if ":" not in place:
        near = difflib.get_close_matches(name, BASELINES, 1)
        choices = f"the choices are {', '.join(BASELINES)}, or package.module:Class"
        raise UserError(f"no model {name!r}; " + (f"did you mean {near[0]}?" if near else choices))
    return place


def find_baseline(name: str) -> "type[Baseline]":
    """The class of a baseline: one of `BASELINES`, or from elsewhere as package.module:Class.

    Raises:
        UserError: there is none of that name.
    """
    place = place_of(name)
    from anomaly_detection.baseline import Baseline  # here, so that the names can be listed without torch

    module, _, attribute = place.partition(":")
    try:
        loaded = import_module(module)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        advice = "the module must lie where Python imports from: in the working folder, or as PYTHONPATH says"
        raise UserError(f"no model {name!r}: {error}; {advice}") from None
    baseline = getattr(loaded, attribute, None)
    if baseline is None:
        raise UserError(f"no model {name!r}: {getattr(loaded, '__file__', module)} has no attribute {attribute!r}")
    if not (isinstance(baseline, type) and issubclass(baseline, Baseline)):
        raise UserError(f"no model {name!r}: it is no subclass of anomaly_detection.baseline.Baseline")
    return baseline


def folder_of(model: str) -> str:
    """The name of a model's folder among configs and results: a colon may stand in no file name on Windows."""
    return model.replace(":", ".")


def settings_schema(model: str) -> type[Settings]:
    """`Settings` whose `baseline` is typed as that model needs it."""
    keys = find_baseline(model).Settings
    keys_of_baseline = [("baseline", keys, field(default_factory=keys))]
    return dataclasses.make_dataclass("Settings", keys_of_baseline, bases=(Settings,), frozen=True, namespace={"__reduce__": _reduced})


def _reduced(settings: Settings) -> tuple:
    """For pickle, which finds no class that was made by a function."""
    return _restored, (settings.model, {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)})


def _restored(model: str, values: dict) -> Settings:
    return settings_schema(model)(**values)


def build_settings(layers: Sequence[Layer]) -> Settings:
    """Checked settings from layers, later ones winning.

    Raises:
        UserError: one line with the layer, the key, what was expected.
    """
    named = [layer for layer in layers if "model" in layer.values]
    if not named:
        file = next((layer.source for layer in reversed(layers) if not layer.override), "settings")
        raise UserError(f"{file}: the key model is missing")
    model = named[-1].values["model"]
    if not isinstance(model, str):
        raise UserError(f"{named[-1].source}: model: expected the name of a baseline, got {model!r}")
    return build(settings_schema(model), layers)
