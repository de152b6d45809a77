"""Twin rate, rise on the lesion and contrast-detail: against plain loops, and a detector of random scores, which has 0.5 everywhere."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_detection.data.dataset import DataSource
from anomaly_detection.data.phantom.strata import STRATA
from anomaly_detection.data.preprocessing import Preprocessing
from anomaly_detection.data.twins import load_twins, twins_fingerprint
from anomaly_detection.evaluation.bootstrap import resample
from anomaly_detection.evaluation.evaluate import evaluate
from anomaly_detection.evaluation.twins import contrast_detail, rise_on_lesion, twin_metrics, twin_rate, twin_rows, twin_samples
from anomaly_detection.study.train_and_score import look_up_features
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.lines import Lines
from tests.test_baselines import built, settings_of

DATASETS = ["liver_ct", "lung_ct", "lung_xray"]


def pairs_of(count, scores, twin_scores, seed=0):
    rng = np.random.default_rng(seed)
    diameters, contrasts = np.exp(rng.uniform(2, 4.5, count)), -np.exp(rng.uniform(2.5, 4.5, count))
    return [
        {
            "image": f"abnormal/{i}.png",
            "stratum": STRATA[i % 3],
            "diameter_mm": diameters[i],
            "contrast": contrasts[i],
            "score": scores[i],
            "twin_score": twin_scores[i],
            "rise_on_lesion": None if i == 0 else 0.3,
            "lesion_share": 0.1,
        }
        for i in range(count)
    ]


def test_rows(pairs, normal_scores):
    normals = [{"image": f"normal/{i}.png", "patient": str(i), "label": 0, "score": score} for i, score in enumerate(normal_scores)]
    abnormal = [{"image": pair["image"], "patient": f"ill {i}", "label": 1, "score": pair["score"]} for i, pair in enumerate(pairs)]
    return Lines.of([*normals, *abnormal])


test_rows.__test__ = False


@pytest.mark.parametrize(
    ("scores", "twin_scores", "expected"),
    [([3, 1, 5], [1, 2, 4], 2 / 3), ([1, 1], [1, 1], 0.5), ([2, 1, 1, 0], [1, 1, 2, 5], 0.375), ([1], [0], 1), ([0], [1], 0)],
)
def test_twin_rate_counts_pairs_and_ties_half(scores, twin_scores, expected):
    assert twin_rate(np.array(scores), np.array(twin_scores)) == pytest.approx(expected)


def test_rise_on_lesion_is_the_share_of_a_loop():
    rng = np.random.default_rng(0)
    one, other, lesion = rng.normal(size=(9, 7)), rng.normal(size=(9, 7)), rng.random((9, 7)) < 0.3
    rises = [(max(a - b, 0.0), inside) for a, b, inside in zip(one.flat, other.flat, lesion.flat, strict=True)]
    expected = sum(rise for rise, inside in rises if inside) / sum(rise for rise, _ in rises)
    assert rise_on_lesion(one, other, lesion) == pytest.approx(expected)
    assert rise_on_lesion(other, other, lesion) is None
    assert rise_on_lesion(other + lesion, other, lesion) == pytest.approx(1)
    assert rise_on_lesion(other + 1, other, lesion) == pytest.approx(lesion.mean()), "a map that knows nothing of the lesion"


def test_random_scores_have_a_half_in_every_cell_and_stratum():
    """Within four standard errors of a share of so many."""
    rng = np.random.default_rng(1)
    pairs = pairs_of(2700, rng.normal(size=2700), rng.normal(size=2700))
    normal_scores = rng.normal(size=2000)
    table = contrast_detail(pairs, normal_scores)
    assert table.count.sum() == 2700
    assert table.count.min() > 100
    for values in (table.auroc, table.rate):
        assert (np.abs(values - 0.5) < 4 * 0.5 / np.sqrt(table.count)).all()
        assert np.ptp(values) > 0
    metrics = twin_metrics(pairs, test_rows(pairs, normal_scores[:300]))
    for stratum in STRATA:
        assert metrics[f"{stratum}_twin_pairs"] == 900
        assert metrics[f"{stratum}_twin_rate"] == pytest.approx(0.5, abs=4 * 0.5 / 30)
        assert metrics[f"{stratum}_auroc"] == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(300))


def test_contrast_detail_is_that_of_a_loop():
    rng = np.random.default_rng(2)
    pairs, normal_scores = pairs_of(40, rng.normal(size=40), rng.normal(size=40)), rng.normal(size=11)
    table = contrast_detail(pairs, normal_scores)
    seen = 0
    for i in range(3):
        for j in range(3):
            members = []
            for pair in pairs:
                in_row = table.contrasts[i] <= abs(pair["contrast"]) and (i == 2 or abs(pair["contrast"]) < table.contrasts[i + 1])
                if in_row and table.diameters[j] <= pair["diameter_mm"] and (j == 2 or pair["diameter_mm"] < table.diameters[j + 1]):
                    members.append(pair)
            assert table.count[i, j] == len(members)
            if not members:
                assert np.isnan(table.auroc[i, j])
                continue
            seen += 1
            above = [1.0 if pair["score"] > score else 0.5 * (pair["score"] == score) for pair in members for score in normal_scores]
            assert table.auroc[i, j] == pytest.approx(sum(above) / len(above))
            assert table.rate[i, j] == pytest.approx(sum(pair["score"] > pair["twin_score"] for pair in members) / len(members))
    assert seen > 5
    assert table.count.sum() == 40


def test_lesions_of_one_size_and_contrast_fill_one_cell():
    pairs = [pair | {"diameter_mm": 20.0, "contrast": -30.0} for pair in pairs_of(6, np.ones(6), np.zeros(6))]
    table = contrast_detail(pairs, np.zeros(4))
    assert sorted(table.count.flat) == [0] * 8 + [6]
    assert np.nanmax(table.rate) == 1


def test_metrics_by_stratum_leave_out_what_is_not_there():
    rng = np.random.default_rng(3)
    pairs = [pair for pair in pairs_of(30, rng.normal(size=30) + 1, rng.normal(size=30)) if pair["stratum"] != "typical"]
    metrics = twin_metrics(pairs, test_rows(pairs, rng.normal(size=12)))
    assert metrics["twin_pairs"] == 20
    assert metrics["rise_on_lesion"] == pytest.approx(0.3), "of the pairs in which the map rises"
    assert not [name for name in (*metrics, *metrics["intervals"]) if name.startswith("typical")]
    for name in ("twin_rate", "obvious_auroc", "subtle_twin_rate"):
        low, high = metrics["intervals"][name]
        assert low <= metrics[name] <= high
        assert high - low > 0.05
    others = [{**pair, "stratum": None} for pair in pairs]
    assert set(twin_metrics(others, test_rows(pairs, [0.0]))) == {"twin_pairs", "twin_rate", "rise_on_lesion", "lesion_share", "intervals"}


def small(seed, shift=1.0, count=18):
    """Pairs of nine patients, two of each, in one of three strata, and test rows of eight normal patients; some scores are the same."""
    rng = np.random.default_rng(seed)
    pairs = pairs_of(count, np.round(rng.normal(size=count) + shift, 1), np.round(rng.normal(size=count), 1))
    test = list(test_rows(pairs, np.round(rng.normal(size=8), 1)))
    for i, row in enumerate(test[8:]):
        row["patient"] = f"ill {i // 2}"
    return pairs, Lines.of(test)


def test_samples_are_those_of_a_loop_over_patients():
    pairs, test = small(5)
    patient = {row["image"]: row["patient"] for row in test}
    normals = [row for row in test if row["label"] == 0]
    pairs, normals = sorted(pairs, key=lambda pair: pair["image"]), sorted(normals, key=lambda row: row["image"])
    drawn = twin_samples(pairs, test)
    assert list(drawn) == ["twin_rate", *(f"{stratum}_{name}" for stratum in STRATA for name in ("twin_rate", "auroc"))]
    for stratum in (None, *STRATA):
        members = [pair for pair in pairs if stratum in (None, pair["stratum"])]
        units = [patient[pair["image"]] for pair in members]
        name = f"{stratum}_twin_rate" if stratum else "twin_rate"
        assert drawn[name].degrees == len(set(units)) - 1
        weights = np.concatenate(list(resample(np.zeros(len(members), int), units, 1000)))
        for sample in (0, 1, 7, 999):
            seen = 0.0
            for weight, pair in zip(weights[sample], members, strict=True):
                seen += weight * (1 if pair["score"] > pair["twin_score"] else 0.5 * (pair["score"] == pair["twin_score"]))
            assert drawn[name].samples[sample] == pytest.approx(seen / sum(weights[sample]))
            of_patient = {}
            for weight, unit in zip(weights[sample], units, strict=True):
                assert of_patient.setdefault(unit, weight) == weight, "a patient is drawn with all its pairs"
        if stratum is None:
            continue
        labels, units = np.repeat([0, 1], [8, len(members)]), [row["patient"] for row in normals] + units
        weights = np.concatenate(list(resample(labels, units, 1000)))
        for sample in (0, 3, 500):
            above = total = 0.0
            for row, v in zip(normals, weights[sample][:8], strict=True):
                for pair, w in zip(members, weights[sample][8:], strict=True):
                    total += v * w
                    above += v * w * (1.0 if pair["score"] > row["score"] else 0.5 * (pair["score"] == row["score"]))
            assert drawn[f"{stratum}_auroc"].samples[sample] == pytest.approx(above / total)


def test_the_unit_of_a_twin_rate_is_the_patient():
    """Three slices of each patient that tell the same are no more than one; of three patients each they would be."""
    rng = np.random.default_rng(6)
    single = pairs_of(24, rng.normal(size=24) + 0.5, rng.normal(size=24))
    for pair in single:
        pair["stratum"] = "obvious"
    tripled = [{**pair, "image": f"{pair['image']}/{i}"} for pair in single for i in range(3)]

    def rows(pairs, patient):
        ill = [{"image": p["image"], "patient": patient(p["image"]), "label": 1, "score": p["score"]} for p in pairs]
        return Lines.of([*ill, *test_rows([], [0.0, 1.0])])

    one = twin_metrics(single, rows(single, lambda image: image))["intervals"]["obvious_twin_rate"]
    same = twin_metrics(tripled, rows(tripled, lambda image: image.rpartition("/")[0]))["intervals"]["obvious_twin_rate"]
    apart = twin_metrics(tripled, rows(tripled, lambda image: image))["intervals"]["obvious_twin_rate"]
    assert same == pytest.approx(one, abs=1e-9)
    assert apart[1] - apart[0] < 0.7 * (same[1] - same[0])


@pytest.mark.parametrize("score", [0.0, 1.0, 0.5])
def test_an_interval_holds_its_rate_where_scores_are_equal(score):
    pairs = pairs_of(12, np.full(12, score), np.full(12, 0.5))
    metrics = twin_metrics(pairs, test_rows(pairs, [0.2, 0.7]))
    low, high = metrics["intervals"]["twin_rate"]
    assert 0 <= low <= metrics["twin_rate"] <= high <= 1
    assert high - low > 0.2


# ---- what a detector sees, in the cells of size and contrast


def seeing(signal, count=900, seed=7, spread=0.3):
    """Pairs and normal scores of a detector whose score rises by `signal` of a pair above that of the body, which differs from body to body."""
    rng = np.random.default_rng(seed)
    pairs = pairs_of(count, np.zeros(count), rng.normal(size=count))
    for pair in pairs:
        pair["score"] = pair["twin_score"] + signal(pair) + spread * rng.normal()
    return pairs, rng.normal(size=400)


def test_a_perfect_detector_has_one_everywhere():
    pairs, normal_scores = seeing(lambda pair: 100.0)
    table = contrast_detail(pairs, normal_scores)
    assert (table.auroc == 1).all()
    assert (table.rate == 1).all()
    metrics = twin_metrics(pairs, test_rows(pairs, normal_scores))
    assert [metrics[f"{stratum}_{name}"] for stratum in STRATA for name in ("auroc", "twin_rate")] == [1] * 6
    blind = contrast_detail(*seeing(lambda pair: -100.0))
    assert (blind.auroc == 0).all()
    assert (blind.rate == 0).all()


def test_a_detector_of_contrast_and_size_rises_along_the_diagonal():
    """And along every row and column, since each of both helps it."""
    table = contrast_detail(*seeing(lambda pair: abs(pair["contrast"]) * pair["diameter_mm"] / 2000))
    for values in (table.auroc, table.rate):
        assert (np.diff(np.diag(values)) > 0.02).all()
        assert values[2, 2] - values[0, 0] > 0.2
        assert (np.diff(values, axis=0) > -0.03).all()
        assert (np.diff(values, axis=1) > -0.03).all()
    assert table.auroc[0, 0] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("seen", "axis"), [("diameter_mm", 1), ("contrast", 0)])
def test_a_detector_of_one_of_both_rises_along_its_axis_alone(seen, axis):
    table = contrast_detail(*seeing(lambda pair: 3 * (abs(pair[seen]) > 40), count=2700))
    assert (np.ptp(table.auroc, axis=axis) > 0.3).all()
    assert (np.ptp(table.auroc, axis=1 - axis) < 0.15).all()


# ---- from files to metrics


def evaluated(root, baseline):
    source = DataSource(root)
    return evaluate(baseline, source, source.preprocessing(DATASETS, 16, 1), 0.05, torch.device("cpu"))


def test_evaluation_tells_of_twins_what_their_files_show(twinned):
    baseline = built(settings_of("memae", 16)).eval()
    outcome = evaluated(twinned, baseline)
    assert [(row["dataset"], row["image"]) for row in outcome.twins] == [
        (name, f"anomaly/test_{i}.png") for name in ("lung_ct", "lung_xray") for i in range(4)
    ]
    scores = {(row["dataset"], row["image"]): row["score"] for row in outcome.rows}

    def seen(file):
        pixels = np.asarray(Image.open(twinned / file)).astype(np.float32) / 127.5 - 1
        with torch.inference_mode():
            return baseline.assess(torch.from_numpy(pixels)[None, None], with_map=True)

    for row in outcome.twins:
        twin, image = (seen(f"{row['dataset']}/{row['image'].replace('anomaly', folder)}") for folder in ("twins", "anomaly"))
        assert row["score"] == scores[row["dataset"], row["image"]]
        assert (row["contrast"], row["unit"]) == (5, "HU")
        assert row["twin_score"] == pytest.approx(float(twin.score), rel=1e-4)
        rise = (image.map - twin.map).clamp(min=0)[0, 0].double().numpy()
        assert row["rise_on_lesion"] == pytest.approx(rise[4:9, 6:11].sum() / rise.sum(), rel=1e-2)
        assert row["lesion_share"] == pytest.approx(25 / 256)
    metrics = outcome.metrics["datasets"]["lung_ct"]
    rates = [float(row["score"] > row["twin_score"]) for row in outcome.twins if row["dataset"] == "lung_ct"]
    assert metrics["twin_rate"] == pytest.approx(np.mean(rates))
    assert metrics["obvious_twin_rate"] == pytest.approx(np.mean(rates[::2]))
    assert {"auroc", "twin_rate", "obvious_auroc"} <= set(metrics["intervals"])
    assert not [name for name in outcome.metrics["datasets"]["liver_ct"] if "twin" in name]


def test_a_twins_score_that_is_no_number_is_refused(twinned, monkeypatch):
    source, baseline = DataSource(twinned), built(settings_of("memae", 16)).eval()
    preprocessing, assess = source.preprocessing(DATASETS, 16, 1), baseline.assess
    twins = load_twins(source, source.load(DATASETS, "test", preprocessing), preprocessing)

    def broken(x, with_map):
        assessment = assess(x, with_map)
        assessment.score[2] = float("nan")
        return assessment

    monkeypatch.setattr(baseline, "assess", broken)
    with pytest.raises(UserError, match=twins.images.names[2]):
        twin_rows(baseline, twins, np.zeros(24), lambda place: None)


def test_twins_change_nothing_else(twinned):
    baseline = built(settings_of("memae", 16)).eval()
    outcome = evaluated(twinned, baseline)
    (twinned / "twins.csv").unlink()
    without = evaluated(twinned, baseline)
    assert without.twins == []
    assert without.rows == outcome.rows


def test_a_twin_that_is_missing_is_told(twinned):
    (twinned / "lung_ct" / "twins" / "test_2.png").unlink()
    source = DataSource(twinned)
    preprocessing = source.preprocessing(DATASETS, 16, 1)
    with pytest.raises(UserError, match=r"lung_ct.twins.test_2\.png: is missing"):
        load_twins(source, source.load(DATASETS, "test", preprocessing), preprocessing)
    assert load_twins(source, source.load(["liver_ct"], "test", preprocessing), preprocessing) is None


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [("twins.csv", "dataset,image\nlung_ct,a.png\n", "twin"), ("phantoms.csv", "dataset,image,stratum\n", "diameter_mm")],
)
def test_a_damaged_table_is_told(twinned, file, text, words):
    (twinned / file).write_text(text)
    source = DataSource(twinned)
    preprocessing = source.preprocessing(DATASETS, 16, 1)
    with pytest.raises(UserError, match=words):
        load_twins(source, source.load(DATASETS, "test", preprocessing), preprocessing)


def test_a_fingerprint_of_twins_depends_on_no_folder_and_on_no_other_dataset(twinned, tmp_path):
    source = DataSource(twinned)
    both = twins_fingerprint(source, ["lung_ct", "lung_xray"])
    assert both == twins_fingerprint(source, ["lung_xray", "lung_ct", "liver_ct"]), "of two datasets that have any"
    one = twins_fingerprint(source, ["lung_ct"])
    assert len({None, both, one, twins_fingerprint(source, ["lung_xray"])}) == 4
    assert twins_fingerprint(source, ["liver_ct"]) is None
    copy = shutil.copytree(twinned, tmp_path / "copy", copy_function=shutil.copyfile)
    assert twins_fingerprint(DataSource(copy), ["lung_ct"]) == one
    (twinned / "lung_xray" / "twins" / "test_0.png").write_bytes(b"other")
    assert twins_fingerprint(source, ["lung_ct"]) == one
    assert twins_fingerprint(source, ["lung_ct", "lung_xray"]) != both


def test_files_that_stay_as_they_are_are_read_once(twinned, monkeypatch):
    source = DataSource(twinned)
    first = twins_fingerprint(source, ["lung_ct"])
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read again") if path.suffix == ".png" else read(path))
    assert twins_fingerprint(source, ["lung_ct"]) == first


def test_twins_are_decoded_once_and_again_when_they_change(twinned, monkeypatch):
    source = DataSource(twinned)
    preprocessing = source.preprocessing(["lung_ct", "lung_xray"], 16, 1)
    test = source.load(["lung_ct", "lung_xray"], "test", preprocessing)
    first = load_twins(source, test, preprocessing).images
    for name, dataset, pixels in zip(first.names, first.datasets, first.images, strict=True):
        assert (pixels[0].numpy() == np.asarray(Image.open(twinned / dataset / name))).all()
    with monkeypatch.context() as patch:
        patch.setattr(Preprocessing, "read", lambda *_: pytest.fail("decoded again"))
        assert torch.equal(load_twins(source, test, preprocessing).images.images, first.images)
    changed = twinned / "lung_ct" / "twins" / "test_2.png"
    Image.fromarray(np.full((16, 16), 9, np.uint8)).save(changed)
    again = load_twins(source, test, preprocessing).images
    differing = [name for name, one, other in zip(first.names, first.images, again.images, strict=True) if not torch.equal(one, other)]
    assert differing == ["twins/test_2.png"]


def test_features_of_twins_are_kept_beside_those_of_test_images(twinned):
    source = DataSource(twinned)
    preprocessing = source.preprocessing(["lung_ct", "lung_xray"], 16, 1)
    frozen = SimpleNamespace(store=None, identity=lambda: ["rows"], compute=lambda x: x, packed=lambda x: x.mean(dim=3).flatten(1))
    twins = load_twins(source, source.load(["lung_ct", "lung_xray"], "test", preprocessing), preprocessing)
    x = twins.images.batch(torch.arange(len(twins.images))).image
    for parts, known in ((("train", "val"), False), (("train", "val", "test"), True)):
        look_up_features(SimpleNamespace(frozen=frozen), source, preprocessing, parts, torch.device("cpu"))
        rows = frozen.store.look_up(x)
        assert (rows is not None) == known
    assert torch.allclose(rows.float(), x.mean(dim=3).flatten(1), atol=1e-3)
