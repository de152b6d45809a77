"""What the author of a baseline is told who forgot a part of the contract, and that those who forgot none are told nothing."""

import pytest
import torch

from anomaly_detection.baseline import Phase, minimise
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.system.errors import UserError
from anomaly_detection.training.contract import PATIENCE
from anomaly_detection.training.loop import Progress, steps, train
from tests.helpers import ToyBaseline, toy_images, toy_settings
from tests.test_baselines import built, settings_of

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


def test_a_run_that_goes_on_for_a_few_steps_is_not_asked_for_what_it_did_before():
    baseline = constrained(Alternating, iterations=39)
    assert count_steps(baseline, Progress(iteration=31)) == 8, "none of these calls the constraint"
    assert count_steps(Unconstrained(toy_settings())) == 12, "without MADDR there is nothing to call"


@pytest.mark.parametrize("model", ["f_anogan", "MADDR_dpa", "memae", "ganomaly", "gaussian", "feature_ae"])
@pytest.mark.parametrize("terms", [("center",), ("organ",)], ids=" ".join)
def test_every_phase_of_the_baselines_passes(model, terms):
    baseline = built(settings_of(model))
    baseline.attach(MADDRConstraint(baseline.latent_dim, 6, 6, **{f"{term}_weight": float(term in terms) for term in TERMS}))
    images = toy_images(24, side=32)
    baseline.prepare(images.batches(24))
    assert len(list(steps(baseline, images, baseline.settings, Progress()))) == sum(phase.iterations for phase in baseline.phases())
