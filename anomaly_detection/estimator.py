"""A detector with the methods of scikit-learn and PyOD, trained and used on images in memory or on disk."""

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from anomaly_detection.build import add_calibration, build_baseline, checkpoint_facts
from anomaly_detection.config.layers import Layer, overriding, to_plain
from anomaly_detection.config.settings import Settings
from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.formats.window import plain_window, window_from
from anomaly_detection.data.in_memory import Groups, Labels, Side, Words, dataset_of, split
from anomaly_detection.data.inputs import images_of, pixels_of, preprocessed
from anomaly_detection.data.preprocessing import TINT, Preprocessing, colourfulness
from anomaly_detection.data.splits import Part
from anomaly_detection.detector import Detector, load
from anomaly_detection.evaluation.calibration import Verdict
from anomaly_detection.evaluation.evaluate import look_at_normals
from anomaly_detection.registry import build_settings
from anomaly_detection.study.plan import config_layers
from anomaly_detection.study.regimes import regime_of
from anomaly_detection.system.devices import choose_device
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file
from anomaly_detection.system.precision import training_alone
from anomaly_detection.training.loop import train
from anomaly_detection.training.seed import one_at_a_time, random_state, seed_everything, set_random_state

logger = logging.getLogger(__name__)

ARGUMENTS = {"model": "model=", "seed": "seed=", "datasets": "organ= and modality= of fit", "maddr.enabled": "maddr=", "maddr.probe": "maddr="}


class AnomalyDetector(BaseEstimator):
    """An anomaly detector for medical images that learns from normal images alone.

    >>> detector = AnomalyDetector("feature_ae", window=(40, 400)).fit(slices, organ="liver", modality="ct", groups=patients)
    >>> detector.decision_function(more_slices)  # higher is more abnormal
    >>> detector.save("liver.pt")

    Labels are those of PyOD: 1 is abnormal and 0 is normal, where scikit-learn's own detectors say -1 and 1, and scores rise with abnormality.
    Parameters are those of scikit-learn: get_params, set_params, clone, pipelines and searches work.

    Images are, in every method: a list or another sequence of images of any sizes, each a path (PNG, JPEG, TIFF, BMP, DICOM, NIfTI, with one image in
    it; `read_images` gives those of a volume), a Pillow image, an array (H, W) or (H, W, 3), or a tensor (H, W), (1, H, W) or (3, H, W); an array
    (N, H, W) or (N, H, W, 3); or a tensor (N, H, W), (N, 1, H, W) or (N, 3, H, W). Values of uint8 are taken as they are, all others are shown
    through the window; where there is none they are floating point in [0, 1]. What is none of these is a TypeError or a ValueError that says so; a
    file that cannot be read is a `UserError`.

    Args:
        model: the name of a baseline, such as gaussian, feature_ae or memae, or package.module:Class.
        settings: keys of the configs, laid over the base.yaml of the model: {"iterations": 500, "baseline.width": 32}, or groups as in YAML.
        maddr: whether organ and modality are split off the latent, so that the detector names the domain of an image and judges the image in it;
            None: where there are several domains. Without it one of several domains has one threshold for all.
        window: what is shown of images with more than 8 bits: (level, width), of CT in Hounsfield units; "auto", from the 0.5th to the 99.5th
            percentile of each image; None: what files say.
        validation_share: of the patients of each domain, who train nothing but set threshold and p-values; by default what `prepare` takes, 0.1
            beside 0.7. It takes 19 of them to promise a rate of 5 % false alarms; with fewer the threshold is an estimate, which a warning says.
        seed: same seed, same machine, same images: same detector. Where several threads fit or load detectors, one waits for the other.
        device: "auto" (the GPU where there is one), "cpu", "cuda:1" ...

    Attributes:
        detector_: what was trained, which tells more of an image: `detector_.predict_batch(X)` gives verdict, threshold, organ, modality and map.
        checkpoint_: the bytes of its checkpoint.pt.
    """

    _estimator_type = "outlier_detector"  # so that scikit-learn's metrics of scores, such as roc_auc, ask for decision_function

    def __init__(
        self,
        model: str = "feature_ae",
        settings: Mapping[str, Any] | None = None,
        *,
        maddr: bool | None = None,
        window: Sequence[float] | Literal["auto"] | None = None,
        validation_share: float = 0.125,
        seed: int = 0,
        device: str = "auto",
    ):
        self.model = model
        self.settings = settings
        self.maddr = maddr
        self.window = window
        self.validation_share = validation_share
        self.seed = seed
        self.device = device

    @training_alone()
    def fit(
        self,
        X: Any,
        y: Sequence[int] | None = None,
        *,
        organ: Words = "body",
        modality: Words = "image",
        groups: Groups | None = None,
    ) -> "AnomalyDetector":
        """Train on normal images, and set threshold and p-values on those of some patients who are kept apart.

        Args:
            X: N images, see the class.
            y: (N,) 0 of a normal image, 1 of an abnormal one, which is left out: so scikit-learn's cross-validation trains on normal images and
                scores on both. None: all are normal.
            organ, modality: what the images show and how they were taken, a word for all or one for each image. A pair of them is a domain.
            groups: (N,) the patient of each image; None, also of one image, counts it as a patient of its own, and so do NaN and "". A patient is on
                one side of training and validation, so are images with the same pixels; and promises are of patients.

        Raises:
            ValueError, TypeError: a parameter, images, words or groups that will not do.
            UserError: a setting that will not do, or a file that cannot be read.
        """
        images, window = images_of(X), window_from(self.window)
        labels = Labels.of(len(images), y, organ, modality, groups)
        settings = self._settings(list(dict.fromkeys(labels.datasets)))
        preprocessing = Preprocessing(window=window, image_size=settings.image_size, channels=settings.channels)
        first = labels.places[0]
        if settings.channels == 1 and colourfulness(pixels_of(images[first], window, f"image {first}")) > TINT:
            logger.warning("the images have colours, of which the network sees grey; settings={'channels': 3} keeps them")
        sides = split(np.concatenate(list(preprocessed(images, preprocessing, labels.places))), labels, self.validation_share, settings.seed)
        self._train(settings, preprocessing, labels.domains, sides)
        self._tell(sides)
        return self

    def _train(self, settings: Settings, preprocessing: Preprocessing, domains: Domains, sides: Mapping[Part, Side]) -> None:
        """As an experiment is trained and calibrated, in a folder that is left to nobody."""
        device = choose_device(self.device)
        train_set, val_set = (sides[part].images.to(device) for part in ("train", "val"))
        patients = {part: side.patients for part, side in sides.items()}
        regime = regime_of(len(settings.datasets), settings.maddr).name
        facts = checkpoint_facts(settings, regime, domains, dict.fromkeys(settings.datasets, preprocessing))
        with tempfile.TemporaryDirectory() as name, one_at_a_time(), _restored_randomness(device):
            folder = Path(name)
            seed_everything(settings.seed, device)
            baseline = build_baseline(settings, domains, train_set).to(device)
            # nobody could look at what training writes on its way
            quiet = replace(settings, checkpoint_iter=sys.maxsize, sample_iter=sys.maxsize, tensorboard=False)
            train(baseline, train_set, val_set, quiet, folder, facts)
            seen = look_at_normals(baseline, train_set, val_set, patients, round(1 - settings.threshold_quantile, 9))
            add_calibration(folder, seen.calibration, seen.map_scale)
            self._take(folder / "checkpoint.pt", self.device)

    def decision_function(self, X: Any) -> np.ndarray:
        """(N,) how abnormal images are, higher is more abnormal: the score's distance from the center of normals of the image's domain, in units of
        their spread, which compares across domains."""
        return self._verdict(X).calibrated

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int64, 1 of an abnormal image and 0 of a normal one, whose score is not above the threshold of its domain.

        That is PyOD's convention; scikit-learn's detectors say -1 and 1. It says so of any image: whether the detector knows its kind at all is in
        `detector_.predict_batch(X)`.
        """
        return self._verdict(X).anomalous.astype(np.int64)

    def p_value(self, X: Any) -> np.ndarray:
        """(N,) of the scores among the validation patients of the image's domain, each with its highest: at most a share p of new normal patients of
        that domain scores so high. Without maddr, those of several domains are taken together, and there is no such share."""
        return self._verdict(X).p_value

    def anomaly_map(self, X: Any) -> np.ndarray:
        """(N, image_size, image_size) float32, higher is more abnormal."""
        check_is_fitted(self)
        images, side = images_of(X), self.detector_.preprocessing.image_size
        maps = np.empty((len(images), side, side), np.float32)
        for place, prediction in enumerate(self.detector_.predictions(images)):
            maps[place] = prediction.anomaly_map
        return maps

    def save(self, path: str | Path) -> None:
        """Write a checkpoint.pt, which `load`, and the commands `predict` and `export`, take, too."""
        check_is_fitted(self)
        with whole_file(Path(path)) as partial:
            partial.write_bytes(self.checkpoint_)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> "AnomalyDetector":
        """The fitted detector of a checkpoint, also of one that the commands have trained.

        Its parameters are those of training as far as a checkpoint holds them: all but validation_share, and what `prepare` has done to images. A
        `clone` that is fitted trains the same network, also where a config of the dataset has changed settings that no `fit` would.

        Args:
            path: the checkpoint.pt, or the folder that holds it.
            device: see the class.

        Raises:
            UserError: there is none, or its training has not ended.
        """
        path = Path(path) / "checkpoint.pt" if Path(path).is_dir() else Path(path)
        detector = cls(device=device)._take(path, device)
        settings, window = detector.detector_.baseline.settings, plain_window(detector.detector_.preprocessing.window)
        arguments = {"model": settings.model, "maddr": settings.maddr.enabled, "seed": settings.seed}
        detector.set_params(**arguments, window=tuple(window) if isinstance(window, list) else window)
        base = detector._settings(_datasets(detector.detector_))  # what fit begins with, not what the command did: a dataset may have a config
        return detector.set_params(settings=_differing(to_plain(settings), to_plain(base)) or None)

    def _take(self, path: Path, device: str) -> "AnomalyDetector":
        """Be the detector of a checkpoint.pt, on a device."""
        self.detector_: Detector = load(path, device)
        self.checkpoint_ = path.read_bytes()
        return self

    def _verdict(self, X: Any) -> Verdict:
        check_is_fitted(self)
        verdict = self.detector_.verdict(X)
        if not (finite := np.isfinite(verdict.calibrated)).all():  # 0 or 1 would be a guess
            raise ValueError(f"the score of image {int(np.argmin(finite))} is not a finite number")
        return verdict

    def _settings(self, datasets: list[str]) -> Settings:
        """Checked settings; each domain is a dataset."""
        if not isinstance(self.settings, Mapping | None):
            raise TypeError(f"settings: expected a mapping such as {{'iterations': 500}}, got {type(self.settings).__name__}")
        if not isinstance(self.model, str):
            raise TypeError(f"model: expected the name of a baseline, got {self.model!r}")
        if self.maddr not in (None, True, False):
            raise TypeError(f"maddr: expected True, False or None, got {self.maddr!r}")
        given = _plain(self.settings or {})
        for key in [*given, *(f"maddr.{key}" for key in given.get("maddr") or {})]:
            if key in ARGUMENTS:
                raise ValueError(f"settings: {key} is given as {ARGUMENTS[key]}")
        layers = [overriding("settings of AnomalyDetector", str(key), value) for key, value in given.items()]
        maddr = len(datasets) > 1 if self.maddr is None else bool(self.maddr)
        arguments = {"model": self.model, "datasets": datasets, "seed": self.seed, "maddr": {"enabled": maddr, "probe": False}}
        return build_settings([*config_layers(self.model, datasets), *layers, Layer("AnomalyDetector", _plain(arguments), override=True)])

    def _tell(self, sides: Mapping[Part, Side]) -> None:
        """Say what is promised: as a warning where it is nothing, or where nobody knows whose the images are."""
        calibration = self.detector_.calibration
        references = calibration.domains.values() if calibration.tells_domains else [calibration.everything]
        level = logging.INFO if all(reference.guaranteed for reference in references) else logging.WARNING
        for line in self.detector_.promises():
            logger.log(level, "%s", line)
        patients = [patient for side in sides.values() for patient in side.patients]
        if all(patient is None for patient in patients):
            advice = "where several show the same patient, thresholds are too low; groups= of fit tells whose each is"
            logger.warning("each of %d images counts as a patient of its own: %s", len(patients), advice)

    def __getstate__(self) -> dict[str, Any]:
        """Without the networks, which the checkpoint holds."""
        return {key: value for key, value in super().__getstate__().items() if key != "detector_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """On the device that is named; where this machine has none of that name on the one that "auto" takes, which a warning says."""
        super().__setstate__(state)
        if "checkpoint_" in state:
            with tempfile.TemporaryDirectory() as name:
                path = Path(name) / "checkpoint.pt"
                path.write_bytes(state["checkpoint_"])
                self._take(path, _device_here(self.device))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = self._estimator_type
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags


def _device_here(device: str) -> str:
    """A device by its name, "auto" where this machine has none of that name."""
    try:
        choose_device(device)
    except UserError:
        here = choose_device("auto")
        logger.warning("this machine has no device %s: the detector is on %s here; set_params(device=...) before fit", device, here)
        return "auto"
    return device


def _datasets(detector: Detector) -> list[str]:
    """The domains of a detector, as `AnomalyDetector.fit` names them."""
    organs, modalities = detector.domains.organs, detector.domains.modalities
    return [dataset_of(organs[organ], modalities[modality]) for organ, modality in detector.calibration.domains]


def _differing(settings: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of settings that are others than those of a base, those of the model and of the constraint with a dot; but for `ARGUMENTS`."""
    groups = ("baseline", "maddr")

    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{group}.{key}": value for group in groups for key, value in values[group].items()} | dict(values)

    return {key: value for key, value in flat(settings).items() if value != flat(base)[key] and key not in (*groups, *ARGUMENTS)}


def _plain(value: Any) -> Any:
    """Numbers of numpy, as searches hand them over, as those of Python, which YAML and checkpoints hold."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def _restored_randomness(device: torch.device) -> Iterator[None]:
    """What the block seeds is nobody else's: the generators of a device and cuDNN are afterwards what they were."""
    random, before = random_state(device), (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark)
    try:
        yield
    finally:
        set_random_state(random, device)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
