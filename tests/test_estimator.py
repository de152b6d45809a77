"""AnomalyDetector, as users of scikit-learn and PyOD expect it: what it says agrees with loops over its network, and with the commands."""

import csv
import inspect
import logging
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import anomaly_detection
from anomaly_detection import AnomalyDetector, UserError, load
from anomaly_detection.__main__ import main
from anomaly_detection.config.layers import Layer, read_layers, to_plain
from anomaly_detection.config.paths import CONFIGS, find_config
from anomaly_detection.data.formats.window import Window
from anomaly_detection.data.prepare.assign import order_patients
from anomaly_detection.registry import build_settings
from anomaly_detection.training.checkpoint import load_checkpoint, save_checkpoint
from tests.helpers import toy_images

SETTINGS = {"image_size": 16, "iterations": 20, "val_iter": 10, "batch_size": 8, "bf16": False, "baseline.width": 4}
SLICES = 3  # of each patient


def detector(model="memae", **options):
    return AnomalyDetector(model, options.pop("settings", SETTINGS), device="cpu", **options)


ALL = toy_images(144, side=16).images[:, 0].numpy()
X = ALL[::3]
GROUPS = [f"p{i // SLICES}" for i in range(len(X))]
ILL = X[:6].copy()
ILL[:, 4:9, 6:11] = 255
ORGANS, MODALITIES = np.array(["liver", "lung", "lung"])[np.arange(144) % 3], np.array(["ct", "ct", "xray"])[np.arange(144) % 3]


@pytest.fixture(scope="module")
def fitted():
    return detector().fit(X, organ="liver", modality="ct", groups=GROUPS)


@pytest.fixture(scope="module")
def universal():
    return detector().fit(ALL, organ=ORGANS, modality=MODALITIES)


def scores_of(estimator, images):
    """One by one, from the network alone."""
    baseline = estimator.detector_.baseline
    with torch.inference_mode():
        return np.array([baseline.anomaly_score(torch.tensor(image)[None, None] / 127.5 - 1).item() for image in images])


def test_scores_p_values_and_labels_are_those_of_a_loop_over_the_validation_patients(fitted):
    reference = fitted.detector_.calibration.domains[0, 0]
    scores, images = scores_of(fitted, X), [*X[:9], *ILL]
    highest = {patient: max(score for score, whose in zip(scores, GROUPS, strict=True) if whose == patient) for patient in GROUPS}
    names = {patient: f"patient {patient}" for patient in highest}
    validating = order_patients(list(names.values()), 0)[:2]  # an eighth of 16
    expected = sorted(score for patient, score in highest.items() if names[patient] in validating)
    assert reference.highest == pytest.approx(expected, rel=1e-5)
    assert reference.unit == "patients"
    new = scores_of(fitted, images)
    p = [(1 + sum(other >= score * (1 - 1e-6) for other in expected)) / (1 + len(expected)) for score in new]
    assert fitted.p_value(images).tolist() == pytest.approx(p)
    decision = fitted.decision_function(images)
    assert decision.tolist() == pytest.approx([(score - reference.center) / reference.spread for score in new], rel=1e-3, abs=1e-3)
    labels = fitted.predict(images)
    assert labels.tolist() == [int(score > reference.threshold) for score in new]
    assert labels.dtype == np.int64
    assert labels[-6:].tolist() == [1] * 6
    assert decision[-6:].min() > decision[:9].max()


def test_a_score_that_is_no_number_is_no_verdict(fitted, monkeypatch):
    verdict = fitted.detector_.verdict(X[:3])
    monkeypatch.setattr(type(fitted.detector_), "verdict", lambda *_: replace(verdict, calibrated=np.array([1.0, np.nan, 2.0])))
    for method in (fitted.predict, fitted.p_value, fitted.decision_function):
        with pytest.raises(ValueError, match="the score of image 1 is not a finite number"):
            method(X[:3])


def test_maps_are_of_their_images(fitted):
    maps = fitted.anomaly_map([*X[:3], ILL[0]])
    assert maps.shape == (4, 16, 16)
    assert maps.dtype == np.float32
    with torch.inference_mode():
        for image, anomaly_map in zip([*X[:3], ILL[0]], maps, strict=True):
            expected = fitted.detector_.baseline.anomaly_map(torch.tensor(image)[None, None] / 127.5 - 1)[0, 0].numpy()
            np.testing.assert_allclose(anomaly_map, expected, rtol=1e-3, atol=1e-5)
    assert maps[3][4:9, 6:11].mean() > maps[3].mean()


def test_it_is_what_the_commands_train_and_calibrate(data_root, tmp_path):
    """The same images on the same sides: the same weights, scores, p-values and thresholds."""
    config = "model: memae\nextends: base.yaml\ndatasets: [lung_ct]\n"
    base = anomaly_detection.config.paths.CONFIGS / "memae" / "base.yaml"
    (tmp_path / "lung.yaml").write_text(config.replace("base.yaml", str(base)), encoding="utf-8")
    overrides = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    arguments = ["train_eval", str(tmp_path / "lung.yaml"), "--data-root", str(data_root), "--results", str(tmp_path / "r"), "--device", "cpu"]
    assert main([*arguments, *overrides]) == 0
    run = tmp_path / "r" / "memae" / "separate" / "lung_ct" / "seed_0"
    folder = data_root / "lung_ct" / "normal"
    paths = [folder / f"{part}_{i}.png" for part, count in (("train", 8), ("val", 4)) for i in range(count)]
    ordered = order_patients([f"patient {i}" for i in range(12)], 0)  # the first four validate
    groups = [name.removeprefix("patient ") for name in (*ordered[4:], *ordered[:4])]
    estimator = detector(validation_share=1 / 3).fit(paths, organ="lung", modality="ct", groups=groups)
    with open(run / "scores.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    tests = [data_root / "lung_ct" / row["image"] for row in rows]
    ours = estimator.detector_.predict_batch(tests)
    assert [prediction.score for prediction in ours] == pytest.approx([float(row["score"]) for row in rows], rel=1e-5)
    assert [prediction.threshold for prediction in ours] == pytest.approx([float(row["threshold"]) for row in rows], rel=1e-5)
    assert estimator.p_value(tests).tolist() == pytest.approx([float(row["p_value"]) for row in rows])
    assert estimator.decision_function(tests).tolist() == pytest.approx([float(row["calibrated_score"]) for row in rows], rel=1e-3, abs=1e-3)
    theirs = AnomalyDetector.load(run, "cpu")
    assert theirs.get_params() == {**estimator.get_params(), "maddr": False, "validation_share": 0.125}
    assert theirs.detector_.map_scale == pytest.approx(estimator.detector_.map_scale, rel=1e-5)


def test_the_same_pixels_by_any_way_have_the_same_score(fitted, tmp_path):
    images = [X[0], ILL[0]]
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    expected = fitted.decision_function(images).tolist()
    stacked = np.stack(images)
    ways = [
        stacked,
        stacked / 255,
        [tmp_path / "0.png", str(tmp_path / "1.png")],
        [Image.fromarray(pixels) for pixels in images],
        torch.tensor(stacked),
        torch.tensor(stacked)[:, None].float() / 255,
        np.repeat(stacked[..., None], 3, axis=3),
    ]
    for way in ways:
        assert fitted.decision_function(way).tolist() == expected


def test_fitting_on_paths_arrays_and_windowed_numbers_is_the_same(fitted, tmp_path):
    hu = X.astype(np.int16) * 4 - 500
    shown = detector().fit(Window(0, 1000).grey(hu))
    through = detector(window=(0, 1000)).fit(hu)
    assert through.decision_function(hu[:5]).tolist() == shown.decision_function(Window(0, 1000).grey(hu[:5])).tolist()
    through.save(tmp_path / "a.pt")
    assert AnomalyDetector.load(tmp_path / "a.pt").get_params()["window"] == (0, 1000)
    with pytest.raises(ValueError, match=r"^image 2: int16 does not say .* give window=\(level, width\)"):
        detector().fit(hu, [1, 1, *[0] * 46])


def test_one_domain_is_separate_and_several_are_constrained_unless_told_otherwise(fitted, universal, tmp_path):
    plain = detector(maddr=False).fit(ALL, organ=ORGANS, modality=MODALITIES)
    for estimator, regime, heads in ((fitted, "separate", False), (universal, "maddr", True), (plain, "united", False)):
        estimator.save(tmp_path / "checkpoint.pt")
        assert load_checkpoint(tmp_path / "checkpoint.pt")["regime"] == regime
        assert (estimator.detector_.baseline.maddr is not None) == heads
    assert repr(universal.detector_) == "<Detector MemAE: liver ct, lung ct, lung xray; 16 x 16 grey; calibrated on 18 images>"
    organs = {prediction.organ for prediction in universal.detector_.predict_batch(ALL[:6])}
    assert organs <= {"liver", "lung"}
    assert {prediction.organ for prediction in plain.detector_.predict_batch(ALL[:6])} == {None}
    alone = detector(maddr=True).fit(X)
    assert alone.detector_.baseline.maddr is not None


def test_a_seed_decides_and_nobody_elses_random_numbers_change(fitted):
    torch.manual_seed(5)
    expected = torch.rand(3).tolist()
    torch.manual_seed(5)
    again = detector().fit(X, organ="liver", modality="ct", groups=GROUPS)
    assert torch.rand(3).tolist() == expected
    assert again.checkpoint_ == fitted.checkpoint_ or again.decision_function(X).tolist() == fitted.decision_function(X).tolist()
    other = detector(seed=1).fit(X, organ="liver", modality="ct", groups=GROUPS)
    assert other.decision_function(X).tolist() != fitted.decision_function(X).tolist()


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_it_is_fitted_alike_where_gradients_are_switched_off(surrounding, fitted):
    with surrounding():
        inference = torch.is_inference_mode_enabled()
        again = detector().fit(X, organ="liver", modality="ct", groups=GROUPS)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (False, inference)
    assert again.decision_function(ILL).tolist() == fitted.decision_function(ILL).tolist()
    assert list(inspect.signature(AnomalyDetector.fit).parameters) == ["self", "X", "y", "organ", "modality", "groups"]


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_fitted_and_scores_alike_where_a_program_casts(enabled, fitted, monkeypatch):
    """In bfloat16, too: in a block of autocast, even a disabled one, torch keeps what it has cast of weights that have changed since."""
    expected = fitted.decision_function(ILL).tolist()
    monkeypatch.setattr("anomaly_detection.training.loop.runs_in_bf16", lambda settings, device: settings.bf16)
    for bf16 in (False, True):
        settings = {**SETTINGS, "bf16": bf16}
        plain = detector(settings=settings).fit(X, organ="liver", modality="ct", groups=GROUPS)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert fitted.decision_function(ILL).tolist() == expected
            again = detector(settings=settings).fit(X, organ="liver", modality="ct", groups=GROUPS)
            assert torch.is_autocast_enabled("cpu") == enabled
        assert again.decision_function(ILL).tolist() == plain.decision_function(ILL).tolist()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_it_is_the_same_where_a_program_has_other_numbers_by_default(kind, fitted):
    expected = fitted.decision_function(ILL).tolist()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(kind)
        for each in (fitted, pickle.loads(pickle.dumps(fitted)), detector().fit(X, organ="liver", modality="ct", groups=GROUPS)):
            assert each.decision_function(ILL).tolist() == expected
        assert torch.get_default_dtype() == kind
    finally:
        torch.set_default_dtype(before)


def test_what_is_saved_is_a_checkpoint_like_any_other(fitted, tmp_path, capsys):
    path = tmp_path / "models" / "liver.pt"
    fitted.save(path)
    expected = fitted.decision_function(ILL).tolist()
    loaded = AnomalyDetector.load(path, "cpu")
    assert loaded.decision_function(ILL).tolist() == expected
    assert [prediction.calibrated_score for prediction in load(path, "cpu").predict_batch(ILL)] == pytest.approx(expected, rel=1e-4)
    assert loaded.get_params() == {**fitted.get_params(), "maddr": False}
    refitted = clone(loaded).fit(X, organ="liver", modality="ct", groups=GROUPS)
    assert refitted.decision_function(ILL).tolist() == expected
    Image.fromarray(ILL[0]).save(tmp_path / "ill.png")
    assert main(["predict", str(path), str(tmp_path / "ill.png"), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["calibrated_score"]) == pytest.approx(expected[0], rel=1e-4)
    assert row["anomalous"] == "1"


@pytest.mark.parametrize(("kind", "datasets"), [("fitted", ["lits"]), ("universal", ["lits", "covid_ct", "covid_xray"])])
def test_a_clone_of_what_a_command_has_trained_fits_with_the_settings_of_that_training(kind, datasets, request, tmp_path):
    """Those of paper.yaml, by the config of the dataset: 16,000 iterations, which no base.yaml has."""
    narrow = {"image_size": 16, "baseline": {"width": 4}, "maddr": {"enabled": kind == "universal"}}
    trained = build_settings([*read_layers(find_config(CONFIGS, "memae", datasets)), Layer("the test", narrow)])
    assert (trained.iterations, trained.lr) == (16000, 0.0001)
    request.getfixturevalue(kind).save(tmp_path / "checkpoint.pt")
    content = load_checkpoint(tmp_path / "checkpoint.pt")
    save_checkpoint(tmp_path / "checkpoint.pt", {**content, "settings": to_plain(trained)})
    again = clone(AnomalyDetector.load(tmp_path, "cpu"))
    would_fit = again._settings(["body image"])
    assert {**to_plain(would_fit), "datasets": datasets} == to_plain(trained)


@pytest.mark.parametrize("content", [b"junk", {"a": 1}, {"a": 1, "version": 2}, [1]], ids=str)
def test_a_file_that_is_no_detector_is_told(content, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / "a.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: "):
        AnomalyDetector.load(tmp_path / "a.pt")


def test_it_is_pickled_as_joblib_does_between_processes(fitted):
    before = torch.get_rng_state()
    again = pickle.loads(pickle.dumps(fitted))
    assert torch.equal(torch.get_rng_state(), before), "nobody else's random numbers change"
    assert again.decision_function(ILL).tolist() == fitted.decision_function(ILL).tolist()
    assert again.get_params() == fitted.get_params()
    assert not hasattr(pickle.loads(pickle.dumps(detector())), "detector_")


def test_one_of_a_gpu_that_is_not_there_is_unpickled_where_it_can_be(fitted, caplog):
    elsewhere = pickle.loads(pickle.dumps(fitted)).set_params(device="cuda:99")
    again = pickle.loads(pickle.dumps(elsewhere))
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("this machine has no device cuda:99: the detector is on c")
    assert again.decision_function(ILL).tolist() == pytest.approx(fitted.decision_function(ILL).tolist(), rel=1e-3)
    assert again.get_params() == elsewhere.get_params(), "where it is fitted again is said in one line"
    with pytest.raises(UserError, match="cuda:99"):
        again.fit(X)


def test_parameters_are_those_of_scikit_learn():
    estimator = detector(window=(40, 400), maddr=True)
    assert clone(estimator).get_params() == estimator.get_params()
    assert estimator.set_params(seed=3).get_params()["seed"] == 3
    assert repr(AnomalyDetector("memae", seed=2)) == "AnomalyDetector(model='memae', seed=2)"
    assert AnomalyDetector().get_params()["model"] == "feature_ae"


CHECKS = (
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_checks_of_scikit_learn_that_hand_over_no_table_pass(check):
    """The others fit on 2-D tables of numbers, or expect -1 and 1 of what detects outliers: they are not about images."""
    check("AnomalyDetector", AnomalyDetector())


@pytest.mark.parametrize("method", ["decision_function", "predict", "p_value", "anomaly_map"])
def test_before_fit_there_is_nothing_to_say(method, tmp_path):
    with pytest.raises(NotFittedError):
        getattr(detector(), method)(X)
    with pytest.raises(NotFittedError):
        detector().save(tmp_path / "a.pt")


def test_pipelines_cross_validation_and_searches_take_it():
    y = np.array([0] * len(X) + [1] * len(ILL))
    images, groups = np.concatenate([X, ILL]), np.array(GROUPS + ["q0", "q1", "q2"] * 2)
    pipeline = make_pipeline(detector()).fit(images, y, anomalydetector__groups=groups)
    assert pipeline.decision_function(ILL).min() > pipeline.decision_function(X).mean()
    aucs = cross_val_score(detector(), images, y, groups=groups, cv=GroupKFold(2), scoring="roc_auc", params={"groups": groups})
    assert aucs.min() > 0.9
    grid = {"settings": [{**SETTINGS, "lr": rate} for rate in np.array([0.001, 0.002])]}
    search = GridSearchCV(detector(), grid, scoring="roc_auc", cv=StratifiedKFold(2), error_score="raise").fit(images, y)
    pickle.loads(pickle.dumps(search.best_estimator_))  # its checkpoint holds no number of numpy's, which would not be read again


def test_abnormal_images_train_nothing(fitted):
    images, y = np.concatenate([ILL, X]), [1] * len(ILL) + [0] * len(X)
    estimator = detector().fit(images, y, organ="liver", modality="ct", groups=["q"] * len(ILL) + GROUPS)
    assert estimator.decision_function(ILL).tolist() == fitted.decision_function(ILL).tolist()


def test_what_is_promised_and_by_whom_is_said(caplog):
    with caplog.at_level(logging.INFO):
        detector(validation_share=0.5).fit(X, organ="liver", modality="ct")
    assert "liver ct: at most 0.05 of new normal images are called anomalous (24 validation images)" in caplog.messages
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("each of 48 images counts as a patient of its own: where several show the same patient, thresholds are too low")
    caplog.clear()
    detector().fit(np.stack([X, X, 255 - X], axis=3), groups=GROUPS)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0] == "the images have colours, of which the network sees grey; settings={'channels': 3} keeps them"
    assert "body image: the threshold is an estimate; 2 validation patients guarantee nothing, it takes 19" in warnings
    coloured = detector(settings={**SETTINGS, "channels": 3}).fit(np.stack([X, X, 255 - X], axis=3), groups=GROUPS)
    assert coloured.detector_.preprocessing.channels == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"settings": {"iteratoins": 3}}, UserError, "^settings of AnomalyDetector: iteratoins: no such key; did you mean iterations?"),
        ({"settings": {"baseline": {"widht": 3}}}, UserError, "baseline.widht: no such key; did you mean width?"),
        ({"settings": {"seed": 1}}, ValueError, "^settings: seed is given as seed="),
        ({"settings": {"maddr.enabled": True}}, ValueError, "^settings: maddr.enabled is given as maddr="),
        ({"settings": {"maddr": {"probe": True}}}, ValueError, "^settings: maddr.probe is given as maddr="),
        ({"settings": {"datasets": ["a"]}}, ValueError, "^settings: datasets is given as organ= and modality= of fit"),
        ({"settings": 3}, TypeError, "^settings: expected a mapping"),
        ({"model": "memea"}, UserError, "no model 'memea'; did you mean memae?"),
        ({"window": (1, 2, 3)}, ValueError, r"^window must be \(level, width\), auto or None"),
        ({"window": "max"}, ValueError, "^window must be"),
        ({"model": None}, TypeError, "^model: expected the name of a baseline, got None"),
        ({"maddr": "no"}, TypeError, "^maddr: expected True, False or None, got 'no'"),
        ({"window": 5}, ValueError, "^window must be .* not 5"),
        ({"window": ("a", "b")}, ValueError, "^window must be"),
        ({"validation_share": 2}, ValueError, "^validation_share must be between 0 and 1"),
    ],
)
def test_parameters_that_will_not_do_are_told(options, error, message):
    with pytest.raises(error, match=message):
        detector(**options).fit(X)


def test_groups_of_keys_are_laid_over_the_config_as_in_yaml(fitted):
    nested = {key: value for key, value in SETTINGS.items() if key != "baseline.width"} | {"baseline": {"width": np.int64(4)}}
    estimator = detector(settings=nested).fit(X, organ="liver", modality="ct", groups=GROUPS)
    assert estimator.decision_function(ILL).tolist() == fitted.decision_function(ILL).tolist()


def test_importing_the_package_imports_nothing_large():
    code = (
        "import sys, anomaly_detection as ad\n"
        "assert 'AnomalyDetector' in dir(ad) and not hasattr(ad, 'Anomaly')\n"
        "print(sorted({'torch', 'sklearn', 'scipy', 'numpy', 'anomaly_detection.estimator'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
