"""What a score means: how it compares with those of normal images of its domain, and whether that makes the image anomalous.

Scores of different domains (pairs of organ and modality) lie on different scales: a reconstruction of a radiograph is better than one of a CT
slice. At test time nobody tells the domain: the heads of MADDR name it. There are two levels, and every verdict says which one it is.

Guaranteed: the p-value of the score among the patients of the domain's validation normals, who trained no weight (their mean loss chose the
checkpoint, one number); it takes 19 of them for a false-alarm rate of 5 %. Calibrated: with fewer, the score is a distance from the center of the
domain's normals in units of their spread (a robust z), and the limit is that of all domains together; useful, and without guarantee.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from anomaly_detection.evaluation.known import Known
from anomaly_detection.evaluation.normals import Normals, estimate, highest, limit, needed, p_value, pooled
from anomaly_detection.evaluation.scores import Scores

MAD_TO_DEVIATION = 1.4826  # of a normal distribution
PRIOR = 10  # patients: with as many of its own, a domain's center and spread are half its validation normals' and half expected from training

FOLDS = 100  # where there are more units, so many groups are left out one after another instead of each unit

Pair = tuple[int, int]  # class numbers of organ and modality
Word = Literal["normal", "anomalous", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What is said of N images.

    Attributes:
        calibrated: (N,) robust z of the score in the image's domain.
        p_value: (N,) of the score among the validation patients of that domain, each with its highest; valid for any image of a new patient of
            that domain. Where no heads tell several domains apart it is among those of all, and valid of none.
        threshold: (N,) on the score.
        anomalous: (N,) bool, the score is above it.
        guaranteed: (N,) bool, normals of that domain are named rightly and called anomalous at the promised rate at most.
        organ, modality: (N,) class numbers that the heads name; None without heads.
        confidence: (N,) probability of that organ times that of that modality; None without heads.
        distance: (N,) of the features from those of training, see `Known`.
        unknown: N reasons why the network does not know images of this kind; "" where it does.
    """

    calibrated: np.ndarray
    p_value: np.ndarray
    threshold: np.ndarray
    anomalous: np.ndarray
    guaranteed: np.ndarray
    organ: np.ndarray | None
    modality: np.ndarray | None
    confidence: np.ndarray | None
    distance: np.ndarray
    unknown: Sequence[str]

    def word(self, i: int) -> Word:
        """The verdict on an image in a word."""
        return "unknown" if self.unknown[i] else "anomalous" if self.anomalous[i] else "normal"


@dataclass(frozen=True)
class Reference:
    """What normal images score, of one domain or of all together.

    Attributes:
        center, spread: of their scores.
        threshold: on the score.
        guaranteed: see `Verdict`.
        highest: the highest score of each validation patient, ascending.
        pooled: of each that has a slice which the network knows the mean of the highest of these, likewise, see `pooled`.
        unit: what these patients are, see `Normals.word`.
        slices: the fewest images that one of the pooled patients has, the median, and the most; None where there is none of these, or an older
            version did not ask.
    """

    center: float
    spread: float
    threshold: float
    guaranteed: bool
    highest: tuple[float, ...]
    pooled: tuple[float, ...]
    unit: str = "patients"
    slices: tuple[int, int, int] | None = None

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Reference":
        """From `vars` of one; raises KeyError where one lacks what it had from the first."""
        fields = {key: values[key] for key in cls.__dataclass_fields__ if key != "slices"}
        lists = {name: tuple(fields[name]) for name in ("highest", "pooled")}
        return cls(**fields | lists, slices=tuple(values["slices"]) if values.get("slices") else None)


@dataclass(frozen=True)
class Calibration:
    """What normal images tell of scores, domains and features; as plain numbers a part of the checkpoint.

    Attributes:
        alpha: the promised rate of false alarms.
        domains: of each domain, where what names domains has a part in the scores.
        told: of each domain, of scores in the true one; the same as `domains` where the domain has no part in a score.
        everything: of all together, of scores without use of domains, for detectors of several domains that name none.
        known: the limits of the known.
    """

    alpha: float
    domains: dict[Pair, Reference]
    told: dict[Pair, Reference]
    everything: Reference
    known: Known

    @classmethod
    def fit(cls, train: Normals, val: Normals, alpha: float) -> "Calibration":
        """From training and validation normals of the same domains. The training normals lend center and spread where validation has few."""
        pairs, known = val.pairs(), Known.fit(train, val)
        trained = val.scores.named_one_of(pairs) if val.scores.has_heads else np.ones(len(val.unit), bool)
        recognised = np.array([not reason for reason in known.reasons(val.scores, trained)], bool)

        def by_domain(train_scores: Scores, val_scores: Scores) -> dict[Pair, Reference]:
            samples = _Sample(train_scores.score, train.unit), _Sample(val_scores.score, val.unit, recognised)
            references = _references([(samples[0].part(train.of(pair)), samples[1].part(val.of(pair))) for pair in pairs], alpha)
            return {pair: replace(reference, unit=val.word(val.of(pair))) for pair, reference in zip(pairs, references, strict=True)}

        named = by_domain(train.scores, val.scores)
        told = named if val.scores.told is None else by_domain(*(each.scores.in_domain(each.organ, each.modality) for each in (train, val)))
        if len(pairs) == 1:
            everything = named[pairs[0]]
        else:
            plain = _Sample(train.scores.without_domain().score, train.unit), _Sample(val.scores.without_domain().score, val.unit, recognised)
            (everything,) = _references([plain], alpha, alike=False)
        return cls(alpha, named, told, replace(everything, unit=val.word()), known)

    def reference(self, organ: int, modality: int) -> Reference:
        """That of a domain that is named; of everything together where the domain was not trained on."""
        return self.domains.get((organ, modality), self.everything)

    @property
    def tells_domains(self) -> bool:
        """Whether `apply` judges an image in its domain: heads name it, or there is but one."""
        return self.known.min_confidence is not None or len(self.domains) == 1

    def apply(self, scores: Scores) -> Verdict:
        """The verdict on any images, in the domain that the heads name; each depends on its image alone.

        What is guaranteed: of the normals of a domain at most the promised share is named rightly and called anomalous.
        """
        if not scores.has_heads:
            return self._verdict(scores, [self.everything] * len(scores.score), None, None, np.ones(len(scores.score), bool))
        organ, modality = scores.named()
        references = [self.reference(*pair) for pair in zip(organ, modality, strict=True)]
        return self._verdict(scores, references, organ, modality, scores.named_one_of(self.domains))

    def apply_in(self, scores: Scores, organ: np.ndarray, modality: np.ndarray) -> Verdict:
        """The verdict on images whose domain is told: class numbers (N,)."""
        pairs = list(zip(organ.tolist(), modality.tolist(), strict=True))
        trained = np.array([pair in self.told for pair in pairs], bool)
        references = [self.told.get(pair, self.everything) for pair in pairs]
        return self._verdict(scores.in_domain(organ, modality), references, organ, modality, trained)

    def _verdict(self, scores: Scores, references: Sequence[Reference], organ, modality, trained: np.ndarray) -> Verdict:
        center, spread, threshold = (np.array([getattr(each, name) for each in references]) for name in ("center", "spread", "threshold"))
        p = np.empty(len(references))
        for number, reference in {id(each): each for each in references}.items():
            places = [i for i, each in enumerate(references) if id(each) == number]
            p[places] = p_value(scores.score[places], np.array(reference.highest))
        return Verdict(
            (scores.score - center) / spread,
            p,
            threshold,
            scores.score > threshold,
            np.array([each.guaranteed for each in references], bool),
            organ,
            modality,
            scores.confidence() if scores.has_heads else None,
            self.known.distance(scores),
            self.known.reasons(scores, trained),
        )

    def to_plain(self) -> dict[str, Any]:
        """Dicts, lists and numbers, for a checkpoint."""

        def plain(references: Mapping[Pair, Reference]) -> list[dict[str, Any]]:
            return [{"organ": organ, "modality": modality, **vars(each)} for (organ, modality), each in references.items()]

        references = {"domains": plain(self.domains), "told": plain(self.told), "everything": vars(self.everything)}
        return {"alpha": self.alpha, **references, "known": vars(self.known)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Calibration":
        """The inverse of `to_plain`.

        Raises:
            ValueError: another version of this package wrote it.
        """

        try:
            domains, told = ({(each["organ"], each["modality"]): Reference.from_plain(each) for each in values[name]} for name in ("domains", "told"))
            return cls(values["alpha"], domains, told, Reference.from_plain(values["everything"]), Known.from_plain(values["known"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a calibration as this version writes it: {error}") from None


@dataclass(frozen=True)
class _Sample:
    """Scores (N,) of images of one domain, the units (N,) they belong to, and of validation images whether the network knows their kind."""

    scores: np.ndarray
    unit: np.ndarray
    known: np.ndarray | None = None

    def part(self, places: np.ndarray) -> "_Sample":
        return _Sample(self.scores[places], self.unit[places], None if self.known is None else self.known[places])


Domain = tuple[_Sample, _Sample]  # training and validation normals


def _references(domains: Sequence[Domain], alpha: float, alike: bool = True) -> list[Reference]:
    """Of each domain. `alike`: a sample is of one domain, so that its patients are exchangeable with new ones."""
    told = [_Told.of(train, val) for train, val in domains]
    left_out = []
    for number, (_, val) in enumerate(domains):
        units, place = np.unique(val.unit, return_inverse=True)
        for fold in range(min(len(units), FOLDS)):
            inside = place % FOLDS == fold
            rest = replace(told[number], units=len(units) - len(units[fold::FOLDS]), after=center_and_spread(val.scores[~inside]))
            center, spread = _standards([*told[:number], rest, *told[number + 1 :]])[number]
            left_out.append((val.scores[inside] - center) / spread)
    shared = estimate(np.concatenate(left_out), alpha)
    references = []
    for (_, val), (center, spread) in zip(domains, _standards(told), strict=True):
        tops, means = highest(val.scores, val.unit), pooled(val.scores[val.known], val.unit[val.known])
        guaranteed = alike and len(tops) >= needed(alpha)
        threshold = limit(tops, alpha) if guaranteed else center + spread * shared
        ordered = (tuple(np.sort(each).tolist()) for each in (tops, means))
        references.append(Reference(center, spread, float(threshold), guaranteed, *ordered, slices=_numbers_of_images(val)))
    return references


def _numbers_of_images(val: _Sample) -> tuple[int, int, int] | None:
    """See `Reference.slices`."""
    units, counts = np.unique(val.unit, return_counts=True)
    counts = counts[np.isin(units, val.unit[val.known])]
    return (int(counts.min()), int(np.median(counts)), int(counts.max())) if len(counts) else None


@dataclass(frozen=True)
class _Told:
    """What the normals of a domain tell: how many validation units there are, center and spread of training and of validation scores."""

    units: int
    before: tuple[float, float]
    after: tuple[float, float]

    @classmethod
    def of(cls, train: _Sample, val: _Sample) -> "_Told":
        center, spread = center_and_spread(train.scores)
        return cls(len(np.unique(val.unit)), (center, spread or 1e-6 * abs(center) or 1.0), center_and_spread(val.scores))


def _standards(domains: Sequence[_Told]) -> list[tuple[float, float]]:
    """Center and spread of each domain's validation scores, drawn the more towards what training leads to expect the fewer its patients are.

    A network scores what it was trained on lower: by how much, in spreads of the training scores, is taken to be the same in all domains.
    """
    each = [(told.units, told.before, told.after) for told in domains]
    units = sum(told.units for told in domains)
    shift = sum(n * (a[0] - b[0]) / b[1] for n, b, a in each if n) / max(units, 1)
    ratio = sum(n * math.log(a[1] / b[1]) for n, b, a in each if a[1]) / (units + PRIOR)
    standards = []
    for n, b, a in each:
        center, spread, weight = b[0] + shift * b[1], b[1] * math.exp(ratio), n / (n + PRIOR)
        if n:
            center += weight * (a[0] - center)
        if a[1]:
            spread *= (a[1] / spread) ** weight
        standards.append((center, spread))
    return standards


def center_and_spread(scores: np.ndarray) -> tuple[float, float]:
    """Median, and median absolute deviation as a standard deviation; where half of the scores are equal, the standard deviation itself.

    The spread of one score, or of equal ones, is 0; no scores have a spread of 0, too, and no center.
    """
    if not len(scores):
        return math.nan, 0.0
    middle = float(np.median(scores))
    return middle, MAD_TO_DEVIATION * float(np.median(np.abs(scores - middle))) or float(scores.std())
