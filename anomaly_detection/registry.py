"""The baselines by the name that configs and commands use."""

import difflib
from importlib import import_module

from anomaly_detection.baseline import Baseline
from anomaly_detection.errors import UserError

# name: module and class, imported when asked for
BASELINES = {
    "MADDR_dpa": "anomaly_detection.MADDR_dpa.dpa:DPA",
    "f_anogan": "anomaly_detection.f_anogan.f_anogan:FAnoGAN",
    "ganomaly": "anomaly_detection.ganomaly.ganomaly:GANomaly",
    "memae": "anomaly_detection.memae.memae:MemAE",
}


def find_baseline(name: str) -> type[Baseline]:
    """The class of a baseline.

    Raises:
        UserError: no baseline of that name.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, 1)
        raise UserError(f"no model {name!r}; " + (f"did you mean {near[0]}?" if near else f"the choices are {', '.join(BASELINES)}"))
    module, _, attribute = BASELINES[name].partition(":")
    return getattr(import_module(module), attribute)
