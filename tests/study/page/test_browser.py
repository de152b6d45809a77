"""The report in a real browser: what menus and slider show is what scikit-learn and plain loops make of scores.csv."""

import csv
import re

import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from anomaly_detection.study.page.page import to_page
from tests.browser import browser, find_browser
from tests.study.page.made import made_study

PROGRAM = find_browser()
DATASETS = ("liver_ct", "lung_xray")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")


def read(experiment, dataset):
    """Names, labels and scores of the test images, and the scores of the validation images by patient, read without the package."""
    with open(experiment.folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == dataset]
    test = [(row["image"], int(row["label"]), float(row["score"])) for row in rows if row["part"] == "test"]
    return test, [(row["patient"], float(row["score"])) for row in rows if row["part"] == "val"]


def expected(content, number, shift):
    """Rows of the table and the lists of flipped images at a shift in spreads, by loops in float64."""
    rows, added, removed = [], [], []
    for dataset in DATASETS:
        test, val = read(content.experiments[number], dataset)
        threshold = content.results[number].metrics["datasets"][dataset]["threshold"]
        normal_scores = np.array([score for _, score in val])
        spread = 1.4826 * np.median(np.abs(normal_scores - np.median(normal_scores)))
        moved = threshold + shift * spread
        labels, called = [label for _, label, _ in test], [score > moved for _, _, score in test]
        above = {patient for patient, score in val if score > moved}
        patients = {patient for patient, _ in val}
        rows.append(
            {
                "sensitivity": recall_score(labels, called),
                "specificity": recall_score(labels, called, pos_label=0),
                "above": f"{len(above)} of {len(patients)} patients",
                "promise": 100 * (len(above) + 1) / (len(patients) + 1),
                "threshold": moved,
            }
        )
        for name, label, score in test:
            if (score > moved) != (score > threshold):
                text = f"{name} ({dataset}, {'abnormal' if label else 'normal'})"
                (added if score > moved else removed).append(text)
    return rows, added, removed


def check_operating_point(page, content, number):
    """What is shown is right; the shift in spreads."""
    words = page.texts("#shift-words")[0]
    match = re.match(r"([\d.]+) spreads (higher|lower) than set", words)
    shift = 0.0 if match is None else float(match[1]) * (1 if match[2] == "higher" else -1)
    assert match or words == "as set on validation normals"
    rows, added, removed = expected(content, number, shift)
    shown = np.array(page.texts("#operating-rows td")).reshape(len(DATASETS), 7)
    for line, row, dataset in zip(shown, rows, DATASETS, strict=True):
        assert line[0] == dataset
        assert float(line[1]) == pytest.approx(row["threshold"], rel=1e-3)
        assert line[2] == row["above"]
        assert float(line[3].rstrip(" %")) == pytest.approx(row["promise"], abs=0.051)
        for column, name in ((4, "sensitivity"), (5, "specificity")):
            value, hits, count = map(float, re.fullmatch(r"([\d.]+) \((\d+) of (\d+)\)", line[column]).groups())
            assert value == pytest.approx(row[name], abs=5.1e-4)
            assert hits / count == pytest.approx(row[name])
    assert page.texts("#added li") == added
    assert page.texts("#removed li") == removed
    assert sum(int(count) for count in shown[:, 6]) == len(added) + len(removed)
    return shift


def test_menus_and_slider_answer_what_the_scores_say(tmp_path):
    hostile = "{label}/<img src=x onerror=alert(1)>&amp;\"'{i}</script>.png"
    content = made_study(tmp_path / "made", ("memae", "ganomaly"), ("united", "maddr"), DATASETS, name=hostile)
    (tmp_path / "report.html").write_text(to_page(content), encoding="utf-8")
    with browser(PROGRAM, tmp_path / "profile") as page:
        page.open(tmp_path / "report.html")
        bottom = page.value("document.querySelector('[data-of=mistakes]').getBoundingClientRect().bottom")
        assert bottom <= 900, "the first screen holds sentences, charts and pictures"
        assert page.value("document.documentElement.scrollWidth") <= 1400

        shown = np.array(page.texts("#measures tbody td")).reshape(4, 2 + 2 + 2)
        for number, line in enumerate(shown):
            assert tuple(line[:2]) == (content.results[number].model, content.results[number].regime)
            for text, dataset in zip(line[2:], DATASETS, strict=False):
                test, _ = read(content.experiments[number], dataset)
                assert float(text.split()[0]) == pytest.approx(roc_auc_score([t[1] for t in test], [t[2] for t in test]), abs=5.1e-4)
        page.focus("#metric")
        options = page.value("[...document.querySelectorAll('#metric option')].map(each => each.text)")
        page.press("ArrowDown", options.index("sensitivity"))
        assert "The share of abnormal images called abnormal" in page.texts("#measures caption")[0]
        shown = page.texts("#measures tbody td")
        at_set = expected(content, 0, 0.0)[0]
        assert [float(text.split()[0]) for text in shown[2:4]] == [pytest.approx(row["sensitivity"], abs=5.1e-4) for row in at_set]

        assert check_operating_point(page, content, 0) == 0
        page.focus("#shift")
        page.press("ArrowLeft", 9)
        lower = check_operating_point(page, content, 0)
        page.press("End")
        assert check_operating_point(page, content, 0) > 0 > lower
        assert {row["specificity"] for row in expected(content, 0, 99)[0]} == {1.0}
        page.click("#shift", across=0.5)
        middle = check_operating_point(page, content, 0)
        page.press("Home")
        assert check_operating_point(page, content, 0) < middle
        page.click("#as-set")
        assert check_operating_point(page, content, 0) == 0
        page.focus("#network")
        page.press("ArrowDown", 3)
        page.focus("#shift")
        page.press("ArrowRight", 5)
        assert check_operating_point(page, content, 3) > 0

        first = page.value("document.querySelector('#mistakes').value")
        assert page.value("document.querySelectorAll('[data-of=mistakes]:not([hidden])').length") == 1
        page.focus("#mistakes")
        page.press("ArrowUp" if first == "ganomaly" else "ArrowDown")
        other = page.value("document.querySelector('[data-of=mistakes]:not([hidden])').dataset.name")
        assert {first, other} == {"memae", "ganomaly"}

        assert not page.texts("[popover]")
        page.click("#answer button.term")
        assert page.texts("[popover]")[0].startswith("better than chance: The whole 95 % interval")
        page.press("Escape")
        assert not page.texts("[popover]")
        opened = "[...document.querySelectorAll('details[open]')].length"
        folded = page.value("[...document.querySelectorAll('details')].filter(each => !each.querySelector('a')).length")
        assert page.value(opened) == 0
        page.value("dispatchEvent(new Event('beforeprint'))")
        assert page.value(opened) == folded > 2, "on paper everything is shown but links"
        page.value("dispatchEvent(new Event('afterprint'))")
        assert page.value(opened) == 0
        assert page.value("[...document.images].every(each => each.complete && each.naturalWidth > 0 && each.alt)")
        assert not page.problems
