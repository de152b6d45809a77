"""What the slider of the report moves: how far each test image of a network lies above the threshold of its dataset.

Distances are whole thousandths of the spread of the validation normals, rounded up, in 16 bits. An image is called abnormal where its distance is
greater than the shift of the threshold, and shifts are whole thousandths, too: rounding up changes no call.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anomaly_detection.evaluation.calibration import center_and_spread
from anomaly_detection.evaluation.normals import highest, numbered
from anomaly_detection.study.results import Result

MILLI = 1000
FARTHEST = 2**15 - 1
STEPS = 200  # positions of the slider, about
BUDGET = 1_300_000  # bytes of the page that distances may take

Rows = Sequence[Mapping[str, Any]]


def spread(normal_scores: np.ndarray) -> float:
    """The robust deviation of scores (N,) as calibration has it; 1 of equal ones."""
    return center_and_spread(normal_scores)[1] or 1.0


def distances(scores: np.ndarray, threshold: float, unit: float) -> np.ndarray:
    """(N,) int16 thousandths of the unit that scores lie above the threshold, rounded up."""
    return np.clip(np.ceil(MILLI * ((scores - threshold) / unit)), -FARTHEST, FARTHEST).astype("<i2")


def operating_points(results: Sequence[Result]) -> dict[str, Any]:
    """All that the page needs to move the threshold of a network, as JSON can hold it.

    Args:
        results: of one seed each; those that the budget does not hold are left out, the last first.

    Returns:
        "tests": the test images of datasets, {"dataset", "images": names, "labels": such as "0110"}, each listed once. "networks": {"model",
        "regime", "seed", "parts"}; a part is one dataset: {"test": its place in "tests", "threshold", "spread", "unit", "guaranteed", "promised",
        "distances": base64 of `distances` of its test images, "normals": likewise of the highest validation image of each patient}. "left_out":
        how many networks did not fit.
    """
    tests: dict[tuple, int] = {}
    networks: dict[tuple, dict[str, Any]] = {}
    size, left_out = 0, set()
    for result in results:
        key = result.model, result.regime, result.seed
        parts = [_part(result, name, tests) for name in result.datasets]
        size += sum(len(part["distances"]) + len(part["normals"]) for part in parts)
        if size > BUDGET and networks:
            left_out.add(key)
        else:
            named = dict(zip(("model", "regime", "seed"), key, strict=True))
            networks.setdefault(key, {**named, "parts": []})["parts"] += parts
    images = [{"dataset": dataset, "images": list(names), "labels": labels} for dataset, names, labels in tests]
    networks = {key: network for key, network in networks.items() if key not in left_out}  # all its datasets or none
    return {"tests": images, "networks": [{**each, "shifts": shifts(each["parts"])} for each in networks.values()], "left_out": len(left_out)}


def _part(result: Result, dataset: str, tests: dict[tuple, int]) -> dict[str, Any]:
    test, val = (result.rows.where(dataset=dataset, part=part) for part in ("test", "val"))
    metrics = result.metrics["datasets"][dataset]
    content = dataset, tuple(test.column("image")), "".join(map(str, test.column("label")))
    normal_scores = val.column("score")
    unit = spread(normal_scores)
    of_patients = highest(normal_scores, numbered(val.column("patient")))
    return {
        "test": tests.setdefault(content, len(tests)),
        "threshold": metrics["threshold"],
        "spread": unit,
        **{key: metrics["false_alarms"][key] for key in ("promised", "guaranteed", "unit")},
        "distances": packed(distances(test.column("score"), metrics["threshold"], unit)),
        "normals": packed(distances(of_patients, metrics["threshold"], unit)),
    }


def packed(values: np.ndarray) -> str:
    """int16 values in base64."""
    return base64.b64encode(values.tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The inverse of `packed`."""
    return np.frombuffer(base64.b64decode(text), "<i2")


def shifts(parts: Sequence[Mapping[str, Any]]) -> list[int]:
    """The positions of the slider, ascending, with 0 among them: steps that call about as many images otherwise, from all of them to none."""
    values = np.sort(np.concatenate([unpacked(part["distances"]) for part in parts]).astype(int))
    chosen = values[np.linspace(0, len(values) - 1, min(STEPS, len(values))).astype(int)]
    return sorted({int(values[0]) - 1, 0, *chosen.tolist()})
