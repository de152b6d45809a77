"""The codebases learn with what the recipes put into them."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.porting import recipes
from tests.porting.clones import port

LABELS = {"lits": (0, 0), "covid_ct": (1, 0), "covid_xray": (1, 1)}


@pytest.fixture
def ported(clones, monkeypatch):
    """Ports a miniature, goes into it and runs files of it.

    The copied rec_losses.py has the name that the recipe imports it by, and none of the package behind it; stand-ins replace what is left out.
    """

    def run(recipe: str, **stubs: dict) -> Callable[..., SimpleNamespace]:
        root = clones(recipe)
        port(recipe, root)
        monkeypatch.chdir(root)
        copy = root / recipes.read_recipes()[recipe].destination
        losses = ModuleType("rec_losses")
        exec(compile(copy.read_text(encoding="utf-8"), str(copy), "exec"), losses.__dict__)
        name = copy.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        for parent in (name[:at] for at, letter in enumerate(name) if letter == "."):
            if parent != "anomaly_detection":
                monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, name, losses)
        for module, names in stubs.items():
            stub = ModuleType(module)
            stub.__dict__.update(names)
            monkeypatch.setitem(sys.modules, module, stub)

        def load(file: str, **names) -> SimpleNamespace:
            space = {"__name__": "ported", **names}
            exec(compile((root / file).read_text(), file, "exec"), space)
            module = ModuleType(file)
            module.__dict__.update(space)
            monkeypatch.setitem(sys.modules, file.removesuffix(".py").replace("/", "."), module)
            return SimpleNamespace(**space)

        return load

    torch.manual_seed(0)
    return run


def images(channels=1, count=48, side=8):
    """Images whose brightness tells the dataset, and the names of the datasets."""
    number = torch.arange(count) % 3
    base = torch.tensor([-0.6, 0.0, 0.6])[number]
    return base.view(-1, 1, 1, 1) + 0.1 * torch.randn(count, channels, side, side), [list(LABELS)[n] for n in number]


def learned(maddr, before, z, names):
    """Both heads moved, and read what they should and not what the other should."""
    organ, modality = torch.tensor([LABELS[name] for name in names]).t()
    assert all((p != q).any() for p, q in zip(maddr.parameters(), before, strict=True))
    assert min(maddr.accuracy(z, organ, modality).values()) > 0.95
    assert max(maddr.accuracy(z, modality, organ).values()) < 0.9


def copies(module):
    return [p.detach().clone() for p in module.parameters()]


def saved(path: str, latent_dim: int):
    """A constraint with the heads of a checkpoint."""
    maddr = rec_losses.MADDRConstraint(latent_dim)
    state = torch.load(path)
    maddr.load_state_dict(state.get("state_dict", state))
    return maddr


class Encoder(nn.Sequential):
    def __init__(self, latent, pixels=64):
        super().__init__(nn.Flatten(), nn.Linear(pixels, latent))


class Decoder(nn.Sequential):
    def __init__(self, latent, channels=1, side=8):
        super().__init__(nn.Flatten(), nn.Linear(latent, channels * side**2), nn.Unflatten(1, (channels, side, side)))


class FolderLoader(list):
    """Batches of (images, number of the folder), as a DataLoader of an ImageFolder gives them: folders are numbered by the alphabet."""

    def __init__(self, x, names, size):
        folders = sorted(LABELS)
        super().__init__((x[i : i + size], torch.tensor([folders.index(name) for name in names[i : i + size]])) for i in range(0, len(x), size))
        self.dataset = SimpleNamespace(classes=folders)


class NetG(nn.Module):
    def __init__(self, latent):
        super().__init__()
        self.encoder1, self.decoder, self.encoder2 = Encoder(latent, 192), Decoder(latent, 3), Encoder(latent, 192)

    def forward(self, x):
        z = self.encoder1(x)
        y = self.decoder(z)
        return y, z[:, :, None, None], self.encoder2(y)[:, :, None, None]


GANOMALY_OPTIONS = {"device": "cpu", "isTrain": True, "outf": ".", "batchsize": 24, "isize": 8, "nz": 32, "niter": 75}
GANOMALY_OPTIONS |= {"lr": 0.005, "beta1": 0.5, "w_con": 50, "w_enc": 1}


def ganomaly(load, loader, resume=""):
    options = SimpleNamespace(**GANOMALY_OPTIONS, resume=resume)
    return load("lib/model.py").Ganomaly(options, {"train": loader}, NetG(32), Encoder(1, 192))


def test_ganomaly_learns(ported):
    x, names = images(channels=3)
    load = ported("ganomaly", **{"lib.evaluate": {"evaluate": None}})
    model = ganomaly(load, FolderLoader(x, names, 24))
    before, encoder = copies(model.maddr), copies(model.netg.encoder1)
    model.train()
    assert all((p != q).any() for p, q in zip(model.netg.encoder1.parameters(), encoder, strict=True))
    learned(model.maddr, before, model.netg.encoder1(x), names)
    learned(saved("weights/maddr.pth", 32), before, model.netg.encoder1(x), names)
    resumed = ganomaly(load, FolderLoader(x, names, 24), resume="weights")
    assert all((p == q).all() for p, q in zip(resumed.maddr.parameters(), model.maddr.parameters(), strict=True))


def test_a_folder_that_the_table_does_not_name_stops_ganomaly(ported):
    x, names = images(channels=3)
    loader = FolderLoader(x, names, 24)
    loader.dataset.classes = ["0.normal"]
    with pytest.raises(KeyError, match=r"0\.normal"):
        ganomaly(ported("ganomaly", **{"lib.evaluate": {"evaluate": None}}), loader)


def test_memae_learns(ported):
    class Memory(nn.Module):
        def forward(self, f):
            return {"output": f, "att": f.softmax(1)}

    class Entropy(nn.Module):
        def forward(self, att):
            return -(att * att.log()).sum(1).mean()

    load = ported("memae", models={"EntropyLossEncap": Entropy, "AutoEncoderCov3D": None, "AutoEncoderCov3DMem": None})
    model = load("models/memae_3dconv.py").AutoEncoderCov3DMem(Memory())
    x, names = images()
    clips = x[:, :, None].expand(-1, -1, 4, -1, -1).contiguous()
    paths = [f"Train_idx/{name}.{number}/001.mat" if number % 2 else f"Train_idx/{name}/{number}.mat" for number, name in enumerate(names)]
    order = torch.randperm(48)
    space = {
        "use_cuda": False, "model": model, "opt": SimpleNamespace(ModelName="MemAE"), "learning_rate": 0.002, "max_epoch_num": 100,
        "tr_data_loader": [(order, clips[order])], "video_dataset": SimpleNamespace(idx_path_list=paths), "entropy_loss_weight": 0.0002,
        "snap_save_interval": 1000, "save_check_interval": 1000, "saving_model_path": ".", "model_setting": "mini",
    }  # fmt: skip
    torch.manual_seed(7)
    script = load("script_training.py", **space)
    torch.manual_seed(7)
    before = copies(rec_losses.MADDRConstraint(256))
    result = model(clips)
    assert result.keys() == {"output", "att", "latent"}
    assert result["latent"].shape == (48, 256)
    learned(script.maddr, before, result["latent"], names)
    learned(saved("mini_maddr.pt", 256), before, result["latent"], names)


def f_anogan(load, x, names, epochs):
    class Discriminator(nn.Flatten):
        def forward_features(self, image):
            return self(image)

    torch.manual_seed(1)
    encoder, generator = Encoder(32), Decoder(32)
    opt = SimpleNamespace(lr=0.005, b1=0.5, b2=0.999, latent_dim=32, n_epochs=epochs, n_critic=5)
    load("fanogan/train_encoder_izif.py").train_encoder_izif(opt, generator, Discriminator(), encoder, FolderLoader(x, names, 24), "cpu")
    return encoder


def test_f_anogan_learns(ported):
    load = ported("f_anogan")
    x, names = images()
    encoder = f_anogan(load, x, names, epochs=100)
    torch.manual_seed(1)
    Encoder(32), Decoder(32)
    before = copies(rec_losses.MADDRConstraint(32))  # drawn after the networks, as the seed gives it
    learned(saved("results/maddr", 32), before, encoder(x), names)


def test_f_anogan_is_the_same_with_the_same_seed(ported):
    load = ported("f_anogan")
    x, names = images()
    first, second = (f_anogan(load, x, names, epochs=3).state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize("latent_res", [1, 2])
def test_dpa_learns(latent_res, ported, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)
    load = ported("dpa")
    x, names = images()
    files = [f"{name}/{number}.png" for number, name in enumerate(names)]
    for file, image in zip(files, x, strict=True):
        Path("images", file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((image[0] + 1) * 127).clamp(0, 255).byte().numpy()).save(Path("images", file))
    Path("train").write_text("\n".join(files))
    Path("test").write_text("\n".join(files))

    def tensor(image):
        return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 8, 8) / 127 - 1

    dataset = load("anomaly_detection/utils/datasets.py").NIHDataset
    generator = load("anomaly_detection/dpa/data_generators.py").ProgGrowImageGenerator
    load("anomaly_detection/dpa/optimizer.py")
    train, test = (dataset("images", ".", split, tensor, cache_data=split == "test") for split in ("train", "test"))
    assert torch.is_tensor(test[0])
    assert [train[i][1] for i in range(48)] == [LABELS[name] for name in names]
    encoder = nn.Sequential(Encoder(32 * latent_res**2), nn.Unflatten(1, (32, latent_res, latent_res)))
    config = {"latent_dim": 32, "stab_iter": 200, "adam_kwargs": {"lr": 0.005}}
    generators = generator(train, nn.Identity(), 24, inf=True), generator(train, nn.Identity(), 24)
    trainer = load("anomaly_detection/dpa/train.py").Trainer(config, encoder, Decoder(32 * latent_res**2), *generators)
    before = copies(trainer.optimizer.maddr)
    assert trainer.train().keys() == {"image_rec_loss", "maddr"}
    assert trainer._compute_val_loss().keys() == {"image_rec_loss"}
    assert any(name.startswith("maddr.heads") for name in trainer.optimizer.state_dict())
    learned(trainer.optimizer.maddr, before, encoder(x).mean(dim=(2, 3)), names)
