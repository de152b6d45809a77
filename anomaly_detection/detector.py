"""A trained network, ready for new images."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from anomaly_detection.baseline import Baseline
from anomaly_detection.build import load_trained
from anomaly_detection.data.dataset import Domains, to_floats
from anomaly_detection.data.formats.pictures import opened, shown
from anomaly_detection.data.formats.read import read_images
from anomaly_detection.data.formats.window import plain_window
from anomaly_detection.data.preprocessing import Preprocessing, agreed, differences
from anomaly_detection.evaluation.calibration import Calibration, Reference, Word
from anomaly_detection.evaluation.normals import needed
from anomaly_detection.evaluation.scores import Scores, assess
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.errors import UserError

logger = logging.getLogger(__name__)


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
        return f"{place}: at most {alpha:.3g} of new normal {reference.unit} are called anomalous{named} ({validation})"

    def fit(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """An image as the network takes it, (channels, image_size, image_size) uint8.

        Args:
            image: the path of a file with one image, see `read_images`, or a Pillow image, or an array (H, W) or (H, W, 3) uint8.

        Raises:
            UserError: the file cannot be read, or holds several images.
            ValueError: an array of another type or shape, or something else.
        """
        if isinstance(image, str | Path):
            pixels, *more = (pixels for _, pixels in read_images(image, plain_window(self.preprocessing.window)))
            if more:
                raise UserError(f"{image}: holds {1 + len(more)} images; `read_images` gives one after the other")
        elif isinstance(image, Image.Image):
            stored = opened(image)
            pixels = shown(stored.image, self.preprocessing.window, "image", stored.top)
        elif not isinstance(image, np.ndarray):
            raise ValueError(f"expected a path, a Pillow image or an array, got {type(image).__name__}")
        else:
            pixels = image
            if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
                raise ValueError(f"expected uint8 of shape (H, W) or (H, W, 3), got {pixels.dtype} of shape {pixels.shape}")
        return self.preprocessing.apply(pixels)

    def predict(self, image: str | Path | Image.Image | np.ndarray) -> Prediction:
        """The verdict on one image, see `fit`."""
        return self.predict_batch(self.fit(image)[None])[0]

    @torch.inference_mode()
    def predict_batch(self, images: np.ndarray) -> list[Prediction]:
        """The verdicts on images (B, channels, image_size, image_size) uint8; each depends on its image alone."""
        x = to_floats(torch.tensor(images).to(self.baseline.device))
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
            for i in range(len(images))
        ]


def load(path: str | Path, device: str = "auto") -> Detector:
    """The detector of a finished experiment.

    Args:
        path: its checkpoint.pt, which needs nothing beside it, or the folder of the experiment (.../seed_0).
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
