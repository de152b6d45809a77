"""What rec_losses.py computes here, on Python 3.6 and torch 1.4 as on today's; tests/versions.py runs this file where rec_losses.py lies alone.

python versions_probe.py INPUTS.npz OUTPUTS.npz: arrays in, arrays out by "section/name"; a section that fails leaves "section/error".
"""

import itertools
import os
import sys

import numpy as np
import rec_losses
import torch

INPUTS = np.load(sys.argv[1])
FEATURES = [(0.0, {"r32": 1.0, "r42": 1.0}), (0.5, {"r12": 2.0}), (1.0, {})]
REDUCTIONS = ("none", "sum", "mean", "pixelwise")
DTYPES = (torch.float32, torch.float64)
OPTIONS = [(False, False, False), (True, True, True), (True, False, True), (False, True, False)]


def tensor(name, gradient=False, dtype=torch.float32):
    value = torch.from_numpy(INPUTS[name])
    return value.to(dtype).requires_grad_(gradient) if value.dtype == torch.float32 else value


def constraint(dtype=torch.float32, **options):
    maddr = rec_losses.MADDRConstraint(32, 10, 10, 3, 2, **options)
    for name, head in maddr.heads.items():
        head.weight.data.copy_(tensor(name + "_weight"))
        head.bias.data.copy_(tensor(name + "_bias"))
    return maddr.to(dtype)


def each_constraint():
    alphas = (None, 0.25, {"organ": [0.2, 0.3, 0.5], "modality": 0.4})
    weightings = ((1.0, 1.0, 1.0), (2.0, 0.0, 0.5))
    for (i, alpha), gamma, weights, dtype in itertools.product(enumerate(alphas), (0.0, 0.5, 2.0), weightings, DTYPES):
        names = dict(zip(("organ_weight", "modality_weight", "center_weight"), weights))
        yield "%d %s %s %s" % (i, gamma, weights[0], dtype), dtype, constraint(dtype, focal_alpha=alpha, focal_gamma=gamma, **names)


def maddr():
    for case, dtype, module in each_constraint():
        z = tensor("z", True, dtype)
        terms = module(z.view(len(z), -1, 1, 1), tensor("organ"), tensor("modality"))
        terms["total"].backward()
        yield from ((case + name, term) for name, term in terms.items())
        yield case + "z", z.grad
        # that of a bias sums to a small number: as far apart as the logits' gradients are
        yield from ((case + name, parameter.grad) for name, parameter in module.named_parameters() if dtype == torch.float64 or "bias" not in name)
        looks = {"predict": module.predict(z), "variances": module.variances(z), "accuracy": module.accuracy(z, tensor("organ"), tensor("modality"))}
        yield from ((case + look + name, value) for look, values in looks.items() for name, value in values.items())


def centers():
    """Of each kind, over two steps on mixtures."""
    for of, momentum, dtype in itertools.product(("all", "domain"), (None, 0.75), DTYPES):
        module = constraint(dtype, center_of=of, center_momentum=momentum, heads_train_encoder=False)
        organ, modality = tensor("organ"), tensor("modality")
        for step in range(2):
            z = (tensor("z").to(dtype) + step).requires_grad_()
            total = module(z, organ, modality, (organ.flip(0), modality.flip(0)), 0.3)["total"]
            total.backward()
            yield from (("%s %s %s %d %s" % (of, momentum, dtype, step, name), value) for name, value in (("total", total), ("z", z.grad)))
        yield from (("%s %s %s %s" % (of, momentum, dtype, name), buffer) for name, buffer in module.named_buffers())


def terms():
    for gamma, dtype in itertools.product((0.0, 0.5, 2.0), DTYPES):
        logits = tensor("organ_logits", True, dtype)
        loss = rec_losses.FocalLoss(0.25, gamma)(logits, tensor("organ"))
        loss.backward()
        yield from (("focal %s %s" % (gamma, dtype), loss), ("focal gradient %s %s" % (gamma, dtype), logits.grad))
    for dtype in DTYPES:
        z = tensor("z", True, dtype)
        loss = rec_losses.center_loss(z)
        loss.backward()
        yield from (("center %s" % dtype, loss), ("center gradient %s" % dtype, z.grad))
    yield "center half", rec_losses.center_loss(tensor("z").half())


def pixels():
    for name, reduction, dtype in itertools.product(("L1Loss", "L2Loss"), REDUCTIONS, DTYPES):
        x, y = tensor("x", True, dtype), tensor("y", True, dtype)
        loss = getattr(rec_losses, name)(reduction)(x, y)
        (loss * loss).sum().backward()
        case = "%s %s %s" % (name, reduction, dtype)
        yield from ((case, loss), (case + "x", x.grad), (case + "y", y.grad))
        yield case + "half", getattr(rec_losses, name)(reduction)(x.half(), y.half())
    z = tensor("z", True)
    loss = rec_losses.L1Loss(maddr=constraint())(tensor("x"), tensor("y"), z, tensor("organ"), tensor("modality"))
    loss.backward()
    yield from (("with maddr", loss), ("with maddr z", z.grad))


def perceptual():
    yield "weights", rec_losses.FrozenBackbone("vgg19", "random:1").layers["c54"].weight[:4]
    for options, (i, features), channels in itertools.product(OPTIONS, enumerate(FEATURES), (1, 3)):
        loss = rec_losses.PerceptualLoss("none", features[0], features[1], *options, weights="random:1", feature_statistics="fit")
        for dtype in DTYPES:
            loss.to(dtype)
            x, y = (tensor(name, dtype=dtype).expand(-1, channels, -1, -1).contiguous() for name in "xy")
            if features[1]:
                loss.fit_feature_statistics([x, y])
            # single pixels of a map and their gradients, which no mean evens out, in float64
            for reduction in REDUCTIONS if dtype == torch.float64 else ("sum", "mean"):
                loss.set_reduction(reduction)
                y = y.detach().requires_grad_()
                value = loss(x, y)
                case = "%s %d %d %s %s" % (options, i, channels, reduction, dtype)
                yield case, value
                if dtype == torch.float64:
                    (value * value).sum().backward()
                    yield case + "gradient", y.grad


def compose():
    loss = rec_losses.RelativePerceptualL1Loss("mean", 0, {"r32": 1.0}, weights="random:1", feature_statistics="fit").double()
    x, y = tensor("x", dtype=torch.float64), tensor("y", gradient=True, dtype=torch.float64)
    loss.fit_feature_statistics([x])
    total = rec_losses.ComposeLoss([(1.0, loss), (0.1, rec_losses.L1Loss())])
    total(x, y).backward()
    yield from (("value", total(x, y)), ("gradient", y.grad))
    score, pixels = total.score_and_map(x, y)
    yield from (("score", score), ("map", pixels))
    state = loss.state_dict()
    fresh = rec_losses.RelativePerceptualL1Loss("mean", 0, {"r32": 1.0}, weights="random:1", feature_statistics="fit").double()
    fresh.load_state_dict(state)
    fresh.load_state_dict({"model.conv1_1.weight": x})
    yield "reloaded", fresh(x, y)


def files():
    """Weights and statistics from files that torch.save writes here; None finds the statistics beside rec_losses.py, as in DPA."""
    layers = rec_losses._vgg19("random:2").values()
    torch.save({"%d.%s" % (i, name): value for i, layer in enumerate(layers) for name, value in layer.state_dict().items()}, "weights.pth")
    os.makedirs("data")
    path = "data/" + rec_losses.ORIGINAL_STATISTICS
    torch.save({"r12": (tensor("r12_mean"), tensor("r12_divisor"))}, path)
    for statistics in (None, path):
        loss = rec_losses.RelativePerceptualL1Loss("none", 0, {"r12": 1.0}, weights="weights.pth", feature_statistics=statistics).double()
        yield str(statistics is None), loss(tensor("x", dtype=torch.float64), tensor("y", dtype=torch.float64))


def answers():
    module, z, organ, modality = constraint(), tensor("z"), tensor("organ"), tensor("modality")
    calls = [
        lambda: module(z, organ.tolist(), modality),
        lambda: module(z, organ, modality.float()),
        lambda: module(z, organ[:, None], modality),
        lambda: module(z, organ + 1, modality),
        lambda: module(z[:0], organ[:0], modality[:0]),
        lambda: constraint(focal_alpha=2.0),
        lambda: constraint(focal_alpha={"organ": 0.5}),
        lambda: rec_losses.L1Loss()(tensor("x")[:0], tensor("y")[:0]),
        lambda: rec_losses.L1Loss("average"),
    ]
    for i, call in enumerate(calls):
        try:
            call()
            yield str(i), np.array("no answer")
        except ValueError as error:
            yield str(i), np.array(str(error))


if __name__ == "__main__":
    outputs = {}
    for section in (maddr, centers, terms, pixels, perceptual, compose, files, answers):
        name = section.__name__
        try:
            for case, value in section():
                outputs[name + "/" + case] = value.detach().numpy() if isinstance(value, torch.Tensor) else value
        except Exception as error:
            outputs[name + "/error"] = np.array("%s: %s" % (type(error).__name__, str(error).splitlines()[0]))
    np.savez(sys.argv[2], **{key.replace("/", "|"): value for key, value in outputs.items()})
