"""A baseline of one file: a convolutional autoencoder whose anomaly score is the mean absolute error.

Nothing else needs to know of it; where this module can be imported, `--models` takes it:

    maddr study --models examples.autoencoder:Autoencoder --set iterations=1000 --set baseline.width=32
"""

from dataclasses import dataclass

import torch
from torch import nn

from anomaly_detection.baseline import Assessment, Baseline, Phase, minimise


@dataclass(frozen=True)
class AutoencoderSettings:
    """Keys of its own, below `baseline:` in YAML and `--set baseline.KEY=`. A baseline that has none leaves this out."""

    latent_dim: int = 64
    width: int = 16


class Autoencoder(Baseline):
    """Images are halved three times on their way to the latent, which is a vector: MADDR splits it."""

    Settings = AutoencoderSettings

    def __init__(self, settings):
        super().__init__(settings)  # keeps them as self.settings
        self.latent_dim = settings.baseline.latent_dim
        c, w, side = settings.channels, settings.baseline.width, settings.image_size // 8
        down = [nn.Conv2d(c, w, 4, 2, 1), nn.ReLU(), nn.Conv2d(w, w, 4, 2, 1), nn.ReLU(), nn.Conv2d(w, w, 4, 2, 1), nn.ReLU(), nn.Flatten()]
        self.encoder = nn.Sequential(*down, nn.Linear(w * side**2, self.latent_dim))
        up = [nn.ConvTranspose2d(w, w, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(w, w, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(w, c, 4, 2, 1)]
        self.decoder = nn.Sequential(nn.Linear(self.latent_dim, w * side**2), nn.Unflatten(1, (w, side, side)), *up)

    def phases(self):
        """One stretch of training, as long as the settings say."""
        return [Phase("autoencoder", self.settings.iterations, self.settings.batch_size)]

    def optimizers(self, phase):
        """The heads of MADDR are trained with the encoder; without MADDR there are none."""
        return {"all": torch.optim.Adam([*self.encoder.parameters(), *self.decoder.parameters(), *self.heads()], self.settings.lr)}

    def training_step(self, batch, optimizers):
        """What is returned stands in log.csv."""
        with self.autocast():  # bfloat16 where the hardware has it
            z = self.encoder(batch.image)
            error = (self.decoder(z) - batch.image).abs().mean()
        constraint, log = self.constraint(z, batch)  # 0 without MADDR
        minimise(error + constraint, optimizers["all"])
        return {"rec": error.detach(), **log}

    def assess(self, x, with_map):
        """Latents, scores, maps and reconstructions, in one pass."""
        z = self.encoder(x)
        y = self.decoder(z)
        error = (x - y).abs().mean(dim=1, keepdim=True)
        return Assessment(z, error.mean(dim=(1, 2, 3)), error if with_map else None, y)
