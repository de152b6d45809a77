"""Mixup: training on weighted means of two images, whose loss has that of either's labels in the same shares.

Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; in the form of the released MADDR code, one share for a whole batch.
"""

import numpy as np
import torch
from torch import Tensor

STREAM = 1  # tells these draws from those of the images' order


def draw_mixture(index: Tensor, seed: int, iteration: int) -> tuple[Tensor, float]:
    """Whom to mix into the images of a batch, and the share that stays theirs.

    Both follow from seed and iteration alone: a run that continues draws what it would have drawn, and so does each of several processes.

    Args:
        index: (B,), the images' places in the training set.

    Returns:
        The same places in another order, and a number in [0, 1], drawn from Beta(1, 1), the uniform distribution.
    """
    random = np.random.default_rng([seed, iteration, STREAM])
    share = random.beta(1.0, 1.0)
    return index[torch.from_numpy(random.permutation(len(index)))], share
