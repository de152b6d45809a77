"""What the author of a baseline is told who forgot a part of the contract, and that those who forgot none are told nothing."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from anomaly_detection.baseline import Assessment, Phase, minimise
from anomaly_detection.build import build_baseline
from anomaly_detection.data.dataset import Domains
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.registry import BASELINES
from anomaly_detection.system.errors import UserError
from anomaly_detection.training import contract, loop
from anomaly_detection.training.contract import PATIENCE, check_assessment
from anomaly_detection.training.loop import Progress, steps, train
from anomaly_detection.training.replay import WARM_UP
from anomaly_detection.training.seed import random_state, seed_everything
from tests.helpers import ToyBaseline, toy_images, toy_settings
from tests.test_baselines import built, same_weights, settings_of

TERMS = ("organ", "modality", "center")


def constrained(kind, terms=TERMS, constraint=None, **options):
    """A toy of some kind with the constraint, of which some terms act."""
    baseline = kind(toy_settings(**options))
    weights = {f"{term}_weight": float(term in terms) for term in TERMS}
    baseline.attach(MADDRConstraint(baseline.latent_dim, **weights, **(constraint or {})))
    return baseline


def count_steps(baseline, progress=None):
    return sum(1 for _ in steps(baseline, toy_images(30), baseline.settings, progress or Progress()))


class Unconstrained(ToyBaseline):
    """It holds the heads in its optimizer, and never calls the constraint."""

    def training_step(self, batch, optimizers):
        (optimizer,) = optimizers.values()
        loss = (self._decode(self.encoder(batch.image.flatten(1))) - batch.image).abs().mean()
        minimise(loss + self.constrain(self.encoder(batch.image.flatten(1)), batch), optimizer)
        return {"loss": loss.detach()}

    def constrain(self, z, batch):
        return 0.0


class Watching(Unconstrained):
    """It calls the constraint, and throws away what that returns."""

    def constrain(self, z, batch):
        return 0 * self.constraint(z, batch)[0].detach()


class Detached(Unconstrained):
    """Its heads learn to read a latent that never hears of them."""

    def constrain(self, z, batch):
        return self.constraint(z.detach(), batch)[0]


@pytest.mark.parametrize("terms", [TERMS, ("organ",), ("modality",), ("center",), ("organ", "modality")], ids=" ".join)
@pytest.mark.parametrize(("iterations", "told"), [(100, PATIENCE), (4, 4)])
def test_a_step_that_never_calls_the_constraint_is_told_soon(terms, iterations, told, tmp_path):
    baseline = constrained(Unconstrained, terms, iterations=iterations)
    line = rf"^Unconstrained: in {told} steps of the phase main training_step never called self\.constraint, .*; add the first of the two values"
    with pytest.raises(UserError, match=line) as caught:
        train(baseline, toy_images(30), toy_images(9), baseline.settings, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "terms"), [(Watching, "center, modality, organ"), (Detached, "center")])
def test_a_constraint_that_reaches_no_loss_or_no_encoder_is_told(kind, terms):
    with pytest.raises(UserError, match=rf"^{kind.__name__}: in 12 steps of the phase main no gradient passed through {terms} of MADDR;"):
        count_steps(constrained(kind))


class Alternating(Unconstrained):
    """Its encoder is trained in every tenth step; gradients are set back at the end of a step."""

    def training_step(self, batch, optimizers):
        losses = super().training_step(batch, optimizers)
        optimizers["autoencoder"].zero_grad()
        return losses

    def constrain(self, z, batch):
        return self.constraint(z, batch)[0] if round(self.progress * self.phase.iterations) % 10 == 0 else 0.0


class WarmedUp(Unconstrained):
    """A first phase trains without MADDR: no optimizer of it holds the heads, or it is a shared one."""

    shared = False

    def phases(self):
        return [Phase("alone", 5, 8, shared=self.shared), Phase("main", 5, 8)]

    def optimizers(self, phase):
        heads = self.heads() if self.shared or phase.name == "main" else []
        return {"autoencoder": torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters(), *heads])}

    def constrain(self, z, batch):
        return self.constraint(z, batch)[0] if self.phase.name == "main" else 0.0


class Shared(WarmedUp):
    shared = True


@pytest.mark.parametrize("kind", [ToyBaseline, Alternating, WarmedUp, Shared])
@pytest.mark.parametrize("terms", [TERMS, ("organ",), ("center",), ()], ids=" ".join)
def test_a_constraint_in_use_is_not_refused(kind, terms):
    baseline = constrained(kind, terms, iterations=40)
    assert count_steps(baseline) == sum(phase.iterations for phase in baseline.phases())
    assert not baseline.maddr._forward_hooks


@pytest.mark.parametrize("constraint", [{"heads_train_encoder": False}, {"center_of": "domain"}, {"center_momentum": 0.9}])
def test_variants_of_the_constraint_are_in_use_too(constraint):
    assert count_steps(constrained(ToyBaseline, constraint=constraint)) == 12


@pytest.mark.parametrize("kind", [ToyBaseline, Unconstrained])
def test_steps_that_are_replayed_are_seen_before_they_are_captured(kind, monkeypatch):
    """What a GPU replays runs none of the code of a step."""

    def replayed(baseline, phase, device):
        done = []

        def step(batch, optimizers):
            if len(done) < WARM_UP:
                done.append(baseline.training_step(batch, optimizers))
            return dict(done[-1])

        return step

    monkeypatch.setattr(loop, "step_of", replayed)
    baseline = constrained(kind, iterations=40)
    if kind is ToyBaseline:
        assert count_steps(baseline) == 40
    else:
        with pytest.raises(UserError, match="never called self.constraint"):
            count_steps(baseline)


def test_a_run_that_goes_on_for_a_few_steps_is_not_asked_for_what_it_did_before():
    baseline = constrained(Alternating, iterations=39)
    assert count_steps(baseline, Progress(iteration=31)) == 8, "none of these calls the constraint"
    assert count_steps(Unconstrained(toy_settings())) == 12, "without MADDR there is nothing to call"


@pytest.mark.parametrize("model", BASELINES)
@pytest.mark.parametrize("terms", [("center",), ("organ",)], ids=" ".join)
def test_every_phase_of_the_baselines_passes(model, terms):
    baseline = built(settings_of(model))
    baseline.attach(MADDRConstraint(baseline.latent_dim, 6, 6, **{f"{term}_weight": float(term in terms) for term in TERMS}))
    images = toy_images(24, side=32)
    baseline.prepare(images.batches(24))
    assert len(list(steps(baseline, images, baseline.settings, Progress()))) == sum(phase.iterations for phase in baseline.phases())


class Processes:
    """Two processes, of which the second holds other weights in one optimizer after so many steps; when they were compared is noted."""

    def __init__(self, monkeypatch, apart=None, since=0):
        self.apart, self.since, self.looks, self.steps = apart, since, [], 0
        monkeypatch.setattr(contract, "processes", lambda: 2)
        monkeypatch.setattr(contract, "all_gather_object", self.gather)

    def gather(self, told):
        self.looks.append(self.steps)
        return [told, {name: "other" if name == self.apart and self.steps >= self.since else value for name, value in told.items()}]

    def train(self, baseline):
        for _, self.steps, _ in steps(baseline, toy_images(30), baseline.settings, Progress()):
            pass


@pytest.mark.parametrize(("since", "told"), [(0, 1), (1, PATIENCE), (PATIENCE, 40)])
def test_processes_whose_weights_part_are_told_by_all_of_them(since, told, monkeypatch):
    line = rf"^ToyBaseline: by step {told} of the phase main the 2 processes hold different weights in the optimizer autoencoder; step it by mini"
    processes = Processes(monkeypatch, "autoencoder", since)
    with pytest.raises(UserError, match=line) as caught:
        processes.train(ToyBaseline(toy_settings(iterations=40)))
    assert "\n" not in str(caught.value)


def test_processes_of_the_same_weights_are_compared_a_few_times_in_each_phase(monkeypatch):
    processes = Processes(monkeypatch)
    processes.train(ToyBaseline(toy_settings(iterations=40, warm_up=3)))
    assert processes.looks == [0, 2, 3, PATIENCE - 1, 39]
    alone = Processes(monkeypatch)
    monkeypatch.setattr(contract, "processes", lambda: 1)
    alone.train(ToyBaseline(toy_settings()))
    assert not alone.looks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_are_compared_to_the_last_bit_and_buffers_are_not(dtype, monkeypatch):
    """Running averages are of the images of each process."""
    told = []
    monkeypatch.setattr(contract, "processes", lambda: 2)
    monkeypatch.setattr(contract, "all_gather_object", lambda value: told.append(value) or [value])
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(dtype).to(memory_format=torch.channels_last)
    optimizers = {"all": torch.optim.SGD([*network.parameters(), nn.Parameter(torch.tensor(float("nan")))])}

    def look():
        contract.check_processes(ToyBaseline(toy_settings()), Phase("main", 9, 8), optimizers, 1, False)

    look()
    network[1].running_mean += 1
    look()
    with torch.no_grad():
        weight = network[0].weight[0, 0, 0, 0]
        weight.copy_(torch.nextafter(weight, weight + 1) if dtype != torch.bfloat16 else weight * 1.01 + 0.01)
    look()
    assert told[0] == told[1] != told[2]


# --- what methods return


def altered(method, change):
    """A toy of which what a method returns is changed."""

    def changed(self, *arguments, **options):
        return change(getattr(super(kind, self), method)(*arguments, **options))

    kind = type("Mine", (ToyBaseline,), {method: changed})
    return kind


def part(**change):
    """A change of parts of an assessment."""
    return lambda assessment: replace(assessment, **{name: of(getattr(assessment, name)) for name, of in change.items()})


def train_toy(kind, folder, **options):
    settings = toy_settings(**options)
    baseline = kind(settings)
    train(baseline, toy_images(30), toy_images(9, seed=1), settings, folder)
    return baseline


CALLED = r"Mine\.assess, called with images \(2, 1, 8, 8\) and with_map=True: "
IN_ASSESS = [
    (part(latent=lambda z: z[:, :5]), rf"{CALLED}latent must be a tensor of shape \(2, 24\), not a tensor of shape \(2, 5\); flatten .* latent_dim"),
    (part(latent=lambda z: z[:, :, None, None]), r"latent must be .* not a tensor of shape \(2, 24, 1, 1\)"),
    (part(score=lambda score: score.mean()), rf"{CALLED}score must be a tensor of shape \(2,\), not a tensor of shape \(\); give each image"),
    (part(score=lambda score: score[:, None]), r"score must be .* not a tensor of shape \(2, 1\)"),
    (part(score=lambda score: score.tolist()), r"score must be .* not a value of type list"),
    (part(map=lambda _: None), rf"{CALLED}map must be a tensor of shape \(2, 1, 8, 8\), not None; make one where with_map is true"),
    (part(map=lambda pixels: pixels[:, :, ::2, ::2]), r"map must be .* not a tensor of shape \(2, 1, 4, 4\); .* F\.interpolate"),
    (part(map=lambda pixels: pixels[:, 0]), r"map must be .* not a tensor of shape \(2, 8, 8\)"),
    (part(reconstruction=lambda y: y.expand(-1, 3, -1, -1)), r"reconstruction must be a tensor of shape \(2, 1, any, any\), .*\(2, 3, 8, 8\)"),
    (part(latent=lambda z: z / 0), r"^Mine\.assess: latent holds numbers that are not finite, before any training; images are in \[-1, 1\]"),
    (part(score=lambda score: score * float("nan")), r"^Mine\.assess: score holds numbers that are not finite"),
    (lambda assessment: (assessment.latent, assessment.score), r"^Mine\.assess must return an Assessment\(.*\), not a value of type tuple"),
]
IN_STEPS = [
    (
        "training_step",
        lambda losses: {name: value.item() for name, value in losses.items()},
        r"the loss 'rec' must be .*type float; leave out float",
    ),
    ("training_step", lambda losses: {"rec": losses["rec"].expand(3)}, r"the loss 'rec' must be .* not a tensor of shape \(3,\); give their mean"),
    ("training_step", lambda losses: losses["rec"], r"Mine\.training_step must return a dict of losses by name, .* not a tensor of shape \(\)"),
    ("training_step", lambda _: None, r"Mine\.training_step must return a dict of losses by name, .* not None"),
    ("after_step", lambda _: None, r"Mine\.after_step must return a dict"),
    ("after_step", lambda _: {"resets": 1}, r"Mine\.after_step: the loss 'resets' must be .* not a value of type int"),
    ("validation_loss", lambda loss: loss.mean(), r"Mine\.validation_loss of 9 images must be a tensor of shape \(9,\), not a tensor of shape \(\);"),
]


@pytest.mark.parametrize(("method", "change", "told"), [*(("assess", *each) for each in IN_ASSESS), *IN_STEPS])
def test_what_a_method_must_return_is_told_in_one_line(method, change, told, tmp_path):
    with pytest.raises(UserError, match=told) as caught:
        train_toy(altered(method, change), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shape_is_told_before_the_first_step(tmp_path):
    kind = altered("assess", part(map=lambda _: None))
    kind.training_step = lambda *_: pytest.fail("trained")
    with pytest.raises(UserError, match="map must be"):
        train_toy(kind, tmp_path)


@pytest.mark.parametrize("length", [None, 0, 24.0, "24"])
def test_a_latent_dim_that_is_missing_is_told(length, tmp_path, monkeypatch):
    """By everything that builds a baseline, and by training of one that was built otherwise."""

    class Endless(ToyBaseline):
        def __init__(self, settings):
            super().__init__(settings)
            if length is None:
                del self.latent_dim
            else:
                self.latent_dim = length

    told = r"^Endless\.latent_dim must be the length of the latent .* from 1 on; " + (
        "set it in the class or in __init__$" if length is None else f"it is {length!r}$"
    )
    with pytest.raises(UserError, match=told):
        train_toy(Endless, tmp_path)
    monkeypatch.setattr("anomaly_detection.build.find_baseline", lambda name: lambda settings: Endless(toy_settings()))
    with pytest.raises(UserError, match=told):
        build_baseline(settings_of("memae"), Domains(("liver",), ("ct",)))


class Late(ToyBaseline):
    """Its scores are nothing before it concludes, and its maps are bits; it reconstructs at half the size, or nothing."""

    reconstructs = True

    def __init__(self, settings):
        super().__init__(settings)
        self.register_buffer("scale", torch.tensor(float("nan")), persistent=False)

    def assess(self, x, with_map):
        told = super().assess(x, with_map)
        y = told.reconstruction[:, :, ::2, ::2] if self.reconstructs else None
        return Assessment(told.latent, told.score * self.scale, told.map > 0 if with_map else None, y)

    def validation_loss(self, x, assessment):
        return (x - self._decode(assessment.latent)).abs().mean(dim=(1, 2, 3))

    def conclude(self, batches):
        self.scale.fill_(1)


@pytest.mark.parametrize("reconstructs", [True, False])
def test_what_the_contract_allows_is_not_refused(reconstructs, tmp_path, monkeypatch):
    monkeypatch.setattr(Late, "reconstructs", reconstructs)
    train_toy(Late, tmp_path)


def test_a_latent_must_be_finite_whatever_is_concluded_later():
    kind = type("Later", (Late,), {"assess": lambda self, x, with_map: replace(Late.assess(self, x, with_map), latent=x.flatten(1)[:, :24] / 0)})
    with pytest.raises(UserError, match=r"^Later\.assess: latent holds numbers that are not finite"):
        check_assessment(kind(toy_settings()), toy_images(9))


def test_one_image_is_enough_to_look_at():
    check_assessment(ToyBaseline(toy_settings()), toy_images(1))


class Restless(ToyBaseline):
    """It draws numbers, has batch norms and dropout, and keeps what it met first."""

    def __init__(self, settings):
        super().__init__(settings)
        self.norm, self.dropout = nn.BatchNorm2d(1), nn.Dropout(0.2)
        self.still = nn.BatchNorm2d(1).eval()
        self.first = None

    def training_step(self, batch, optimizers):
        return super().training_step(replace(batch, image=self.dropout(self.norm(batch.image)) * self.kept(batch.image)), optimizers)

    def assess(self, x, with_map):
        return super().assess(self.still(self.norm(x)) + 1e-3 * torch.randn_like(x), with_map)

    def kept(self, x):
        if self.first is None:
            self.first = torch.ones_like(x[0], requires_grad=True) * 1
        return self.first.detach()


def test_what_is_looked_at_is_left_as_it_was(tmp_path):
    seed_everything(0)
    baseline = Restless(toy_settings())
    weights, modes = {name: value.clone() for name, value in baseline.state_dict().items()}, [module.training for module in baseline.modules()]
    before = random_state(torch.device("cpu"))["cpu"]
    check_assessment(baseline, toy_images(9))
    assert torch.equal(before, random_state(torch.device("cpu"))["cpu"])
    assert same_weights(weights, baseline.state_dict())
    assert modes == [module.training for module in baseline.modules()]
    assert False in modes


@pytest.mark.parametrize("model", [None, *BASELINES])
def test_training_ends_with_the_weights_of_one_that_nobody_looked_at(model, tmp_path, monkeypatch):
    looked, weights = [], []
    for check in (lambda *arguments: looked.append(arguments), check_assessment):
        monkeypatch.setattr(loop, "check_assessment", check)
        seed_everything(0)
        baseline = Restless(toy_settings()) if model is None else built(settings_of(model), maddr=True)
        side = 8 if model is None else 32
        train(baseline, toy_images(20, side=side), toy_images(6, seed=1, side=side), baseline.settings, tmp_path / str(len(weights)))
        weights.append(baseline.state_dict())
    assert len(looked) == 1, "once for each training"
    assert same_weights(*weights)
