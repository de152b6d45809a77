"""The examples as they are written, and the mistakes that can be made with the name of a baseline from outside the package."""

import csv
import textwrap
from pathlib import Path

import pytest

import run_experiments
from anomaly_detection import load
from anomaly_detection.__main__ import main
from anomaly_detection.registry import find_baseline
from anomaly_detection.system.errors import UserError

MODEL = "examples.autoencoder:Autoencoder"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    monkeypatch.setattr("anomaly_detection.study.report.write_report", lambda *_: None)


def study(data_root, results, model):
    arguments = ["--data-root", str(data_root), "--results", str(results), "--models", model, "--seeds", "0"]
    arguments += ["--set", "image_size=16", "--set", "iterations=40", "--set", "val_iter=20"]
    return run_experiments.main(arguments)


def test_the_example_runs_in_every_regime_and_is_used_like_any_other(data_root, tmp_path, capsys):
    assert study(data_root, tmp_path / "results", MODEL) == 0
    table = capsys.readouterr().out
    for regime in ("separate", "united", "maddr"):
        assert f"| {MODEL} | {regime} |" in table
    run = tmp_path / "results" / "examples.autoencoder.Autoencoder" / "maddr" / "liver_ct+lung_ct+lung_xray" / "seed_0"
    with open(run / "scores.csv", encoding="utf-8") as file:
        score = next(float(row["score"]) for row in csv.DictReader(file) if (row["dataset"], row["image"]) == ("lung_ct", "anomaly/test_0.png"))
    prediction = load(run, "cpu").predict(data_root / "lung_ct" / "anomaly" / "test_0.png")
    assert prediction.score == pytest.approx(score, rel=1e-4)
    assert prediction.organ in ("liver", "lung")


def test_one_of_another_package_without_keys_of_its_own(data_root, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "brightness.py").write_text(
        textwrap.dedent(
            """
            import torch
            from anomaly_detection.baseline import Assessment, Baseline, minimise, Phase

            class Brightness(Baseline):
                latent_dim = 24

                def __init__(self, settings):
                    super().__init__(settings)
                    self.encoder = torch.nn.Linear(1, 24)

                def phases(self):
                    return [Phase("all", self.settings.iterations, self.settings.batch_size)]

                def optimizers(self, phase):
                    return {"all": torch.optim.SGD([*self.encoder.parameters(), *self.heads()], 0.01)}

                def training_step(self, batch, optimizers):
                    z = self.encoder(batch.image.mean(dim=(2, 3)))
                    constraint, log = self.constraint(z, batch)
                    minimise(z.square().mean() + constraint, optimizers["all"])
                    return log

                def assess(self, x, with_map):
                    z = self.encoder(x.mean(dim=(2, 3)))
                    return Assessment(z, z.square().mean(dim=1), x.abs() if with_map else None)
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    config = "model: brightness:Brightness\ndatasets: [liver_ct, lung_ct]\nimage_size: 16\niterations: 4\nval_iter: 2\nmaddr: {enabled: true}\n"
    (tmp_path / "mine.yaml").write_text(config, encoding="utf-8")
    assert main(["train_eval", str(tmp_path / "mine.yaml"), "--data-root", str(data_root), "--results", str(tmp_path / "r"), "--device", "cpu"]) == 0
    run = tmp_path / "r" / "brightness.Brightness" / "maddr" / "liver_ct+lung_ct" / "seed_0"
    assert not (run / "samples").exists(), "it reconstructs nothing"
    assert load(run, "cpu").predict(data_root / "lung_ct" / "anomaly" / "test_0.png").anomaly_map.shape == (16, 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memea", "did you mean memae?"),
        ("nothing", "the choices are gaussian, .* or package.module:Class"),
        ("no_such_package.module:Class", "No module named 'no_such_package'; the module must lie where Python imports from"),
        ("examples.autoencoder:Autoencodr", r"examples.autoencoder\.py has no attribute 'Autoencodr'"),
        ("examples.autoencoder:AutoencoderSettings", "no subclass of anomaly_detection.baseline.Baseline"),
        (":Class", "no model ':Class'"),
        ("sys:Class", "sys has no attribute 'Class'"),
    ],
)
def test_a_name_that_names_no_baseline_is_told_in_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        find_baseline(name)
    assert "\n" not in str(caught.value)


def test_a_baseline_that_would_leave_the_heads_untrained_is_refused_before_anything_begins(data_root, tmp_path):
    with pytest.raises(UserError, match=r"^Forgetful: no optimizer holds maddr\.heads\.organ\.bias"):
        study(data_root, tmp_path / "results", "tests.training.test_loop:Forgetful")
    assert not (tmp_path / "results").exists()


def test_the_script_of_the_python_api_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[1] / "examples" / "python_api.py"
    source = script.read_text(encoding="utf-8")
    for line, small in (("PATIENTS = 160", "PATIENTS = 16"), ("NEW = 20", "NEW = 2"), ('"image_size": 128}', '"image_size": 64, "iterations": 60}')):
        assert source.count(line) == 1
        source = source.replace(line, small)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(source, str(script), "exec"), names)
    assert (tmp_path / "python_api" / "map.png").stat().st_size > 10_000
    assert names["detector"].detector_.calibration.everything.unit == "patients"
    assert names["score"].shape == (8,)
    assert "<Detector GaussianOfFeatures: liver ct; 64 x 64 grey; calibrated on 2 patients>" in capsys.readouterr().out
