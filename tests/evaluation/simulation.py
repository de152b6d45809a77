"""Simulated normals of three domains, whose patients differ."""

import numpy as np

from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.scores import Scores

DOMAINS = [(0, 0), (1, 0), (1, 1)]  # organ, modality
SCALES = np.array([1.0, 10.0, 0.1])


def simulated(rng, patients, slices, features=6, correlation=0.3, heads=True, shift=0.0, doubt=-5.0) -> Normals:
    """So many patients of each domain with so many slices; scores are skewed, their logarithms correlated within a patient and moved by `shift`.

    The heads name the right domain, with logits of doubt around `doubt`.
    """
    count = patients * slices * len(DOMAINS)
    unit = np.repeat(np.arange(patients * len(DOMAINS)), slices)
    domain = np.repeat(np.arange(len(DOMAINS)), patients * slices)

    def drawn(*shape):
        own, shared = rng.normal(size=(count, *shape)), rng.normal(size=(patients * len(DOMAINS), *shape))[unit]
        return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own

    score, content = SCALES[domain] * np.exp(0.5 * drawn() + shift), drawn(features)
    organ, modality = np.array(DOMAINS)[domain].T
    sure = 1 / (1 + np.exp(doubt + drawn()))

    def probabilities(classes):
        values = np.repeat(1 - sure[:, None], 2, axis=1)
        values[np.arange(count), classes] = sure
        return values

    of_heads = (probabilities(organ), probabilities(modality), content) if heads else (None, None, None)
    return Normals(Scores(score, content, *of_heads, np.zeros(count, bool)), organ, modality, unit)
