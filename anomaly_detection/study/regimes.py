"""The regimes: which images a network is trained on, and with which terms of MADDR."""

from dataclasses import dataclass
from typing import Any

from anomaly_detection.config.settings import MaddrSettings

# The terms of the constraint, as the settings `maddr.TERM_weight` know them, and as tables head their columns.
TERMS = {"organ": "organ head", "modality": "modality head", "center": "center"}


@dataclass(frozen=True)
class Regime:
    """A way to train every baseline.

    Attributes:
        name: in commands, folders and tables.
        mixed: whether one network sees all datasets; if not there is a network for each.
        terms: those of `TERMS` that act; with none of them there is no constraint.
        probe: whether the network of the same regime without it is given a `Probe`, so that it names domains, too.
    """

    name: str
    mixed: bool
    terms: tuple[str, ...] = ()
    probe: bool = False

    @property
    def ablation(self) -> bool:
        """Whether it leaves out a part of the constraint."""
        return 0 < len(self.terms) < len(TERMS)

    def settings(self) -> dict[str, Any]:
        """The settings that follow from it, to be laid over those of a config."""
        off = {f"{term}_weight": 0.0 for term in TERMS if self.terms and term not in self.terms}
        return {"maddr": {"enabled": bool(self.terms), "probe": self.probe, **off}}


SEPARATE = Regime("separate", mixed=False)
UNITED = Regime("united", mixed=True)
PROBE = Regime("united_probe", mixed=True, probe=True)
MADDR = Regime("maddr", mixed=True, terms=tuple(TERMS))
ABLATIONS = (
    Regime("maddr_organ", mixed=True, terms=("organ",)),
    Regime("maddr_modality", mixed=True, terms=("modality",)),
    Regime("maddr_center", mixed=True, terms=("center",)),
    Regime("maddr_organ_modality", mixed=True, terms=("organ", "modality")),
)
# All by name, in the order in which tables list them.
REGIMES = {regime.name: regime for regime in (SEPARATE, UNITED, PROBE, *ABLATIONS, MADDR)}


def regime_of(datasets: int, maddr: MaddrSettings) -> Regime:
    """That of a single network, by the number of datasets it is trained on and whether it is constrained or has a probe."""
    if maddr.enabled or maddr.probe:
        return MADDR if maddr.enabled else PROBE
    return UNITED if datasets > 1 else SEPARATE
