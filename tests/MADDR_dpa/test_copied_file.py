"""rec_losses.py in somebody else's codebase: alone, on old versions, with a newcomer's mistakes, and with checkpoints of DPA's own loss."""

import ast
import builtins
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.MADDR_dpa.rec_losses import BackboneError, FocalLoss, L1Loss, L2Loss, MADDRConstraint, PerceptualLoss, RelativePerceptualL1Loss


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_file_works_alone_in_an_empty_folder(tmp_path):
    shutil.copy(rec_losses.__file__, tmp_path / "rec_losses.py")
    program = (
        "import sys, torch, rec_losses as r\n"
        "m = r.MADDRConstraint(128)\n"
        "z, o = torch.randn(4, 128, 1, 1), torch.tensor([0, 1, 1, 0])\n"
        "x = torch.randn(4, 1, 8, 8)\n"
        "r.L1Loss(maddr=m)(x, -x, z, o, o).backward()\n"
        "r.RECONSTRUCTION_LOSSES[r.ReconstructionLossType['l2']]('none')(x, x)\n"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'anomaly_detection', 'torchvision', 'efficientnet_lite_pytorch', 'yaml'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.')\n{program}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_training_loop_that_the_file_shows_runs(tmp_path, monkeypatch):
    """On the device of the encoder; what is saved holds the heads."""
    monkeypatch.chdir(tmp_path)
    moved = []
    monkeypatch.setattr(MADDRConstraint, "to", lambda self, device: moved.append(device) or self)
    model = torch.nn.Linear(16, 128)
    names = {"torch": torch, "MADDRConstraint": MADDRConstraint, "device": torch.device("cpu"), "model": model, "loss": 0.0}
    names |= {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "z": model(rand(4, 16)), "organ": LABELS, "modality": 1 - LABELS}
    shown = rec_losses.__doc__.partition("in any training loop::")[2].partition("\n\n")[2].partition("\n\n")[0]
    exec(textwrap.dedent(shown), names)
    assert names["loss"].item() > 0
    assert moved == [names["device"]]
    assert torch.load("model.pt", weights_only=True)["maddr"].keys() == names["maddr"].state_dict().keys()


# --- old versions: what they lack, taken from today's; tests/versions.py runs the real ones


def test_the_file_is_python_3_6():
    """Its grammar, and what is newer than 3.6 without being grammar."""
    nodes = list(ast.walk(ast.parse(Path(rec_losses.__file__).read_text(encoding="utf-8"), feature_version=(3, 6))))
    imported = {name.name for node in nodes if isinstance(node, ast.ImportFrom) for name in node.names}
    assert not imported & {"annotations", "nullcontext", "dataclass", "Literal", "Protocol"}
    assert not [node for node in nodes if isinstance(node, ast.NamedExpr | ast.Match)]
    assert not [node for node in nodes if isinstance(node, ast.keyword) and node.arg == "strict"], "zip(strict=) came with 3.10"
    annotations = [getattr(node, name) for node in nodes for name in ("annotation", "returns") if hasattr(node, name)]
    parts = [part for annotation in filter(None, annotations) for part in ast.walk(annotation)]
    assert not [part for part in parts if isinstance(part, ast.BinOp)], "X | Y came with 3.10"
    builtin = {part.value.id for part in parts if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name)} & set(dir(builtins))
    assert not builtin, "list[...] came with 3.9"


OLD_TORCH = """
import collections, sys, torch
from torch import nn

def refuse(*names):
    for owner, name in names:
        if hasattr(owner, name):
            delattr(owner, name)

def without(function, *keywords):
    def old(*args, **kwargs):
        assert not set(keywords) & set(kwargs), f"{function.__name__} has no {keywords} yet"
        return function(*args, **kwargs)
    return old

torch.__version__ = "1.4.0"
refuse((torch, "autocast"), (torch, "amp"), (torch, "compiler"), (torch, "is_autocast_enabled"), (torch, "inference_mode"), (torch.hub, "get_dir"),
       (torch, "square"), (nn.utils, "skip_init"), (nn.Module, "register_load_state_dict_post_hook"))
torch.Tensor.square = None
torch.load = without(torch.load, "weights_only")
torch.Tensor.to = without(torch.Tensor.to, "memory_format")
nn.Module.to = without(nn.Module.to, "memory_format")
torch.Tensor.var = without(torch.Tensor.var, "correction")
nn.Module.register_buffer = without(nn.Module.register_buffer, "persistent")
update = nn.ModuleDict.update
ordered = (collections.OrderedDict, nn.ModuleDict)
nn.ModuleDict.update = lambda self, modules: update(self, modules if isinstance(modules, ordered) else sorted(modules.items()))
where = torch.where
def where_of_tensors(condition, x, y):
    assert torch.is_tensor(x) and torch.is_tensor(y)
    return where(condition, x, y)
torch.where = where_of_tensors
"""

VALUES = """
import torch, rec_losses as r
torch.manual_seed(0)
x, y, z = torch.randn(4, 1, 32, 32), torch.randn(4, 1, 32, 32), torch.randn(4, 32)
labels = torch.tensor([0, 1, 1, 0])
maddr = r.MADDRConstraint(32, focal_alpha={"organ": [0.3, 0.7], "modality": None})
values = [maddr(z, labels, 1 - labels)["total"], *maddr.variances(z).values(), *maddr.accuracy(z, labels, labels).values()]
for momentum in (None, 0.9):
    maddr = r.MADDRConstraint(32, center_of="domain", center_momentum=momentum, heads_train_encoder=False)
    values += [maddr(z + step, labels, 1 - labels, (1 - labels, 1 - labels), 0.3)["total"] for step in range(2)]
values.append(r.L1Loss(maddr=maddr)(x, y, z, labels, labels))
loss = r.RelativePerceptualL1Loss("mean", 0.5, {"r12": 1, "r32": 1}, weights="random:1", feature_statistics="fit")
loss.fit_feature_statistics([x])
torch.save(loss.state_dict(), "state.pt")
loss.load_state_dict(r.load_file(r.Path("state.pt"), "states"))
values += [loss(x, y), r.ComposeLoss([(1.0, loss), (0.1, r.L2Loss())])(x, y), r.L2Loss("sum")(x.half(), y.half())]
print(*[value.item() for value in values])
"""


def test_the_same_values_without_what_torch_1_4_lacks(tmp_path):
    shutil.copy(rec_losses.__file__, tmp_path / "rec_losses.py")
    today, old = (list(map(float, _python(tmp_path, program).split())) for program in (VALUES, OLD_TORCH + VALUES))
    assert len(today) == 14
    assert old == pytest.approx(today, rel=1e-6)  # another memory layout, another rounding


def _python(folder: Path, program: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.')\n{program}"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- a newcomer's mistakes


LABELS = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("organ", "words"),
    [
        ([0, 1, 1, 0], r"organ must be class numbers from 0, as a tensor of int64, got a list; torch.tensor\(organ\)"),
        (["liver", "lung", "lung", "liver"], "organ must be class numbers from 0, as a tensor of int64, got a list; .* makes one of numbers$"),
        (LABELS.numpy(), r"organ must be class numbers .*, got a ndarray"),
        (LABELS[:, None], r"organ must be int64 of shape \(4,\).*\(4, 1\); organ.flatten\(\).long\(\)"),
        (LABELS.float(), r"organ must be int64 .*float32.*organ.flatten\(\).long\(\)"),
        (LABELS.int(), r"organ must be int64 .*int32"),
        (LABELS[:3], r"organ must be int64 of shape \(4,\), got torch.int64 of shape \(3,\)$"),
        (LABELS + 1, "organ must be class numbers from 0 to 1, got 2"),
        (LABELS - 1, "organ must be class numbers from 0 to 1, got -1"),
    ],
)
def test_labels_that_will_not_do(organ, words):
    maddr = MADDRConstraint(32)
    for call in (maddr, maddr.accuracy, lambda *each: L1Loss(maddr=maddr)(rand(4, 1, 2, 2), rand(4, 1, 2, 2), *each)):
        with pytest.raises(ValueError, match=words):
            call(rand(4, 32), organ, LABELS)
    with pytest.raises(ValueError, match=words.replace("organ", "modality")):
        maddr(rand(4, 32), LABELS, organ)


def test_labels_of_a_head_that_is_left_out_may_have_any_number():
    assert torch.isfinite(MADDRConstraint(32, organ_weight=0)(rand(4, 32), LABELS + 7, LABELS)["total"])


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (2.0, "above 0 and below 1"),
        (0.0, "above 0 and below 1"),
        (-0.25, "above 0 and below 1"),
        (float("nan"), "above 0 and below 1"),
        ("0.25", "above 0 and below 1"),
        ([0.5, -0.5], "weight >= 0 for each class"),
        ([0.0, 0.0], "one of them above 0"),
        ([0.2, 0.3, 0.5], "head organ: alpha has 3 weights for 2 classes"),
        ({"organ": 0.25}, "no entry for the head modality"),
        ({"organ": 0.25, "modality": 0.25, "center": 1}, "not center"),
    ],
)
def test_class_weights_that_will_not_do(alpha, words):
    with pytest.raises(ValueError, match=words):
        MADDRConstraint(32, focal_alpha=alpha)


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_class_weights_in_any_form(make):
    expected = FocalLoss([0.25, 0.75])(rand(4, 2), LABELS)
    assert torch.equal(FocalLoss(make([0.25, 0.75]))(rand(4, 2), LABELS), expected)


def test_a_mapping_needs_an_entry_for_each_head_there_is():
    assert set(MADDRConstraint(32, modality_weight=0, focal_alpha={"organ": None}).heads) == {"organ"}


def test_an_empty_batch_has_no_loss():
    for call in (
        lambda: MADDRConstraint(32)(rand(0, 32), LABELS[:0], LABELS[:0]),
        lambda: FocalLoss()(rand(0, 2), LABELS[:0]),
        lambda: rec_losses.center_loss(rand(0, 4)),
        lambda: L1Loss()(rand(0, 1, 4, 4), rand(0, 1, 4, 4)),
        lambda: PerceptualLoss(weights="random:0")(rand(0, 1, 32, 32), rand(0, 1, 32, 32)),
    ):
        with pytest.raises(ValueError, match="empty batch"):
            call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [L1Loss("none"), L2Loss("none")])
def test_scores_of_images_in_half_precision_do_not_tie(loss, dtype):
    x, y = torch.rand(2000, 1, 8, 8).to(dtype), torch.rand(2000, 1, 8, 8).to(dtype)
    scores = loss(x, y)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, loss(x.float(), y.float()), rtol=0, atol=0)
    assert len(scores.unique()) > 1980


@pytest.mark.parametrize("broken", [0.0, -1.0, float("nan"), float("inf")])
def test_divisors_of_features_must_be_above_0(tmp_path, broken):
    divisor = torch.ones(1, 64, 1, 1)
    divisor[0, 5] = broken
    torch.save({"r12": (torch.zeros(1, 64, 1, 1), divisor), "r22": (torch.zeros(1, 128, 1, 1), torch.ones(1, 128, 1, 1))}, tmp_path / "statistics.pt")
    make = {"weights": "random:0", "feature_statistics": str(tmp_path / "statistics.pt")}
    sound = RelativePerceptualL1Loss(feature_weights={"r22": 1}, **make)
    assert torch.isfinite(sound(rand(2, 1, 16, 16), rand(2, 1, 16, 16, seed=1))), "a layer that is not used may be broken"
    sound.set_new_weights(0, {"r12": 1})
    with pytest.raises(BackboneError, match="1 of the 64 divisors of layer 'r12'"):
        sound(rand(2, 1, 16, 16), rand(2, 1, 16, 16, seed=1))


def test_images_without_any_spread_have_no_statistics():
    loss = RelativePerceptualL1Loss(feature_weights={"r12": 1}, weights="random:0", feature_statistics="fit")
    loss.backbone.layers["c11"].grey.zero_()
    loss.backbone.layers["c11"].bias.data.zero_()
    loss.backbone.layers["c12"].bias.data.fill_(-1)
    loss.fit_feature_statistics([rand(2, 1, 16, 16)])
    with pytest.raises(BackboneError, match="r12"):
        loss(rand(2, 1, 16, 16), rand(2, 1, 16, 16))


# --- checkpoints of DPA's own loss


def test_a_checkpoint_of_the_original_loss_resumes(tmp_path):
    """Its state holds the frozen network as `model.*` and nothing else; in the training state of DPA the loss lies deeper in the tree."""
    torch.save({"r12": (rand(1, 64, 1, 1), rand(1, 64, 1, 1).abs() + 1)}, tmp_path / "statistics.pt")
    loss = RelativePerceptualL1Loss("none", 0, {"r12": 1}, weights="random:1", feature_statistics=str(tmp_path / "statistics.pt"))
    x, y = rand(2, 1, 16, 16), rand(2, 1, 16, 16, seed=1)
    before = loss(x, y)
    state = {f"image_rec_loss._loss.model.conv{block}_{place}.{name}": rand(3) for block in (1, 2) for place in (1, 2) for name in ("weight", "bias")}
    holder = torch.nn.ModuleDict({"image_rec_loss": torch.nn.ModuleDict({"_loss": loss})})
    holder.load_state_dict(state)
    assert torch.equal(loss(x, y), before)
    with pytest.raises(RuntimeError, match="conv9"):
        holder.load_state_dict({**state, "image_rec_loss._loss.conv9": rand(1)})
    with pytest.raises(RuntimeError, match="statistics"):
        holder.load_state_dict({})
    plain = PerceptualLoss(feature_weights={"r12": 1}, weights="random:1")
    plain.load_state_dict({"model.conv1_1.weight": rand(3)})
    unknown = RelativePerceptualL1Loss(feature_weights={"r12": 1}, weights="random:1", feature_statistics="fit")
    unknown.load_state_dict({"model.conv1_1.weight": rand(3)})
    with pytest.raises(BackboneError, match="no feature statistics of layer 'r12' yet"):
        unknown(x, y)


def test_the_constraint_compiles_in_one_piece():
    maddr, z = MADDRConstraint(32), rand(4, 32)
    compiled = torch.compile(maddr, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, LABELS, 1 - LABELS), maddr(z, LABELS, 1 - LABELS))
