import numpy as np
import pytest

from anomaly_detection.evaluation.metrics import METRICS, call_metrics, image_metrics, oracle_threshold


def scored(n: int = 200, seed: int = 0, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, n)
    return labels, np.round(generator.normal(size=n) + shift * labels, 1)  # rounded: ties must be handled


def test_auroc_is_the_fraction_of_pairs_in_order():
    labels, scores = scored()
    pairs = [(n, a) for n in scores[labels == 0] for a in scores[labels == 1]]
    expected = np.mean([1.0 if a > n else 0.5 if a == n else 0.0 for n, a in pairs])
    assert image_metrics(labels, scores, scores > 0)["auroc"] == pytest.approx(expected)


def test_average_precision_is_the_sum_over_recall_steps():
    labels, scores = scored()
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        recall, precision = labels[called].sum() / labels.sum(), labels[called].mean()
        area += (recall - recall_before) * precision
        recall_before = recall
    assert image_metrics(labels, scores, scores > 0)["average_precision"] == pytest.approx(area)


def test_counts_at_a_threshold():
    labels, scores = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.5, 0.9, 0.5, 0.8])
    values = call_metrics(labels, scores > 0.5)  # calls the third and the last abnormal
    assert values["sensitivity"] == 1 / 2
    assert values["specificity"] == 2 / 3
    assert values["accuracy"] == 3 / 5
    assert values["f1"] == pytest.approx(2 * 0.5 * 0.5 / (0.5 + 0.5))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_no_threshold_has_a_better_accuracy_than_the_oracle(seed, shift):
    labels, scores = scored(60, seed, shift)
    best = max(np.mean((scores > t) == labels) for t in [*scores, scores.min() - 1])
    assert call_metrics(labels, scores > oracle_threshold(labels, scores))["accuracy"] == best


def test_the_oracle_uses_the_labels():
    labels, scores = scored()
    values, flipped = (image_metrics(each, scores, scores > 0.7) for each in (labels, 1 - labels))
    assert values["oracle_threshold"] != flipped["oracle_threshold"]


def test_nothing_called_abnormal_is_no_error():
    labels, scores = scored()
    values = image_metrics(labels, scores, scores > 100)
    assert (values["f1"], values["sensitivity"], values["specificity"]) == (0.0, 0.0, 1.0)


def test_every_metric_of_the_tables_is_there():
    labels, scores = scored()
    assert set(METRICS) <= set(image_metrics(labels, scores, scores > 0))


@pytest.mark.parametrize(("label", "known", "counts"), [(0, {"specificity": 3 / 4}, (4, 0)), (1, {"sensitivity": 1 / 4}, (0, 4))])
def test_one_class_alone_tells_what_needs_no_other(label, known, counts):
    values = image_metrics(np.full(4, label), np.arange(4.0), np.array([False, False, True, False]))
    assert values == known | {"normal": counts[0], "abnormal": counts[1]}
