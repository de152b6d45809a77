"""The one training loop. It knows phases, optimizers, checkpoints, logging and early stopping, and nothing of any baseline."""

import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from anomaly_detection.baseline import Baseline, Batch, Phase
from anomaly_detection.data.dataset import ImageSet
from anomaly_detection.distributed import averaged, equalise, rank, share, told_by_all, told_by_first
from anomaly_detection.errors import UserError
from anomaly_detection.files import whole_file
from anomaly_detection.settings import Settings
from anomaly_detection.training.checkpoint import load_checkpoint, save_checkpoint
from anomaly_detection.training.log import TrainingLog
from anomaly_detection.training.mixup import draw_mixture
from anomaly_detection.training.reproducibility import ShuffledIndices, random_state, set_random_state

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 256
SAMPLE_IMAGES = 8


def train(
    baseline: Baseline, train_set: ImageSet, val_set: ImageSet, settings: Settings, folder: Path, identity: dict[str, Any] | None = None
) -> None:
    """Train on normal images, or continue from `folder`/checkpoint.pt; leave the best weights in `baseline` and in the checkpoint.

    Best means the lowest validation loss in the last phase. A run that was killed and started again ends with the weights of one that was not.
    In several processes (see `distributed`) each takes its share of every batch; process 0 validates and writes the files.

    Args:
        baseline: freshly constructed, on the device of the image sets.
        train_set, val_set: normal images; the second only ever judges.
        settings: of the experiment.
        folder: receives checkpoint.pt, log.csv and samples/.
        identity: plain values that the checkpoint carries along, such as what the class numbers of the heads mean.

    Raises:
        UserError: a loss is no longer a number.
    """
    path = folder / "checkpoint.pt"
    device = train_set.device
    saved = load_checkpoint(path, device) if path.exists() else None
    baseline.bf16 = runs_in_bf16(settings, device)
    if saved is None:
        baseline.prepare(all_pixels(train_set))
        if rank() > 0:  # noise of its own, after the same weights
            torch.manual_seed(settings.seed + 1_000_003 * rank())
        state = {"phase": 0, "iteration": 0, "position": 0, "best": None, "rows": [], "finished": False}
    else:
        baseline.load_state_dict(saved["model"])
        state = saved["state"]
        own = saved["random"][rank() % len(saved["random"])]
        set_random_state({key: _on_cpu(value) for key, value in own.items()})
    if state["finished"]:
        return

    log = TrainingLog(folder, settings.tensorboard, state["rows"]) if rank() == 0 else None
    indices = ShuffledIndices(len(train_set), settings.seed, state["position"], train_set.window)
    phases = baseline.phases()
    while state["phase"] < len(phases):
        phase = phases[state["phase"]]
        last = state["phase"] == len(phases) - 1
        optimizers = baseline.optimizers(phase)
        schedulers = _schedulers(optimizers, settings)
        if saved is not None:
            _load(optimizers, saved["optimizers"])
            _load(schedulers, saved["schedulers"])
            saved = None
        equalise(baseline)
        baseline.begin_phase(phase, all_pixels(train_set), len(train_set))
        stopped = False
        sums: dict[str, Tensor] = {}
        steps, started = 0, time.monotonic()
        bar = tqdm(
            total=phase.iterations,
            initial=state["iteration"],
            desc=f"training {phase.name}",
            unit="it",
            dynamic_ncols=True,
            disable=rank() > 0 or "TQDM_DISABLE" in os.environ,
        )
        while state["iteration"] < phase.iterations and not stopped:
            state["iteration"] += 1
            iteration = state["iteration"]
            baseline.train()
            baseline.begin_step(phase, iteration)
            mixes = last and settings.mixup is not None and iteration in settings.mixup
            losses = baseline.training_step(_next_batch(train_set, indices, phase, iteration if mixes else None), optimizers)
            if not mixes:
                for scheduler in schedulers.values():
                    scheduler.step()
            for name, value in losses.items():
                sums[name] = sums[name] + value if name in sums else value
            steps += 1
            bar.update()

            ends = iteration == phase.iterations
            validates = ends or iteration % settings.val_iter == 0
            saves = ends or iteration % settings.checkpoint_iter == 0
            if iteration % settings.log_iter == 0 or validates or saves:
                row = {"phase": phase.name, "iteration": iteration, **averaged({name: value / steps for name, value in sums.items()})}
                row["lr"] = next(iter(optimizers.values())).param_groups[0]["lr"]
                row["images_per_second"] = steps * phase.batch_size / (time.monotonic() - started)
                if validates:
                    row |= told_by_first(validate(baseline, val_set) if rank() == 0 else None)
                _check_finite(row, path)
                if validates:
                    stopped = last and _keep_best(baseline, row["val_loss"], iteration, state, settings)
                if log is not None:
                    log.add(row)
                bar.set_postfix(
                    {
                        name: f"{value:.4g}"
                        for name, value in row.items()
                        if isinstance(value, float) and not name.endswith(("_second", "_variance", "lr"))
                    }
                )
                sums, steps, started = {}, 0, time.monotonic()
            if rank() == 0 and (ends or iteration % settings.sample_iter == 0):
                save_samples(baseline, val_set, folder / "samples" / f"{phase.name}_{iteration:06d}.png")
            if (saves or stopped) and not (last and (ends or stopped)):
                state["position"] = indices.position
                _save(path, baseline, optimizers, schedulers, state, identity)
        bar.close()
        if stopped:
            logger.info("stopped early at iteration %d: best validation loss at %d", state["iteration"], state["best"]["iteration"])
        state["phase"], state["iteration"] = state["phase"] + 1, 0

    baseline.load_state_dict(state["best"].pop("model"))
    state["finished"] = True
    _save(path, baseline, {}, {}, state, identity)
    if log is not None:
        log.close()


def runs_in_bf16(settings: Settings, device: torch.device) -> bool:
    """Whether it is asked for and the device multiplies bfloat16 in hardware; where it does not, autocast costs more than it saves."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch has no public names for these yet.
        probes = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
        fast = device.type == "cpu" and any(probe() for probe in probes if probe is not None)
    return settings.bf16 and fast


def all_pixels(images: ImageSet) -> Iterator[Tensor]:
    """All images in order, in batches (B, C, H, W) in [-1, 1]."""
    for index in torch.arange(len(images), device=images.device).split(EVALUATION_BATCH):
        yield images.pixels(index)


@torch.inference_mode()
def validate(baseline: Baseline, images: ImageSet) -> dict[str, float]:
    """Mean validation loss; with MADDR also the accuracy of its heads and the variance of the parts of the latent."""
    baseline.eval()
    losses, latents = [], []
    for x in all_pixels(images):
        losses.append(baseline.validation_loss(x))
        if baseline.maddr is not None:
            latents.append(baseline.encode(x))
    result = {"val_loss": torch.cat(losses).double().mean().item()}
    if baseline.maddr is not None:
        z = torch.cat(latents)
        accuracy = baseline.maddr.accuracy(z, images.organ, images.modality)
        result |= {f"val_{name}_accuracy": value.item() for name, value in accuracy.items()}
        result |= {f"val_{name}_variance": value.item() for name, value in baseline.maddr.variances(z).items()}
    return result


@torch.inference_mode()
def save_samples(baseline: Baseline, images: ImageSet, path: Path) -> None:
    """A PNG of some images, evenly spread over the set, above their reconstructions."""
    baseline.eval()
    index = torch.linspace(0, len(images) - 1, min(SAMPLE_IMAGES, len(images)), device=images.device).long()
    x = images.pixels(index)
    y = torch.nn.functional.interpolate(baseline.sample(x).float(), x.shape[2:], mode="nearest")
    with whole_file(path) as partial:
        save_image(make_grid(torch.cat([x, y]), nrow=len(index), normalize=True, value_range=(-1, 1)), partial, format="png")


def batch_at(images: ImageSet, index: Tensor) -> Batch:
    """The images at `index` (B,) with their labels, on the device of the set."""
    index = index.to(images.device)
    return Batch(images.pixels(index), images.organ[index], images.modality[index], index)


def _next_batch(images: ImageSet, indices: ShuffledIndices, phase: Phase, mixes_at: int | None) -> Batch:
    """This process's share of the next batch of a phase; mixed where `mixes_at` is the iteration."""
    index = indices.take(phase.batch_size)
    batch = batch_at(images, share(index))
    if mixes_at is None:
        return batch
    partners, part = draw_mixture(index, indices.seed, mixes_at)
    return batch.mixed(batch_at(images, share(partners)), part)


def _schedulers(optimizers: dict[str, Optimizer], settings: Settings) -> dict[str, StepLR]:
    if settings.lr_step is None:
        return {}
    return {name: StepLR(optimizer, settings.lr_step, settings.lr_gamma) for name, optimizer in optimizers.items()}


def _check_finite(row: dict[str, Any], path: Path) -> None:
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            kept = f"{path} holds the last good weights" if path.exists() else "nothing was saved yet"
            raise UserError(f"{name} became {value} by iteration {row['iteration']} of {row['phase']}; lower lr and start again ({kept})")


def _keep_best(baseline: Baseline, loss: float, iteration: int, state: dict[str, Any], settings: Settings) -> bool:
    """Keep the weights if the validation loss is the lowest so far; whether patience is at its end."""
    best = state["best"]
    if best is None or loss < best["loss"] - settings.early_stopping_min_delta:
        weights = {name: value.detach().clone() for name, value in baseline.state_dict().items()}
        state["best"] = {"loss": loss, "iteration": iteration, "model": weights}
        return False
    patience = settings.early_stopping_patience
    return patience is not None and (iteration - best["iteration"]) / settings.val_iter > patience


def _save(path: Path, baseline: Baseline, optimizers: dict, schedulers: dict, state: dict[str, Any], identity: dict[str, Any] | None) -> None:
    for name, value in baseline.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"the weights {name} are no longer finite numbers at iteration {state['iteration']}; lower lr and start again")
    content = {
        "identity": identity,
        "model": baseline.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "schedulers": {name: scheduler.state_dict() for name, scheduler in schedulers.items()},
        "state": state,
        "random": list(told_by_all(random_state())),
    }
    if rank() == 0:
        save_checkpoint(path, content)


def _load(targets: dict, states: dict) -> None:
    for name, target in targets.items():
        target.load_state_dict(states[name])


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else [item.cpu() for item in value]
