import math

import pytest
import torch

from anomaly_detection.memae.networks import Decoder, Encoder, Memory
from tests.helpers import toy_images
from tests.test_baselines import batch_of, built, settings_of


def addressed(query, items, shrinkage, temperature=None):
    """The read-out and weights of one query: the spec's five steps as loops over floats."""
    if temperature is None:
        s = [sum(q * m for q, m in zip(query, item, strict=True)) for item in items]
    else:
        s = [sum(q * m for q, m in zip(query, item, strict=True)) / math.hypot(*query) / math.hypot(*item) / temperature for item in items]
    exp = [math.exp(each - max(s)) for each in s]
    w = [each / sum(exp) for each in exp]
    if shrinkage:
        kept = [each if each > shrinkage / len(items) else 0.0 for each in w]
        if sum(kept) == 0:
            kept = w
        w = [each / sum(kept) for each in kept]
    return [sum(w[i] * items[i][d] for i in range(len(items))) for d in range(len(query))], w


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 3.0])
def test_memory_is_the_specs_addressing(shrinkage, temperature):
    torch.manual_seed(0)
    memory = Memory(12, 5, shrinkage, temperature).double()
    memory.items.data = torch.randn(12, 5, dtype=torch.float64)
    memory.float()
    queries = torch.randn(4, 5, 2, 3)
    reading = memory(queries)
    flat = queries.permute(0, 2, 3, 1).reshape(-1, 5)
    outputs = reading.output.permute(0, 2, 3, 1).reshape(-1, 5)
    for query, output, weights in zip(flat.tolist(), outputs.tolist(), reading.weights.tolist(), strict=True):
        by_hand, w = addressed(query, memory.items.tolist(), shrinkage, temperature)
        assert output == pytest.approx(by_hand, abs=1e-5)
        assert weights == pytest.approx(w, abs=1e-5)
    torch.testing.assert_close(reading.weights.sum(dim=1), torch.ones(24))


def test_shrinkage_makes_rows_sparse_and_never_empty():
    memory = Memory(50, 8, shrinkage=1.5)
    spread = memory(4 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) / 0.3)
    assert (spread.weights > 0).float().mean() < 0.5
    even = memory(torch.zeros(3, 8))
    assert even.dead.all()
    torch.testing.assert_close(even.weights, torch.full((3, 50), 1 / 50))


def test_entropy_and_slots_used():
    reading = Memory(4, 3)(torch.zeros(2, 3))
    assert reading.entropy().item() == pytest.approx(math.log(4), rel=1e-5)
    assert reading.slots_used() == 4
    memory = Memory(40, 3, shrinkage=2.0)
    memory.items.data.zero_()
    memory.items.data[7] = 100.0
    reading = memory(torch.ones(5, 3))
    assert reading.entropy().item() == pytest.approx(0, abs=1e-5)
    assert reading.slots_used() == 1


def test_gradients_reach_queries_and_items():
    memory = Memory(10, 4, shrinkage=1.0)
    memory.items.data.mul_(5)
    queries = torch.randn(6, 4, 1, 1, generator=torch.Generator().manual_seed(1), requires_grad=True)
    memory(queries).output.square().sum().backward()
    assert queries.grad.abs().sum() > 0
    assert memory.items.grad.abs().sum() > 0


@pytest.mark.parametrize("shrinkage", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("temperature", [None, 2.0])
def test_a_dead_query_learns(shrinkage, temperature):
    """The gradient of its read-out is that of finite differences of the loop in float64, and not zero."""
    torch.manual_seed(2)
    memory = Memory(12, 5, shrinkage, temperature)
    query = 0.1 * torch.randn(1, 5)
    query.requires_grad_()
    reading = memory(query)
    assert reading.dead.all()
    towards = torch.arange(1.0, 6.0)
    (reading.output[0] * towards).sum().backward()

    def by_hand(values):
        output, _ = addressed(values, memory.items.tolist(), shrinkage, temperature)
        return sum(a * b for a, b in zip(output, towards.tolist(), strict=True))

    for i in range(5):
        up, down = (query[0].tolist() for _ in range(2))
        up[i], down[i] = up[i] + 1e-5, down[i] - 1e-5
        assert query.grad[0, i].item() == pytest.approx((by_hand(up) - by_hand(down)) / 2e-5, rel=1e-3, abs=1e-6)
    assert query.grad.abs().max() > 1e-2


@pytest.mark.parametrize("shrinkage", [2.0, 3.0])
def test_the_encoder_learns_where_all_queries_are_dead(shrinkage):
    baseline = built(settings_of("memae", own={"width": 4, "latent_dim": 16, "slots": 20, "shrinkage": shrinkage, "entropy_weight": 0.0}))
    batch = batch_of(toy_images(8, side=32), 8)
    losses = baseline.training_step(batch, baseline.optimizers(*baseline.phases()))
    assert losses["dead_queries"] > 0.9
    assert max(p.grad.abs().max() for p in baseline.encoder.parameters()) > 1e-6


@pytest.mark.parametrize("per", ["image", "position"])
@pytest.mark.parametrize("constrains", ["query", "answer"])
def test_a_memory_of_the_content_alone(per, constrains):
    own = {"width": 4, "latent_dim": 32, "slots": 10, "memory_per": per, "remembers": "content", "constrains": constrains}
    baseline = built(settings_of("memae", own=own), maddr=True).eval()
    x = toy_images(3, side=32).batch(torch.arange(3)).image
    with torch.inference_mode():
        query = baseline.encoder(x)
        answer = torch.cat([query[:, :20], baseline.memory(query[:, 20:]).output], dim=1)
        torch.testing.assert_close(baseline.reconstruct(x), baseline.decoder(answer))
        latent = baseline.encode(x)
    assert baseline.memory.items.shape == (10, 12)
    torch.testing.assert_close(latent[:, :20], query[:, :20].mean(dim=(2, 3)))
    expected = (query if constrains == "query" else answer)[:, 20:].mean(dim=(2, 3))
    torch.testing.assert_close(latent[:, 20:], expected)
    batch = batch_of(toy_images(8, side=32), 8)
    assert baseline.train().training_step(batch, baseline.optimizers(*baseline.phases()))["maddr_center"] > 0


def test_what_passes_the_memory_by_learns_to_reconstruct():
    own, seen = {"width": 4, "latent_dim": 32, "slots": 10, "remembers": "content"}, []
    baseline, x = built(settings_of("memae", own=own)), toy_images(3, side=32).batch(torch.arange(3)).image
    baseline.encoder.register_forward_hook(lambda _, __, query: query.retain_grad() or seen.append(query))
    baseline.reconstruct(x).sum().backward()
    assert seen[0].grad[:, :20].any()


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="latent of 20 numbers, 20 of which pass the memory by"):
        built(settings_of("memae", own={"width": 4, "latent_dim": 20, "slots": 10, "remembers": "content"}))


def test_one_slot_reads_one_constant_image():
    baseline = built(settings_of("memae", own={"width": 4, "latent_dim": 16, "slots": 1})).eval()
    x = toy_images(4, side=32).batch(torch.arange(4)).image
    with torch.inference_mode():
        y = baseline.reconstruct(x)
    torch.testing.assert_close(y, y[:1].expand_as(y))


def test_loss_is_error_plus_weighted_entropy():
    baseline = built(settings_of("memae", own={"width": 4, "latent_dim": 16, "slots": 10, "entropy_weight": 0.3}))
    batch = batch_of(toy_images(8, side=32), 8)
    with torch.no_grad():
        weights = baseline.memory(baseline.encoder(batch.image)).weights.double()
    entropy = -sum(w * math.log(w) for row in weights.tolist() for w in row if w > 0) / 8
    losses = baseline.training_step(batch, baseline.optimizers(*baseline.phases()))
    assert losses["entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(losses["rec"].item() + 0.3 * entropy, rel=1e-4)


def test_score_is_the_mean_squared_error():
    baseline = built(settings_of("memae")).eval()
    x = toy_images(3, side=32).batch(torch.arange(3)).image
    with torch.inference_mode():
        y, score, places = baseline.reconstruct(x), baseline.anomaly_score(x), baseline.anomaly_map(x)
    for i in range(3):
        errors = [(a - b) ** 2 for a, b in zip(x[i].flatten().tolist(), y[i].flatten().tolist(), strict=True)]
        assert score[i].item() == pytest.approx(sum(errors) / len(errors), rel=1e-4)
        assert places[i].flatten().tolist() == pytest.approx(errors, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("image_size", [64, 128])
def test_widths_and_queries(image_size):
    x = torch.zeros(1, 1, image_size, image_size)
    encoder = Encoder(image_size, 1, 64, 128)
    widths = [layer.out_channels for layer in encoder if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [64, 128, 128, 256, *([256] if image_size == 128 else []), 128]
    assert Decoder(image_size, 1, 64, 128)(encoder(x)).shape == x.shape
    spatial = Encoder(image_size, 1, 64, 256, spatial=True)(x)
    assert spatial.shape == (1, 256, 4, 4)
    assert Decoder(image_size, 1, 64, 256, spatial=True)(spatial).shape == x.shape


def test_a_query_per_position():
    baseline = built(settings_of("memae", own={"width": 4, "latent_dim": 16, "slots": 10, "memory_per": "position"})).eval()
    x = toy_images(3, side=32).batch(torch.arange(3)).image
    with torch.inference_mode():
        assert baseline.encode(x).shape == (3, 16)
        assert baseline._remember(x)[2].weights.shape == (48, 10)
        assert baseline.reconstruct(x).shape == x.shape
