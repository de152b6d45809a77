"""Numbers from scores and labels, through scikit-learn. Label 1 and a high score mean abnormal."""

import numpy as np
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, recall_score, roc_auc_score, roc_curve

# What tables show, in their order; the rest of `image_metrics` stays in metrics.json.
METRICS = (
    "auroc",
    "average_precision",
    "f1",
    "accuracy",
    "sensitivity",
    "specificity",
    "oracle_f1",
    "oracle_accuracy",
    "oracle_sensitivity",
    "oracle_specificity",
)


def oracle_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the best accuracy on these very labels: the published protocol, and an upper bound that no detector can know.

    An image is abnormal if its score is above the threshold.
    """
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    abnormal = labels.sum()
    # whole numbers again, of which equal ones are equal: of several best thresholds the highest
    correct = np.rint(true_positive_rate * abnormal + (1 - false_positive_rate) * (len(labels) - abnormal))
    # roc_curve calls abnormal what is at or above its threshold; the next number below turns that into strictly above.
    return float(np.nextafter(thresholds[int(np.argmax(correct))], -np.inf))


def call_metrics(labels: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """F1, accuracy, sensitivity and specificity of calling images (N,) abnormal."""
    called = called.astype(int)
    return {
        "f1": f1_score(labels, called, zero_division=0.0),
        "accuracy": accuracy_score(labels, called),
        "sensitivity": recall_score(labels, called, zero_division=0.0),
        "specificity": recall_score(labels, called, pos_label=0, zero_division=0.0),
    }


def has_both(labels: np.ndarray) -> bool:
    """Whether there are normal and abnormal images (N,), without which nothing can be said of how well the two are told apart."""
    return len(np.unique(labels)) == 2


def image_metrics(labels: np.ndarray, scores: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """All metrics of test images.

    Args:
        labels: (N,) 0 normal, 1 abnormal.
        scores: (N,).
        called: (N,) bool, what is called abnormal, by thresholds that were fixed without test data.

    Returns:
        auroc, average_precision; f1, accuracy, sensitivity, specificity of the calls; the same as `oracle_*` at `oracle_threshold`, which is
        chosen on the test labels; and the numbers of normal and abnormal images. Where all images are of one class, of these only what does
        not need the other: the specificity of normal images, the sensitivity of abnormal ones.
    """
    counts = {"normal": int((labels == 0).sum()), "abnormal": int((labels == 1).sum())}
    if not has_both(labels):
        return {"sensitivity": float(called.mean())} | counts if counts["abnormal"] else {"specificity": float(1 - called.mean())} | counts
    best = oracle_threshold(labels, scores)
    values = {
        "auroc": roc_auc_score(labels, scores),
        "average_precision": average_precision_score(labels, scores),
        **call_metrics(labels, called),
        "oracle_threshold": best,
        **{f"oracle_{name}": value for name, value in call_metrics(labels, scores > best).items()},
    }
    return {name: float(value) for name, value in values.items()} | counts
