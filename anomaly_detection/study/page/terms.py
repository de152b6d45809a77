"""What the words of the report mean, each in two sentences at most."""

import html

from anomaly_detection.data.phantom.strata import STRATA

ORACLE = "at the threshold with the best accuracy on these very test labels: the published protocol, and an upper bound that no detector can know"
TERMS = {
    "AUROC": "How often an abnormal image scores higher than a normal one: 1 is always, 0.5 as by chance. It needs no threshold.",
    "interval": "[low–high] is the 95 % interval of what other patients (and, with several seeds, other trainings) would have given.",
    "better than chance": "The whole 95 % interval of the AUROC, or of a twin rate, lies above 0.5. It says that something is seen, not that it is "
    "enough. Unclear: the interval holds 0.5.",
    "regime": "What a network is trained on. separate: one network for each dataset. united: one for all, mixed. united_probe: united, whose "
    "latent is read for organ and modality afterwards. maddr: united, with the constraint of MADDR. maddr_TERMS: with some of its terms alone.",
    "promised": "The share of normal images that a detector may call abnormal, fixed on validation normals before any test image was seen.",
    "observed": "The share of the normal test images that it called abnormal, at the threshold that the promise set.",
    "guaranteed": "The promise holds for new patients like those of validation (a conformal limit). Where there are too few, it is an estimate.",
    "miss": "An abnormal test image that scores at or below the threshold of its dataset.",
    "false alarm": "A normal test image that scores above the threshold of its dataset.",
    "spread": "The unit of the slider: 1.4826 times the median absolute deviation of the scores of a dataset's validation normals; of a normal "
    "distribution that is the standard deviation.",
    "can be promised": "The false-alarm rate that a threshold fixed there beforehand would keep for new patients, their domain being told: "
    "(k + 1) / (n + 1), where k of n validation patients lie above it.",
    "oracle_": f"A measure {ORACLE}.",
    "twin rate": "How often an abnormal image scores higher than the same body without its lesions, its healthy twin; 0.5 is chance.",
    "unknown domain": "An image that resembles nothing of the training: its verdict should not be trusted.",
    "mean": "Over the datasets, of seeds that have all of them.",
    "pooled": "All test images together, with one threshold: what a network does that is not told the dataset.",
}
CALLS = {
    "f1": "The harmonic mean of sensitivity and precision",
    "accuracy": "The share of images called rightly",
    "sensitivity": "The share of abnormal images called abnormal",
    "specificity": "The share of normal images called normal",
}
MEASURES = {
    "auroc": TERMS["AUROC"],
    "patient_auroc": "AUROC of patients, where they are known: each scores the mean of its highest slices that the network knows.",
    "average_precision": "The area under precision over sensitivity; chance is the share of abnormal images.",
    **{name: f"{text}, at the threshold fixed on validation normals." for name, text in CALLS.items()},
    **{f"oracle_{name}": f"{text}, {ORACLE}." for name, text in CALLS.items()},
    "pixel_auroc": "How often a pixel of a lesion has a higher value in the anomaly map than a pixel outside; 0.5 is chance.",
    "pixel_average_precision": "The area under precision over sensitivity of pixels; chance is the share of pixels that lesions take.",
    "aupro": "The mean share of each lesion that the anomaly map covers, over false-alarm rates of pixels from 0 to 30 %, divided by 0.3.",
    "oracle_dice": "The best overlap (Dice) of lesions and anomaly map over all thresholds, chosen with the masks: an upper bound.",
    **{f"{stratum}_auroc": f"AUROC of the abnormal images whose lesions are {stratum} to the eye, among all normal images." for stratum in STRATA},
    **{f"{stratum}_twin_rate": f"The twin rate of the abnormal images whose lesions are {stratum} to the eye." for stratum in STRATA},
    "twin_rate": TERMS["twin rate"],
    "rise_on_lesion": "How much of what a lesion adds to the anomaly map lies on the lesion, from 0 to 1; chance is lesion_share.",
    "lesion_share": "The share of an image's pixels that its lesions take.",
}


def term(name: str, text: str | None = None) -> str:
    """A word in HTML that shows its definition when it is pressed; `text` is shown in its place."""
    return f'<button type="button" class="term" popovertarget="{_key(name)}">{html.escape(text or name)}</button>'


def definitions() -> str:
    """The list of all terms, folded, and the boxes that `term` opens."""
    listed = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in TERMS.items())
    measures = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in MEASURES.items())
    boxes = "".join(f'<div popover id="{_key(name)}"><b>{html.escape(name)}</b>: {html.escape(text)}</div>' for name, text in TERMS.items())
    return f"<details><summary>What the words mean</summary><dl>{listed}{measures}</dl></details>{boxes}"


def shortened(name: str, most: int) -> str:
    """At most so many characters of a name: its beginning and its end, since what belongs together begins alike."""
    if len(name) <= most:
        return name
    head = most // 3
    return f"{name[:head]}…{name[len(name) - (most - head - 1) :]}"


def _key(name: str) -> str:
    if name not in TERMS:
        raise KeyError(f"{name}: no such term")
    return "term-" + name.replace(" ", "-").lower()
