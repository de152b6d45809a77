"""The device to compute on."""

import torch

from anomaly_detection.system.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device that --device names.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which one that holds no values has not
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; try --device cpu") from None
    return torch.device("cpu") if device.type == "cpu" else device  # there is one, and checkpoints know no cpu:0
