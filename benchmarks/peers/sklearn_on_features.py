"""scikit-learn's detectors on frozen features, with their default settings."""

from measured import run_on_features
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

MODELS = {
    "IsolationForest": lambda length, seed: IsolationForest(random_state=seed),
    "OneClassSVM": lambda length, seed: OneClassSVM(),
    "LocalOutlierFactor": lambda length, seed: LocalOutlierFactor(novelty=True),  # without it, it scores the images that it was trained on alone
    "EllipticEnvelope": lambda length, seed: EllipticEnvelope(random_state=seed),
    "GaussianMixture": lambda length, seed: GaussianMixture(random_state=seed),
}

if __name__ == "__main__":
    run_on_features("scikit-learn", MODELS, lambda detector, vectors: -detector.score_samples(vectors))
