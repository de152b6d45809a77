"""How far trivial properties of test images tell the abnormal ones: AUROC of a logistic regression that is trained with labels, for each dataset.

Properties of the files, in grey: mean and standard deviation, width by height, and mean and standard deviation of a border, a tenth of the shorter
side. The test images are shared out over folds by patient (by image where these are not known), and those of each fold are scored by a regression on
the others. A detector that never saw a label is not asked to be better: what it finds may be no more than this.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.patients import patient_of, patients_of
from anomaly_detection.data.splits import Kind
from benchmarks.measure import show

KINDS: tuple[Kind, Kind] = ("normal", "anomaly")
FOLDS = 5


def properties(path: Path) -> list[float]:
    """Of one file, as they stand above."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"), float)
    height, width = pixels.shape
    edge = max(1, min(height, width) // 10)
    inside = np.zeros(pixels.shape, bool)
    inside[edge:-edge, edge:-edge] = True
    border = pixels[~inside]
    return [pixels.mean(), pixels.std(), width / height, border.mean(), border.std()]


def auroc(features: np.ndarray, labels: np.ndarray, patients: Sequence[str], seeds: int) -> list[float]:
    """Of (N, F) properties, each image scored by a regression that saw nobody of its fold; once for each way to share patients out.

    Raises:
        ValueError: fewer patients of a class than two.
    """
    told = [len({who for who, each in zip(patients, labels, strict=True) if each == label}) for label in (0, 1)]
    if min(told) < 2:
        raise ValueError(f"of {told[0]} normal and {told[1]} abnormal patients nothing can be left out")
    found = []
    for seed in range(seeds):
        folds = StratifiedGroupKFold(min(FOLDS, *told), shuffle=True, random_state=seed)
        regression = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        scores = cross_val_predict(regression, features, labels, groups=patients, cv=folds, method="decision_function")
        found.append(float(roc_auc_score(labels, scores)))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trivial", description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="the folder of the datasets (default: data)")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="names in its datasets.yaml (default: all that are there)")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="ways to share patients out over the folds (default: 20)")
    arguments = parser.parse_args(argv)
    source = DataSource(arguments.data_root)
    show((_row(source, name, arguments.seeds) for name in arguments.datasets or source.available()), None)


def _row(source: DataSource, name: str, seeds: int) -> dict[str, str | float]:
    listed = [(label, entry.image) for label, kind in enumerate(KINDS) for entry in source.splits.select(name, kind, "test")]
    spec = source.catalog[name]
    labels, images = zip(*listed, strict=True)
    manifest = patients_of(source.data_root / spec.root)
    patients = [patient_of(image, bool(label), manifest, spec.patient) or image for label, image in listed]
    features = np.array([properties(source.data_root / spec.root / image) for image in images])
    found = auroc(features, np.array(labels), patients, seeds)
    return {"dataset": name, "auroc": float(np.mean(found)), "lowest": min(found), "highest": max(found)}


if __name__ == "__main__":
    main()
