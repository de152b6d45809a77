"""The report: figures that show what the numbers say, and one page that holds them all."""

import base64
import html
import io
import json
import os
import re
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc, roc_curve

import run_experiments
from anomaly_detection import registry
from anomaly_detection.__main__ import main
from anomaly_detection.evaluation import figures
from anomaly_detection.evaluation.figures import draw_contrast_detail, draw_gallery, draw_histograms, draw_latent, draw_roc, draw_training
from anomaly_detection.evaluation.overlay import overlay
from anomaly_detection.study.report import drawn_figures
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.lines import Lines
from tests.test_run_experiments import TOY_BASE


def rows_of(count=40, datasets=("liver_ct", "lung_xray")):
    rng = np.random.default_rng(0)
    rows = [
        {
            "image": f"{i}.png",
            "dataset": name,
            "organ": name.split("_")[0],
            "modality": name.split("_")[1],
            "part": part,
            "label": i % 2 if part == "test" else 0,
            "score": float(rng.normal() + i % 2),
        }
        for part in ("val", "test")
        for name in datasets
        for i in range(count)
    ]
    metrics = {"datasets": {name: {"auroc": 0.7, "threshold": 1.5, "intervals": {"auroc": [0.6, 0.8]}} for name in datasets}}
    return Lines.of(rows), metrics


def test_roc_curves_are_those_of_the_scores():
    rows, metrics = rows_of()
    (axes,) = draw_roc(rows, metrics).axes
    for line, name in zip(axes.lines, metrics["datasets"], strict=False):
        test = [row for row in rows if row["dataset"] == name and row["part"] == "test"]
        false, true, _ = roc_curve([row["label"] for row in test], [row["score"] for row in test])
        assert auc(*line.get_data()) == pytest.approx(auc(false, true))
        assert line.get_label() == f"{name} 0.700 [0.600, 0.800]"


def test_histograms_hold_all_test_images_and_the_threshold():
    rows, metrics = rows_of()
    for axes in draw_histograms(rows, metrics).axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["normal (20)", "abnormal (20)", "threshold"]
        assert list(axes.lines[0].get_xdata()) == [1.5, 1.5]
        for container in axes.containers:
            assert sum(bar.get_height() * bar.get_width() for bar in container) == pytest.approx(1)


@pytest.mark.parametrize(("channels", "second"), [(1, "reconstruction"), (3, "reconstruction"), (1, "nearest")])
def test_gallery_shows_the_images_of_its_dataset(channels, second):
    rows, _ = rows_of()
    picture = np.full((4, channels, 8, 8), 100, np.uint8)
    details = {
        "gallery_row": np.array([80, 81, 120, 121]),
        "gallery_image": picture,
        f"gallery_{second}": picture + 50,
        "gallery_map": np.ones((4, 8, 8)) * np.array([0.0, 9.0, 0.0, 0.0])[:, None, None],
    }
    figure = draw_gallery(rows, details, "liver_ct", map_scale=1.0)
    *lines, bar = figure.axes
    image, other, marked = (axes.images[0].get_array() for axes in lines)
    assert image.shape[:2] == (8, 17), "two pictures of 8 columns, and one between them"
    assert (image[:, :8] == 100).all()
    assert (image[:, 8] == 255).all()
    assert (image[:, 9:] == 100).all()
    assert (other[:, :8] == 150).all()
    assert (marked[:, :8] == 100).all()
    assert (marked[:, 9:] == overlay(picture[1], details["gallery_map"][1], 1.0)).all()
    assert np.ptp(marked[:, 9:]) > 60, "tinted"
    assert bar.get_ylabel() == "anomaly map, in multiples of the\n99.5th percentile of normal images"
    assert not any(axes.collections for axes in lines), "no masks are known"
    assert [label.get_text() for label in lines[0].get_xticklabels()] == [f"{rows[row]['score']:.3g}" for row in (80, 81)]
    assert list(lines[0].get_xticks()) == [3.5, 12.5], "over the middle of each"
    assert second in lines[1].get_ylabel()


def test_true_masks_are_drawn_around_in_the_gallery():
    rows, _ = rows_of()
    mask = np.zeros((2, 8, 8), bool)
    mask[1, 2:5, 3:7] = True
    picture = np.full((2, 1, 8, 8), 100, np.uint8)
    details = {"gallery_row": np.array([80, 81]), "gallery_image": picture, "gallery_map": np.zeros((2, 8, 8)), "gallery_mask": mask}
    *lines, _ = draw_gallery(rows, {**details, "gallery_nearest": picture}, "liver_ct", 1.0).axes
    assert [len(axes.collections) for axes in lines] == [1, 0, 1], "in the images and their maps, in no other image"
    points = np.concatenate([path.vertices for path in lines[0].collections[0].get_paths()])
    assert points.min(axis=0).tolist() == [9 + 2.5, 1.5], "around the lesion of the second, which begins after 8 columns and one between"
    assert points.max(axis=0).tolist() == [9 + 6.5, 4.5]


def test_contrast_and_detail_are_drawn_with_their_numbers():
    """Every lesion that is large raises the score above its twin's and above all normal images, no small one does either."""
    rows, _ = rows_of()
    rng = np.random.default_rng(4)
    pairs = []
    for diameter in rng.uniform(10, 70, 60):
        score = 99.0 if diameter > 40 else -99.0
        pairs.append({"diameter_mm": diameter, "contrast": rng.uniform(-60, -20), "unit": "HU", "score": score, "twin_score": 0.0})
    figure = draw_contrast_detail(rows, pairs, "liver_ct")
    assert [axes.get_title() for axes in figure.axes] == ["AUROC", "twin rate"]
    for axes in figure.axes:
        texts = [text.get_text().split("\n") for text in axes.texts]
        assert sum(int(count) for _, count in texts) == 60
        assert [value for value, _ in texts[::3]] == ["0.00"] * 3, "small ones stand left"
        assert [value for value, _ in texts[2::3]] == ["1.00"] * 3
        assert [text.get_color() for text in axes.texts[::3]] == ["white"] * 3, "on a dark ground"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("diameter (mm)", "contrast, darker or brighter (HU)")
        ticks = [float(label.get_text()) for label in axes.get_xticklabels()]
        assert ticks == [round(edge) for edge in np.quantile([pair["diameter_mm"] for pair in pairs], [0, 1 / 3, 2 / 3, 1])]


def test_lesions_of_which_nothing_is_stated_are_left_out_of_contrast_and_detail():
    """As where phantoms.csv lacks lines of some abnormal images, or of all images of a dataset."""
    rows, _ = rows_of()
    stated = {"diameter_mm": 20.0, "contrast": 30.0, "unit": "HU", "score": 1.0, "twin_score": 0.0}
    unknown = stated | dict.fromkeys(("diameter_mm", "contrast", "unit"))
    pairs = [{"dataset": name, **pair} for name, pair in [("lung_xray", unknown), ("liver_ct", unknown), *[("liver_ct", stated)] * 3]]
    ((name, lesions),) = figures.told_lesions(pairs).items()
    assert (name, len(lesions)) == ("liver_ct", 3)
    figure = draw_contrast_detail(rows, lesions, name)
    assert sum(int(text.get_text().split("\n")[-1]) for text in figure.axes[0].texts) == 3
    assert figure.axes[0].get_ylabel() == "contrast, darker or brighter (HU)"


def test_latent_shows_parts_by_what_they_may_know():
    rows, _ = rows_of()
    latent = np.random.default_rng(1).normal(size=(len(rows), 6))
    latent[:, 0] += [100 * (row["organ"] == "liver") for row in rows]
    figure = draw_latent(rows, latent, (1, 2))
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 15
    axes = figure.axes[titles.index("PCA of the organ part, by organ")]
    clouds = {cloud.get_label(): cloud.get_offsets()[:, 0] for cloud in axes.collections}
    assert len(clouds["liver"]) == len(clouds["lung"]) == 40, "test images alone"
    assert clouds["liver"].min() > clouds["lung"].max() or clouds["liver"].max() < clouds["lung"].min()
    assert len(draw_latent(rows, latent, None).axes) == 6
    assert figure.get_suptitle() == ""


def test_of_many_latents_some_of_each_dataset_and_label_are_drawn(monkeypatch):
    """A dataset of a thousand beside one of ten, whose lines stand among the others', and lines of other parts before and between."""
    numbers = range(1500)
    rows = Lines.of(
        {
            "dataset": "small" if number % 150 == 6 else "large",
            "part": "val" if number % 3 == 1 else "test",
            "label": int(number % 10 == 5),
            "organ": "liver",
            "modality": "ct",
        }
        for number in numbers
    )
    monkeypatch.setattr(figures, "LATENTS", 90)
    seen = []
    monkeypatch.setattr(figures, "_tsne", lambda latent: seen.append(latent) or latent[:, :2])
    figure = draw_latent(rows, np.stack([numbers, np.zeros(1500)], axis=1), None)
    tests = [(number, row["dataset"], row["label"]) for number, row in zip(numbers, rows, strict=True) if row["part"] == "test"]
    drawn = seen[0][:, 0].astype(int).tolist()
    assert drawn == sorted(set(drawn))
    chosen = [each for each in tests if each[0] in drawn]
    assert len(chosen) == len(drawn), "test images alone"
    assert [each[1] for each in chosen].count("small") == sum(each[1] == "small" for each in tests) > 0, "all of the few"
    for label in (0, 1):
        own = [number for number, dataset, other in tests if (dataset, other) == ("large", label)]
        few = [number for number, dataset, other in chosen if (dataset, other) == ("large", label)]
        assert len(few) == 30
        assert (few[0], few[-1]) == (own[0], own[-1])
        assert np.diff(few).max() < 1.5 * (own[-1] - own[0]) / 29
    assert figure.get_suptitle() == f"{len(drawn)} of 1,000 test images"
    assert sum(len(cloud.get_offsets()) for cloud in figure.axes[2].collections) == len(drawn)


def test_training_runs_on_over_phases():
    log = [
        {"phase": "gan", "iteration": "10", "loss": "1.0", "lr": "0.1"},
        {"phase": "gan", "iteration": "20", "loss": "0.5", "lr": "0.1"},
        {"phase": "encoder", "iteration": "5", "loss": "", "rec": "0.2", "lr": "0.1"},
    ]
    figure = draw_training(log)
    assert {axes.get_title(): axes.lines[0].get_xydata().tolist() for axes in figure.axes} == {"loss": [[10, 1.0], [20, 0.5]], "rec": [[25, 0.2]]}


def test_training_and_validation_share_a_panel():
    log = [
        {"phase": "p", "iteration": 10, "loss": 1.0, "organ_accuracy": 0.5, "val_loss": 2.0, "val_organ_accuracy": 0.25, "val_organ_variance": 4.0},
        {"phase": "p", "iteration": 20, "loss": 0.5, "organ_accuracy": 0.7, "val_loss": None, "val_organ_accuracy": None, "val_organ_variance": None},
    ]
    lines = {axes.get_title(): {line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in draw_training(log).axes}
    assert lines == {
        "loss": {"training": [[10, 1.0], [20, 0.5]], "validation": [[10, 2.0]]},
        "organ_accuracy": {"training": [[10, 0.5], [20, 0.7]], "validation": [[10, 0.25]]},
        "organ_variance": {"validation": [[10, 4.0]]},
    }


def test_no_line_joins_the_losses_of_two_phases():
    log = [{"phase": phase, "iteration": i, "loss": f"{value + i}"} for phase, value in (("gan", 5), ("encoder", 1)) for i in (1, 2)]
    (axes,) = draw_training(log).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 6], [2, 7]], [[3, 2], [4, 3]]]


def test_every_axis_of_every_figure_says_what_it_shows_and_in_what_unit():
    rows, metrics = rows_of()
    log = [{"phase": "p", "iteration": step, "loss": 1.0, "gradient_norm": 2.0, "organ_accuracy": 1.0, "slots_used": 3.0} for step in (1, 2)]
    pairs = [{"diameter_mm": 10.0 + i, "contrast": -20.0 - i, "unit": None, "score": 1.0 * i, "twin_score": 0.0} for i in range(20)]
    latent = np.random.default_rng(0).normal(size=(len(rows), 6))
    figures = [draw_roc(rows, metrics), draw_histograms(rows, metrics), draw_training(log), draw_latent(rows, latent, (1, 2))]
    for axes in (axes for figure in [*figures, draw_contrast_detail(rows, pairs, "liver_ct")] for axes in figure.axes):
        for label in (axes.get_xlabel(), axes.get_ylabel()):
            assert re.search(r"\((no unit|count|mm|batches|share of .*|square of .*)\)$|^share of ", label), (axes.get_title(), label)


def test_a_study_of_images_with_twins(monkeypatch, tmp_path, twinned, capsys):
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    (tmp_path / "configs" / "toy" / "base.yaml").write_text(TOY_BASE, encoding="utf-8")
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    monkeypatch.setattr("anomaly_detection.study.plan.CONFIGS", tmp_path / "configs")
    results = tmp_path / "results"
    words = ["--models", "toy", "--regimes", "united", "--data-root", str(twinned), "--results", str(results), "--seeds", "0"]
    assert run_experiments.main(words) == 0
    text = capsys.readouterr().out
    assert "| toy | united | obvious twin rate | – | " in text
    (folder,) = results.glob("toy/united/*/seed_0")
    assert len((folder / "twins.csv").read_text().splitlines()) == 1 + 8
    page = (results / "report.html").read_text()
    assert re.findall(r'href="[^"]+/figures/(contrast_detail_\w+)\.png"', page) == ["contrast_detail_lung_ct", "contrast_detail_lung_xray"]
    assert "obvious_twin_rate" in re.findall(r"<option>(\w+)</option>", page)
    (twinned / "twins.csv").unlink()
    assert (folder / "figures" / "roc.png").exists()
    capsys.readouterr()
    assert main(["evaluate", str(folder)]) == 0
    assert not (folder / "twins.csv").exists(), "what is not known now is not told"
    assert not list((folder / "figures").iterdir()), "nor shown"
    stale = f"tables and report in {results.resolve()} tell of the earlier scores until `maddr report {results.resolve()}` writes them again"
    assert stale in capsys.readouterr().out.splitlines()


def test_the_page_of_a_study_and_again(monkeypatch, tmp_path, data_root, capsys):
    (tmp_path / "configs" / "toy").mkdir(parents=True)
    (tmp_path / "configs" / "toy" / "base.yaml").write_text(TOY_BASE, encoding="utf-8")
    monkeypatch.setitem(registry.BASELINES, "toy", "tests.helpers:ToyBaseline")
    monkeypatch.setattr("anomaly_detection.study.plan.CONFIGS", tmp_path / "configs")
    results = tmp_path / "results"
    words = ["--models", "toy", "--regimes", "united", "maddr", "--data-root", str(data_root), "--results", str(results), "--seeds", "0", "1"]
    assert run_experiments.main([*words, "--datasets", "liver_ct", "lung_xray"]) == 0
    page = (results / "report.html").read_text()
    assert not re.search(r'src="(?!data:image/jpeg;base64,)', page), "it needs nothing beside it"
    links = [unquote(html.unescape(link)) for link in re.findall(r'href="([^"]+)"', page)]
    assert all((results / link).is_file() for link in links)
    assert {Path(link).name for link in links} >= {"scores.csv", "patients.csv", "roc.png", "gallery_liver_ct.png", "latent.png", "training.png"}
    assert len([link for link in links if link.endswith("scores.csv")]) == 4
    assert len({link for link in links if link.endswith("latent.png")}) == 2, "of each model and regime the first seed"
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert all(max(Image.open(io.BytesIO(base64.b64decode(picture))).size) <= 300 for picture in pictures)
    assert "maddr - united" in page

    folder = results / "toy" / "maddr" / "liver_ct+lung_xray" / "seed_0"
    before = {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}
    table = (results / "table.md").read_text()
    (results / "report.html").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("anomaly_detection.system.processes.get_context", lambda *_: pytest.fail("started processes for figures that are there"))
        assert main(["report", str(results)]) == 0
    assert (results / "table.md").read_text() == table
    assert (results / "report.html").read_text() == page
    assert {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()} == before, "what is drawn is not drawn again"
    first, *others = paths = drawn_figures(folder)
    others[0].rename(folder / "kept.png")
    assert drawn_figures(folder) == [], "some of them are not all"
    (folder / "kept.png").rename(others[0])
    assert drawn_figures(folder) == paths
    os.utime(folder / "metrics.json")
    assert drawn_figures(folder) == [], "of other metrics"
    for path in others:
        path.unlink()
    os.utime(first)  # as a report leaves them that was stopped while it drew
    assert main(["report", str(results)]) == 0
    assert drawn_figures(folder) == paths
    assert {path: path.stat().st_mtime_ns for path in (folder / "figures").iterdir()}.keys() == before.keys()

    details = (folder / "details.npz").read_bytes()
    for content in (b"", details[:1000], details[:-40]):
        (folder / "details.npz").write_bytes(content)
        os.utime(folder / "metrics.json", (time.time() + 9, time.time() + 9))  # so that the figures are drawn again
        with pytest.raises(UserError, match=r"details\.npz: missing or damaged; evaluate the run again"):
            main(["report", str(folder)])
    (folder / "details.npz").write_bytes(details)
    metrics = json.loads((folder / "metrics.json").read_text())
    older = {name: {key: value for key, value in values.items() if key != "unit"} for name, values in metrics["datasets"].items()}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "datasets": older}))  # its intervals are over images
    with pytest.raises(UserError, match="not evaluated yet"):
        main(["report", str(folder)])
    assert run_experiments.main([*words, "--datasets", "liver_ct", "lung_xray"]) == 0
    assert json.loads((folder / "metrics.json").read_text()) == metrics, "what an older version scored is scored anew"
    with pytest.raises(UserError, match="holds no study and no experiment"):
        main(["report", str(tmp_path)])


def test_figures_of_normal_images_alone():
    """The curve of a dataset that has none is left out; its scores are all normal."""
    rows, metrics = rows_of()
    first, second = metrics["datasets"]
    rows = Lines.of(row for row in rows if row["dataset"] == first or row["label"] == 0)
    metrics["datasets"][second] = {"threshold": 1.5}
    (axes,) = draw_roc(rows, metrics).axes
    assert [line.get_label() for line in axes.lines][:-1] == [f"{first} 0.700 [0.600, 0.800]"]
    words = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in draw_histograms(rows, metrics).axes]
    assert words == [["normal (20)", "abnormal (20)", "threshold"], ["normal (20)", "threshold"]]
