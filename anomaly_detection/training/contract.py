"""What training asks of a baseline, and what its author is told who forgot some of it: the class, the method, what came and what is needed."""

from torch import Tensor
from torch.optim import Optimizer

from anomaly_detection.baseline import Baseline, Phase
from anomaly_detection.system.errors import UserError

# Steps that may pass before the constraint has a part in one: where networks take turns, the encoder is not trained in each.
PATIENCE = 25


class ConstraintWatch:
    """Looks for a gradient through each term of the constraint in the first steps of a phase that trains with it.

    Without one the network is trained as without MADDR, its heads stay as they were drawn, and results would be reported as those of MADDR. Watched
    are the terms, not the gradients of the heads: these may be set back by the end of a step, and the center alone has no heads.

    Args:
        baseline: with or without a constraint.
        phase: that begins, or is gone on with.
        optimizers: of the phase.
    """

    def __init__(self, baseline: Baseline, phase: Phase, optimizers: dict[str, Optimizer]):
        self._name, self._phase = type(baseline).__name__, phase
        self._called, self._steps, self._hook = False, 0, None
        if _trains_constrained(baseline, phase, optimizers):
            self._missing = {name for name, weight in baseline.maddr.weights.items() if weight > 0}
            self._hook = baseline.maddr.register_forward_hook(self._see)

    def _see(self, _constraint: object, _inputs: object, terms: dict[str, Tensor]) -> None:
        self._called = True
        for name in self._missing & terms.keys():
            if terms[name].requires_grad:
                terms[name].register_hook(lambda _, name=name: self._missing.discard(name))

    def after_step(self) -> None:
        """To be called after each step.

        Raises:
            UserError: the constraint had no part in the steps so far, and these were enough to tell.
        """
        if self._hook is None:
            return
        self._steps += 1
        enough = self._steps == min(PATIENCE, self._phase.iterations)
        if enough or not self._missing:
            self._hook.remove()
            self._hook = None
        if enough and self._missing:
            raise UserError(self._mistake())

    def _mistake(self) -> str:
        place = f"{self._name}: in {self._steps} steps of the phase {self._phase.name}"
        mend = "add the first of the two values that self.constraint(z, batch) returns to the loss that trains the encoder"
        apart = "(a phase that is to train without MADDR holds self.heads() in none of its optimizers)"
        if not self._called:
            return f"{place} training_step never called self.constraint, so that MADDR has no effect; {mend} {apart}"
        terms = ", ".join(sorted(self._missing))
        return f"{place} no gradient passed through {terms} of MADDR; in training_step {mend}, with a z that is not detached {apart}"


def _trains_constrained(baseline: Baseline, phase: Phase, optimizers: dict[str, Optimizer]) -> bool:
    """Whether an optimizer of the phase holds the heads; of a constraint that has none (the center alone), whether the phase is the last."""
    if baseline.maddr is None or phase.shared or not any(baseline.maddr.weights.values()):
        return False
    heads = {id(parameter) for parameter in baseline.maddr.parameters()}
    if not heads:
        return phase == baseline.phases()[-1]
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    return any(id(parameter) in heads for group in groups for parameter in group["params"])
