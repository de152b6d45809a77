"""PyOD on frozen features, with its default settings."""

from measured import run_on_features
from pyod.models.deep_svdd import DeepSVDD
from pyod.models.ecod import ECOD
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lof import LOF

MODELS = {
    "KNN": lambda length, seed: KNN(),
    "LOF": lambda length, seed: LOF(),
    "ECOD": lambda length, seed: ECOD(),
    "IForest": lambda length, seed: IForest(random_state=seed),
    "DeepSVDD": lambda length, seed: DeepSVDD(n_features=length, random_state=seed, verbose=0),
}

if __name__ == "__main__":
    run_on_features("pyod", MODELS, lambda detector, vectors: detector.decision_function(vectors))
