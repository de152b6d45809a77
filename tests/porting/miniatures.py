"""The four codebases that docs/porting.md is for, in miniature.

They have the names, lines and indentation of the real files at the places that change, and as little around them as lets them run.
"""

GANOMALY_MODEL = """\
from collections import OrderedDict
import os

import torch.optim as optim
import torch.nn as nn
import torch.utils.data

from lib.evaluate import evaluate


class BaseModel():
    def __init__(self, opt, dataloader):
        self.opt = opt
        self.dataloader = dataloader
        self.device = torch.device("cuda:0" if self.opt.device != 'cpu' else "cpu")

    ##
    def set_input(self, input:torch.Tensor):
        with torch.no_grad():
            self.input.resize_(input[0].size()).copy_(input[0])
            self.gt.resize_(input[1].size()).copy_(input[1])

    ##
    def save_weights(self, epoch):
        weight_dir = os.path.join(self.opt.outf, 'weights')
        if not os.path.exists(weight_dir): os.makedirs(weight_dir)

        torch.save({'epoch': epoch + 1, 'state_dict': self.netg.state_dict()},
                   '%s/netG.pth' % (weight_dir))
        torch.save({'epoch': epoch + 1, 'state_dict': self.netd.state_dict()},
                   '%s/netD.pth' % (weight_dir))

    ##
    def train(self):
        for self.epoch in range(self.opt.niter):
            for data in self.dataloader['train']:
                self.set_input(data)
                self.optimize_params()
        self.save_weights(self.epoch)

##
class Ganomaly(BaseModel):
    def __init__(self, opt, dataloader, netg, netd):
        super(Ganomaly, self).__init__(opt, dataloader)
        self.netg = netg.to(self.device)
        self.netd = netd.to(self.device)
        self.l_con = nn.L1Loss()

        ##
        # Initialize input tensors.
        self.input = torch.empty(size=(self.opt.batchsize, 3, self.opt.isize, self.opt.isize), dtype=torch.float32, device=self.device)
        self.gt    = torch.empty(size=(opt.batchsize,), dtype=torch.long, device=self.device)
        ##
        # Setup optimizer
        if self.opt.isTrain:
            self.netg.train()
            self.netd.train()
            self.optimizer_d = optim.Adam(self.netd.parameters(), lr=self.opt.lr, betas=(self.opt.beta1, 0.999))
            self.optimizer_g = optim.Adam(self.netg.parameters(), lr=self.opt.lr, betas=(self.opt.beta1, 0.999))

    ##
    def forward_g(self):
        self.fake, self.latent_i, self.latent_o = self.netg(self.input)

    ##
    def backward_g(self):
        self.err_g_con = self.l_con(self.fake, self.input)
        self.err_g_enc = (self.latent_o - self.latent_i).pow(2).mean()
        self.err_g = self.err_g_con * self.opt.w_con + \\
                     self.err_g_enc * self.opt.w_enc
        self.err_g.backward(retain_graph=True)

    ##
    def backward_d(self):
        self.err_d = self.netd(self.fake.detach()).pow(2).mean()
        self.err_d.backward()

    def optimize_params(self):
        self.forward_g()

        # netg
        self.optimizer_g.zero_grad()
        self.backward_g()
        self.optimizer_g.step()

        # netd
        self.optimizer_d.zero_grad()
        self.backward_d()
        self.optimizer_d.step()
"""

MEMAE_MODEL = """\
from __future__ import absolute_import, print_function
import torch
from torch import nn


class AutoEncoderCov3DMem(nn.Module):
    def __init__(self, mem_rep):
        super(AutoEncoderCov3DMem, self).__init__()
        self.encoder = nn.Conv3d(1, 256, (2, 4, 4), stride=(2, 4, 4))
        self.mem_rep = mem_rep
        self.decoder = nn.ConvTranspose3d(256, 1, (2, 4, 4), stride=(2, 4, 4))

    def forward(self, x):
        f = self.encoder(x)
        res_mem = self.mem_rep(f)
        f = res_mem['output']
        att = res_mem['att']
        output = self.decoder(f)
        return {'output': output, 'att': att}
"""

MEMAE_SCRIPT = """\
import os
import torch
import torch.nn as nn
from models import AutoEncoderCov3D, AutoEncoderCov3DMem
from models import EntropyLossEncap

###
device = torch.device("cuda" if use_cuda else "cpu")

###### model
model.to(device)
tr_recon_loss_func = nn.MSELoss().to(device)
tr_entropy_loss_func = EntropyLossEncap().to(device)
tr_optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

##
global_ite_idx = 0 # for logging
for epoch_idx in range(0, max_epoch_num):
    for batch_idx, (item, frames) in enumerate(tr_data_loader):
        frames = frames.to(device)
        if (opt.ModelName == 'MemAE'):
            recon_res = model(frames)
            recon_frames = recon_res['output']
            att_w = recon_res['att']
            loss = tr_recon_loss_func(recon_frames, frames)
            recon_loss_val = loss.item()
            entropy_loss = tr_entropy_loss_func(att_w)
            entropy_loss_val = entropy_loss.item()
            loss = loss + entropy_loss_weight * entropy_loss
            loss_val = loss.item()
            ##
            tr_optimizer.zero_grad()
            loss.backward()
            tr_optimizer.step()
            ##
        if((global_ite_idx % snap_save_interval)==0):
            torch.save(model.state_dict(), '%s/%s_snap.pt' % (saving_model_path, model_setting) )
        global_ite_idx += 1
    if((epoch_idx % save_check_interval)==0):
        torch.save(model.state_dict(), '%s/%s_epoch_%04d.pt' % (saving_model_path, model_setting, epoch_idx) )

torch.save(model.state_dict(), '%s/%s_epoch_%04d_final.pt' % (saving_model_path, model_setting, epoch_idx) )

"""

F_ANOGAN_ENCODER = """\
import os
import torch
import torch.nn as nn
from torchvision.utils import save_image


def train_encoder_izif(opt, generator, discriminator, encoder,
                       dataloader, device, kappa=1.0):
    generator.to(device).eval()
    discriminator.to(device).eval()
    encoder.to(device)

    criterion = nn.MSELoss()

    optimizer_E = torch.optim.Adam(encoder.parameters(),
                                   lr=opt.lr, betas=(opt.b1, opt.b2))

    os.makedirs("results/images_e", exist_ok=True)

    batches_done = 0
    for epoch in range(opt.n_epochs):
        for i, (imgs, _) in enumerate(dataloader):

            # Configure input
            real_imgs = imgs.to(device)

            optimizer_E.zero_grad()

            # Generate a batch of latent variables
            z = encoder(real_imgs)

            # Generate a batch of images
            fake_imgs = generator(z)

            # Real features
            real_features = discriminator.forward_features(real_imgs)
            # Fake features
            fake_features = discriminator.forward_features(fake_imgs)

            # izif architecture
            loss_imgs = criterion(fake_imgs, real_imgs)
            loss_features = criterion(fake_features, real_features)
            e_loss = loss_imgs + kappa * loss_features

            e_loss.backward()
            optimizer_E.step()

            # Output training log every n_critic steps
            if i % opt.n_critic == 0:
                batches_done += opt.n_critic
    torch.save(encoder.state_dict(), "results/encoder")
"""

DPA_DATASETS = """\
import os
from torch.utils.data import Dataset
import PIL.Image

__all__ = ['Camelyon16Dataset', 'NIHDataset']


class Camelyon16Dataset(Dataset):
    def __init__(self, image_root, split_root, split, transform=None, cache_data=False):
        super().__init__()

        self._image_root = image_root
        self._transform = transform

        split_info_path = os.path.join(split_root, split)
        with open(split_info_path) as f_in:
            self._image_filenames = [filename.strip() for filename in f_in.readlines()]

    def __getitem__(self, index):
        if self._cache_data:
            return self._cached_images[index]
        else:
            image_path = os.path.join(self._image_root, self._image_filenames[index])
            image = PIL.Image.open(image_path)
            if self._transform is not None:
                image = self._transform(image)
            return image

    def __len__(self):
        return len(self._image_filenames)


class NIHDataset(Dataset):
    def __init__(self, image_root, split_root, split, transform=None, cache_data=False):
        super().__init__()

        self._image_root = image_root
        self._transform = transform

        split_info_path = os.path.join(split_root, split)
        with open(split_info_path) as f_in:
            self._image_filenames = [filename.strip() for filename in f_in.readlines()]

        self._cached_images = {}
        if cache_data:
            self._cache_data = False
            print('Loading dataset ... ')
            for index in range(len(self)):
                self._cached_images[index] = self[index]
        self._cache_data = cache_data

    def __getitem__(self, index):
        if self._cache_data:
            return self._cached_images[index]
        else:
            image_path = os.path.join(self._image_root, self._image_filenames[index])
            image = PIL.Image.open(image_path)
            if self._transform is not None:
                image = self._transform(image)
            return image

    def __len__(self):
        return len(self._image_filenames)
"""

DPA_GENERATORS = """\
from torch.utils.data.dataloader import DataLoader


class ProgGrowImageGenerator:
    def __init__(self, dataset, mix_res_module, batch_size, inf=False):
        self._inf = inf
        self._data_loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)
        self._image_gen = iter(self._data_loader)
        self._mix_res_module = mix_res_module

    def __iter__(self):
        self._image_gen = iter(self._data_loader)
        return self

    def __next__(self):
        images = next(self._image_gen, None)
        if images is None:
            if self._inf:
                # del self._image_gen
                self._image_gen = iter(self._data_loader)
                images = next(self._image_gen, None)
            else:
                raise StopIteration()

        return self._mix_res_module(images).cuda()
"""

DPA_TRAIN = """\
import torch

from anomaly_detection.dpa.optimizer import Optimizer
from anomaly_detection.dpa.rec_losses import L1Loss


class Trainer:
    def __init__(self, config, enc, dec, pg_image_gen, val_pg_image_gen):
        self.latent_dim = config['latent_dim']
        self.stab_iter = config['stab_iter']
        self.enc, self.dec, self.ddis = enc, dec, torch.nn.Sequential()
        self.pg_image_gen = pg_image_gen
        self.val_pg_image_gen = val_pg_image_gen
        adam_kwargs = config['adam_kwargs']

        self.optimizer = Optimizer(
            enc_params=self.enc.parameters(),
            dec_params=self.dec.parameters(),
            ddis_params=self.ddis.parameters(),
            image_adv_loss=None,
            image_rec_loss=L1Loss(),
            image_adv_weight=0,
            image_rec_weight=1,
            adam_kwargs=adam_kwargs,
        ).cuda()

    def train(self):
        for _ in range(self.stab_iter):
            real_x = next(self.pg_image_gen).cuda()
            fake_z = self.enc(real_x)
            rec_x = self.dec(fake_z)

            enc_dec_losses = self.optimizer.compute_enc_dec_loss(self.ddis, real_x, rec_x, update_parameters=True)
            del fake_z, real_x, rec_x

        return enc_dec_losses

    def _compute_val_loss(self):
        for real_x in self.val_pg_image_gen:
            real_x = real_x.cuda()
            fake_z = self.enc(real_x)
            rec_x = self.dec(fake_z)

            enc_dec_losses = self.optimizer.compute_enc_dec_loss(self.ddis, real_x, rec_x, update_parameters=False)

        return enc_dec_losses
"""

DPA_OPTIMIZER = """\
from torch import nn
from torch.optim import Adam


class Optimizer(nn.Module):
    def __init__(self, enc_params, dec_params, ddis_params,
                 image_adv_loss, image_rec_loss,
                 image_adv_weight, image_rec_weight, adam_kwargs):
        super(Optimizer, self).__init__()

        self.adam_kwargs = adam_kwargs
        self.image_adv_loss = image_adv_loss
        self.image_rec_loss = image_rec_loss

        self.image_adv_weight = image_adv_weight
        self.image_rec_weight = image_rec_weight

        self.enc_dec_opt, self.ddis_opt = None, None

        self.set_new_params(enc_params, dec_params, ddis_params)

    def set_new_params(self, enc_params, dec_params, ddis_params, image_rec_loss=None):

        def preprocess(params):
            params = [p for p in params if p.requires_grad]
            if len(params) == 0:
                params = nn.Conv2d(1, 1, 1).parameters()
            return params

        ddis_params = preprocess(ddis_params)
        enc_dec_params = preprocess(enc_params) + preprocess(dec_params)

        self.ddis_opt = Adam(ddis_params, **self.adam_kwargs)
        self.enc_dec_opt = Adam(enc_dec_params, **self.adam_kwargs)

    def compute_rec_loss(self, real, rec):
        loss = self.image_rec_loss(real, rec)
        return self.image_rec_weight * loss

    def compute_enc_dec_loss(self, ddis, real_x, rec_x, update_parameters=True):

        rec_loss = self.compute_rec_loss(real=real_x, rec=rec_x)

        losses = {
            'image_adv_loss': None,
            'image_rec_loss': rec_loss
        }

        total_loss = 0
        loss_info = {}

        for name, loss in losses.items():
            if loss is not None:
                total_loss = total_loss + loss
                loss_info[name] = loss.item()

        if update_parameters:
            self.enc_dec_opt.zero_grad()
            total_loss.backward()
            self.enc_dec_opt.step()

        return loss_info
"""

DPA_LOSSES = '"""The original\'s losses."""\n'

MINIATURES = {
    "ganomaly": {"lib/model.py": GANOMALY_MODEL},
    "memae": {"models/memae_3dconv.py": MEMAE_MODEL, "script_training.py": MEMAE_SCRIPT},
    "f_anogan": {"fanogan/train_encoder_izif.py": F_ANOGAN_ENCODER},
    "dpa": {
        "anomaly_detection/utils/datasets.py": DPA_DATASETS,
        "anomaly_detection/dpa/data_generators.py": DPA_GENERATORS,
        "anomaly_detection/dpa/train.py": DPA_TRAIN,
        "anomaly_detection/dpa/optimizer.py": DPA_OPTIMIZER,
        "anomaly_detection/dpa/rec_losses.py": DPA_LOSSES,
    },
}
