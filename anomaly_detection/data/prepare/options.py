"""What `prepare` is told, as values with their defaults, and what it asks for. Importing this loads nothing that reads images."""

from dataclasses import dataclass

STORED_SIZE = 300  # side in pixels: that of the authors' images, as far as can be told
LITS_TRAIN_IMAGES = 186  # as many as the MADDR authors train on

DOWNLOADS = {  # what SRC is of each dataset
    "lits": "the training set of LiTS, competitions.codalab.org/competitions/17094, for research only: volume-N.nii and segmentation-N.nii",
    "covid_ct": "the folders Images-processed and Data-split of github.com/UCSD-AI4H/COVID-CT (the papers keep the rights to the images)",
    "covid_xray": "the Shenzhen chest X-ray set, kaggle.com/raddar/tuberculosis-chest-xrays-shenzhen or lhncbc.nlm.nih.gov (cite Jaeger et al. 2014 "
    "and Candemir et al. 2014), with files CHNCXR_NNNN_0.png (normal) and CHNCXR_NNNN_1.png (tuberculosis); or X-rays in a folder `normal` and a "
    "folder `covid`",
}


@dataclass(frozen=True)
class Choice:
    """Which slices of a volume are taken.

    Attributes:
        min_liver: share of the slice that liver, tumour included, must cover.
        min_tumour: share of the slice that tumour must cover where it is abnormal; with less, but some, it is left out.
        max_slices: at most so many normal and so many abnormal slices of a volume, spread over those there are.
    """

    min_liver: float = 0.02
    min_tumour: float = 0.0005
    max_slices: int = 20


@dataclass(frozen=True)
class Shares:
    """How patients are shared out.

    Attributes:
        train, val: shares of the patients who have normal images; the others are tested.
        seed: another seed, other patients.
        train_images: at most so many images to train on, spread over the patients; None: all.
    """

    train: float = 0.7
    val: float = 0.1
    seed: int = 0
    train_images: int | None = None

    def __post_init__(self):
        if not (self.train > 0 and self.val > 0 and self.train + self.val < 1):
            raise ValueError(f"train and val must be shares above 0 with a sum below 1, not {self.train:g} and {self.val:g}")
