"""The one training loop. It knows phases, optimizers, checkpoints, logging and early stopping, and nothing of any baseline."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR
from tqdm import tqdm

from anomaly_detection.baseline import Baseline, Phase
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.dataset import Batch, ImageSet
from anomaly_detection.data.order import BalancedIndices, ShuffledIndices
from anomaly_detection.system.distributed import all_gather_object, broadcast, broadcast_object, check_share, rank, share
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.progress import progress_bar
from anomaly_detection.training.checkpoint import FirstPhases, load_checkpoint, save_checkpoint
from anomaly_detection.training.contract import ConstraintWatch, check_assessment, check_losses, check_processes, check_validation_loss
from anomaly_detection.training.log import Means, TrainingLog
from anomaly_detection.training.mixup import draw_mixture
from anomaly_detection.training.replay import step_of
from anomaly_detection.training.seed import random_state, set_random_state

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 256
SAMPLE_IMAGES = 8


@dataclass
class Progress:
    """Where training stands; `steps` moves it on.

    Attributes:
        phase: number of the phase.
        iteration: steps of the phase that are done.
        position: how many images were taken from the shuffled stream, over all phases.
        optimizers, schedulers: of the phase, by name.
        began: when the phase had been prepared and its steps began, by `time.monotonic`.
    """

    phase: int = 0
    iteration: int = 0
    position: int = 0
    optimizers: dict[str, Optimizer] = field(default_factory=dict)
    schedulers: dict[str, StepLR] = field(default_factory=dict)
    began: float = 0.0
    _states: Mapping[str, Any] | None = None  # of optimizers and schedulers that are not built yet

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values, for a checkpoint."""
        states = {kind: {name: each.state_dict() for name, each in getattr(self, kind).items()} for kind in ("optimizers", "schedulers")}
        return {"phase": self.phase, "iteration": self.iteration, "position": self.position, **states}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Progress":
        """The inverse of `to_plain`."""
        return cls(values["phase"], values["iteration"], values["position"], _states=values)

    def begin(self, baseline: Baseline, phase: Phase, settings: Settings) -> None:
        """Build the optimizers of a phase and put them where they were, if the phase is being continued."""
        self.optimizers = baseline.optimizers(phase)
        step = settings.lr_step
        self.schedulers = {} if step is None else {name: StepLR(each, step, settings.lr_gamma) for name, each in self.optimizers.items()}
        if self._states is not None:
            for kind in ("optimizers", "schedulers"):
                for name, each in getattr(self, kind).items():
                    each.load_state_dict(self._states[kind][name])
            self._states = None


def steps(baseline: Baseline, images: ImageSet, settings: Settings, progress: Progress) -> Iterator[tuple[Phase, int, dict[str, Tensor]]]:
    """Do the training steps of a baseline, one each time the next is asked for, from where `progress` stands to the end of the last phase.

    Yields:
        The phase, the number of the step in it, from 1 on, and its losses by name.

    Raises:
        UserError: no optimizer trains the heads of the constraint, no step calls the constraint or one returns other than losses, a batch cannot be
            shared out to the processes, or these do not keep the same weights.
    """
    check_constraint(baseline)
    phases = baseline.phases()
    for phase in phases:  # the first as the last, before hours of training
        check_share(phase.batch_size // phase.chunks)
    place = settings.seed, progress.position, images.window
    indices = BalancedIndices(images.datasets, *place) if settings.balanced else ShuffledIndices(len(images), *place)
    while progress.phase < len(phases):
        phase = phases[progress.phase]
        mixup = settings.mixup if progress.phase == len(phases) - 1 else None
        if progress.iteration < phase.iterations:
            progress.begin(baseline, phase, settings)
            broadcast(baseline)
            baseline.phase, baseline.progress = phase, progress.iteration / phase.iterations
            baseline.begin_phase(phase, images.batches(EVALUATION_BATCH), len(images))
            step = step_of(baseline, phase, images.device)
            watch, before = ConstraintWatch(baseline, phase, progress.optimizers), progress.iteration
            progress.began = time.monotonic()
        while progress.iteration < phase.iterations:
            progress.iteration += 1
            baseline.train()
            baseline.progress = progress.iteration / phase.iterations
            mixes = mixup is not None and progress.iteration in mixup
            if mixes:
                batch = _next_mixture(images, indices, phase, progress.iteration)
            else:
                batch = images.batch(share(indices.take(phase.batch_size)), baseline.looks_at_images)
            losses = step(batch, progress.optimizers)
            check_losses(baseline, "training_step", losses)
            more = baseline.after_step(losses, progress.optimizers)
            check_losses(baseline, "after_step", more)
            losses |= more
            watch.after_step()
            check_processes(baseline, phase, progress.optimizers, progress.iteration - before, progress.iteration == phase.iterations)
            if not mixes:
                for scheduler in progress.schedulers.values():
                    scheduler.step()
            progress.position = indices.position
            yield phase, progress.iteration, losses
        progress.phase, progress.iteration, progress._states = progress.phase + 1, 0, None


def _next_mixture(images: ImageSet, indices: ShuffledIndices | BalancedIndices, phase: Phase, iteration: int) -> Batch:
    """This process's share of the next batch of a phase, mixed."""
    index = indices.take(phase.batch_size)
    partners, part = draw_mixture(index, indices.seed, iteration)
    return images.batch(share(index)).mixed(images.batch(share(partners)), part)


def train(
    baseline: Baseline,
    train_set: ImageSet,
    val_set: ImageSet,
    settings: Settings,
    folder: Path,
    facts: Mapping[str, Any] | None = None,
    shared: FirstPhases | None = None,
) -> None:
    """Train on normal images, or continue from `folder`/checkpoint.pt; leave the best weights in `baseline` and in the checkpoint.

    Best means the lowest validation loss in the last phase. A run that was killed and started again ends with the weights of one that was not.
    In several processes (see `distributed`) each takes its share of every batch; process 0 validates and writes the files.

    Args:
        baseline: freshly constructed, on the device of the image sets.
        train_set, val_set: normal images; the second only ever judges.
        settings: of the experiment.
        folder: receives checkpoint.pt, log.csv and samples/.
        facts: plain values that the checkpoint carries along, such as the settings and what the class numbers of the heads mean.
        shared: of the first phases if they are `Phase.shared`, common to the experiments that differ from this one in MADDR alone: where its file
            exists, training goes on from it, and ends with the weights of one that did not; otherwise it is written.

    Raises:
        UserError: the baseline is not as its contract asks (no optimizer trains the heads of the constraint, no step calls it, a shape is another
            one), or a loss is no longer a number.
    """
    path, device = folder / "checkpoint.pt", train_set.device
    phases = baseline.phases()
    baseline.bf16 = runs_in_bf16(settings, device)
    progress, best, rows = Progress(), None, []
    checkpoint = load_checkpoint(path) if path.exists() else None
    if shared is not None and (checkpoint is None or _has_shared_steps(phases, checkpoint["training"])):
        shared.wait()
        if checkpoint is None and shared.path.exists():
            logger.info("the first phases are those of %s", shared.path)
            checkpoint = load_checkpoint(shared.path)
            checkpoint["model"] = {**baseline.state_dict(), **checkpoint["model"]}  # its heads stay as they were drawn
    if checkpoint is not None:
        saved = checkpoint["training"]
        baseline.load_state_dict(checkpoint["model"])
        if saved["finished"]:
            return
        progress, best, rows = Progress.from_plain(saved["progress"]), saved["best"], saved["rows"]
        set_random_state(saved["random"][rank() % len(saved["random"])], device)
    else:
        baseline.prepare(train_set.batches(EVALUATION_BATCH))
        check_assessment(baseline, val_set)
        if rank() > 0:  # noise of its own, after the same weights
            torch.manual_seed(settings.seed + 1_000_003 * rank())

    log = TrainingLog(folder, settings.tensorboard, rows) if rank() == 0 else None
    means, stopped = Means(), False
    bar = _bar(phases, progress)
    for phase, iteration, losses in steps(baseline, train_set, settings, progress):
        means.add(losses)
        bar.set_description_str(f"training {phase.name}", refresh=False)
        bar.update()

        ends, last = iteration == phase.iterations, progress.phase == len(phases) - 1
        validates = ends or iteration % settings.val_iter == 0
        saves = ends or iteration % settings.checkpoint_iter == 0
        if iteration % settings.log_iter == 0 or validates or saves:
            validation = broadcast_object(validate(baseline, val_set, not phase.shared) if rank() == 0 else None) if validates else {}
            row = {"phase": phase.name, "iteration": iteration, **means.take(phase.batch_size, progress.began)}
            row |= {"lr": next(iter(progress.optimizers.values())).param_groups[0]["lr"], **validation}
            _check_finite(row, path)
            if validates and last:
                if best is None or validation["val_loss"] < best["validation"]["val_loss"] - settings.early_stopping_min_delta:
                    best = _best(baseline, iteration, validation)
                patience = settings.early_stopping_patience
                stopped = patience is not None and (iteration - best["iteration"]) / settings.val_iter > patience
            if log is not None:
                log.add(row)
            bar.set_postfix(_shown(row), refresh=False)
        if rank() == 0 and (ends or iteration % settings.sample_iter == 0):
            save_samples(baseline, val_set, folder / "samples" / f"{phase.name}_{iteration:06d}.png")
        if stopped:
            logger.info("stopped early at iteration %d: best validation loss at %d", iteration, best["iteration"])
            break
        if saves and not (last and ends):
            random = list(all_gather_object(random_state(device)))
            training = {"finished": False, "progress": progress.to_plain(), "best": best, "rows": rows, "random": random}
            _save(path, baseline, training, facts)
            if ends and shared is not None and all(each.shared for each in phases[: progress.phase + 1]):
                model = {name: value for name, value in baseline.state_dict().items() if not name.startswith("maddr.")}
                shared.save({"model": model, "training": training})
    bar.close()

    baseline.phase, baseline.progress = None, 1.0
    if not phases:
        best = _best(baseline, 0, broadcast_object(validate(baseline, val_set) if rank() == 0 else None))
    baseline.load_state_dict(best.pop("model"))
    baseline.eval().conclude(train_set.batches(EVALUATION_BATCH))
    broadcast(baseline)
    if log is not None:
        log.close()
    _save(path, baseline, {"finished": True, "best": best, "rows": rows}, facts)


def _has_shared_steps(phases: Sequence[Phase], saved: Mapping[str, Any]) -> bool:
    """Whether steps of first phases that experiments share are still to be done, by what a checkpoint says of training."""
    if saved["finished"]:
        return False
    phase, iteration = saved["progress"]["phase"], saved["progress"]["iteration"]
    ended = phase + (iteration >= phases[phase].iterations)
    return all(each.shared for each in phases[: ended + 1])


def runs_in_bf16(settings: Settings, device: torch.device) -> bool:
    """Whether it is asked for and the device multiplies bfloat16 in hardware; where it does not, autocast costs more than it saves."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch has no public names for these yet.
        probes = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
        fast = device.type == "cpu" and any(probe() for probe in probes if probe is not None)
    return settings.bf16 and fast


def check_constraint(baseline: Baseline) -> None:
    """Refuse a constraint whose heads nothing would train: they would stay as they were drawn, and the latent would be fitted to noise.

    Raises:
        UserError: which parameters no optimizer of any phase holds.
    """
    if baseline.maddr is None:
        return
    name, phases = type(baseline).__name__, baseline.phases()
    if not phases:
        advice = "leave maddr off, in a study by --regimes separate united united_probe"
        raise UserError(f"{name} has no phases of training, so there is nothing that the MADDR constraint could constrain; {advice}")
    groups = [group for phase in phases for optimizer in baseline.optimizers(phase).values() for group in optimizer.param_groups]
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    idle = [f"maddr.{key}" for key, parameter in baseline.maddr.named_parameters() if id(parameter) not in trained]
    if idle:
        raise UserError(f"{name}: no optimizer holds {', '.join(idle)}; add self.heads() to the parameters of the encoder's optimizer")


@torch.inference_mode()
def validate(baseline: Baseline, images: ImageSet, with_heads: bool = True) -> dict[str, float]:
    """Mean validation loss; with heads, unless they are left out, also their accuracy, and with MADDR the variance of the parts of the latent."""
    baseline.eval()
    losses, latents = [], []
    for batch in images.batches(EVALUATION_BATCH):
        assessment = baseline.assess(batch.image, with_map=False)
        losses.append(baseline.validation_loss(batch.image, assessment))
        check_validation_loss(baseline, losses[-1], len(batch.image))
        latents.append(assessment.latent)
    result = {"val_loss": torch.cat(losses).cpu().double().mean().item()}
    if baseline.namer is not None and with_heads:
        z = torch.cat(latents)
        accuracy = baseline.namer.accuracy(z, images.organ, images.modality)
        result |= {f"val_{name}_accuracy": value.item() for name, value in accuracy.items()}
        if baseline.maddr is not None:
            result |= {f"val_{name}_variance": value.item() for name, value in baseline.maddr.variances(z).items()}
    return result


@torch.inference_mode()
def save_samples(baseline: Baseline, images: ImageSet, path: Path) -> None:
    """A PNG of some images, evenly spread over the set, above their reconstructions; none where the baseline makes none."""
    baseline.eval()
    index = torch.linspace(0, len(images) - 1, min(SAMPLE_IMAGES, len(images)), device=images.device).long()
    x = images.batch(index).image
    y = baseline.sample(x)
    if y is None:
        return
    from torchvision.utils import make_grid, save_image  # here: half of torch is loaded with it, which only training needs

    y = torch.nn.functional.interpolate(y.float(), x.shape[2:], mode="nearest")
    with whole_file(path) as partial:
        save_image(make_grid(torch.cat([x, y]), nrow=len(index), normalize=True, value_range=(-1, 1)), partial, format="png")


def _best(baseline: Baseline, iteration: int, validation: dict[str, float]) -> dict[str, Any]:
    """The weights as they are, and what `validate` says of them."""
    return {"iteration": iteration, "validation": validation, "model": {name: value.clone() for name, value in baseline.state_dict().items()}}


def _bar(phases: list[Phase], progress: Progress) -> tqdm:
    total, done = (sum(phase.iterations for phase in some) for some in (phases, phases[: progress.phase]))
    return progress_bar(total=total, initial=done + progress.iteration, unit="it", shown=rank() == 0)


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    skipped = ("_second", "_variance", "lr")
    return {name: f"{value:.4g}" for name, value in row.items() if isinstance(value, float) and not name.endswith(skipped)}


def _check_finite(row: Mapping[str, Any], path: Path) -> None:
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            kept = f"{path} holds the last good weights" if path.exists() else "nothing was saved yet"
            raise UserError(f"{name} became {value} by iteration {row['iteration']} of {row['phase']}; lower lr and start again ({kept})")


def _save(path: Path, baseline: Baseline, training: dict[str, Any], facts: Mapping[str, Any] | None) -> None:
    weights = baseline.state_dict()
    finite = [value.isfinite().all() for value in weights.values()]
    if finite and not torch.stack(finite).all():  # one wait for a GPU, not one for each
        damaged = next(name for name, good in zip(weights, finite, strict=True) if not good)
        raise UserError(f"the weights {damaged} are no longer finite numbers; lower lr and start again")
    if rank() == 0:
        save_checkpoint(path, {**(facts or {}), "model": weights, "training": training})
