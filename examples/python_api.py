# %% [markdown]
# # Anomaly detection from Python
#
# A detector learns what is normal from normal images alone, here CT slices of rendered phantoms: fit, score, p-values, maps, save and load.
# Cells begin with `# %%`, so that editors run them one by one; `python examples/python_api.py` runs all, in about a minute on two CPU cores.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

from anomaly_detection import AnomalyDetector, load
from anomaly_detection.data.phantom.body import sample_patient
from anomaly_detection.data.phantom.pairs import slice_pair

PATIENTS = 160  # to learn from
NEW = 20  # more, to look at
OUTPUT = Path("python_api")  # a folder, for the detector and a picture
SETTINGS = {"image_size": 128}  # keys of the configs; what is left out stands in configs/gaussian/base.yaml

# %% [markdown]
# ## Images
# Arrays here; paths of PNG, DICOM or NIfTI files, Pillow images and torch tensors do as well. Values of CT, int16 or floating point, need
# `AnomalyDetector(window=(level, width))`; these are 8-bit already.


# %%
def slices_of(patient: int) -> list[np.ndarray]:
    """A slice of the liver and one of the lungs of a body, (128, 128) uint8 each."""
    body = sample_patient(np.random.default_rng(patient))
    return [slice_pair(body, organ, None, [patient, place], 128).healthy for place, organ in enumerate(("liver", "lung"))]


def planted(picture: np.ndarray) -> np.ndarray:
    """The same with a white disc, which no normal image has: easier than the lesions of `maddr phantom`."""
    down, right = np.mgrid[:128, :128]
    return np.where(np.hypot(down - 70, right - 50) < 12, 255, picture).astype(np.uint8)


images = [picture for patient in range(PATIENTS) for picture in slices_of(patient)]
organs = ["liver", "lung"] * PATIENTS
patients = np.repeat(np.arange(PATIENTS), 2)
healthy = [picture for patient in range(PATIENTS, PATIENTS + NEW) for picture in slices_of(patient)]
ill = [planted(picture) for picture in healthy]

# %% [markdown]
# ## One domain
# The livers alone. `groups` says whose an image is: a patient trains or validates, never both. An eighth validate, and set the threshold so that at
# most 5 % of new normal patients are called abnormal; it takes 19 of them for that promise.

# %%
detector = AnomalyDetector("gaussian", SETTINGS).fit(images[::2], organ="liver", modality="ct", groups=patients[::2])
print(detector.detector_)
print(*detector.detector_.promises(), sep="\n")

# %%
new = [*healthy[::2], *ill[::2]]
label = np.repeat([0, 1], NEW)
score = detector.decision_function(new)  # higher is more abnormal
p = detector.p_value(new)  # small is abnormal
called = detector.predict(new)  # 1 abnormal, 0 normal
print(f"AUROC {roc_auc_score(label, score):.3f}; called abnormal: {called[label == 1].mean():.0%} of ill, {called[label == 0].mean():.0%} of healthy")
print(f"median p-value: {np.median(p[label == 1]):.3f} of ill, {np.median(p[label == 0]):.3f} of healthy")

# %% [markdown]
# ## Where it is

# %%
OUTPUT.mkdir(exist_ok=True)
worst = int(np.argmax(score))
anomaly_map = detector.anomaly_map([new[worst]])[0]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
left.imshow(new[worst], cmap="gray")
left.set_title(f"score {score[worst]:.1f}, p = {p[worst]:.3f}")
shown = right.imshow(anomaly_map, vmin=0, vmax=detector.detector_.map_scale)
right.set_title("anomaly map")
figure.colorbar(shown, ax=right, label="anomaly score; the top is rare in normals", extend="max")
figure.savefig(OUTPUT / "map.png")
plt.close(figure)

# %% [markdown]
# ## Save and load
# What is saved is a checkpoint.pt: `maddr predict`, `maddr export` and `load` take it, too. `load` tells more of each image.

# %%
detector.save(OUTPUT / "liver.pt")
again = AnomalyDetector.load(OUTPUT / "liver.pt")
assert np.array_equal(again.decision_function(new), score)
prediction = load(OUTPUT / "liver.pt").predict(new[worst])
print(f"score {prediction.score:.3g}, threshold {prediction.threshold:.3g}: {prediction.verdict}; {prediction.unknown_because or 'known'}")

# %% [markdown]
# ## Several domains
# One network for both organs: MADDR names the organ of a new image, and judges the image among those of this organ.

# %%
universal = AnomalyDetector("gaussian", SETTINGS).fit(images, organ=organs, modality="ct", groups=patients)
score = universal.decision_function([*healthy, *ill])
named = np.array([prediction.organ for prediction in universal.detector_.predict_batch(healthy)])
print(f"AUROC {roc_auc_score(np.repeat([0, 1], 2 * NEW), score):.3f}; organs named rightly: {(named == ['liver', 'lung'] * NEW).mean():.0%}")
