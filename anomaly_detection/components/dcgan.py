"""What convolutional baselines share: how far images are halved, and the weight initialisation of DCGAN (Radford et al., ICLR 2016)."""

from torch import nn


def initialise_dcgan(network: nn.Module) -> None:
    """Convolutions ~ N(0, 0.02^2) with biases 0; batch-norm weights ~ N(1, 0.02^2) with biases 0; other parameters stay."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def halvings_to_4(image_size: int) -> int:
    """How often images are halved until 4 x 4 is left, at least once.

    Raises:
        ValueError: image_size is not a power of two from 8 on.
    """
    if image_size < 8 or image_size & (image_size - 1):
        raise ValueError(f"image_size must be a power of two from 8 on, not {image_size}")
    return image_size.bit_length() - 3
