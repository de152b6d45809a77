"""An anomaly map laid over its image."""

import numpy as np


def overlay(image: np.ndarray, anomaly_map: np.ndarray, scale: float) -> np.ndarray:
    """The image in grey, redder where it is more anomalous.

    Args:
        image: (C, H, W) uint8, C 1 or 3.
        anomaly_map: (H, W).
        scale: the map's value from which on normal images are rare; up to it nothing is tinted, from three times it on all is red.

    Returns:
        (H, W, 3) uint8.
    """
    grey = image.astype(np.float32).mean(axis=0)[..., None].repeat(3, axis=2)
    share = np.clip((anomaly_map / max(scale, 1e-12) - 1) / 2, 0, 1)[..., None].astype(np.float32)
    return np.rint(grey * (1 - share) + share * np.array([255, 0, 0], np.float32)).astype(np.uint8)
