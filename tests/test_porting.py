"""The README's porting recipes, applied to miniatures of those codebases: same names and lines at the places that change, little networks around."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from anomaly_detection.MADDR_dpa import rec_losses
from tests.test_readme import section

ORGAN, MODALITY = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])

GANOMALY = """
import torch
import torch.nn as nn
import torch.optim as optim
import torch.utils.data

class Ganomaly:
    def __init__(self, opt, netg):
        self.opt, self.netg, self.device = opt, netg, torch.device("cpu")
        self.gt = torch.empty(48, dtype=torch.long)
        self.input = torch.empty(48, 1, 8, 8)
        if self.opt.isTrain:
            self.optimizer_g = optim.Adam(self.netg.parameters(), lr=self.opt.lr, betas=(self.opt.beta1, 0.999))

    def set_input(self, input):
        self.input.data.resize_(input[0].size()).copy_(input[0])
        self.gt.data.resize_(input[1].size()).copy_(input[1])

    def step(self):
        self.netg.zero_grad()
        self.fake, self.latent_i, self.latent_o = self.netg(self.input)
        self.err_g_con = (self.fake - self.input).abs().mean()
        self.err_g_enc = (self.latent_o - self.latent_i).square().mean()
        self.err_g = self.err_g_con * 50 + self.err_g_enc
        self.own = self.err_g.item()
        self.err_g.backward(retain_graph=True)
        self.optimizer_g.step()
"""

MEMAE_MODEL = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Conv3d(1, 256, (2, 4, 4), stride=(2, 4, 4))
        self.decoder = nn.ConvTranspose3d(256, 1, (2, 4, 4), stride=(2, 4, 4))

    def forward(self, x):
        f = self.encoder(x)
        att = f.softmax(1)
        output = self.decoder(f)
        return {'output': output, 'att': att}
"""

MEMAE_SCRIPT = """
import torch

tr_optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

def run():
    for batch_idx, (item, frames) in enumerate(tr_data_loader):
        if True:
            recon_res = model(frames)
            att_w = recon_res['att']
            loss = (recon_res['output'] - frames).square().mean()
            entropy_loss = -(att_w * att_w.log()).sum(1).mean()
            loss = loss + entropy_loss_weight * entropy_loss
            tr_optimizer.zero_grad()
            loss.backward()
            tr_optimizer.step()
"""

F_ANOGAN = """
import torch
import torch.nn as nn

def train_encoder_izif(opt, generator, discriminator, encoder, train_dataloader, device, kappa=1.0, epochs=1):
    criterion = nn.MSELoss()
    optimizer_E = torch.optim.Adam(encoder.parameters(),
                                   lr=opt.lr, betas=(opt.b1, opt.b2))
    for epoch in range(epochs):
        epoch_of(generator, discriminator, encoder, criterion, train_dataloader, kappa, device, optimizer_E, True)
        with torch.no_grad():
            epoch_of(generator, discriminator, encoder, criterion, train_dataloader, kappa, device)

def epoch_of(generator, discriminator, encoder, criterion, dataloader, kappa, device, optimizer_E=None, train_mode=False):
    for i, (imgs, _) in enumerate(dataloader):
        real_imgs = imgs.to(device)
        z = encoder(real_imgs)
        fake_imgs = generator(z)
        loss_imgs = criterion(fake_imgs, real_imgs)
        loss_features = criterion(discriminator(fake_imgs), discriminator(real_imgs))
        e_loss = loss_imgs + kappa * loss_features
        if optimizer_E is not None:
            optimizer_E.zero_grad()
            e_loss.backward()
            optimizer_E.step()
"""

DPA_DATASETS = """
import os
import torch
from torch.utils.data import Dataset

class NIHDataset(Dataset):
    def __init__(self, images, names, split_root, split):
        self._images, self._image_filenames = images, names
        split_info_path = os.path.join(split_root, split)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        if True:
            image = self._images[index]
            return image
"""

DPA_GENERATORS = """
class ProgGrowImageGenerator:
    def __init__(self, loader):
        self._data_loader, self._mix_res_module = loader, OnCPU()
        self._image_gen = iter(loader)

    def __next__(self):
        images = next(self._image_gen, None)
        if images is None:
            self._image_gen = iter(self._data_loader)
            images = next(self._image_gen, None)
        return self._mix_res_module(images).cuda()
"""

DPA_TRAIN = """
class Trainer:
    def train(self, steps):
        for _ in range(steps):
            real_x = next(self.pg_image_gen)
            fake_z = self.enc(real_x)
            rec_x = self.dec(fake_z)
            enc_dec_losses = self.optimizer.compute_enc_dec_loss(self.ddis, real_x, rec_x, update_parameters=True)
        return enc_dec_losses

    def validate(self):
        real_x = next(self.val_pg_image_gen)
        return self.optimizer.compute_enc_dec_loss(self.ddis, real_x, self.dec(self.enc(real_x)), update_parameters=False)
"""

DPA_OPTIMIZER = """
from torch import nn
from torch.optim import Adam

class Optimizer(nn.Module):
    def __init__(self, enc_params, dec_params):
        super().__init__()
        self.enc_dec_opt, self.ddis_opt = None, None
        self.set_new_params(enc_params, dec_params)

    def set_new_params(self, enc_params, dec_params):
        def preprocess(params):
            return [p for p in params if p.requires_grad]
        enc_dec_params = preprocess(enc_params) + preprocess(dec_params)
        self.enc_dec_opt = Adam(enc_dec_params, lr=0.005)

    def compute_enc_dec_loss(self, ddis, real_x, rec_x, update_parameters=True):
        rec_loss = (real_x - rec_x).abs().mean()
        losses = {
            'image_adv_loss': None,
            'image_rec_loss': rec_loss
        }
        losses = {name: loss for name, loss in losses.items() if loss is not None}
        if update_parameters:
            self.enc_dec_opt.zero_grad()
            sum(losses.values()).backward()
            self.enc_dec_opt.step()
        return {name: loss.item() for name, loss in losses.items()}
"""


def diffs(title: str) -> list[str]:
    """The ```diff blocks of a recipe, in order."""
    return re.findall(r"```diff\n(.*?)```", section("MADDR in another codebase").split(f"\n### {title}\n")[1].split("\n### ")[0], re.DOTALL)


def patched(source: str, diff: str) -> str:
    """The source with a diff applied: every hunk's context and removed lines must stand there, in that order and one after another."""
    lines = source.split("\n")
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        changes = [(line[:1], line[1:]) for line in hunk.splitlines()]
        old = [text for sign, text in changes if sign != "+"]
        new = [text for sign, text in changes if sign != "-"]
        places = [i for i in range(len(lines)) if lines[i : i + len(old)] == old]
        assert old, "a hunk without a line to find its place by"
        assert len(places) == 1, f"{old} stands {len(places)} times"
        lines[places[0] : places[0] + len(old)] = new
    return "\n".join(lines)


def run(source: str, **names) -> SimpleNamespace:
    space = dict(names)
    exec(compile(source, "miniature", "exec"), space)
    return SimpleNamespace(**space)


@pytest.fixture(autouse=True)
def copied_file(tmp_path, monkeypatch):
    """rec_losses.py as a copy under the names that the recipes import it by, and none of the package behind it."""
    copy = tmp_path / "rec_losses.py"
    copy.write_text(Path(rec_losses.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    module = ModuleType("rec_losses")
    monkeypatch.setitem(sys.modules, "rec_losses", module)
    exec(compile(copy.read_text(encoding="utf-8"), str(copy), "exec"), module.__dict__)
    for package in ("lib", "fanogan", "anomaly_detection.dpa"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, f"{package}.rec_losses", module)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def images(count=48, side=8):
    """Images whose brightness and contrast tell the dataset, and its number."""
    domain = torch.arange(count) % 3
    base = torch.tensor([-0.6, 0.0, 0.6])[domain]
    return base.view(-1, 1, 1, 1) + 0.1 * torch.randn(count, 1, side, side), domain


def learned(maddr, before, z, domain):
    """Both heads moved, and read what they should and not what the other should."""
    assert all((p != q).any() for p, q in zip(maddr.parameters(), before, strict=True))
    accuracy = maddr.accuracy(z, ORGAN[domain], MODALITY[domain])
    assert min(accuracy.values()) > 0.95
    assert max(maddr.accuracy(z, MODALITY[domain], ORGAN[domain]).values()) < 0.9


def copies(module):
    return [p.detach().clone() for p in module.parameters()]


def auto_encoder(latent, side=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(side**2, latent)), nn.Sequential(nn.Linear(latent, side**2), nn.Unflatten(1, (1, side, side)))


def test_ganomaly():
    class NetG(nn.Module):
        def __init__(self):
            super().__init__()
            (self.encoder1, self.decoder), (self.encoder2, _) = auto_encoder(32), auto_encoder(32)

        def forward(self, x):
            z = self.encoder1(x)
            y = self.decoder(z)
            return y, z[:, :, None, None], self.encoder2(y)[:, :, None, None]

    (diff,) = diffs("GANomaly")
    opt = SimpleNamespace(isTrain=True, lr=0.005, beta1=0.5, nz=32)
    model = run(patched(GANOMALY, diff)).Ganomaly(opt, NetG())
    x, domain = images()
    model.set_input((x, domain))
    before, encoder = copies(model.maddr), copies(model.netg.encoder1)
    for _ in range(150):
        model.step()
    assert model.err_g.item() > model.own
    assert all((p != q).any() for p, q in zip(model.netg.encoder1.parameters(), encoder, strict=True))
    learned(model.maddr, before, model.latent_i, domain)


def test_memae():
    model_diff, script_diff = diffs("MemAE")
    model = run(patched(MEMAE_MODEL, model_diff)).Model()
    x, domain = images()
    torch.save(domain, "domains.pt")
    clips = x[:, :, None].expand(-1, -1, 4, -1, -1).contiguous()
    order = torch.randperm(48)
    loader = [(order, clips[order])] * 100
    names = {"model": model, "learning_rate": 0.002, "device": "cpu", "tr_data_loader": loader, "entropy_loss_weight": 0.0002}
    script = run(patched(MEMAE_SCRIPT, script_diff), **names)
    before = copies(script.maddr)
    script.run()
    result = model(clips)
    assert result.keys() == {"output", "att", "latent"}
    assert result["latent"].shape == (48, 256)
    learned(script.maddr, before, result["latent"], domain)


def test_f_anogan():
    (diff,) = diffs("f-AnoGAN")
    source = run(patched(F_ANOGAN, diff))
    encoder, generator = auto_encoder(100)
    discriminator = nn.Flatten()
    x, domain = images()
    before = copies(source.maddr)
    opt = SimpleNamespace(lr=0.005, b1=0.5, b2=0.999)
    source.train_encoder_izif(opt, generator, discriminator, encoder, [(x, domain)], "cpu", epochs=150)
    learned(source.maddr, before, encoder(x), domain)


def test_dpa():
    class OnCPU:
        def __call__(self, x):
            return SimpleNamespace(cuda=lambda: x)

    datasets, generators, train, optimizer = diffs("DPA")
    x, domain = images()
    names = [f"{['lits', 'covid_ct', 'covid_xray'][d]}/{i}.png" for i, d in enumerate(domain.tolist())]
    dataset = run(patched(DPA_DATASETS, datasets)).NIHDataset
    generator = run(patched(DPA_GENERATORS, generators), OnCPU=OnCPU).ProgGrowImageGenerator
    trainer = run(patched(DPA_TRAIN, train)).Trainer()
    loaders = {split: torch.utils.data.DataLoader(dataset(x, names, "folds", split), 24, shuffle=True) for split in ("train", "val")}
    trainer.pg_image_gen, trainer.val_pg_image_gen = generator(loaders["train"]), generator(loaders["val"])
    trainer.ddis = None
    encoder, trainer.dec = auto_encoder(128)
    trainer.enc = encoder
    trainer.optimizer = run(patched(DPA_OPTIMIZER, optimizer)).Optimizer(encoder.parameters(), trainer.dec.parameters())
    before = copies(trainer.optimizer.maddr)
    assert trainer.train(150).keys() == {"image_rec_loss", "maddr"}
    assert trainer.validate().keys() == {"image_rec_loss"}
    assert any(name.startswith("maddr.heads") for name in trainer.optimizer.state_dict())
    learned(trainer.optimizer.maddr, before, encoder(x), domain)
