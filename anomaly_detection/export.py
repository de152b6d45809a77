"""A detector as one file that runs without this package: ONNX, or PyTorch's exported program."""

import logging
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_detection.data.dataset import to_floats
from anomaly_detection.detector import Detector
from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import whole_file

OUTPUTS = ("score", "calibrated_score", "threshold", "anomaly_map")
HEADS = ("organ", "modality")
TOLERANCE = 1e-4
ONE = 2**22  # the weight of a pixel that is copied, in Pillow's whole numbers


class ExportableDetector(nn.Module):
    """From images as they are stored to scores, with all that lies between as tensor operations.

    forward: image (B, channels, H, W) uint8, of any size -> score (B,), calibrated_score (B,), threshold (B,) on the score,
    anomaly_map (B, 1, S, S) at the network's size; with MADDR or a probe also the probabilities organ (B, organs) and modality (B, modalities).
    """

    def __init__(self, detector: Detector):
        super().__init__()
        self.baseline, self.preprocessing = detector.baseline.eval(), detector.preprocessing
        self.baseline.bf16 = False  # runtimes differ in what they make of bfloat16
        calibration = detector.calibration
        self.heads = detector.baseline.names_domains
        pairs = product(range(len(detector.domains.organs)), range(len(detector.domains.modalities)))
        references = [calibration.reference(*pair) for pair in pairs] if self.heads else [calibration.everything]
        # float64: single precision would tell a score from its threshold otherwise than PyTorch does
        table = torch.tensor([(each.center, each.spread, each.threshold) for each in references], dtype=torch.float64)
        self.register_buffer("table", table)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        x = to_floats(self._prepared(image.float()))
        assessment = self.baseline.assess(x, with_map=True)
        score = assessment.score
        if not self.heads:
            return *self._calibrated(score, self.table.expand(score.shape[0], 3)), assessment.map
        probabilities = self.baseline.namer.predict(assessment.latent.flatten(1))
        organ, modality = probabilities["organ"], probabilities["modality"]
        places = organ.argmax(1) * modality.shape[1] + modality.argmax(1)
        return *self._calibrated(score, self.table[places]), assessment.map, organ, modality

    def _prepared(self, x: Tensor) -> Tensor:
        """What `Preprocessing.apply` does; `export` refuses what is not done here."""
        if self.preprocessing.size is not None:
            if x.shape[1] == 3 and self.preprocessing.stored_channels == 1:
                red, green, blue = x.unbind(1)
                # Pillow's whole numbers, which float32 holds exactly: no runtime rounds them otherwise
                x = ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor()[:, None].expand(-1, 3, -1, -1)
            x = _resized(x, self.preprocessing.size)
        return _resized(x, self.preprocessing.image_size)

    def _calibrated(self, score: Tensor, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        center, spread, threshold = references.unbind(1)
        return score, ((score.double() - center) / spread).float(), threshold.float()


def _resized(x: Tensor, size: int) -> Tensor:
    """Bilinear with antialiasing, as Pillow does it: rows first, then columns of their rounded grey levels; weights are whole numbers, so that no
    runtime rounds a pixel otherwise."""
    rows = _rounded(x.double() @ _weights(x.shape[3], size).T)
    return _rounded(_weights(x.shape[2], size) @ rows).float()


def _rounded(sums: Tensor) -> Tensor:
    """Grey levels of sums with the weights of `_weights`; halves go up."""
    return ((sums + ONE // 2) / ONE).floor()


def _weights(side: int, size: int) -> Tensor:
    """(size, side) whole numbers in float64: what each of `side` pixels gives to each of `size`, ONE in all; triangles as wide as a pixel of the
    coarser of the two."""
    inputs, outputs = torch.arange(side), torch.arange(size)[:, None]
    coarser = 2 * torch.ones(side, dtype=torch.float64).sum().clamp(min=size)  # no quotient of numbers, which ONNX has in float32
    weights = (1 - ((2 * inputs + 1) * size - (2 * outputs + 1) * side).abs() / coarser).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True) * ONE + 0.5).floor()


def export(detector: Detector, path: Path) -> dict[str, float]:
    """Write the detector to a file and check it against PyTorch.

    The file takes images (batch, channels, height, width) uint8 of any number and size and returns what `ExportableDetector` does. An ONNX file
    names its organs, its modalities and what is promised in its metadata.

    Args:
        detector: on the CPU.
        path: NAME.onnx, or NAME.pt2 for `torch.export.load`.

    Returns:
        The largest difference of each output between the file and PyTorch, relative to the largest value; of the score also between the file and
        the detector, on images that have to be resized, too.

    Raises:
        UserError: another suffix, packages for ONNX are missing, the detector's preprocessing cannot be exported, or the file computes
            something else than PyTorch.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise UserError(f"{path}: name the file .onnx, or .pt2 for torch.export")
    preprocessing = detector.preprocessing
    padded = preprocessing.size is not None and preprocessing.aspect == "pad"
    if padded or preprocessing.crop_size is not None or preprocessing.equalize_hist:
        raise UserError("crop_size, equalize_hist and prepare's --aspect pad cannot be exported; export a network that was trained without them")
    module = ExportableDetector(detector).eval()
    names = [*OUTPUTS, *(HEADS if module.heads else ())]
    example = _examples(detector, batch=2, side=detector.preprocessing.image_size + 13, seed=0)
    with whole_file(path) as partial:
        run = _write_onnx(module, example, names, _words(detector), partial) if path.suffix == ".onnx" else _write_program(module, example, partial)
        differences = _compare(module, run, names, detector)
        worst = max(differences, key=differences.get)
        if not differences[worst] <= TOLERANCE:  # also where it is not a number
            raise UserError(f"{path}: {worst} differs from PyTorch's by {differences[worst]:.1e}; the file was not kept")
    return differences


def _words(detector: Detector) -> dict[str, str]:
    """What a user of the file must know beside the numbers."""
    return {
        "organs": ",".join(detector.domains.organs),
        "modalities": ",".join(detector.domains.modalities),
        "anomalous": "score > threshold",
        "promises": "; ".join(detector.promises()),
    }


def _examples(detector: Detector, batch: int, side: int, seed: int) -> Tensor:
    """Smooth pictures, since noise is no image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, detector.preprocessing.channels, 6, 6, generator=generator) * 255
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255).to(torch.uint8)


def _dynamic() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)},)


def _write_program(module: nn.Module, example: Tensor, path: Path):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (example,), dynamic_shapes=_dynamic())
        with open(path, "wb") as file:
            torch.export.save(program, file)
        with open(path, "rb") as file:
            loaded = torch.export.load(file).module()
    return lambda image: [value.detach().numpy() for value in loaded(image)]


def _write_onnx(module: nn.Module, example: Tensor, names: list[str], words: dict[str, str], path: Path):
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError:
        raise UserError("ONNX needs more packages: pip install onnx onnxscript onnxruntime") from None
    quiet = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in quiet]
    for logger in quiet:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            options = {"input_names": ["image"], "output_names": names, "dynamic_shapes": _dynamic(), "dynamo": True, "verbose": False}
            program = torch.onnx.export(module, (example,), **options)
        program.model.metadata_props.update(words)
        program.save(path, external_data=False)
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: session.run(names, {"image": image.numpy()})


@torch.no_grad()
def _compare(module: nn.Module, run, names: list[str], detector: Detector) -> dict[str, float]:
    worst = dict.fromkeys(names, 0.0)
    size = detector.preprocessing.image_size
    for batch, side in ((1, size), (3, size), (2, 2 * size + 1)):
        image = _examples(detector, batch, side, seed=side + batch)
        of_file = dict(zip(names, run(image), strict=True))
        pairs = [(name, value.numpy(), of_file[name]) for name, value in zip(names, module(image), strict=True)]
        arrays = [each.squeeze() for each in image.permute(0, 2, 3, 1).numpy()]  # resized by Pillow, not by the module
        pairs.append(("score", np.array([prediction.score for prediction in detector.predictions(arrays)]), of_file["score"]))
        for name, own, other in pairs:
            worst[name] = max(worst[name], float(np.abs(own - other).max() / max(np.abs(own).max(), 1e-12)))
    return worst
