"""The benchmarks compare like with like, and say what they promise."""

import csv
import itertools
import json
import math
import statistics
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.autograd import DeviceType

from anomaly_detection.config.layers import Layer, overriding, read_layers
from anomaly_detection.config.paths import CONFIGS
from anomaly_detection.data.phantom.datasets import write_phantoms
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.registry import build_settings
from anomaly_detection.system.lines import Lines
from benchmarks import agreement, backbone, data, false_alarms, picture, plain, scaling, shares, study, throughput, train_step, trivial, variants
from benchmarks.cases import ON_FEATURES, Case, Plain, Project, benchmark_images, cases
from benchmarks.measure import in_turns, operations


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "phantom"
    write_phantoms(folder, images=60, size=64, workers=1)
    return folder


@pytest.mark.parametrize(
    ("model", "loss", "size"), [("MADDR_dpa", "compose", 32), ("MADDR_dpa", "l1", 32), ("feature_ae", "", 64), ("gaussian", "", 64)]
)
def test_the_plain_step_computes_what_the_project_computes(root, model, loss, size):
    """The two are written apart: the same networks, one batch, one loss and one score from either, in float32."""
    case, device = Case(model, loss, size, 4), torch.device("cpu")
    images, paths = benchmark_images(root, size)
    plain, project = Plain(case, images, paths, device), Project(case, images, device)
    project.baseline.bf16 = False
    batch = next(plain.batches(4))
    (phase,) = project.baseline.phases()
    with torch.no_grad():
        scores = [rival.baseline.eval().anomaly_score(batch.image) for rival in (plain, project)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-6)
    losses = []
    for rival in (plain, project):
        rival.baseline.train()
        rival.baseline.phase = phase
        torch.manual_seed(0)  # of dropout
        losses.append(rival.baseline.training_step(replace(batch), rival.baseline.optimizers(phase))["loss"])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


def test_the_tables_have_the_promised_columns(root, tmp_path, capsys):
    few = ["--sizes", "32", "--batches", "4", "--rounds", "1", "--steps", "1", "--data-root", str(root), "--device", "cpu"]
    train_step.main([*few, "--models", "memae", "--json", str(tmp_path / "steps.json")])
    rows = json.loads((tmp_path / "steps.json").read_text())
    assert len(rows) == 1
    columns = ["model", "loss", "size", "batch", "device", "seconds_plain", "seconds", "seconds_limit", "speedup", "over_limit"]
    for row in rows:
        assert list(row) == columns
        assert row["speedup"] == pytest.approx(row["seconds_plain"] / row["seconds"])
        assert row["over_limit"] == pytest.approx(row["seconds"] / row["seconds_limit"])
    throughput.main([*few, "--models", "memae"])
    assert "| memae |" in capsys.readouterr().out


def test_phases_of_training_can_be_chosen(root, tmp_path, capsys):
    few = ["--sizes", "32", "--batches", "2", "--rounds", "1", "--steps", "1", "--data-root", str(root), "--device", "cpu", "--models", "f_anogan"]
    train_step.main([*few, "--phases", "encoder", "--json", str(tmp_path / "steps.json")])
    assert [row["loss"] for row in json.loads((tmp_path / "steps.json").read_text())] == ["encoder"]
    with pytest.raises(SystemExit) as ended:
        train_step.main([*few, "--phases", "decoder"])
    assert ended.value.code == 2
    assert "no phase of f_anogan is named decoder" in capsys.readouterr().err


def test_rivals_take_turns_and_the_first_steps_of_each_are_not_timed(monkeypatch):
    """A step of two seconds has three before those that are timed, one of a minute and more a single one; the first takes ten times as long."""
    clock, done, long = [0.0], [], {"plain": 70.0, "project": 2.0}
    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: clock[0])

    def begin(name):
        done.append([name, 0])

        def step():
            clock[0] += long[name] * (1 if done[-1][1] else 10)
            done[-1][1] += 1

        return step

    times = in_turns({name: lambda name=name: begin(name) for name in long}, rounds=2, steps=2, device=torch.device("cpu"))
    assert done == [["plain", 1 + 2], ["project", 3 + 2]] * 2
    assert times == long


def test_waiting_for_readers_is_part_of_a_plain_step(monkeypatch):
    """Each wave of four batches is waited for with its first alone: 8 seconds, and 1 for each of the others."""
    clock = [0.0]
    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: clock[0])

    def begin():
        numbers = itertools.count(1)

        def step():
            clock[0] += 8.0 if next(numbers) % 4 == 0 else 1.0

        return step

    assert in_turns({"plain": begin}, 1, 3, torch.device("cpu"), readers=4) == {"plain": pytest.approx(11 / 4)}


def test_what_readers_made_beforehand_is_not_given_away(monkeypatch):
    """Batches of the fastest reading, too, come after those that were there at once, of which several times as many are timed."""
    monkeypatch.setattr(plain, "READERS", 3)
    monkeypatch.setattr(plain, "DataLoader", lambda *_, **options: ((torch.tensor(number),) * 4 for number in itertools.count()))
    images = plain.PlainImages([Path("a.png")], *torch.zeros(2, 1), 8)
    assert next(plain.plain_batches(images, 2, torch.device("cpu"))).index == 3 * 2

    class Held(list):
        organ = modality = None

        def to(self, device):
            return self

    timed = []
    monkeypatch.setattr(data, "benchmark_images", lambda *_: (Held([0] * 4), []))
    monkeypatch.setattr(data, "plain_batches", lambda *_: iter([None]))
    monkeypatch.setattr(data, "_first_reading", lambda *_: 1.0)
    monkeypatch.setattr(data, "_rate", lambda step, steps, batch, device: timed.append(steps) or 1.0)
    data.row(8, 256, SimpleNamespace(data_root=None, device=torch.device("cpu"), steps=3, rounds=1))
    assert timed[0] >= 4 * data.READERS * data.AHEAD


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_operations_are_two_for_each_product(mode):
    x, weight = torch.rand(2, 3, 8, 8), torch.rand(5, 3, 3, 3, requires_grad=True)
    forward = 2 * 2 * 5 * 6 * 6 * 3 * 9
    with mode():
        assert operations(lambda: torch.nn.functional.conv2d(x, weight)) == forward
        assert operations(lambda: torch.rand(3, 4) @ torch.rand(4, 5)) == 2 * 3 * 4 * 5
    # Of the backward pass the gradient of the weight alone is asked for.
    assert operations(lambda: torch.nn.functional.conv2d(x, weight).sum().backward()) == 2 * forward


def test_the_limit_of_scoring_has_the_backbone_by_the_engine_and_all_else_by_its_products(root):
    """Two for each weight and position of every layer beside the backbone, counted by hooks, and for each weight of the heads, which have none."""
    images, _ = benchmark_images(root, 64)
    project, counted = Project(Case("feature_ae", "", 64, 4), images, torch.device("cpu")), []

    def count(layer, _, output):
        counted.append(2 * output.numel() * layer.weight[0].numel())

    for layer in project.baseline.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    project.scoring(4)()
    heads = sum(2 * 4 * each.numel() for each in project.baseline.heads() if each.ndim == 2)
    expected, peak = sum(counted) + heads, SimpleNamespace(rates={torch.float32: 1e3}, measure=None)
    assert sum(counted) > heads > 0
    assert project.scoring_limit(4, peak, {"engine": 7.0}) == pytest.approx(7 + expected / 1e3, rel=1e-9)
    rivals = project.scoring_rivals(4, peak)
    assert list(rivals) == ["project", "peak", "engine"]
    told = rivals["engine"]()()
    assert {layer: tuple(value.shape) for layer, value in told.items()} == {k: (4, *v) for k, v in project.baseline.frozen.shapes.items()}


def test_what_looks_at_a_backbone_is_measured_at_its_size():
    sizes = [(case.model, case.size) for case in cases(["memae", "gaussian"], ["l1"], [64, 128], [32])]
    assert sizes == [("memae", 64), ("memae", 128), ("gaussian", 224)]
    assert {name: Case(name, "", 224, 32).settings().image_size for name in ON_FEATURES} == ON_FEATURES
    assert all(build_settings(read_layers(CONFIGS / name / "base.yaml")).image_size == size for name, size in ON_FEATURES.items())


def test_the_shares_of_a_step_are_of_all_its_time():
    """Convolutions beside one small sum take nearly all of it; a step of activations has none."""
    x, weight = torch.rand(8, 64, 64, 64), torch.rand(64, 64, 3, 3)
    told = shares.shares(lambda: torch.nn.functional.conv2d(x, weight, padding=1)[0, 0, 0, 0].sum(), torch.device("cpu"), steps=2)
    assert sum(told.values()) == pytest.approx(1)
    assert told["products"] > 0.8
    told = shares.shares(lambda: x.relu(), torch.device("cpu"), steps=2)
    assert told["products"] == 0 < 0.5 < told["activations"]
    assert shares.kind_of("mkldnn::_convolution_pointwise") == "products"  # of a fused backbone


def test_on_a_gpu_each_kernel_counts_once(monkeypatch):
    """Of 10 parts of time 5 are a convolution's kernel, 3 are of a replayed graph, 2 of an addition; an annotation spans all."""
    named = [
        ("aten::cudnn_convolution", "CPU", 5),
        ("aten::add", "CPU", 2),
        ("cudaGraphLaunch", "CPU", 0),
        ("fprop", "CUDA", 5),
        ("add_kernel", "CUDA", 2),
    ]
    named += [("gemm", "CUDA", 3), ("Optimizer.step#Adam.step", "CUDA", 10)]
    rows = [
        SimpleNamespace(key=key, device_type=getattr(DeviceType, kind), self_device_time_total=time, is_user_annotation="step" in key)
        for key, kind, time in named
    ]
    monkeypatch.setattr(shares, "profile", lambda activities: nullcontext(SimpleNamespace(key_averages=lambda: rows)))
    told = shares.shares(lambda: None, torch.device("cuda"), steps=1)
    assert {kind: share for kind, share in told.items() if share} == pytest.approx({"products": 0.5, "other": 0.5})


def test_an_engine_takes_the_rest_that_a_chunk_leaves():
    """Six images by four at a time."""
    weight, x = torch.rand(2, 1, 3, 3), torch.rand(6, 1, 8, 8)

    class Network(torch.nn.Module):
        def forward(self, x, layers):
            return {layer: torch.nn.functional.conv2d(x, weight) for layer in layers}

    told = backbone.by_onnxruntime(Network(), ["a"], x, 4)()
    torch.testing.assert_close(told, Network()(x, ["a"]))


def test_a_fresh_patient_has_as_many_images_as_was_promised_for(monkeypatch):
    """Of every patient one of eight images is called anomalous, of one of the 300 an image is unknown."""

    def apply(scores):
        images = np.arange(len(scores.score))
        return SimpleNamespace(anomalous=images % 8 == 0, unknown=["far" if image == 3 else "" for image in images], guaranteed=images >= 0)

    calibration = SimpleNamespace(apply=apply, known=SimpleNamespace(guaranteed=False))
    monkeypatch.setattr(false_alarms, "Calibration", SimpleNamespace(fit=lambda *_: calibration))
    assert false_alarms.observed(2, 8, seed=0, features=2) == (1, 1 / 300, True, False)


def test_many_images_are_as_many_and_within_their_budget(root, tmp_path):
    _, files = benchmark_images(root, 32)
    scaling.write_many(tmp_path / "data", files, 700)
    images = scaling.load_many(tmp_path / "data", 64, memory_mib=1)
    assert (len(images), images.window) == (700, 256)


@pytest.mark.parametrize(("module", "option"), [(agreement, "--models"), (agreement, "--rounds"), (data, "--models"), (data, "--losses")])
def test_a_benchmark_takes_no_option_that_does_nothing(module, option, capsys):
    with pytest.raises(SystemExit):
        module.main([option, "1"])
    assert f"unrecognized arguments: {option} 1" in capsys.readouterr().err


def test_without_the_engine_a_limit_says_what_it_needs(root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SystemExit) as left:
        throughput.main(["--models", "gaussian", "--batches", "4", "--rounds", "1", "--steps", "1", "--device", "cpu", "--data-root", str(root)])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith('error: the limit of a frozen backbone needs onnxruntime: pip install -e ".[onnx]"\n')


def test_ways_to_run_a_backbone_are_told_with_what_they_change(tmp_path, capsys):
    few = ["--weights", "random:1", "--size", "32", "--batches", "2", "--rounds", "1", "--steps", "1", "--ways", "channels first", "bfloat16"]
    backbone.main([*few, "--device", "cpu", "--json", str(tmp_path / "ways.json")])
    rows = {row["way"]: row for row in json.loads((tmp_path / "ways.json").read_text())}
    assert list(rows) == ["project", "channels first", "bfloat16"]
    assert rows["project"]["times the project's"] == 1
    assert rows["channels first"]["largest difference"] < 1e-3 < rows["bfloat16"]["largest difference"]
    assert "| channels first |" in capsys.readouterr().out


def test_the_picture_shows_the_first_of_the_stratum_by_name(tmp_path):
    lines = [("b", "abnormal/3.png", "obvious"), ("b", "abnormal/2.png", "obvious"), ("b", "abnormal/1.png", "subtle"), ("a", "x/9.png", "obvious")]
    with open(tmp_path / "phantoms.csv", "w", newline="") as file:
        csv.writer(file).writerows([("dataset", "image", "stratum"), *lines])
    with open(tmp_path / "twins.csv", "w", newline="") as file:
        csv.writer(file).writerows([("dataset", "image", "twin"), *((name, image, f"twins/{Path(image).name}") for name, image, _ in lines)])
    assert [(pair.dataset, pair.image.name, pair.twin) for pair in picture.pairs(tmp_path)] == [
        ("b", "2.png", tmp_path / "b" / "twins" / "2.png"),
        ("a", "9.png", tmp_path / "a" / "twins" / "9.png"),
    ]


def test_twin_rates_of_variants_are_compared_pair_by_pair(monkeypatch):
    """Two seeds against two; the value is the loop's, and the interval narrows to nothing where both networks say the same."""
    random = np.random.default_rng(0)
    scores = {(side, seed): random.normal(size=(len(variants.PHANTOMS), 30, 2)) for side in "ab" for seed in (0, 1)}

    def pairs(path: Path) -> list[dict]:
        side, seed = path.parts[0], int(path.parts[1])
        named = [(name, enumerate(scores[side, seed][number])) for number, name in enumerate(variants.PHANTOMS)]
        return [{"dataset": name, "image": f"{i:02}", "score": score, "twin_score": twin} for name, pairs in named for i, (score, twin) in pairs]

    monkeypatch.setattr(variants, "read_twin_rows", pairs)
    monkeypatch.setattr(variants, "read_scores", lambda path: Lines.of({**pair, "patient": f"P{pair['image']}"} for pair in pairs(path)))
    sides = [[Path(side) / str(seed) / file for seed in (0, 1)] for side, file in (("a", "x"), ("b", "x"))]
    rises = {key: [(each[:, 0] > each[:, 1]).mean() for each in value] for key, value in scores.items()}
    expected = np.mean([np.subtract(rises["a", seed], rises["b", seed]) for seed in (0, 1)])
    told = variants.twin_rates(*sides)
    assert told.value == pytest.approx(expected)
    assert told.low < told.value < told.high
    same = variants.twin_rates(sides[0], sides[0])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_variant_is_confirmed_on_other_images(monkeypatch, tmp_path):
    """Of two datasets: both networks know the one; the variant the other, too, of which the control knows nothing."""
    commands = []
    monkeypatch.setattr(variants, "maddr", lambda words: commands.append(words))

    def scores(path: Path) -> Lines:
        known = [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1] if "without" not in path.parts else [0] * 6
        rows = [(name, i, score) for name, each in zip("ab", known, strict=True) for i, score in enumerate(each)]
        common = {"part": "test", "label_anomalous": 0}
        lines = ({"dataset": name, "image": f"{i}", "patient": f"{i}", "label": int(i > 2), "score": float(score)} for name, i, score in rows)
        return Lines.of(line | common for line in lines)

    monkeypatch.setattr(variants, "read_scores", scores)
    images = variants.Images(["a", "b"], tmp_path)
    (row,) = variants.rows(images, ["feature_ae"], ["density of residuals with a probe"], [5, 6], Path("out"))
    assert row["auroc"].startswith("+0.250 ")
    assert "twin rate" not in row
    assert [words[words.index("--regimes") + 1] for words in commands] == ["united_probe", "united_probe"]
    assert all(words[2:7] == ["--data-root", str(tmp_path), "--datasets", "a", "b"] for words in commands)
    assert commands[1][-2:] == ["--set", "baseline.score=residual_density"]


def test_every_variant_is_one_of_the_settings():
    for variant in variants.VARIANTS.values():
        named = Layer("test", {"model": variant.model or "feature_ae", "datasets": ["lits"]})
        layers = [named, *(overriding("test", key, value) for key, value in variant.settings.items())]
        maddr = build_settings([*layers, Layer("test", {"maddr": {"enabled": True}})]).maddr
        assert maddr.enabled


def test_a_stage_is_timed_without_those_inside_it():
    """At 1 the start ends, the outer stage has 2 and 4 seconds, the inner one 3."""
    watch = study.Watch(0.0, iter((1.0, 3.0, 6.0, 10.0)).__next__)
    inner = watch.around("inner", lambda: None)
    watch.around("outer", inner)()
    assert watch.seconds == {"start": 1, "outer": 2 + 4, "inner": 3}


def test_the_stages_of_a_study_are_all_its_time(monkeypatch):
    """Of 20 seconds the stages tell 3 and 11; the process needs the rest to end. A stage that does not come has none."""
    clock = iter([100.0, 120.0])
    monkeypatch.setattr(study.time, "time", clock.__next__)
    told = {"seconds": {"training": 11.0, "start": 3.0}, "failed": 0}
    monkeypatch.setattr(study.subprocess, "run", lambda command, **_: SimpleNamespace(stdout=json.dumps(told)))
    table = list(study.rows(2, 1, ["--quick"]))
    seconds = {row["stage"]: row["seconds"] for row in table}
    assert list(seconds)[0] == "start"
    assert {stage: each for stage, each in seconds.items() if each} == {"start": 3, "training": 11, "end": 6, "whole": 20}
    assert [row["share"] for row in table] == pytest.approx([each / 20 for each in seconds.values()])
    told["failed"], clock = 1, iter([0.0, 1.0])
    monkeypatch.setattr(study.time, "time", clock.__next__)
    with pytest.raises(SystemExit, match="failed"):
        list(study.rows(1, 1, []))


def test_the_stages_of_a_study_are_there_to_be_timed():
    for module, names in study.STAGES.values():
        assert callable(attrgetter(names)(import_module(module)))


def test_a_command_costs_its_own_memory_and_no_other():
    """Of a process that fills 200 MiB, and of one that fills nothing, though this one, with torch, is larger."""
    empty, full = (scaling.cost([sys.executable, "-c", program])[1] for program in ("pass", "bytearray(b'1') * (200 * 2**20)"))
    assert 1 < empty < 60
    assert 190 < full - empty < 220
    with pytest.raises(SystemExit, match="failed"):
        scaling.cost([sys.executable, "-c", "raise SystemExit(3)"])


def test_preparing_is_told_beside_what_its_images_take(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seconds = iter([3.0, 1.0, 6.0, 1.0])
    monkeypatch.setattr(scaling, "cost", lambda command: (next(seconds), 100.0))
    scaling.main(["--prepare", "--images", "30", "10", "--json", "rows.json"])
    few, many = json.loads(Path("rows.json").read_text())
    assert [few["images"], many["images"]] == [10, 30]
    assert few["slope"] is None
    assert many["slope"] == pytest.approx(math.log(2) / math.log(3))
    assert many["ms_each_more"] == pytest.approx(150)
    assert many["images_per_second"] == pytest.approx(5)
    assert 0 < 6.0 / many["over_images"] < 6.0  # seconds that 30 images take alone
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_pictures_to_prepare_are_all_different_and_every_fifth_patient_is_ill(tmp_path):
    paths = scaling.write_pictures(tmp_path, 501)
    assert len({Preprocessing(size=256, image_size=64).read(path).tobytes() for path in paths}) == 501
    ill = {path.parent.name for path in paths if path.parent.parent.name == "abnormal"}
    assert ill == {"p000000", "p000005", "p000010"}
    assert len({path.parent.name for path in paths}) == 11
    assert {path.relative_to(tmp_path / "masks") for path in (tmp_path / "masks").rglob("*.png")} == {
        path.relative_to(tmp_path / "abnormal") for path in paths if path.parent.parent.name == "abnormal"
    }


def test_trivial_properties_are_those_of_the_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    border = [float(value) for (row, column), value in np.ndenumerate(pixels) if row < 4 or row >= 36 or column < 4 or column >= 56]
    expected = [statistics.mean(pixels.ravel().tolist()), statistics.pstdev(pixels.ravel().tolist()), 1.5]
    assert trivial.properties(tmp_path / "a.png") == pytest.approx([*expected, statistics.mean(border), statistics.pstdev(border)])


def test_a_regression_never_saw_the_patient_whom_it_judges():
    """Each patient has a property of their own and nothing that tells illness: who is known can be judged, who is new cannot."""
    patients = np.repeat(np.arange(40), 5)
    features, labels = np.eye(40)[patients], np.arange(40)[patients] % 2
    assert np.mean(trivial.auroc(features, labels, [str(who) for who in patients], 3)) < 0.6
    assert np.mean(trivial.auroc(features, labels, [str(image) for image in range(200)], 3)) > 0.9
    with pytest.raises(ValueError, match="1 abnormal"):
        trivial.auroc(features[:10], labels[:10], [str(who) for who in patients[:10]], 1)
