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
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}; try --device cpu") from None
    return device
