"""MADDR: one network that detects anomalies in medical images of several organs and modalities.

from anomaly_detection import AnomalyDetector, load, read_images

normal = AnomalyDetector("feature_ae").fit(images, organ="liver", modality="ct", groups=patients)  # scikit-learn's methods, PyOD's labels
normal.decision_function(more_images)  # higher is more abnormal; predict, p_value, anomaly_map, save

detector = load("results/.../maddr/lits+covid_ct+covid_xray/seed_0")
prediction = detector.predict("image.png")  # score, calibrated_score, anomalous, organ, modality, confidence, anomaly_map ...
images = dict(read_images("scans/", window="auto"))  # of files, folders and archives, as `prepare` and `predict` read them
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from anomaly_detection.detector import Detector
    from anomaly_detection.estimator import AnomalyDetector

__all__ = ["AnomalyDetector", "UserError", "__version__", "load", "read_images"]


# The modules are imported in the functions, so that importing the package imports neither torch nor anything else that is large. A class that is
# one of scikit-learn's cannot be written without importing it: of that the name alone is here, and the module is imported when somebody asks for it.


def __getattr__(name: str) -> type:
    if name != "AnomalyDetector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from anomaly_detection.estimator import AnomalyDetector

    return AnomalyDetector


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(path: "str | Path", device: str = "auto") -> "Detector":
    """The detector of a finished experiment; see `anomaly_detection.detector.load`."""
    from anomaly_detection.detector import load

    return load(path, device)


def read_images(path: "str | Path", window: 'Sequence[float] | Literal["auto"] | None' = None) -> "Iterator[tuple[str, np.ndarray]]":
    """The images in a file, folder or archive; see `anomaly_detection.data.formats.read.read_images`."""
    from anomaly_detection.data.formats.read import read_images

    return read_images(path, window)
