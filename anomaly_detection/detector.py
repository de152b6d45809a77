"""A trained network, ready for new images."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anomaly_detection.baseline import Baseline
from anomaly_detection.build import load_trained
from anomaly_detection.data.dataset import Domains, to_floats
from anomaly_detection.data.formats.window import plain_window, window_from
from anomaly_detection.data.inputs import BATCH, images_of, pixels_of, preprocessed
from anomaly_detection.data.preprocessing import Preprocessing, agreed, differences
from anomaly_detection.evaluation.calibration import Calibration, Reference, Verdict, Word
from anomaly_detection.evaluation.normals import needed
from anomaly_detection.evaluation.scores import Scores, assess, score_images
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)

Shown = Sequence[float] | Literal["auto"] | None  # see `Detector.preprocess`


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
        verdict: "normal", "anomalous", or "unknown": then nothing that the network says of the image should be relied on.
        score: the baseline's anomaly score.
        calibrated_score: robust z of the score among normals of the domain that the heads name, comparable across organs and modalities; without
            heads among those of all domains.
        p_value: of the score among the validation patients of that domain, each with its highest: at most a share p of the domain's new normal
            patients scores so high. Where no heads tell several domains apart it is among those of all, and no such share.
        threshold: on the score, in the image's domain.
        anomalous: whether the score is above it.
        guaranteed: whether enough patients of the domain set it for the promised rate of false alarms (`Calibration.alpha`), if the heads name the
            domain rightly; else it is an estimate.
        organ, modality: named by the MADDR heads; None without heads.
        confidence: in both names together; None without heads.
        unknown_because: why the network does not know images of this kind; "" where it does.
        anomaly_map: (H, W) float32 at the size of the network's images, higher is more anomalous.
    """

    verdict: Word
    score: float
    calibrated_score: float
    p_value: float
    threshold: float
    anomalous: bool
    guaranteed: bool
    organ: str | None
    modality: str | None
    confidence: float | None
    unknown_because: str
    anomaly_map: np.ndarray


@dataclass(frozen=True, eq=False)
class Detector:
    """A network with what is needed to judge new images.

    Attributes:
        baseline: in evaluation mode, on its device.
        calibration: of its scores.
        domains: the organs and modalities it was trained on.
        preprocessing: from an image to what the network takes, as in training.
        map_scale: what an anomaly map seldom exceeds in a normal image.
    """

    baseline: Baseline
    calibration: Calibration
    domains: Domains
    preprocessing: Preprocessing
    map_scale: float

    def __repr__(self) -> str:
        organs, modalities, size = self.domains.organs, self.domains.modalities, self.preprocessing.image_size
        domains = ", ".join(f"{organs[organ]} {modalities[modality]}" for organ, modality in self.calibration.domains)
        everything = self.calibration.everything
        image = f"{size} x {size} {'grey' if self.preprocessing.channels == 1 else 'colour'}"
        return f"<Detector {type(self.baseline).__name__}: {domains}; {image}; calibrated on {len(everything.highest)} {everything.unit}>"

    def promises(self) -> list[str]:
        """What is promised of normal images, and how many patients that rests on: a line on each threshold, and one on what is unknown."""
        calibration = self.calibration
        known, units = calibration.known, calibration.everything.unit
        validation = f"{known.units} validation {units}"
        if calibration.tells_domains:
            lines = [self._promise(*pair, reference) for pair, reference in calibration.domains.items()]
        else:
            lines = [f"all domains: one threshold, an estimate, since no heads tell them apart; {validation} guarantee nothing"]
        share = f"{known.promised:.3g} of new normal {units}"
        if known.guaranteed:
            return [*lines, f"unknown: at most {share}, of all domains together ({validation})"]
        return [*lines, f"unknown: an estimate for {share}; {validation} guarantee nothing"]

    def _promise(self, organ: int, modality: int, reference: Reference) -> str:
        """Of the threshold of a domain."""
        place, alpha = f"{self.domains.organs[organ]} {self.domains.modalities[modality]}", self.calibration.alpha
        validation = f"{len(reference.highest)} validation {reference.unit}"
        if not reference.guaranteed:
            return f"{place}: the threshold is an estimate; {validation} guarantee nothing, it takes {needed(alpha)}"
        named = " with this domain named" if len(self.calibration.domains) > 1 else ""
        alike = "" if reference.unit == "images" else " with as many images"
        return f"{place}: at most {alpha:.3g} of new normal {reference.unit}{alike} are called anomalous{named} ({validation})"

    def preprocess(self, image: Any, window: Shown = None) -> np.ndarray:
        """An image as the network takes it, (channels, image_size, image_size) uint8.

        Args:
            image: the path of a file with one image in any format that `read_images` reads; a Pillow image; an array (H, W) or (H, W, 3), or a tensor
                (H, W), (1, H, W) or (3, H, W): uint8, floating point in [0, 1], or other numbers, which are shown through the window.
            window: what is shown of more than 8 bits where training has not settled it: (level, width), of CT in Hounsfield units, or "auto", from
                the 0.5th to the 99.5th percentile of the image.

        Raises:
            UserError: the file cannot be read, or holds several images.
            TypeError: something else than these.
            ValueError: an array of another shape, values that no window is given for, or a window that is not that of training.
        """
        preprocessing = self._through(window)
        return preprocessing.apply(pixels_of(image, preprocessing.window))

    def predict(self, image: Any, window: Shown = None) -> Prediction:
        """The verdict on one image, see `preprocess`; several are told of `predict_batch`."""
        try:
            pixels = self.preprocess(image, window)
        except (TypeError, ValueError) as error:
            if isinstance(image, list | tuple) or getattr(image, "ndim", 0) > 2:
                raise type(error)(f"{error}; of several images: predict_batch") from None
            raise
        return self.predict_batch(pixels[None])[0]

    def predict_batch(self, images: Any, window: Shown = None) -> list[Prediction]:
        """The verdicts on N images, see `predictions`."""
        return list(self.predictions(images, window))

    def predictions(self, images: Any, window: Shown = None) -> Iterator[Prediction]:
        """The verdicts on N images one after another; each depends on its image alone, and few images are in memory at a time.

        Args:
            images: a list of what `preprocess` takes, of any sizes; an array (N, H, W) or (N, H, W, 3); a tensor (N, H, W), (N, 1, H, W) or
                (N, 3, H, W); or what `preprocess` makes of images, (N, channels, image_size, image_size) uint8.
            window: see `preprocess`.

        Raises:
            UserError, TypeError, ValueError: as `preprocess` does; which image it is.
        """
        for pixels in self._batches(images, window):
            yield from self._judge(pixels)

    def verdict(self, images: Any, window: Shown = None) -> Verdict:
        """What is said of N images without their maps, which takes less time; takes and raises what `predictions` does."""
        batches = (self._floats(pixels) for pixels in self._batches(images, window))
        return self.calibration.apply(score_images(self.baseline, batches))

    def _batches(self, images: Any, window: Shown) -> Iterator[np.ndarray]:
        """(B, channels, image_size, image_size) uint8."""
        preprocessing = self._through(window)
        shape = preprocessing.channels, preprocessing.image_size, preprocessing.image_size
        if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == shape:
            return (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        return preprocessed(images_of(images), preprocessing)

    def _through(self, window: Shown) -> Preprocessing:
        """The preprocessing with a window where training has left the choice."""
        choice = window_from(window)
        if choice is not None and self.preprocessing.window not in (None, choice):
            trained = plain_window(self.preprocessing.window)
            raise ValueError(f"window={window}: the network was trained on images shown through {trained}; leave window out")
        return self.preprocessing if choice is None else replace(self.preprocessing, window=choice)

    def _floats(self, pixels: np.ndarray) -> torch.Tensor:
        pixels = np.ascontiguousarray(pixels)  # torch takes no array that is turned round, as by [::-1]
        return to_floats(torch.tensor(pixels).to(self.baseline.device))

    @torch.inference_mode()
    def _judge(self, pixels: np.ndarray) -> list[Prediction]:
        """The verdicts on images (B, channels, image_size, image_size) uint8."""
        x = self._floats(pixels)
        assessment = assess(self.baseline, x, with_map=True)
        scores = Scores.of(self.baseline, x, assessment)
        verdict = self.calibration.apply(scores)
        maps = assessment.map[:, 0].float().cpu().numpy()
        heads = verdict.organ is not None
        return [
            Prediction(
                verdict.word(i),
                float(scores.score[i]),
                float(verdict.calibrated[i]),
                float(verdict.p_value[i]),
                float(verdict.threshold[i]),
                bool(verdict.anomalous[i]),
                bool(verdict.guaranteed[i]),
                self.domains.organs[verdict.organ[i]] if heads else None,
                self.domains.modalities[verdict.modality[i]] if heads else None,
                float(verdict.confidence[i]) if heads else None,
                verdict.unknown[i],
                maps[i],
            )
            for i in range(len(pixels))
        ]


def load(path: str | Path, device: str = "auto") -> Detector:
    """The detector of a finished experiment.

    Args:
        path: its checkpoint.pt, which needs nothing beside it but for the frozen backbone of a detector that has one, which is had as in training
            (`backbone_weights`), or the folder of the experiment (.../seed_0).
        device: "auto" (the GPU where there is one), "cpu", "cuda:1" ...

    Raises:
        UserError: there is no checkpoint, or the experiment is not finished.
    """
    path = Path(path)
    trained = load_trained(path, choose_device(device))
    if trained.calibration is None:
        raise UserError(
            f"{path}: its scores are not calibrated yet; `maddr evaluate` with the folder of the experiment does it "
            "(what an older version calibrated does not count)"
        )
    windows = differences(trained.preprocessing).get("window")
    if windows:
        advice = "images of more than 8 bits are shown as their files say, unless a window is given"
        logger.warning("%s: trained on datasets that are shown through different windows (%s); %s", path, windows, advice)
    preprocessing = agreed(trained.preprocessing, str(path))
    return Detector(trained.baseline, trained.calibration, trained.domains, preprocessing, trained.map_scale)
