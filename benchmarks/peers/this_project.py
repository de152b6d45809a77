"""This project's own detectors, measured as their peers are: `python -m benchmarks.peers.this_project`."""

from pathlib import Path

from anomaly_detection.build import load_trained
from anomaly_detection.data.dataset import DataSource
from anomaly_detection.evaluation.evaluate import look_at_normals
from anomaly_detection.evaluation.rows import score_rows
from anomaly_detection.evaluation.scores import BATCH, Scores, score_images
from anomaly_detection.study.experiment import Experiment, locked_folder
from anomaly_detection.study.plan import Grid, find_data, plan
from anomaly_detection.study.train_and_score import look_up_features, train_experiment
from anomaly_detection.system.files import read_json
from anomaly_detection.system.version import __version__
from benchmarks.peers.exchange import CPU, PARTS
from benchmarks.peers.measured import read_task, report, timed

MODELS = tuple(f"{model} {regime}" for model in ("gaussian", "feature_ae") for regime in ("united", "united_probe", "maddr"))
NOTES = {"united": "", "united_probe": "scores by the domain that the probe names", "maddr": "scores by the domain that the heads name"}


def experiment_of(root: Path, datasets: list[str], model: str, seed: int, results: Path) -> Experiment:
    """The one that a study of these datasets would run.

    Args:
        root: of the data.
        datasets: their names.
        model: one of `MODELS`.
        seed: of the training.
        results: where its folder is to lie.
    """
    name, regime = model.split()
    return plan(Grid([name], [regime], [seed]), find_data(root, False, datasets), results)[0]


def main() -> None:
    """Train and score one detector. Features are looked up, as those that the peers are given are."""
    task = read_task(MODELS)
    told = read_json(task.exchange / "exchange.json")
    source = DataSource(Path(told["data_root"]))
    experiment = experiment_of(source.data_root, told["datasets"], task.model, task.seed, task.out.with_suffix(".results"))
    with locked_folder(experiment, source):
        _, training_s = timed(lambda: train_experiment(experiment, source, CPU))
    trained = load_trained(experiment.folder, CPU)
    look_up_features(trained.baseline, source, trained.preprocessing, PARTS, CPU)
    train, val, test = (source.load(told["datasets"], part, trained.preprocessing) for part in PARTS)

    def score() -> list[Scores]:
        return [score_images(trained.baseline, (batch.image for batch in images.batches(BATCH))) for images in (val, test)]

    scores, scoring_s = timed(score)
    patients = {part: source.patients(images) for part, images in (("train", train), ("val", val), ("test", test))}
    normals = look_at_normals(trained.baseline, train, val, patients, 1 - trained.settings.threshold_quantile)
    rows = [
        row
        for part, images, each in (("val", val, scores[0]), ("test", test, scores[1]))
        for row in score_rows(images, patients[part], part, each, normals.calibration, trained.domains)
    ]
    library = f"this project {__version__}"
    report(task, [row["calibrated_score"] for row in rows], training_s, scoring_s, library, NOTES[experiment.regime])


if __name__ == "__main__":
    main()
