"""What is said of patients and series, against loops over their images."""

import math

import nibabel
import numpy as np
import pytest
from scipy.stats import norm

from anomaly_detection.data.dataset import Domains
from anomaly_detection.data.formats.sources import list_source
from anomaly_detection.data.prepare import folder
from anomaly_detection.evaluation.calibration import Calibration, Reference
from anomaly_detection.evaluation.known import Known
from anomaly_detection.evaluation.normals import Normals
from anomaly_detection.evaluation.patients import COLUMNS, Said, estimate_warning, verdict_rows
from anomaly_detection.evaluation.scores import Scores

DOMAINS = Domains(("liver", "lung"), ("ct", "xray"))


def reference(center, spread, pooled, unit="patients", guaranteed=True, slices=(1, 20, 1000)):
    return Reference(center, spread, center + 2 * spread, guaranteed, tuple(sorted(pooled)), tuple(sorted(pooled)), unit, slices)


def calibration(*references, alpha=0.05, everything=None, sure=0.5):
    by_pair = dict(zip([(0, 0), (1, 0), (1, 1)], references, strict=False))
    known = Known(((0.0,),), (((1.0,),),), 1.0, sure, 100, True)
    return Calibration(alpha, by_pair, by_pair, everything or references[0], known)


@pytest.fixture
def many():
    rng = np.random.default_rng(1)
    return calibration(reference(10, 2, rng.normal(10, 2, 39)), reference(50, 5, rng.normal(50, 5, 19)))


def images(seed=0):
    """Four patients, and twelve series of nobody known, with images that are unknown and others that could not be read."""
    rng = np.random.default_rng(seed)
    said = []
    for i in range(120):
        who, series = f"P{rng.integers(4)}", ("", "1.2", "1.3")[rng.integers(3)]
        unit = ("", f"{series}.{who}") if series else (who, "")
        if unit == ("", "1.3.P3"):
            said.append(Said(*unit, f"i{i}", float(rng.normal(10, 4)), False, "lung", "xray"))
        elif rng.random() < 0.1:
            said.append(Said(*unit, f"i{i}"))
        else:
            lung = who == "P1"
            name = ("lung", "ct") if lung ^ (rng.random() < 0.2) else ("liver", "ct")
            said.append(Said(*unit, f"i{i}", float(rng.normal(50 if lung else 10, 4)), bool(rng.random() < 0.8), *name))
    return [*said, Said("", "", "alone", 1e9, True, "liver", "ct"), Said("", "", "bad")]


def test_every_line_is_what_a_loop_over_its_images_says(many):
    said = images()
    rows = verdict_rows(said, many, DOMAINS)
    units = list(dict.fromkeys((each.patient, each.series) for each in said if each.patient or each.series))
    assert [(row["patient"], row["series"]) for row in rows] == units
    assert len(units) == 12
    verdicts = set()
    for row, unit in zip(rows, units, strict=True):
        members = [each for each in said if (each.patient, each.series) == unit]
        counts = [0, 0, 0]
        by_domain = {}
        for each in members:
            if each.score is None:
                counts[2] += 1
                continue
            counts[0] += 1
            counts[1] += not each.known
            if each.known:
                by_domain.setdefault(each.organ, []).append(each)
        assert [row[name] for name in ("slices", "unknown_slices", "unreadable")] == counts
        verdicts.add(row["verdict"])
        if not by_domain:
            assert (row["verdict"], row["guaranteed"], row.get("score")) == ("unknown", 0, None)
            continue
        known = sorted((each for its in by_domain.values() for each in its), key=lambda each: each.score)[::-1][:3]
        score = math.fsum(each.score for each in known) / len(known)
        organ = max(by_domain, key=lambda name: len(by_domain[name]))
        calibrated = many.domains[DOMAINS.organs.index(organ), 0].pooled
        readable = [each for each in members if each.score is not None]
        places = [place for place, each in enumerate(readable) if each.known]
        readable = sorted(readable[places[0] : places[-1] + 1], key=lambda each: each.score)[::-1][:3]
        whole = math.fsum(each.score for each in readable) / len(readable)
        p, p_whole = ((1 + sum(each >= its for each in calibrated)) / (1 + len(calibrated)) for its in (score, whole))
        assert row["score"] == pytest.approx(score)
        assert (row["organ"], row["modality"]) == (organ, "ct")
        assert row["p_value"] == pytest.approx(p)
        above = [each <= 0.05 + 1e-12 for each in (p, p_whole)]
        assert row["verdict"] == ("anomalous" if above[0] else "unknown" if above[1] else "normal")
        assert (row["score"] > row["threshold"]) == (row["verdict"] == "anomalous")
        assert row["guaranteed"] == int(counts[2] == 0 and row["verdict"] != "unknown"), "of what could not be read nobody knows"
        assert row["worst_slices"] == " | ".join(each.image for each in readable)
    assert verdicts == {"unknown", "anomalous", "normal"}
    assert {name for row in rows for name in row} <= set(COLUMNS)


def line(count: int, slices, patient="P", others=()):
    """Of a patient with so many slices, the highest in the middle of each third, among 39 validation patients of these numbers of slices."""
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), slices=slices))
    said = [Said(patient, "", f"i{i}", 10.0 + (i % 3 == 1), True, "liver", "ct") for i in range(count)]
    rows = verdict_rows([*said, *others], calibrated, DOMAINS)
    return rows[0], estimate_warning(rows, calibrated, DOMAINS)


@pytest.mark.parametrize(("slices", "guaranteed"), [((20, 20, 20), 1), ((5, 20, 40), 0)])
def test_of_more_slices_than_validation_patients_have_as_many_count(slices, guaranteed):
    row, warning = line(160, slices)
    taken = sorted((10.0 + ((8 * i + 4) % 3 == 1) for i in range(20)), reverse=True)[:3]  # of each eight slices the one in the middle
    assert row["score"] == pytest.approx(sum(taken) / 3)
    assert (row["slices"], row["guaranteed"]) == (160, guaranteed)
    assert (warning is None) == bool(guaranteed)
    assert guaranteed or "1 line: more images than any validation patient of its domain, and the highest of more are higher" in warning
    assert row["worst_slices"] == "i1 | i4 | i7", "to look at, all slices count"


@pytest.mark.parametrize(("slices", "score"), [((2, 3, 8), 11), ((3, 3, 7), 32 / 3), ((2, 2, 7), 11)])
def test_all_slices_count_unless_they_are_more_than_any_validation_patient_has(slices, score):
    """Of eight slices three are at 11, and two of the three that `prepare` would take; fewer than three are no volume."""
    assert line(8, slices)[0]["score"] == pytest.approx(score)


def test_what_counts_is_chosen_before_it_is_asked_what_the_network_knows():
    """As `prepare` does: a slice that it does not know is not replaced by another."""
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), slices=(4, 4, 4)))
    # of 31 the parts are of 7.75 slices, and their middles 3.9, 11.6, 19.4 and 27.1 slices from the beginning
    said = [Said("P", "", f"i{i}", float(i), i % 8 < 5, "liver", "ct") for i in range(31)]
    assert verdict_rows(said, calibrated, DOMAINS)[0]["score"] == (11 + 19 + 27) / 3
    said = [each._replace(known=i % 8 != 3) for i, each in enumerate(said)]
    (row,) = verdict_rows(said, calibrated, DOMAINS)
    assert (row["verdict"], row["guaranteed"], row["slices"], row["unknown_slices"]) == ("unknown", 0, 31, 4)
    assert row["worst_slices"] == "i30 | i29 | i28"


@pytest.mark.parametrize("guaranteed", [True, False])
def test_a_lesion_so_strong_that_its_slices_are_unknown_does_not_make_a_patient_normal(guaranteed):
    """Of six slices at 10 it is in two; the threshold is 14.6 (guaranteed: 15)."""
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), guaranteed=guaranteed))

    def told(lesion, known, places=(3, 4)):
        said = [Said("P", "", f"i{i}", lesion if i in places else 10.0, known or i not in places, "liver", "ct") for i in range(6)]
        return verdict_rows(said, calibrated, DOMAINS)[0]

    assert [told(lesion, known=True)["verdict"] for lesion in (11, 20)] == ["normal", "anomalous"]
    healthy, unknown = told(11, known=False), told(20, known=False)
    assert (healthy["verdict"], healthy["guaranteed"]) == ("normal", int(guaranteed)), "unknown slices that are not high change nothing"
    assert (unknown["verdict"], unknown["guaranteed"]) == ("unknown", 0)
    over_known = ("score", "p_value", "threshold")
    assert [unknown[name] for name in over_known] == [healthy[name] for name in over_known]
    assert unknown["worst_slices"] == "i3 | i4 | i0", "there a reader must look"
    for score in (np.nan, np.inf):
        assert told(score, known=False) == unknown, "as strange as can be"
    for places in ((0,), (4, 5), (0, 1, 5)):  # air, or another part of the body
        beyond = told(99, False, places)
        assert (beyond["verdict"], beyond["guaranteed"]) == ("normal", int(guaranteed))
        assert not set(beyond["worst_slices"].split(" | ")) & {f"i{place}" for place in places}


@pytest.mark.parametrize(
    ("usual", "series", "count", "verdict"),
    [(2, "", 3, "unknown"), (2, "1.2", 2, "unknown"), (2, "1.2", 3, "normal"), (3, "", 2, "unknown"), (3, "", 3, "normal")],
)
def test_of_images_that_are_no_volume_each_unknown_one_makes_a_patient_unknown(usual, series, count, verdict):
    """Their order means nothing."""
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), slices=(usual, usual, usual)))
    for strange in (0, count - 1):
        said = [Said("P", series, f"i{i}", 99.0 if i == strange else 10.0, i != strange, "liver", "ct") for i in range(count)]
        (row,) = verdict_rows(said, calibrated, DOMAINS)
        assert (row["verdict"], f"i{strange}" in row["worst_slices"]) == (verdict, verdict == "unknown")


def test_of_unknown_slices_as_many_count_as_of_known_ones():
    """One strange slice of 31, and it is not one of the four that count; the last is."""
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), slices=(4, 4, 4)))
    for strange, verdict in ((5, "normal"), (27, "unknown")):
        said = [Said("P", "", f"i{i}", 99.0 if i == strange else 10.0, i != strange, "liver", "ct") for i in range(31)]
        (row,) = verdict_rows(said, calibrated, DOMAINS)
        assert (row["verdict"], row["worst_slices"].split(" | ")[0]) == (verdict, f"i{strange}")


def test_the_slices_that_count_are_those_that_prepare_takes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 9, (4, 5, 64)).astype(np.int16), np.eye(4)), tmp_path / "v.nii")
    (job,) = folder.plan(list_source(tmp_path), None, [], "auto", None, 5)[0]
    prepared = [int(picture.name.removeprefix("v_")) for picture in job.pictures([tmp_path / "v.nii"])]
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), slices=(5, 5, 5)))
    alone_known = ([Said("P", "", f"i{i}", 1.0, i == known, "liver", "ct") for i in range(64)] for known in range(64))
    counted = [i for i, said in enumerate(alone_known) if verdict_rows(said, calibrated, DOMAINS)[0]["verdict"] != "unknown"]
    assert counted == prepared == [6, 19, 32, 44, 57]


@pytest.mark.parametrize("units", [1, 2])
def test_where_validation_patients_have_one_or_two_images_all_count(units):
    """Radiographs, or files that count as a patient each: one or two slices of a series are no measure of it."""
    rng = np.random.default_rng(0)
    scores, unit = rng.normal(size=80), np.arange(80) // units
    blank, latent = np.zeros(80, bool), rng.normal(size=(80, 2))
    normals = Normals(Scores(scores, latent, None, None, None, blank), np.zeros(80, int), np.zeros(80, int), unit)
    calibrated = Calibration.fit(normals, normals, 0.05)
    said = [Said("P", "", f"i{i}", 50.0 if 10 <= i < 20 else 0.0, True) for i in range(30)]
    (row,) = rows = verdict_rows(said, calibrated, DOMAINS)
    assert (row["verdict"], row["score"], row["guaranteed"]) == ("anomalous", 50.0, 0)
    assert "1 line: more images than any validation patient" in estimate_warning(rows, calibrated, DOMAINS)
    views = [Said("P", "", "front", 0.0, True), Said("P", "", "side", 50.0, True)][-units:]
    (row,) = verdict_rows(views, calibrated, DOMAINS)
    assert (row["verdict"], row["guaranteed"]) == ("anomalous", 1)


def test_a_line_of_fewer_slices_is_promised_nothing():
    few, warning = line(4, (5, 20, 20))
    enough, _ = line(5, (5, 20, 20))
    assert [row["guaranteed"] for row in (few, enough)] == [0, 1]
    assert few["verdict"] == enough["verdict"]
    assert few["threshold"] == enough["threshold"], "it is the best there is"
    assert warning.endswith("estimates: 1 line: fewer images than any validation patient of its domain")


def test_a_line_of_which_something_could_not_be_read_is_promised_nothing():
    row, warning = line(5, (1, 5, 20), others=[Said("P", "", "bad")])
    assert (row["verdict"], row["slices"], row["unreadable"], row["guaranteed"]) == ("normal", 5, 1, 0)
    assert warning.endswith("estimates: 1 line: files or slices of it could not be read, and what they show nobody knows")


def test_several_lines_of_a_patient_are_promised_nothing():
    """Each of them is a chance to be called anomalous, and of patients, not of series, the rate is promised."""
    another = Said("P", "1.2", "j", 10.0, True, "liver", "ct")
    row, warning = line(5, (1, 5, 20), others=[another])
    assert row["guaranteed"] == 0
    assert warning.endswith("estimates: 2 lines: one of several of its patient, each a chance of its own to be called anomalous")
    for other in (another._replace(patient="Q"), another._replace(known=False), another._replace(score=None, known=False)):
        assert line(5, (1, 5, 20), others=[other])[0]["guaranteed"] == 1
    strange = [another, another._replace(image="k", score=99.0, known=False), another._replace(image="l")]
    _, warning = line(5, (1, 5, 20), others=strange)
    assert "estimates: 1 line: one of several of its patient" in warning, "the other is unknown"


def test_reasons_are_those_of_a_lines_own_domain():
    few = reference(50, 5, [50.0], slices=(1, 1, 1), guaranteed=False)
    calibrated = calibration(reference(10, 2, np.linspace(5, 15, 39), slices=(20, 20, 20)), few)
    rows = verdict_rows([Said("P", "", "a", 50.0, True, "lung", "ct")], calibrated, DOMAINS)
    told = estimate_warning(rows, calibrated, DOMAINS)
    assert told.endswith("estimates: there are 1 validation patients of a domain, and it takes 19 of one domain")


def test_a_network_that_was_not_asked_for_slices_promises_nothing():
    row, warning = line(30, None)
    assert row["guaranteed"] == 0
    assert "1 line: an older version calibrated the network" in warning


@pytest.mark.parametrize(("fewest", "slices"), [(20, 20), (20, 160), (12, 160)])
def test_the_promise_holds_for_volumes_with_more_slices(fewest, slices):
    """`prepare` takes 20 slices of a volume, `predict` all: of 200 times 39 validation and 20 new patients 5 % are called, not half of them."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(200):
        counts = rng.integers(fewest, 21, size=39)
        means = np.array([np.sort(rng.normal(size=count))[-3:].mean() for count in counts])
        calibrated = calibration(reference(0, 1, means, slices=(int(counts.min()), int(np.median(counts)), int(counts.max()))))
        said = [Said(f"P{i}", "", str(j), float(score), True, "liver", "ct") for i in range(20) for j, score in enumerate(rng.normal(size=slices))]
        rows = verdict_rows(said, calibrated, DOMAINS)
        assert {row["guaranteed"] for row in rows} == {int(fewest == 20)}
        called += sum(row["verdict"] == "anomalous" for row in rows)
    assert called / 4000 == pytest.approx(0.05, abs=0.02)


def test_few_patients_are_judged_by_those_of_all_domains_in_spreads():
    few = calibration(reference(10, 2, [11, 12, 9.0], guaranteed=False), reference(50, 5, [52, 70.0], guaranteed=False))
    standard = [0.5, 1.0, -0.5, 0.4, 4.0]
    expected = 10 + 2 * max(standard)  # of five the 95th percentile is the highest
    (row,) = verdict_rows([Said("P", "", "a", expected - 0.01, True, "liver", "ct")], few, DOMAINS)
    assert (row["verdict"], row["guaranteed"]) == ("normal", 0)
    assert row["threshold"] == pytest.approx(expected)
    assert row["p_value"] == 1 / 4
    (row,) = verdict_rows([Said("P", "", "a", expected + 0.01, True, "liver", "ct")], few, DOMAINS)
    assert (row["verdict"], row["guaranteed"]) == ("anomalous", 0)
    low = calibration(reference(10, 2, [9.0], guaranteed=False))
    (row,) = verdict_rows([Said("P", "", "a", 10.0, True, "liver", "ct")], low, DOMAINS)
    assert row["threshold"] == pytest.approx(10 + 2 * norm.ppf(0.95)), "the highest of one may be a low one"
    none = calibration(reference(10, 2, [], guaranteed=False))
    (row,) = verdict_rows([Said("P", "", "a", 10.0, True, "liver", "ct")], none, DOMAINS)
    assert (row["threshold"], row["p_value"], row["verdict"]) == (pytest.approx(10 + 2 * norm.ppf(0.95)), 1.0, "normal")


def test_without_heads_series_are_judged_as_single_images_are():
    everything = reference(0, 1, np.arange(19.0), guaranteed=False)
    several = calibration(reference(10, 2, np.arange(39.0)), reference(50, 5, np.arange(39.0)), everything=everything, sure=None)
    (row,) = verdict_rows([Said("", "s", "a", 20.0, True)], several, DOMAINS)
    assert (row["p_value"], row["guaranteed"], row["organ"]) == (1 / 20, 0, None)
    assert row["threshold"] == 18.0, "the highest of 19, as no domain is told"
    assert row["verdict"] == "anomalous"


def test_series_among_single_images_are_promised_nothing():
    """It is not known whose the validation images are: a mean of three high slices is not exchangeable with them."""
    strangers = calibration(reference(10, 2, np.linspace(5, 15, 99), unit="images"))
    (row,) = rows = verdict_rows([Said("", "s", "a", 20.0, True, "liver", "ct")], strangers, DOMAINS)
    assert (row["guaranteed"], row["verdict"]) == (0, "anomalous")
    assert "called anomalous too often" in estimate_warning(rows, strangers, DOMAINS)


def test_estimates_are_told_and_guarantees_are_not(many):
    few = calibration(reference(10, 2, [11, 12, 9.0], guaranteed=False), reference(50, 5, range(18), guaranteed=False))
    rows = verdict_rows([Said("P", "", "a", 1.0, True, "liver", "ct")], few, DOMAINS)
    assert "3 to 18 validation patients of a domain, and it takes 19" in estimate_warning(rows, few, DOMAINS)
    readable = [each for each in images() if each.score is not None]
    assert estimate_warning(verdict_rows(readable, many, DOMAINS), many, DOMAINS) is None
    assert estimate_warning([], few, DOMAINS) is None


def test_each_reason_of_estimates_is_told_of_the_domains_that_it_is_true_of():
    sure, few = reference(10, 2, range(39)), reference(50, 5, range(3), guaranteed=False)
    strangers = reference(90, 5, range(9), unit="images", guaranteed=False)
    mixed = calibration(sure, few, strangers, everything=reference(0, 1, range(51), unit="patients and images", guaranteed=False))
    told = estimate_warning(verdict_rows([Said("P", "", "a", 1.0, True, "lung", "ct")], mixed, DOMAINS), mixed, DOMAINS)
    assert "there are 3 validation patients of a domain, and it takes 19 of one domain; of 1 of 3 domains it is not known whose" in told
    assert estimate_warning(verdict_rows([Said("P", "", "a", 1.0, True, "liver", "ct")], mixed, DOMAINS), mixed, DOMAINS) is None


def test_that_nothing_tells_domains_apart_is_the_reason_however_many_patients_there_are():
    everything = reference(30, 9, range(99), guaranteed=False)
    united = calibration(reference(10, 2, range(39)), reference(50, 5, range(60)), everything=everything, sure=None)
    told = estimate_warning(verdict_rows([Said("P", "", "a", 1.0, True)], united, DOMAINS), united, DOMAINS)
    assert told.endswith("estimates: nothing tells the domains apart, so that one threshold is for all")


def test_no_line_for_images_of_nobody_and_nothing(many):
    assert verdict_rows([Said("", "", "a", 1.0, True, "liver", "ct")], many, DOMAINS) == []
    assert verdict_rows([], many, DOMAINS) == []
    (row,) = verdict_rows([Said("", "s", "bad")], many, DOMAINS)
    assert (row["verdict"], row["slices"], row["unreadable"]) == ("unknown", 0, 1)
