"""The networks of GANomaly: strided 4 x 4 convolutions without bias, widths doubling at each halving until 4 x 4 is left.

Source: Akcay et al., GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training, ACCV 2018, section 3, and its published code.
"""

from torch import Tensor, nn

from anomaly_detection.components.dcgan import halvings_to_4, initialise_dcgan


def _pyramid(image_size: int, channels: int, width: int, extra_layers: int = 0) -> list[nn.Module]:
    """(B, channels, image_size, image_size) -> (B, C, 4, 4), C the width doubled at every halving but the first."""
    count = halvings_to_4(image_size)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for _ in range(extra_layers):
        layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]
    for stage in range(1, count):
        wide = width << stage
        layers += [nn.Conv2d(wide // 2, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
    return layers


def _top_width(image_size: int, width: int) -> int:
    return width << (halvings_to_4(image_size) - 1)


class Encoder(nn.Sequential):
    """Images (B, channels, image_size, image_size) -> latents (B, latent_dim, 1, 1)."""

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int, extra_layers: int = 0):
        top = nn.Conv2d(_top_width(image_size, width), latent_dim, 4, 1, 0, bias=False)
        super().__init__(*_pyramid(image_size, channels, width, extra_layers), top)
        initialise_dcgan(self)


class Decoder(nn.Sequential):
    """Latents (B, latent_dim, 1, 1) -> images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(self, image_size: int, channels: int, width: int, latent_dim: int, extra_layers: int = 0):
        wide = _top_width(image_size, width)
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, wide, 4, 1, 0, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        while wide > width:
            wide //= 2
            layers += [nn.ConvTranspose2d(2 * wide, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        for _ in range(extra_layers):
            layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())
        initialise_dcgan(self)


class Discriminator(nn.Module):
    """Images (B, channels, image_size, image_size) -> logits (B,) and the features (B, C, 4, 4) that they are read from."""

    def __init__(self, image_size: int, channels: int, width: int, extra_layers: int = 0):
        super().__init__()
        self.features = nn.Sequential(*_pyramid(image_size, channels, width, extra_layers))
        self.classifier = nn.Conv2d(_top_width(image_size, width), 1, 4, 1, 0, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Draw new weights."""
        initialise_dcgan(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.classifier(features).flatten(), features
