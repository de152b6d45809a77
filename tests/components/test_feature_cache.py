"""What was taken once is what would be taken again."""

import torch

from anomaly_detection.components.feature_cache import TargetCache


def features_of(x: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"map": torch.cat([x, 2 * x, -x], dim=1), "vector": x.mean(dim=(2, 3))}


def test_rows_are_those_of_the_images():
    x = torch.rand(10, 2, 4, 6)
    cache = TargetCache.fill(features_of, x.split(4), len(x), budget=1e9)
    index = torch.tensor([7, 0, 7, 9])
    expected = features_of(x[index])
    found = cache.at(index)
    assert all(torch.equal(found[layer], expected[layer]) for layer in expected)
    assert found["map"].is_contiguous(memory_format=torch.channels_last)


def test_the_budget_is_kept_to_the_byte():
    x = torch.rand(10, 2, 4, 6)
    needed = 10 * 4 * (6 * 4 * 6 + 2)
    assert TargetCache.fill(features_of, x.split(4), len(x), budget=needed) is not None
    assert TargetCache.fill(features_of, x.split(4), len(x), budget=needed - 1) is None


def test_over_the_budget_only_one_batch_is_looked_at():
    seen = []

    def counted(x):
        seen.append(len(x))
        return features_of(x)

    assert TargetCache.fill(counted, torch.rand(10, 2, 4, 6).split(4), 10, budget=0) is None
    assert seen == [4]
