"""The drop-in file against loops in float64, known limits, and numbers of an independent implementation."""

import copy
import doctest
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.MADDR_dpa.rec_losses import (
    BackboneError,
    ComposeLoss,
    FocalLoss,
    L1Loss,
    L2Loss,
    MADDRConstraint,
    PerceptualLoss,
    ReconstructionLossType,
    RelativePerceptualL1Loss,
    center_loss,
)

# random:1, the first convolutions
VGG_FIRST = [-0.4152146, 0.02683755, 0.1375793, 0.05191705]
VGG_SUM = [9.391988, 5.202113, -14.31513, 20.3652]

MOVING = {"center_momentum": 0.75}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


# --- center loss


@pytest.mark.parametrize("n", [2, 3, 17])
def test_center_loss_is_the_leave_one_out_loop(n):
    z = rand(n, 5).double()
    loop = 0.0
    for i in range(n):
        others = [z[j] for j in range(n) if j != i]
        center = sum(others) / (n - 1)
        loop += sum(float(z[i, d] - center[d]) ** 2 for d in range(5))
    assert center_loss(z).item() == pytest.approx(loop / (n * 5), rel=1e-6)


def test_center_loss_of_groups_is_the_leave_one_out_loop_within_each():
    z = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    groups = [4, 0, 4, 0, 0, 7, 4, 4, 0]  # 7 is alone
    total = 0.0
    for i, group in enumerate(groups):
        others = [z[j] for j in range(9) if j != i and groups[j] == group]
        if others:
            total += ((z[i] - sum(others) / len(others)) ** 2).sum().item()
    assert center_loss(z, torch.tensor(groups)).item() == pytest.approx(total / (9 * 5), rel=1e-12)
    assert center_loss(z, torch.zeros(9, dtype=torch.int64)).item() == pytest.approx(center_loss(z).item(), rel=1e-12)


def test_each_domain_may_have_a_center():
    """Of two organs and three modalities no two share one."""
    z, pairs = rand(12, 30), [(place % 2, place % 3) for place in range(12)]
    total = 0.0
    for i, pair in enumerate(pairs):
        (other,) = (z[j, 20:] for j in range(12) if j != i and pairs[j] == pair)
        total += ((z[i, 20:] - other) ** 2).sum().item()
    maddr = MADDRConstraint(30, num_modalities=3, center_of="domain")
    assert maddr(z, *torch.tensor(pairs).T)["center"].item() == pytest.approx(total / (12 * 10), rel=1e-5)


def test_centers_may_be_moving_averages():
    """Against a loop over three batches; domain (1, 0) is missing in the second."""
    torch.manual_seed(0)
    maddr = MADDRConstraint(24, 2, 2, center_of="domain", center_momentum=0.75)
    batches = [(torch.randn(6, 24), torch.tensor(organ), torch.tensor(modality)) for organ, modality in (
        ([0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0]), ([0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 0]), ([1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0])
    )]  # fmt: skip
    centers: dict = {}
    for z, organ, modality in batches:
        pairs = list(zip(organ.tolist(), modality.tolist(), strict=True))
        for pair in set(pairs):
            mean = torch.stack([row[4:].double() for row, each in zip(z, pairs, strict=True) if each == pair]).mean(dim=0)
            centers[pair] = 0.75 * centers[pair] + 0.25 * mean if pair in centers else mean
        expected = sum(((row[4:].double() - centers[pair]) ** 2).sum().item() for row, pair in zip(z, pairs, strict=True)) / (6 * 20)
        assert maddr(z, organ, modality)["center"].item() == pytest.approx(expected, rel=1e-5)
    before = maddr.centers.clone()
    maddr.eval()(*batches[0])
    assert torch.equal(maddr.centers, before), "only training moves them"


@pytest.mark.parametrize("center_of", ["all", "domain"])
def test_images_whose_center_no_batch_has_met_add_nothing(center_of):
    maddr, label = MADDRConstraint(24, 2, 2, center_of=center_of, center_momentum=0.75).eval(), torch.tensor([0, 0, 1, 1])
    z = (torch.randn(4, 24) + 5).requires_grad_()
    assert maddr(z, label, label)["center"] == 0, "before training"
    maddr.train()(z, label * 0, label * 0)
    met = maddr.eval()(z[:2], label[:2], label[:2])["center"].item()
    of_all = maddr(z, label, label)["center"]
    if center_of == "domain":
        assert of_all.item() == pytest.approx(met / 2)
        of_all.backward()
        assert not z.grad[2:].any()
        assert z.grad[:2, 4:].all()


@pytest.mark.parametrize("options", [{}, MOVING, {"center_of": "domain"}, {"center_of": "domain", **MOVING}], ids=str)
def test_mixtures_weigh_both_labels_and_move_centers_once(options):
    """Against a loop over two batches of mixtures; domain (0, 1) is met by a partner alone, and in the second batch not at all."""
    torch.manual_seed(0)
    maddr = MADDRConstraint(24, 2, 2, focal_alpha=None, focal_gamma=0, **options).double()
    one, share, places, centers = maddr.center_of == "all", 0.3, range(5), {}
    for partner in ([(1, 1), (0, 1), (1, 1), (1, 0), (0, 0)], [(1, 1), (0, 0), (0, 0), (1, 0), (0, 0)]):
        z, own = torch.randn(5, 24, dtype=torch.float64), [(0, 0), (1, 0), (1, 1), (0, 0), (1, 0)]
        sides = [(share, own), (1 - share, partner)]
        keys = [(weight, [None if one else pair for pair in pairs]) for weight, pairs in sides]
        for key in {key for _, each in keys for key in each}:
            weights = [sum(weight for weight, each in keys if each[i] == key) for i in places]
            mean = sum(weights[i] * z[i, 4:] for i in places) / sum(weights)
            centers[key] = 0.75 * centers[key] + 0.25 * mean if key in centers else mean
        expected = {"organ": 0.0, "modality": 0.0, "center": 0.0}
        for (weight, pairs), (_, each) in zip(sides, keys, strict=True):
            for name, label, part in (("organ", 0, z[:, :2]), ("modality", 1, z[:, 2:4])):
                logits = part @ maddr.heads[name].weight.T + maddr.heads[name].bias
                expected[name] += weight * sum(logits[i].logsumexp(0) - logits[i, pairs[i][label]] for i in places).item() / 5
            for i in places:
                others = [z[j, 4:] for j in places if j != i and each[j] == each[i]]
                at = centers[each[i]] if maddr.center_momentum else sum(others) / len(others) if others else z[i, 4:]
                expected["center"] += weight * ((z[i, 4:] - at) ** 2).mean().item() / 5
        terms = maddr(z, *(torch.tensor(each) for each in zip(*own, strict=True)), tuple(map(torch.tensor, zip(*partner, strict=True))), share)
        assert {name: term.item() for name, term in terms.items()} == pytest.approx({**expected, "total": sum(expected.values())}, rel=1e-9)
    z = torch.randn(5, 24, dtype=torch.float64)
    alone = maddr.eval()(z, *(torch.tensor(each) for each in zip(*own, strict=True)))
    assert maddr(z, torch.zeros(5).long(), torch.zeros(5).long(), tuple(map(torch.tensor, zip(*own, strict=True))), 0.0) == alone


@pytest.mark.parametrize("options", [MOVING, {"center_of": "domain"}, {"center_of": "domain", **MOVING}], ids=str)
def test_heads_and_centers_are_in_full_precision_under_autocast(options):
    z, organ, modality = torch.randn(32, 24) + 5, torch.arange(32) % 2, torch.arange(32) // 2 % 2
    whole = MADDRConstraint(24, 2, 2, **options)
    half = copy.deepcopy(whole)
    expected = whole(z, organ, modality)
    with torch.autocast("cpu", torch.bfloat16):
        assert half(z, organ, modality) == expected
    for name, center in whole.named_buffers():
        assert torch.equal(dict(half.named_buffers())[name], center)


def test_a_domain_that_has_no_center_is_refused_without_a_head_too():
    maddr, label = MADDRConstraint(24, 2, 2, organ_weight=0, center_of="domain"), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="^organ must be class numbers from 0 to 1, got 2"):
        maddr(torch.randn(4, 24), label + 2, label)


def test_a_moving_center_draws_the_content_and_is_no_parameter():
    maddr = MADDRConstraint(24, 2, 2, center_momentum=0.9)
    z = torch.randn(4, 24, requires_grad=True)
    label = torch.zeros(4, dtype=torch.int64)
    maddr(z, label, label)["center"].backward()
    assert torch.allclose(z.grad[:, 4:], 2 * (z - z.mean(dim=0))[:, 4:].detach() / (4 * 20), atol=1e-6)
    assert len(list(maddr.parameters())) == 4


def test_heads_that_only_watch_leave_the_latent_alone():
    z, label = torch.randn(4, 30, requires_grad=True), torch.tensor([0, 1, 0, 1])
    maddr = MADDRConstraint(30, center_weight=0, heads_train_encoder=False)
    maddr(z, label, label)["total"].backward()
    assert z.grad is None
    assert all(parameter.grad.abs().sum() > 0 for parameter in maddr.parameters())


@pytest.mark.parametrize("options", [{"center_of": "organ"}, {"center_momentum": 1.0}, {"center_momentum": -0.1}])
def test_centers_of_another_kind_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MADDRConstraint(30, **options)


def test_center_loss_properties():
    z = rand(8, 6)
    value = center_loss(z).item()
    assert center_loss(z[:1].expand(8, 6)).item() == 0
    assert center_loss(z + 3).item() == pytest.approx(value, rel=1e-4)
    assert center_loss(2 * z).item() == pytest.approx(4 * value, rel=1e-5)
    assert center_loss(z.flip(0)[:, [5, 0, 4, 1, 3, 2]]).item() == pytest.approx(value, rel=1e-5)


def test_center_loss_sees_rows_that_are_constant_across_features():
    """The published code takes the deviation along the features, and gives 0 here."""
    assert center_loss(torch.tensor([[0.0, 0.0], [2.0, 2.0]])).item() == pytest.approx(4.0)


def test_center_loss_of_one_image_is_zero_with_a_zero_gradient():
    z = rand(1, 4).requires_grad_()
    loss = center_loss(z)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(z.grad, torch.zeros(1, 4))


# --- focal loss


@pytest.mark.parametrize("alpha", [None, 0.25, [0.2, 0.5, 0.9]])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_the_loop(alpha, gamma):
    logits, target = rand(12, 3), labels(12, 3)
    total = 0.0
    for row, y in zip(logits.double().tolist(), target.tolist(), strict=True):
        p = math.exp(row[y]) / sum(math.exp(v) for v in row)
        weight = 1.0 if alpha is None else alpha[y] if isinstance(alpha, list) else alpha if y == 0 else 1 - alpha
        total -= weight * (1 - p) ** gamma * math.log(p)
    assert FocalLoss(alpha, gamma)(logits, target).item() == pytest.approx(total / 12, rel=1e-5)


def test_focal_loss_without_alpha_and_gamma_is_cross_entropy():
    logits, target = rand(30, 4), labels(30, 4)
    torch.testing.assert_close(FocalLoss(None, 0)(logits, target), cross_entropy(logits, target))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_finite_at_extreme_logits(gamma):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]], requires_grad=True)
    loss = FocalLoss(0.25, gamma)(logits, torch.tensor([0, 0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_easy_examples_are_faded_out_by_a_square_unless_told_otherwise():
    assert [each.gamma for each in (FocalLoss(), *MADDRConstraint(24).focal.values())] == [2.0] * 3


def test_focal_loss_can_be_used_again():
    focal, logits = FocalLoss(0.25), rand(6, 2)
    first = focal(logits, labels(6, 2))
    focal(logits[:3], labels(3, 2))
    assert torch.equal(first, focal(logits, labels(6, 2)))


# --- the constraint


def constraint(**options) -> MADDRConstraint:
    torch.manual_seed(0)
    return MADDRConstraint(16, organ_dim=4, modality_dim=3, num_organs=3, num_modalities=2, **options)


def test_each_term_reads_its_own_part_and_its_own_labels():
    maddr, z, organ, modality = constraint(focal_alpha=None, focal_gamma=0), rand(9, 16), labels(9, 3), labels(9, 2, 1)
    terms = maddr(z, organ, modality)
    torch.testing.assert_close(terms["organ"], cross_entropy(maddr.heads["organ"](z[:, :4]), organ))
    torch.testing.assert_close(terms["modality"], cross_entropy(maddr.heads["modality"](z[:, 4:7]), modality))
    torch.testing.assert_close(terms["center"], 9 / 8 * z[:, 7:].var(dim=0).mean())


def test_total_is_the_weighted_sum():
    maddr = constraint(organ_weight=2.0, modality_weight=0.5, center_weight=3.0)
    terms = maddr(rand(9, 16), labels(9, 3), labels(9, 2))
    torch.testing.assert_close(terms["total"], 2 * terms["organ"] + 0.5 * terms["modality"] + 3 * terms["center"])


def test_each_head_has_its_own_class_weights():
    maddr = constraint(focal_alpha={"organ": None, "modality": [3.0, 0.5]}, focal_gamma=0)
    z, organ, modality = rand(9, 16), labels(9, 3), labels(9, 2)
    terms = maddr(z, organ, modality)
    torch.testing.assert_close(terms["organ"], cross_entropy(maddr.heads["organ"](z[:, :4]), organ))
    each = cross_entropy(maddr.heads["modality"](z[:, 4:7]), modality, reduction="none").tolist()
    by_hand = sum([3.0, 0.5][label] * value for label, value in zip(modality.tolist(), each, strict=True)) / 9
    assert terms["modality"].item() == pytest.approx(by_hand, rel=1e-5)


def test_a_map_of_one_pixel_is_a_vector():
    maddr, z, organ, modality = constraint(), rand(5, 16), labels(5, 3), labels(5, 2)
    assert torch.equal(maddr(z, organ, modality)["total"], maddr(z[:, :, None, None], organ, modality)["total"])


@pytest.mark.parametrize("name", ["organ", "modality", "center"])
def test_a_weight_of_zero_leaves_the_term_and_its_head_out(name):
    maddr = constraint(**{f"{name}_weight": 0.0})
    terms = maddr(rand(5, 16), labels(5, 3), labels(5, 2))
    assert set(terms) == {"organ", "modality", "center", "total"} - {name}
    assert set(maddr.heads) == {"organ", "modality"} - {name}
    assert set(maddr.predict(rand(5, 16))) == set(maddr.heads)


def test_gradients_reach_heads_and_latent_and_labels_stay():
    maddr, z, organ, modality = constraint(), rand(6, 16).requires_grad_(), labels(6, 3), labels(6, 2)
    before = organ.clone(), modality.clone()
    maddr(z, organ, modality)["total"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in maddr.parameters())
    assert all((z.grad[:, part].abs().sum() > 0) for part in (slice(0, 4), slice(4, 7), slice(7, 16)))
    assert torch.equal(organ, before[0])
    assert torch.equal(modality, before[1])


def test_training_teaches_both_heads_different_labels():
    """Lung CT and lung X-ray differ in modality alone, liver CT and lung CT in organ alone."""
    torch.manual_seed(0)
    maddr = MADDRConstraint(24)
    organ, modality = torch.tensor([0, 1, 1]).repeat(40), torch.tensor([0, 0, 1]).repeat(40)
    z = rand(120, 24) * 0.1
    z[:, 0] += organ
    z[:, 10] += modality
    optimizer = torch.optim.Adam(maddr.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        maddr(z, organ, modality)["total"].backward()
        optimizer.step()
    assert maddr.accuracy(z, organ, modality) == {"organ": 1.0, "modality": 1.0}
    assert maddr.accuracy(z, modality, organ)["organ"] < 0.7
    prediction = maddr.predict(z)
    torch.testing.assert_close(prediction["organ"].sum(dim=1), torch.ones(120))
    assert torch.equal(prediction["modality"].argmax(dim=1), modality)


def test_one_organ_and_one_modality_cost_nothing():
    maddr = MADDRConstraint(24, num_organs=1, num_modalities=1)
    zeros = torch.zeros(4, dtype=torch.int64)
    terms = maddr(rand(4, 24), zeros, zeros)
    assert terms["organ"] == terms["modality"] == 0
    assert terms["center"] > 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"organ_dim": 0}, "organ_dim"),
        ({"organ_dim": 20, "modality_dim": 4}, "content"),
        ({"num_organs": 0}, "num_organs"),
        ({"center_weight": -1.0}, "center_weight"),
    ],
)
def test_impossible_constraints_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        MADDRConstraint(24, **options)


def test_wrong_inputs_are_refused_with_a_sentence():
    maddr = constraint()
    for shape in ((5, 12), (5, 12, 2, 2)):
        with pytest.raises(ValueError, match=rf"z must be \(batch, 16\) or .* got \({', '.join(map(str, shape))}\)$"):
            maddr(rand(*shape), labels(5, 3), labels(5, 2))
    for shape in ((1, 5, 16), (16,)):  # as many labels as images there are, whatever z says
        for call in (maddr, maddr.accuracy):
            with pytest.raises(ValueError, match=r"z must be \(batch, 16\)"):
                call(rand(*shape), labels(5, 3), labels(5, 2))
    with pytest.raises(ValueError, match=r"z must be .* got \(5, 16, 2, 2\); z\.mean\(dim=\(2, 3\)\) makes it so$"):
        maddr(rand(5, 16, 2, 2), labels(5, 3), labels(5, 2))
    with pytest.raises(ValueError, match="modality must be int64"):
        maddr(rand(5, 16), labels(5, 3), labels(5, 2).float())
    with pytest.raises(ValueError, match="organ must be int64"):
        maddr(rand(5, 16), labels(4, 3), labels(5, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_module_or_a_latent_of_another_precision(dtype):
    maddr, z, organ, modality = constraint(), rand(9, 16), labels(9, 3), labels(9, 2)
    expected = maddr(z, organ, modality)["total"]
    for module, latent in ((copy.deepcopy(maddr).to(dtype), z), (maddr, z.to(dtype)), (copy.deepcopy(maddr).to(dtype), z.to(dtype))):
        total = module(latent, organ, modality)["total"]
        assert total.dtype == (torch.float64 if latent.dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(total.float(), expected, rtol=0.02, atol=0)


def test_variances_are_those_of_the_parts():
    z = rand(9, 16)
    variances = constraint().variances(z)
    for name, part in (("organ", z[:, :4]), ("modality", z[:, 4:7]), ("content", z[:, 7:])):
        assert variances[name].item() == pytest.approx(np.mean(np.var(part.numpy(), axis=0)), rel=1e-5)


# --- pixel losses


def test_l1_and_l2_are_the_loops():
    x, y = rand(3, 2, 4, 4), rand(3, 2, 4, 4, seed=1)
    l1 = [np.mean([abs(a - b) for a, b in zip(i.flatten().tolist(), j.flatten().tolist(), strict=True)]) for i, j in zip(x, y, strict=True)]
    l2 = [np.mean([(a - b) ** 2 for a, b in zip(i.flatten().tolist(), j.flatten().tolist(), strict=True)]) for i, j in zip(x, y, strict=True)]
    for loss, expected in ((L1Loss, l1), (L2Loss, l2)):
        assert loss("none")(x, y).tolist() == pytest.approx(expected, rel=1e-5)
        assert loss("mean")(x, y).item() == pytest.approx(np.mean(expected), rel=1e-5)
        assert loss("sum")(x, y).item() == pytest.approx(np.sum(expected), rel=1e-5)
        assert loss("pixelwise")(x, y).shape == (3, 2, 4, 4)
    assert L1Loss("pixelwise")(x, y)[1, 0, 2, 3].item() == pytest.approx(abs(x[1, 0, 2, 3].item() - y[1, 0, 2, 3].item()))


def test_l1_with_maddr_adds_the_constraint_to_the_mean_alone():
    maddr = constraint()
    x, y, z, organ, modality = rand(6, 1, 8, 8), rand(6, 1, 8, 8, seed=1), rand(6, 16), labels(6, 3), labels(6, 2)
    loss = L1Loss(maddr=maddr)
    torch.testing.assert_close(loss(x, y, z, organ, modality), L1Loss()(x, y) + maddr(z, organ, modality)["total"])
    for reduction in ("none", "sum", "pixelwise"):
        loss.set_reduction(reduction)
        assert torch.equal(loss(x, y, z, organ, modality), L1Loss(reduction)(x, y))
    loss.set_reduction("mean")
    with pytest.raises(ValueError, match="organ, modality"):
        loss(x, y)
    assert {id(p) for p in maddr.parameters()} <= {id(p) for p in loss.parameters()}


def test_compose_weighs_its_parts_and_hands_the_constraint_on():
    maddr = constraint()
    x, y, extra = rand(6, 3, 8, 8), rand(6, 3, 8, 8, seed=1), (rand(6, 16), labels(6, 3), labels(6, 2))
    loss = ComposeLoss([(1.0, L2Loss()), (0.1, L1Loss(maddr=maddr))])
    torch.testing.assert_close(loss(x, y, *extra), L2Loss()(x, y) + 0.1 * (L1Loss()(x, y) + maddr(*extra)["total"]))
    torch.testing.assert_close(ComposeLoss([(2.0, loss)])(x, y, *extra), 2 * loss(x, y, *extra))
    loss.set_reduction("none")
    torch.testing.assert_close(loss(x, y), L2Loss("none")(x, y) + 0.1 * L1Loss("none")(x, y))
    loss.set_reduction("pixelwise")
    expected = ((x - y) ** 2 + 0.1 * (x - y).abs()).mean(dim=1, keepdim=True)
    torch.testing.assert_close(loss(x, y), expected)


def test_bad_reductions_and_shapes_are_refused():
    with pytest.raises(ValueError, match="none, sum, mean or pixelwise"):
        L1Loss("average")
    with pytest.raises(ValueError, match="alike"):
        L1Loss()(rand(2, 1, 4, 4), rand(2, 1, 8, 8))


# --- perceptual losses


@pytest.fixture(scope="module")
def vgg() -> PerceptualLoss:
    return RelativePerceptualL1Loss("none", 0, {"r32": 1, "r42": 1}, weights="random:1", feature_statistics="fit")


@pytest.fixture
def fitted(vgg) -> PerceptualLoss:
    loss = copy.deepcopy(vgg)
    loss.fit_feature_statistics([rand(4, 1, 32, 32, seed=7)])
    return loss


def test_random_vgg19_is_the_one_that_the_seed_names():
    """First weights and sums of the layers as an independent implementation of the same recipe drew them."""
    convs = [layer for layer in rec_losses._vgg19("random:1").values() if isinstance(layer, torch.nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs[:3]] == [(3, 64), (64, 64), (64, 128)]
    assert len(convs) == 16
    for conv, first, total in zip(convs, VGG_FIRST, VGG_SUM, strict=False):
        assert conv.weight.flatten()[0].item() == pytest.approx(first, rel=1e-5)
        assert conv.weight.double().sum().item() == pytest.approx(total, rel=1e-4)


def test_layers_lie_at_the_scales_of_vgg19(vgg):
    features = vgg.backbone(rand(1, 1, 64, 64), ["c11", "r32", "p3", "r42"])
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == {
        "c11": (64, 64, 64),
        "r32": (256, 16, 16),
        "p3": (256, 8, 8),
        "r42": (512, 8, 8),
    }
    assert (features["r32"] >= 0).all()
    assert (features["c11"] < 0).any(), "the layer after c11 must not write into it"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_folded_first_convolution_is_the_convolution_of_the_standardised_image(vgg, channels):
    """To the very border, where the padding of a standardised image is grey and not black."""
    x = rand(2, channels, 16, 16).double()
    conv = rec_losses._vgg19("random:1")["c11"]
    standardised = (x.expand(-1, 3, -1, -1) / 2 + 0.5 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    expected = torch.nn.functional.conv2d(standardised, conv.weight.double(), conv.bias.double(), padding=1)
    assert torch.allclose(vgg.backbone(x, ["c11"])["c11"].double(), expected, atol=1e-5)


def test_a_target_taken_before_gives_the_same_loss_and_gradient(fitted):
    x = rand(2, 1, 32, 32)
    results = []
    for target in (None, fitted.target(x)):
        y = rand(2, 1, 32, 32, seed=1).requires_grad_()
        value = ComposeLoss([(1.0, fitted), (0.1, L1Loss())])(x, y, target=target)
        results.append((value, *torch.autograd.grad(value, y)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_relative_perceptual_l1_is_the_formula(fitted):
    x, y = rand(2, 1, 32, 32), rand(2, 1, 32, 32, seed=1)
    fitted.set_new_weights(0.5, {"r32": 1.0, "r42": 3.0})
    terms = []
    mean, std = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
    for i in range(2):
        a, b = (((image[i].double().numpy() * 0.5 + 0.5).repeat(3, axis=0) - mean) / std for image in (x, y))
        total = 0.5 * np.abs(a - b).mean() / np.abs(a).mean()
        for layer, weight in (("r32", 1.0), ("r42", 3.0)):
            a, b = (fitted.backbone(image[i : i + 1], [layer])[layer][0].double().numpy() for image in (x, y))
            center = getattr(fitted.statistics, f"mean_{layer}")[0].double().numpy()
            divisor = getattr(fitted.statistics, f"divisor_{layer}")[0].double().numpy()
            a, b = (a - center) / divisor, (b - center) / divisor
            total += weight * np.abs(a - b).mean() / np.abs(a).mean()
        terms.append(total / 4.5)
    assert fitted(x, y).tolist() == pytest.approx(terms, rel=1e-4)


def test_plain_perceptual_loss_is_squared_and_neither_normalised_nor_relative():
    loss = PerceptualLoss("none", 0, {"r22": 2.0}, weights="random:3")
    x, y = rand(2, 1, 16, 16), rand(2, 1, 16, 16, seed=1)
    a, b = (loss.backbone(image, ["r22"])["r22"].double() for image in (x, y))
    torch.testing.assert_close(loss(x, y).double(), ((a - b) ** 2).mean(dim=(1, 2, 3)), rtol=1e-5, atol=0)
    assert loss.statistics is None


def test_feature_statistics_are_mean_and_deviation_over_all_images(fitted, vgg):
    images = rand(4, 1, 32, 32, seed=7)
    in_parts = copy.deepcopy(vgg)
    in_parts.fit_feature_statistics([images[:1], images[1:]])
    features = fitted.backbone(images, ["r32"])["r32"].double()
    for loss in (fitted, in_parts):
        torch.testing.assert_close(loss.statistics.mean_r32.double(), features.mean(dim=(0, 2, 3), keepdim=True), rtol=1e-4, atol=1e-5)
        deviation = features.std(dim=(0, 2, 3), correction=0, keepdim=True)
        dead = deviation < 0.01 * deviation.mean()
        assert dead.any(), "some channels never fire on these images: the case that must not divide by zero"
        torch.testing.assert_close(loss.statistics.divisor_r32.double()[~dead], deviation[~dead], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss.statistics.divisor_r32.double()[dead], (0.01 * deviation.mean()).expand(int(dead.sum())))


def test_statistics_travel_in_the_state_dict_and_the_backbone_does_not(fitted, vgg):
    state = fitted.state_dict()
    assert set(state) == {f"statistics.{kind}_{layer}" for kind in ("mean", "divisor") for layer in ("r32", "r42")}
    restored = copy.deepcopy(vgg)
    restored.load_state_dict(state)
    x, y = rand(2, 1, 32, 32), rand(2, 1, 32, 32, seed=1)
    assert torch.equal(restored(x, y), fitted(x, y))


def test_statistics_of_the_authors_file(tmp_path, vgg):
    values = {layer: (rand(1, c, 1, 1), rand(1, c, 1, 1, seed=1).abs() + 1) for layer, c in (("r32", 256), ("r42", 512), ("r12", 64))}
    torch.save(values, tmp_path / "mean_var.pt")
    loss = RelativePerceptualL1Loss("none", 0, {"r32": 1}, weights="random:1", feature_statistics=str(tmp_path / "mean_var.pt"))
    assert torch.equal(loss.statistics.mean_r32, values["r32"][0])
    assert torch.equal(loss.statistics.divisor_r32, values["r32"][1])
    x, y = rand(2, 1, 32, 32), rand(2, 1, 32, 32, seed=1)
    loss.set_new_weights(0, {"r12": 1})
    assert torch.isfinite(loss(x, y)).all(), "the file has all layers, also those named later, as DPA does when it grows"
    loss.set_new_weights(0, {"r22": 1})
    with pytest.raises(BackboneError, match="no feature statistics of layer 'r22'"):
        loss(x, y)
    for broken in ({"r12": torch.zeros(3)}, {"r12": (torch.zeros(3), torch.zeros(3))}, {"nothing": 1}):
        torch.save(broken, tmp_path / "broken.pt")
        with pytest.raises(BackboneError, match=r"broken\.pt"):
            RelativePerceptualL1Loss("none", 0, {"r12": 1}, weights="random:1", feature_statistics=str(tmp_path / "broken.pt"))


def test_layers_may_be_named_after_construction(fitted):
    """DPA constructs the loss without weights and sets those of each resolution."""
    x, y = rand(2, 1, 32, 32), rand(2, 1, 32, 32, seed=1)
    fitted.set_new_weights(0, {"r12": 1})
    fitted.fit_feature_statistics([x])
    assert torch.isfinite(fitted(x, y)).all()
    fitted.set_new_weights(img_weight=1)
    a, b = fitted.backbone.preprocess(x), fitted.backbone.preprocess(y)
    expected = (a - b).abs().mean(dim=(1, 2, 3)) / a.abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(fitted(x, y), expected)


def test_weights_below_zero_or_all_zero_are_refused(fitted):
    for img_weight, feature_weights in ((0, {"r32": -1.0, "r42": 3.0}), (-1.0, {"r32": 3.0}), (0, {"r32": 0.0})):
        with pytest.raises(ValueError, match="must be >= 0, and one of them above 0"):
            fitted.set_new_weights(img_weight, feature_weights)


def test_unknown_statistics_are_an_error_not_a_guess(vgg):
    with pytest.raises(BackboneError, match="fit_feature_statistics"):
        vgg(rand(1, 1, 32, 32), rand(1, 1, 32, 32))


def test_the_backbone_is_frozen_and_gradients_pass_through_it(fitted):
    y = rand(2, 1, 32, 32, seed=1).requires_grad_()
    fitted.train()
    fitted.set_reduction("mean")
    fitted(rand(2, 1, 32, 32), y).backward()
    assert y.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in fitted.backbone.parameters())
    assert list(fitted.parameters()) == []
    assert not fitted.backbone.training


def test_the_map_averages_to_the_score_where_a_pixel_is_a_feature(fitted):
    fitted.set_new_weights(2.0, {"c11": 6.0})
    x, y = rand(2, 1, 32, 32), rand(2, 1, 32, 32, seed=1)
    fitted.fit_feature_statistics([x])
    score = fitted(x, y)
    fitted.set_reduction("pixelwise")
    anomaly_map = fitted(x, y)
    assert anomaly_map.shape == (2, 1, 32, 32)
    torch.testing.assert_close(anomaly_map.mean(dim=(1, 2, 3)), score)


def test_the_map_of_a_layer_shows_where_the_difference_is(fitted):
    x = rand(1, 1, 64, 64)
    y = x.clone()
    y[..., :16, 40:] = 0
    fitted.set_reduction("pixelwise")
    anomaly_map = fitted(x, y)[0, 0]
    assert anomaly_map[:16, 44:].mean() > 5 * anomaly_map[40:, :20].mean()


def test_efficientnet_lite0_has_its_imagenet_weights():
    loss = PerceptualLoss("none", backbone="efficientnet_lite0")
    assert loss.feature_weights == {"b2": 1.0, "b4": 1.0}
    (black_and_white,) = loss.backbone.preprocess(torch.tensor([[[[-1.0, 1.0]]]]))
    torch.testing.assert_close(black_and_white, torch.tensor([-127 / 128, 1.0]).expand(3, 1, 2))
    features = loss.backbone(torch.zeros(1, 1, 64, 64), ["b2", "b4"])
    assert features["b2"].shape == (1, 24, 16, 16)
    assert features["b4"].shape == (1, 40, 8, 8)
    random = PerceptualLoss("none", backbone="efficientnet_lite0", weights="random:0")
    assert not torch.allclose(random.backbone(torch.zeros(1, 1, 64, 64), ["b2"])["b2"], features["b2"])


@pytest.mark.parametrize("backbone", ["vgg19", "efficientnet_lite0"])
def test_random_weights_follow_the_seed_and_leave_the_generator_alone(backbone):
    before = torch.get_rng_state()
    one, same, other = (PerceptualLoss(backbone=backbone, weights=f"random:{seed}", feature_weights=None) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    x = rand(1, 1, 32, 32)
    layer = next(iter(one.feature_weights))
    first, again, different = (loss.backbone(x, [layer])[layer] for loss in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, different)


def test_weights_from_a_file(tmp_path, vgg):
    convs = [layer for layer in rec_losses._vgg19("random:1").values() if isinstance(layer, torch.nn.Conv2d)]
    state = {f"features.{i}.{name}": value for i, conv in enumerate(convs) for name, value in conv.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    loss = PerceptualLoss(backbone="vgg19", weights=str(tmp_path / "vgg.pth"), feature_weights={"r42": 1})
    x = rand(1, 1, 32, 32)
    assert torch.equal(loss.backbone(x, ["r42"])["r42"], vgg.backbone(x, ["r42"])["r42"])
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(BackboneError, match="other.pth"):
        PerceptualLoss(weights=str(tmp_path / "other.pth"))
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(BackboneError, match="broken.pth"):
        PerceptualLoss(weights=str(tmp_path / "broken.pth"))


def test_what_cannot_be_had_is_said_with_the_choices(monkeypatch):
    with pytest.raises(BackboneError, match="vgg19, efficientnet_lite0"):
        PerceptualLoss(backbone="vgg16")
    with pytest.raises(BackboneError, match="the layers are c11, r11"):
        PerceptualLoss(feature_weights={"r39": 1}, weights="random:0")

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    with pytest.raises(BackboneError, match="no route to host.*vgg19-dcbb9e9d.pth.*checkpoints.*efficientnet_lite0.*random:SEED") as caught:
        PerceptualLoss(backbone="vgg19")
    assert "\n" not in str(caught.value)


def test_bfloat16_backbone_keeps_the_loss(fitted):
    x, y = rand(4, 1, 32, 32), rand(4, 1, 32, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        low = fitted(x, y)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, fitted(x, y), rtol=0.02, atol=0)


# --- gradients, against differences of values in float64


def assert_gradient(function, *inputs: torch.Tensor) -> None:
    torch.autograd.gradcheck(function, [each.double().requires_grad_() for each in inputs])


@pytest.mark.parametrize("alpha", [None, 0.25, [0.2, 0.5, 0.9]])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_of_the_focal_loss(alpha, gamma):
    assert_gradient(lambda logits: FocalLoss(alpha, gamma)(logits, labels(5, 3)), rand(5, 3))


def test_gradient_of_the_constraint():
    maddr = constraint(focal_alpha=0.3).double()
    for name in ("organ", "modality", "center", "total"):
        assert_gradient(lambda z, name=name: maddr(z, labels(4, 3), labels(4, 2))[name], rand(4, 16))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "pixelwise"])
def test_gradients_of_the_pixel_losses(reduction):
    for loss in (L1Loss(reduction), L2Loss(reduction), ComposeLoss([(1.0, L1Loss()), (0.5, L2Loss())], reduction)):
        assert_gradient(loss, rand(2, 1, 3, 3), rand(2, 1, 3, 3, seed=1))


@pytest.mark.parametrize("options", [(False, False, False), (True, True, True), (False, False, True)])
def test_gradients_of_the_perceptual_losses(options):
    """With respect to the reconstruction; what the original is divided by is held constant, as in DPA."""
    loss = PerceptualLoss("none", 0.5, {"r12": 1.0}, *options, weights="random:1", feature_statistics="fit")
    loss.fit_feature_statistics([rand(4, 1, 8, 8, seed=7)])
    loss.double()
    assert_gradient(lambda y: loss(rand(1, 1, 6, 6).double(), y), rand(1, 1, 6, 6, seed=1))


def test_the_divisor_of_a_relative_error_passes_no_gradient():
    """Then the loss of a difference moves original and reconstruction oppositely, whichever is the larger."""
    loss = PerceptualLoss("mean", 1.0, {}, False, True, True, weights="random:1")
    x, y = rand(2, 1, 6, 6).requires_grad_(), rand(2, 1, 6, 6, seed=1).requires_grad_()
    loss(x, y).backward()
    assert x.grad.abs().sum() > 0
    torch.testing.assert_close(x.grad, -y.grad)


# --- scores and maps from one look


def test_score_and_map_are_the_reductions_none_and_pixelwise(fitted):
    x, y = rand(3, 1, 32, 32), rand(3, 1, 32, 32, seed=1)
    for loss in (L1Loss(), L2Loss(), fitted, ComposeLoss([(1.0, fitted), (0.1, L1Loss()), (2.0, ComposeLoss([(1.0, L2Loss())]))])):
        score, anomaly_map = loss.score_and_map(x, y)
        loss.set_reduction("none")
        torch.testing.assert_close(score, loss(x, y))
        loss.set_reduction("pixelwise")
        torch.testing.assert_close(anomaly_map, loss(x, y))


# --- manners


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(rec_losses).attempted > 0
    assert doctest.testmod(rec_losses).failed == 0


def test_losses_can_be_pickled(fitted):
    x, y = rand(2, 1, 32, 32), rand(2, 1, 32, 32, seed=1)
    assert torch.equal(pickle.loads(pickle.dumps(fitted))(x, y), fitted(x, y))


def test_every_name_in_a_dpa_config_has_a_class():
    assert set(rec_losses.RECONSTRUCTION_LOSSES) == set(ReconstructionLossType)
