"""Whether the fast step is the same step: DPA with MADDR trained by the project and by the plain implementation, on the same batches, with the
paper's loss; the loss of both on the same held-out images, in float32."""

from dataclasses import replace

import torch
from tqdm import tqdm

from anomaly_detection.data.dataset import ImageSet
from anomaly_detection.training.loop import Progress, steps, validate
from benchmarks.cases import Plain, Project, benchmark_images, cases
from benchmarks.measure import add_losses, benchmark_parser, parse, show

HELD_OUT = 5  # every fifth image


def _part(images: ImageSet, places: torch.Tensor) -> ImageSet:
    names = places.tolist()
    chosen = {name: getattr(images, name)[places] for name in ("images", "organ", "modality", "label")}
    return replace(images, **chosen, names=[images.names[i] for i in names], datasets=[images.datasets[i] for i in names])


def _loss(baseline, images: ImageSet) -> float:
    baseline.bf16 = False
    return validate(baseline, images)["val_loss"]


def main(argv: list[str] | None = None) -> None:
    """Train both and print their losses."""
    parser = benchmark_parser(__doc__, add_losses)
    parser.set_defaults(sizes=[64], batches=[32], steps=200)
    arguments = parse(parser, argv)
    rows = []
    for case in cases(["MADDR_dpa"], arguments.losses, arguments.sizes, arguments.batches):
        images, paths = benchmark_images(arguments.data_root, case.size)
        held_out = torch.arange(len(images)) % HELD_OUT == 0
        train, val = (_part(images, torch.nonzero(chosen)[:, 0]) for chosen in (~held_out, held_out))
        losses = []
        for rival in (Plain(case, train, paths, arguments.device), Project(case, train, arguments.device)):
            stream = steps(rival.baseline, train.to(arguments.device), rival.settings, Progress())
            for _ in tqdm(range(arguments.steps), desc=f"{type(rival).__name__} {case.loss}", disable=None):
                next(stream)
            losses.append(_loss(rival.baseline, val.to(arguments.device)))
        row = {"loss": case.loss, "size": case.size, "batch": case.batch, "steps": arguments.steps}
        row |= {"validation_loss_plain": losses[0], "validation_loss": losses[1]}
        rows.append(row | {"difference": abs(losses[1] / losses[0] - 1)})
    show(rows, arguments.json)


if __name__ == "__main__":
    main()
