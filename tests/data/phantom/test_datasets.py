"""Phantoms: the datasets on disk, and the physics and anatomy of the images in them."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from anomaly_detection.data.patients import patient_of
from anomaly_detection.data.phantom import datasets, rendering
from anomaly_detection.data.phantom.body import paint_body, probe, sample_patient
from anomaly_detection.data.phantom.datasets import DATASETS, write_phantoms
from anomaly_detection.data.phantom.lesions import draw_liver_lesions, draw_lung_lesions
from anomaly_detection.data.phantom.pairs import THIN_MM
from anomaly_detection.data.phantom.protocol import draw_level, draw_levels, fit_exposure, fit_scan
from anomaly_detection.data.phantom.rendering import LIVER_WINDOW, LUNG_WINDOW
from anomaly_detection.data.phantom.shapes import Canvas, Column, Ellipsoid, Rod
from anomaly_detection.data.phantom.strata import STRATA
from anomaly_detection.data.splits import SPLITS
from anomaly_detection.system.errors import UserError

IMAGES, SIZE = 36, 80


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "out"
    write_phantoms(out, images=IMAGES, seed=3, size=SIZE, workers=1)
    return out


@pytest.fixture(scope="module")
def patient():
    return sample_patient(np.random.default_rng(11))


def lines(out: Path, kind: str, split: str) -> list[tuple[str, str]]:
    """(image, dataset) of a split file."""
    text = (out / "folds" / "train_test_split" / kind / split).read_text(encoding="utf-8")
    return [tuple(line.rsplit(" ", 1)) for line in text.splitlines() if not line.startswith("#")]


def all_lines(out: Path) -> dict[tuple[str, str], list[tuple[str, str]]]:
    return {split: lines(out, *split) for split in SPLITS}


def table(out: Path, name: str) -> list[dict[str, str]]:
    with open(out / name, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def patient_number(image: str) -> str:
    """The patient in a file name: volume-N_S, N%k, CHNCXR_N_X."""
    stem = Path(image).stem
    if stem.startswith("volume-"):
        return stem.removeprefix("volume-").split("_")[0]
    return str(int(stem.split("_")[1])) if stem.startswith("CHNCXR") else stem.split("%")[0]


def digest(out: Path) -> dict[str, str]:
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in out.rglob("*") if file.is_file()}


# ---- on disk


def test_split_files_list_exactly_the_images_there_are(phantoms):
    listed = [(dataset, image) for rows in all_lines(phantoms).values() for image, dataset in rows]
    on_disk = [
        (dataset, f"{place}/{file.name}")
        for dataset in DATASETS
        for place in ("normal", "abnormal")
        for file in (phantoms / dataset / place).iterdir()
    ]
    assert len(listed) == IMAGES
    assert sorted(listed) == sorted(on_disk)


def test_every_split_holds_every_dataset_on_the_right_side(phantoms):
    for (kind, _), rows in all_lines(phantoms).items():
        assert {dataset for _, dataset in rows} == set(DATASETS)
        assert {image.split("/")[0] for image, _ in rows} == {"abnormal" if kind == "anomaly" else "normal"}


def test_images_are_grey_and_masks_mark_part_of_them(phantoms):
    for (kind, _), rows in all_lines(phantoms).items():
        for image, dataset in rows:
            picture = Image.open(phantoms / dataset / image)
            assert (picture.mode, picture.size) == ("L", (SIZE, SIZE))
            mask = phantoms / dataset / "masks" / Path(image).name
            assert mask.exists() == (kind == "anomaly")
            if kind == "anomaly":
                values = np.asarray(Image.open(mask))
                assert values.shape == (SIZE, SIZE)
                assert set(np.unique(values)) == {0, 255}
                assert (values > 0).mean() < 0.35


def test_no_patient_is_in_two_splits(phantoms):
    patients = [{patient_number(image) for image, _ in rows} for rows in all_lines(phantoms).values()]
    assert all(patients)
    assert sum(map(len, patients)) == len(set().union(*patients))


def test_no_two_images_are_alike(phantoms):
    images = [file for dataset in DATASETS for place in ("normal", "abnormal") for file in (phantoms / dataset / place).iterdir()]
    assert len({file.read_bytes() for file in images}) == IMAGES


def test_every_abnormal_image_has_a_twin_that_differs_where_the_lesion_is(phantoms):
    abnormal = sorted((dataset, image) for image, dataset in lines(phantoms, "anomaly", "test"))
    twins = table(phantoms, "twins.csv")
    assert sorted((row["dataset"], row["image"]) for row in twins) == abnormal
    listed = {(dataset, image) for rows in all_lines(phantoms).values() for image, dataset in rows}
    for row in twins:
        assert (row["dataset"], row["twin"]) not in listed, "a twin is nothing to train on or to test with"
        folder = phantoms / row["dataset"]
        ill, healthy, mask = (
            np.asarray(Image.open(folder / name)).astype(float) for name in (row["image"], row["twin"], f"masks/{Path(row['image']).name}")
        )
        change = np.abs(ill - healthy)
        assert change[mask > 0].mean() > 1
        if row["dataset"] != "covid_xray":  # where edges are enhanced and light is scattered, a lesion reaches beyond itself
            rows, columns = np.nonzero(mask)
            beside = np.ones_like(mask, bool)
            margin = SIZE // 5
            beside[max(rows.min() - margin, 0) : rows.max() + margin, max(columns.min() - margin, 0) : columns.max() + margin] = False
            assert not change[beside].any()


def test_the_table_of_lesions_says_what_the_images_show(phantoms):
    """Area, diameter and, in a radiograph, contrast and noise follow from the files alone."""
    rows = table(phantoms, "phantoms.csv")
    assert sorted((row["dataset"], row["image"]) for row in rows) == sorted((d, i) for i, d in lines(phantoms, "anomaly", "test"))
    for row in rows:
        folder, name = phantoms / row["dataset"], Path(row["image"]).name
        mask = np.asarray(Image.open(folder / "masks" / name)) > 0
        assert int(row["visible_px"]) == mask.sum()
        assert 0 < int(row["area_px"]) <= mask.sum()
        assert row["stratum"] in STRATA
        assert row["unit"] == ("grey" if row["dataset"] == "covid_xray" else "HU")
        contrast, noise, cnr, snr = (float(row[key]) for key in ("contrast", "noise", "cnr", "rose_snr"))
        assert cnr == pytest.approx(abs(contrast) / noise, abs=2e-3)
        assert snr == pytest.approx(cnr * int(row["area_px"]) ** 0.5, rel=0.01, abs=0.02)
        assert contrast > 0 or row["dataset"] == "lits", "opacities add"
        if row["dataset"] == "covid_xray" and int(row["lesions"]) == 1:
            ill, healthy = (np.asarray(Image.open(folder / kind / name)).astype(float) for kind in ("abnormal", "twins"))
            assert contrast == pytest.approx((ill - healthy)[mask].mean(), abs=1e-3)
            pixel = 2 * np.sqrt(mask.sum() / np.pi) / float(row["diameter_mm"])
            assert 240 <= SIZE / pixel <= 460, "the field of view in mm"


def test_the_mixture_is_as_asked(tmp_path):
    """At the size and with the bodies of the default."""
    for patient in (600, 601):
        for stratum in STRATA:
            job = datasets.Job(patient, stratum, "test", tuple(DATASETS))
            assert [pair.diseased.facts.stratum for _, _, pair in datasets.render_patient(job, 0, 160)] == [stratum] * 3


def test_healthy_pictures_do_not_know_of_lesions():
    """Level, field of view and noise of an abnormal picture are drawn as those of a healthy one: its twin is the body's healthy picture."""
    for stratum in ("subtle", "clinical"):
        ill = datasets.render_patient(datasets.Job(4, stratum, "test", tuple(DATASETS)), 1, 64)
        healthy = datasets.render_patient(datasets.Job(4, None, "test", tuple(DATASETS)), 1, 64)
        for (_, _, one), (_, _, other) in zip(ill, healthy, strict=True):
            assert np.array_equal(one.healthy, other.healthy)
            assert not np.array_equal(one.diseased.picture, one.healthy)
            assert other.diseased is None


@pytest.mark.parametrize("organ", ["liver", "lung"])
def test_the_protocol_centres_the_field_of_view_on_the_body(organ):
    for number in range(4):
        body = sample_patient(np.random.default_rng(number))
        rng = np.random.default_rng(number)
        level = draw_level(body, organ, rng)
        scan = fit_scan(body, organ, level, 128, rng)._replace(table=None)
        part = rendering.render_slice(body, scan, level, organ, [number], 128)
        held = part.hu > -300 if organ == "liver" else part.organ > 0.5
        rows, columns = np.flatnonzero(held.any(axis=1)), np.flatnonzero(held.any(axis=0))
        assert columns[0] > 0
        assert columns[-1] < 127
        assert rows[0] > 0
        assert 0.7 < (columns[-1] - columns[0]) / 128 < 0.99


def test_the_field_of_view_of_a_radiograph_is_laid_round_the_lungs():
    for number in range(3):
        body = sample_patient(np.random.default_rng(number))
        lung = rendering.Projection(body, fit_exposure(body, np.random.default_rng(number)), 96).lung_mm > 40
        rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
        assert min(rows[0], columns[0]) > 0
        assert max(rows[-1], columns[-1]) < 95
        assert 0.7 < max(np.ptp(rows), np.ptp(columns)) / 96 < 0.97


def test_catalog_and_marker(phantoms):
    catalog = yaml.safe_load((phantoms / "datasets.yaml").read_text(encoding="utf-8"))
    assert catalog == {
        "lits": {"label": 0, "organ": "liver", "modality": "ct", "root": "lits", "patient": datasets.BODY},
        "covid_ct": {"label": 1, "organ": "lung", "modality": "ct", "root": "covid_ct", "patient": datasets.BODY},
        "covid_xray": {"label": 2, "organ": "lung", "modality": "xray", "root": "covid_xray", "patient": datasets.BODY},
    }
    marker = (phantoms / "PHANTOM").read_text(encoding="utf-8")
    assert f"{IMAGES} computed images" in marker
    assert "seed 3" in marker
    assert datasets.other_version(phantoms) is None


def test_a_body_is_one_patient_in_all_datasets(phantoms):
    catalog = yaml.safe_load((phantoms / "datasets.yaml").read_text(encoding="utf-8"))
    named = [(image, kind, dataset) for (kind, _), lines in all_lines(phantoms).items() for image, dataset in lines]
    patients = [patient_of(image, kind == "anomaly", pattern=catalog[dataset]["patient"]) for image, kind, dataset in named]
    assert patients == [patient_number(image) for image, _, _ in named]
    assert all(patients.count(patient) == 3 for patient in patients), "as many as there are datasets, here"


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ("Phantoms: 360 computed images of 99 random bodies, no patient data.\nversion 1\nseed 0\nsize 160\n", "of version 1, and"),
        ("Phantoms: 36 computed images\r\nversion 1\r\n", "of version 1, and"),
        ("Phantoms: as a later version of this package renders them\nversion 99\n", "of version 99, and"),
        (f"Phantoms: 36 computed images\nversion {datasets.VERSION}\nlesions clinical\n", None),
        ("prepared from phantoms: lits and what else lies here\n", None),
        ("phantoms, seed 0: computed images of random bodies, no patient data\n", None),
        (None, None),
    ],
)
def test_phantoms_of_another_version_are_known(tmp_path, marker, told):
    if marker is not None:
        (tmp_path / "PHANTOM").write_text(marker, newline="")
    clause = datasets.other_version(tmp_path)
    assert clause is None if told is None else told in clause


def test_bytes_depend_on_the_seed_and_not_on_the_workers(phantoms, tmp_path):
    write_phantoms(tmp_path / "again", images=IMAGES, seed=3, size=SIZE, workers=2)
    assert digest(tmp_path / "again") == digest(phantoms)
    write_phantoms(tmp_path / "other", images=12, seed=4, size=64, workers=1)
    write_phantoms(tmp_path / "another", images=12, seed=5, size=64, workers=1)
    pictures = [{sha for name, sha in digest(tmp_path / folder).items() if name.endswith(".png")} for folder in ("other", "another")]
    assert not pictures[0] & pictures[1]


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not an empty folder"):
        write_phantoms(tmp_path, images=12)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("settings", "words"), [({"images": 11}, "12 or more"), ({"size": 32}, "64 or more")])
def test_too_small_a_request_is_refused(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        write_phantoms(tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(datasets, "_write_lists", fail)
    with pytest.raises(OSError, match="disk full"):
        write_phantoms(tmp_path / "out", images=12, size=64, workers=1)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_phantoms(tmp_path / "out", images=12, size=64, workers=1)
    assert (tmp_path / "out" / "PHANTOM").is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("images", [None, 12, 13, 100, 5000])
def test_images_are_shared_out_as_asked(images):
    jobs = datasets.plan_jobs(images)
    assert sum(len(job.datasets) for job in jobs) == (images or 3 * sum(datasets.IMAGES.values()))
    assert [job.patient for job in jobs] == list(range(len(jobs)))
    assert all(len(set(job.datasets)) == len(job.datasets) > 0 for job in jobs)
    abnormal = Counter((name, job.stratum) for job in jobs if job.stratum for name in job.datasets)
    for name in DATASETS:
        counts = [abnormal[name, stratum] for stratum in STRATA]
        assert max(counts) - min(counts) <= 1, "a third each"
    assert {job.stratum for job in datasets.plan_jobs(images, "clinical")} == {None, "clinical"}


# ---- physics


def test_windows_map_hu_to_grey():
    hu = np.array([-1000, -150, 50, 150, 250, 1000])
    assert rendering.window_hu(hu, *LIVER_WINDOW).tolist() == [0, 0, 128, 191, 255, 255]
    hu = np.array([-1350, -1000, -850, -600, 150, 400])
    assert rendering.window_hu(hu, *LUNG_WINDOW).tolist() == [0, 60, 85, 128, 255, 255]


def test_a_slice_shows_textbook_attenuation(patient):
    """Median HU of organs at points well inside them."""
    points = np.float32([patient.organs["right kidney"].centre, patient.organs["descending aorta"].rows[2][1:3] + (0,), (70, 20, 120), (-75, 0, -40)])
    points[1] = (*[row for row in patient.organs["descending aorta"].rows if row[0] == 0][0][1:3], 0)
    kidney, aorta, lung, liver = probe(patient, points).hu[0, 0]
    assert 100 < kidney < 220
    assert 100 < aorta < 220
    assert -950 < lung < -780
    assert 55 < liver < 135


def test_thickness_of_a_radiograph_is_that_of_the_body(patient):
    """Lung lets more through than heart or belly; beside the neck there is air alone."""
    exposure = rendering.Exposure(380, (0, 88), 0, 0, 0.1, 0.01, 1, 0, 0)
    projection = rendering.Projection(patient, exposure, SIZE)
    thickness, added = projection.plain, projection.added([])
    assert not added.any()

    def at(x, z):
        return thickness[round((88 - z) / 380 * SIZE + SIZE / 2), round(x / 380 * SIZE + SIZE / 2)]

    assert at(180, 260) < 1
    assert 30 < at(-75, 120) < 140
    assert at(20, 40) > 1.3 * at(-75, 120)
    assert at(-70, -60) > 1.3 * at(-75, 120)


def test_denser_is_brighter_in_a_radiograph():
    exposure = rendering.sample_exposure(np.random.default_rng(0))._replace(noise=0.0, scatter=0.0)
    ramp = np.tile(np.linspace(0, 250, SIZE, dtype=np.float32), (SIZE, 1))
    grey = rendering.develop(ramp, exposure, ramp, [0]).astype(int)
    assert grey[:, 0].max() < 60
    assert grey[:, -1].min() > 200
    assert (np.diff(grey[SIZE // 2, SIZE // 4 : -SIZE // 4]) >= 0).all()


# ---- shapes


@pytest.mark.parametrize(
    ("solid", "volume"),
    [
        (Ellipsoid((3, -4, 5), (20, 30, 24), 0.6), 4 / 3 * np.pi * 20 * 30 * 24),
        (Rod((-10, 0, -20), (15, 10, 20), 12), np.pi * 144 * np.sqrt(25**2 + 10**2 + 40**2) + 4 / 3 * np.pi * 12**3),
        (Column(((-20, 0, 0, 10, 20), (20, 5, 0, 10, 20))), np.pi * 200 * 40),
    ],
)
def test_solids_have_their_volume(solid, volume):
    axis = np.arange(-50, 50, 1.0, dtype=np.float32) + 0.5
    canvas = Canvas(axis.reshape(1, 1, -1), axis.reshape(1, -1, 1), axis.reshape(-1, 1, 1), soft=1.0)
    cut, inside = canvas.share(solid)
    if isinstance(solid, Column):  # a column is cut at the ends of its box
        inside = inside[1:-1]
    assert inside.sum() == pytest.approx(volume, rel=0.05)


def test_painting_replaces_tissue_in_proportion():
    axis = np.arange(-20, 20, 1.0, dtype=np.float32) + 0.5
    canvas = Canvas(axis.reshape(1, 1, -1), axis.reshape(1, -1, 1), np.zeros((1, 1, 1), np.float32), soft=1.0)
    canvas.lung = np.ones_like(canvas.hu)
    canvas.paint(Ellipsoid((0, 0, 0), (10, 10, 10)), 40.0)
    share = 1 - canvas.lung
    np.testing.assert_allclose(canvas.hu, -1000 + share * 1040, atol=1e-2)
    assert share.max() == 1
    assert share.min() == 0
    assert ((share > 0) & (share < 1)).any()
    canvas.paint(Ellipsoid((500, 0, 0), (10, 10, 10)), 9999.0)
    assert canvas.hu.max() == pytest.approx(40)


# ---- lesions


def render_pair(patient, organ: str, lesions: list, level: float):
    """A slice with and without lesions, the share that is lesion and the share that is the organ."""
    scan = rendering.sample_scan(np.random.default_rng(0), 128, organ)
    diseased, _, share = rendering.render_slice(patient, scan, level, organ, [1], 128, lesions)
    healthy, organ_share, nothing = rendering.render_slice(patient, scan, level, organ, [1], 128)
    assert not nothing.any()
    canvas = rendering.slice_canvas(patient, scan, level, 128)
    paint_body(canvas, patient, erect=False)
    assert np.array_equal(organ_share, getattr(canvas, organ)[0])
    return diseased, healthy, share, organ_share


@pytest.mark.parametrize(("organ", "draw"), [("liver", draw_liver_lesions), ("lung", draw_lung_lesions)])
def test_lesions_change_their_organ_and_nothing_else(patient, organ, draw):
    rng = np.random.default_rng(5)
    lesions = draw(patient, rng)
    for level in draw_levels(patient, organ, lesions, 2, rng):
        diseased, healthy, share, organ_share = render_pair(patient, organ, lesions, level)
        change = diseased - healthy
        assert share.max() >= 0.5
        assert (organ_share[share >= 0.5] >= 0.5).all()
        assert np.abs(change[share == 0]).max() < 1e-3
        # vessels that pass through ground glass stay as they were; the rest of the lesion differs
        assert np.median(np.abs(change[share >= 0.5])) > 5
        if organ == "lung":
            assert change.min() > -1e-3


def test_lesions_stay_within_the_reported_ranges():
    liver, lung = [], []
    for seed in range(12):
        patient = sample_patient(np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        plain = patient.tissue["liver"]
        liver += [(lesion, plain) for lesion in draw_liver_lesions(patient, rng)]
        lung += draw_lung_lesions(patient, rng)
    diameters = [2 * np.mean(lesion.body.axes) for lesion, _ in liver]
    assert min(diameters) > 5
    assert max(diameters) < 100
    assert 12 < np.median(diameters) < 32
    drops = [plain - (lesion.core_hu if lesion.core_share else lesion.hu) for lesion, plain in liver]
    assert min(drops) > 14
    assert max(drops) < 90
    assert min(lesion.core_hu for lesion, _ in liver) >= 12
    assert all(-750 <= lesion.hu <= -320 for lesion in lung)
    centres = np.array([lesion.body.centre for lesion in lung])
    assert (centres[:, 1] > 0).mean() > 0.6  # behind
    assert 0.2 < (centres[:, 0] < 0).mean() < 0.8  # on both sides


def test_opacities_brighten_a_radiograph_where_the_mask_is(patient):
    rng = np.random.default_rng(8)
    lesions = draw_lung_lesions(patient, rng, projected=True)
    exposure = rendering.sample_exposure(rng)
    diseased, added = rendering.render_radiograph(patient, exposure, [1], SIZE, lesions)
    healthy, nothing = rendering.render_radiograph(patient, exposure, [1], SIZE)
    assert not nothing.any()
    assert added.min() >= 0
    change = diseased.astype(float) - healthy
    marked, clear = added >= THIN_MM, added == 0
    assert marked.any()
    assert clear.any()
    assert change[marked].mean() > 2
    assert abs(change[clear].mean()) < 0.25 * change[marked].mean()
