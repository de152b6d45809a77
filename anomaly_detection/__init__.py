"""MADDR: one network that detects anomalies in medical images of several organs and modalities.

from anomaly_detection import load

detector = load("results/.../maddr/lits+covid_ct+covid_xray/seed_0")
prediction = detector.predict("image.png")  # score, calibrated_score, anomalous, organ, modality, confidence, anomaly_map ...
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anomaly_detection.detector import Detector


def load(path: "str | Path", device: str = "auto") -> "Detector":
    """The detector of a finished experiment; see `anomaly_detection.detector.load`."""
    from anomaly_detection.detector import load  # here, so that importing the package does not import torch

    return load(path, device)
