"""Why MADDR's terms change detection, or do not: what they make of the latent, of what the decoder uses, and of the way that training goes.

Takes the folders of finished experiments of one model and seed, such as united and maddr, and measures on validation normals; where abnormal images
have healthy twins, as phantoms have, also what a lesion does. A network without the constraint is cut at the same numbers, as the control.

1. Latent: variance of each part, summed over its numbers, and its share of all; how much of it lies between domains; how often a logistic regression,
   fitted on training normals, names the domain of validation normals by the part alone.
2. Decoder: the part is replaced, by that of another image of the domain, of another domain, or by its mean over training normals of the domain or
   of all. "change": mean squared change of what is decoded, in units of the mean squared error of the reconstruction; "score": of the mean anomaly
   score, how many times as high.
3. Gradients in the encoder's parameters, over batches of training normals, as drawn and as trained: of each term as it is weighted, its norm by that
   of the reconstruction's, and its cosines; 0 is at right angles, below 0 against each other. (Without MADDR: of the terms as they would be, by
   heads that nothing has trained.)
4. Lesions: the network is shown the lesion, but its decoder gets the latent of the healthy twin, all but the parts named. "shift": squared change
   of the part by the lesion, by the variance of the part within domains; "rise" of the score, in standard deviations within domains of normals;
   and the twin rate, how often it rises. "none": the lesion is not in the latent at all; "all": as the network is.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_detection.baseline import Baseline
from anomaly_detection.build import Trained, build_baseline, load_trained
from anomaly_detection.data.catalog import is_phantom
from anomaly_detection.data.dataset import DataSource, ImageSet
from anomaly_detection.data.order import ShuffledIndices
from anomaly_detection.data.twins import load_twins
from anomaly_detection.evaluation.twins import twin_rate
from anomaly_detection.MADDR_dpa.rec_losses import MADDRConstraint
from anomaly_detection.study.experiment import load_experiment, preprocessing_of
from anomaly_detection.study.train_and_score import look_up_features
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import read_json, write_json
from anomaly_detection.training.loop import EVALUATION_BATCH
from anomaly_detection.training.seed import seed_everything
from benchmarks.latents import BASE, PARTS, Seen, compared, domain_means, domains_of, exchanged, named_by, partners, pulls, seen, variances
from benchmarks.measure import show

WAYS = ("same domain", "other domain", "domain's mean", "mean of all")
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Subject:
    """One trained network and the images that it is measured on.

    Attributes:
        name: in tables.
        trained: the network.
        constraint: that it was trained with; where it was trained without, the one that it would have begun with.
        start: the same network as it was drawn; None where training has several phases, of which only the last has the constraint.
        train, val: normal images.
        pairs: abnormal images and their healthy twins; None where there are none.
    """

    name: str
    trained: Trained
    constraint: MADDRConstraint
    start: Baseline | None
    train: ImageSet
    val: ImageSet
    pairs: tuple[ImageSet, ImageSet] | None


def load_subject(folder: Path, data_root: Path | None) -> Subject:
    """A finished experiment, from its folder.

    Args:
        folder: of the experiment.
        data_root: of its images; None: where they were when it ran.

    Raises:
        UserError: it is not finished, or the images are not there.
    """
    experiment, trained = load_experiment(folder), load_trained(folder, torch.device("cpu"))
    settings = trained.settings
    source = DataSource(data_root or Path(read_json(folder / "provenance.json")["data_root"]))
    preprocessing = preprocessing_of(settings, source)
    train, val = (source.load(settings.datasets, part, preprocessing, settings.memory_mib) for part in ("train", "val"))
    # as it would be with the constraint: from one seed the same networks are drawn
    constrained = replace(settings, maddr=replace(settings.maddr, enabled=True, probe=False))
    seed_everything(settings.seed)
    start = build_baseline(constrained, trained.domains, train)
    constraint = start.maddr if trained.baseline.maddr is None else trained.baseline.maddr
    pairs = _pairs(source.load(settings.datasets, "test", preprocessing), source, preprocessing) if is_phantom(source.data_root) else None
    look_up_features(trained.baseline, source, preprocessing, ("train", "val", "test") if pairs else ("train", "val"), torch.device("cpu"))
    if start.frozen is not None:
        start.frozen.store = trained.baseline.frozen.store
    single = len(start.phases()) == 1
    if single:
        start.prepare(train.batches(EVALUATION_BATCH))
    return Subject(f"{folder.parents[3].name} {experiment.regime}", trained, constraint, start if single else None, train, val, pairs)


def _pairs(test: ImageSet, source: DataSource, preprocessing: Mapping) -> tuple[ImageSet, ImageSet] | None:
    twins = load_twins(source, test, preprocessing)
    if twins is None:
        return None
    index = torch.tensor(twins.places)
    columns = {name: getattr(test, name)[index] for name in ("images", "organ", "modality", "label")}
    words = {name: [getattr(test, name)[place] for place in twins.places] for name in ("names", "datasets")}
    return ImageSet(**columns, **words), twins.images


def latent_rows(subject: Subject) -> Rows:
    """Table 1."""
    codes = [subject.constraint.split(seen(subject.trained.baseline, images).code) for images in (subject.train, subject.val)]
    domain = domains_of(subject.val)
    spread = {part: variances(codes[1][part], domain) for part in PARTS}
    whole = sum(total for total, _ in spread.values())
    for part, (total, between) in spread.items():
        row = {"network": subject.name, "part": part, "numbers": codes[1][part].shape[1], "variance": total, "share of all": total / whole}
        yield row | {"between domains": between / total, "names the domain": named_by(codes[0][part], codes[1][part], subject.train, subject.val)}


def decoder_rows(subject: Subject) -> Rows:
    """Table 2; none of a baseline whose score decodes nothing."""
    baseline, sizes = subject.trained.baseline, subject.constraint.sizes
    train, val = (seen(baseline, images) for images in (subject.train, subject.val))
    if val.made is None:
        return
    error = (val.made - val.target).square().mean()
    for way, other in _others(train.code, val.code, domains_of(subject.train), domains_of(subject.val)).items():
        for part in (*PARTS, "all"):
            after = seen(baseline, subject.val, exchanged(val.code, other, part, sizes))
            change = (after.made - val.made).square().mean() / error
            score = after.score.mean() / val.score.mean()
            yield {"network": subject.name, "replaced": part, "by that of": way, "change": change.item(), "score": score.item()}


def _others(train: Tensor, val: Tensor, train_domain: Tensor, val_domain: Tensor) -> dict[str, Tensor]:
    """Codes to take parts from, (N, latent) for the N validation images, by WAYS."""
    generator = torch.Generator().manual_seed(0)
    drawn = [val[partners(val_domain, same, generator)] for same in (True, False)]
    return dict(zip(WAYS, (*drawn, domain_means(train, train_domain, val_domain), train.mean(dim=0).expand_as(val)), strict=True))


def gradient_rows(subject: Subject, batches: int) -> Rows:
    """Table 3."""
    settings = subject.trained.settings
    networks = [] if subject.start is None else [("as drawn", subject.start, subject.start.maddr)]
    for when, baseline, constraint in (*networks, ("trained", subject.trained.baseline, subject.constraint)):
        phases = baseline.phases()
        if not phases:
            continue
        indices = ShuffledIndices(len(subject.train), settings.seed, window=subject.train.window)
        drawn = [subject.train.batch(indices.take(phases[-1].batch_size)) for _ in range(batches)]
        gradients = [pulls(baseline, constraint, batch, phases[-1], number) for number, batch in enumerate(drawn)]
        for name in gradients[0]:
            if name != BASE:
                cosines = {f"cosine with {other}": compared(gradients, name, other)[0] for other in (BASE, "center") if other in gradients[0]}
                norm = {"norm by the reconstruction's": compared(gradients, name, BASE)[1]}
                yield {"network": subject.name, "when": when, "term": name} | norm | cosines


def lesion_rows(subject: Subject) -> Rows:
    """Table 4; none without twins, or of a baseline whose score decodes nothing."""
    if subject.pairs is None:
        return
    baseline, constraint = subject.trained.baseline, subject.constraint
    normal, lesion, twin = (seen(baseline, images) for images in (subject.val, *subject.pairs))
    if normal.made is None:
        return
    domain = domains_of(subject.val)
    deviation = _within(normal.score[:, None], domain) ** 0.5
    for part in ("none", *PARTS, "all"):
        code = twin.code if part == "none" else exchanged(twin.code, lesion.code, part, constraint.sizes)
        score = seen(baseline, subject.pairs[0], code).score
        row = {"network": subject.name, "lesion in": part, "shift": _shift(part, normal, lesion, twin, constraint, domain)}
        rate = twin_rate(score.double().numpy(), twin.score.double().numpy())
        yield row | {"rise": ((score - twin.score).mean() / deviation).item(), "twin rate": rate}


def _shift(part: str, normal: Seen, lesion: Seen, twin: Seen, constraint: MADDRConstraint, domain: Tensor) -> float | str:
    """The mean squared change of a part by the lesions, by its variance within domains."""
    if part == "none":
        return "–"
    moved, kept = ((each if part == "all" else constraint.split(each)[part]) for each in (lesion.code - twin.code, normal.code))
    return (moved.square().sum(dim=1).mean() / _within(kept, domain)).item()


def _within(values: Tensor, domain: Tensor) -> float:
    total, between = variances(values, domain)
    return total - between


def tables(subjects: Sequence[Subject], batches: int) -> dict[str, Callable[[], Rows]]:
    """Rows of all networks by the title of their table, made when they are asked for."""
    measures = {
        "latent": latent_rows,
        "decoder": decoder_rows,
        "gradients": lambda subject: gradient_rows(subject, batches),
        "lesions": lesion_rows,
    }
    return {title: (lambda measure=measure: (row for subject in subjects for row in measure(subject))) for title, measure in measures.items()}


def check_alike(subjects: Sequence[Subject]) -> None:
    """Refuse networks that differ in more than the terms; raises UserError."""
    facts = {(each.trained.settings.model, each.trained.settings.seed, *each.trained.settings.datasets) for each in subjects}
    if len(facts) > 1:
        told = "; ".join(" ".join(map(str, each)) for each in sorted(facts, key=str))
        raise UserError(f"the networks are of several models, seeds or datasets ({told}); name folders of one")


def main(argv: list[str] | None = None) -> None:
    """Print the tables."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.terms", description=__doc__, formatter_class=formatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a finished experiment, RESULTS/MODEL/REGIME/DATASETS/seed_N")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="(default: where the images were when the experiment ran)")
    parser.add_argument("--batches", type=int, default=8, metavar="N", help="over which gradients are averaged (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well, by table")
    arguments = parser.parse_args(argv)
    try:
        subjects = [load_subject(folder, arguments.data_root) for folder in arguments.folders]
        check_alike(subjects)
        rows = {}
        for title, make in tables(subjects, arguments.batches).items():
            print(f"\n{title}\n")
            rows[title] = show(make(), None)
            if not rows[title]:
                print("nothing to measure")
    except UserError as error:
        parser.error(str(error))
    if arguments.json is not None:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
