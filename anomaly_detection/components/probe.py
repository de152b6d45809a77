"""Linear heads on a finished latent: what they read of organ and modality is what the latent holds anyway, since they train nothing but themselves.

The control for MADDR's heads (Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016): a detector without the
constraint can name domains at test time with them, too, and is otherwise what it was. A score in which the domain has no part stays as it is.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ITERATIONS = 1000  # of the solver, at most
SMALLEST_SPREAD = 0.1  # of the mean one: a latent's numbers are on one scale, and those that vary less tell little


class Probe(nn.Module):
    """Names organ and modality of latents (B, latent_dim) as `MADDRConstraint` does, from all of the latent.

    Buffers: of each head, factors (classes, latent_dim) and shifts (classes,) of the logits; zero before `fit`.

    Args:
        latent_dim: length of the latent.
        organs, modalities: how many classes each head has.
    """

    def __init__(self, latent_dim: int, organs: int, modalities: int):
        super().__init__()
        self.classes = {"organ": organs, "modality": modalities}
        self.heads = tuple(self.classes)
        for name, count in self.classes.items():
            self.register_buffer(f"{name}_weight", torch.zeros(count, latent_dim))
            self.register_buffer(f"{name}_bias", torch.zeros(count))

    def fit(self, z: Tensor, organ: Tensor, modality: Tensor) -> None:
        """Logistic regression on standardised latents, with scikit-learn's default penalty (C = 1).

        Numbers that hardly vary in training are not blown up to the size of the others: where images are few, new ones vary more there, as in the
        last of their principal components.

        Args:
            z: (N, latent_dim) of training normals.
            organ, modality: (N,) their class numbers.
        """
        rows = z.detach().cpu().double().numpy()
        center, spread = rows.mean(axis=0), rows.std(axis=0)
        spread = np.maximum(spread, SMALLEST_SPREAD * spread.mean()) if spread.any() else np.ones_like(spread)
        for name, labels in (("organ", organ), ("modality", modality)):
            factors, shifts = _regression((rows - center) / spread, labels.cpu().numpy())
            factors = factors / spread
            for part, values in (("weight", factors), ("bias", shifts - factors @ center)):
                getattr(self, f"{name}_{part}").copy_(torch.from_numpy(values))

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """{"content": z}: no part of the latent is for a domain."""
        return {"content": z}

    def predict(self, z: Tensor) -> dict[str, Tensor]:
        """Probabilities "organ" (B, organs) and "modality" (B, modalities)."""
        return {name: F.linear(z, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")).softmax(dim=1) for name in self.heads}

    def accuracy(self, z: Tensor, organ: Tensor, modality: Tensor) -> dict[str, Tensor]:
        """Share of the latents whose "organ" and "modality" are named rightly."""
        labels = {"organ": organ, "modality": modality}
        return {name: (values.argmax(dim=1) == labels[name]).float().mean() for name, values in self.predict(z).items()}


def _regression(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (classes, D) and shifts (classes,) of the logits of rows (N, D)."""
    from sklearn.linear_model import LogisticRegression  # here: a second of importing, which a trained network does without

    classes = len(np.unique(labels))
    if classes == 1:
        return np.zeros((1, rows.shape[1])), np.zeros(1)
    model = LogisticRegression(max_iter=ITERATIONS).fit(rows, labels)
    if classes > 2:
        return model.coef_, model.intercept_
    half_factors, half_shifts = model.coef_ / 2, model.intercept_ / 2  # one logit for two classes: half of it speaks for each
    return np.concatenate([-half_factors, half_factors]), np.concatenate([-half_shifts, half_shifts])
