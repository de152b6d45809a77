"""The recipes of docs/porting.md, and the command that applies them, on miniatures of the codebases."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from anomaly_detection import porting
from anomaly_detection.__main__ import main
from anomaly_detection.commands import exit_codes as cli
from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.system.errors import UserError
from tests.porting_miniatures import MINIATURES

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "porting.md").read_text(encoding="utf-8")
TITLES = {"dpa": "DPA", "ganomaly": "GANomaly", "memae": "MemAE", "f_anogan": "f-AnoGAN"}
LABELS = {"lits": (0, 0), "covid_ct": (1, 0), "covid_xray": (1, 1)}


@pytest.fixture
def clones(tmp_path):
    """Makes the miniature of a codebase in a folder of its own."""

    def clone(recipe: str, **edits: str) -> Path:
        root = tmp_path / recipe
        for file, text in {**MINIATURES[recipe], "README.md": "a clone\n", **edits}.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text, encoding="utf-8", newline="")
        return root

    return clone


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def port(recipe: str, root: Path, *options: str) -> None:
    assert main(["port", recipe, str(root), *options]) == 0


def refused(recipe: str, root: Path, *options: str, words: str) -> None:
    """The command ends in one line that holds the words (a pattern) and leaves every file as it was."""
    before = tree(root)
    with pytest.raises(UserError, match=words) as error:
        main(["port", recipe, str(root), *options])
    assert "\n" not in str(error.value)
    assert tree(root) == before


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


# --- Page and command ---------------------------------------------------------------------------------------------------------------------


def section(recipe: str) -> str:
    return PAGE.split(f"\n## {TITLES[recipe]} ")[1].split("\n## ")[0]


def blocks(recipe: str) -> dict[str, str]:
    """The ```diff blocks of a section by the path above them, found line by line."""
    found, lines = {}, section(recipe).split("\n")
    for i, line in enumerate(lines):
        if line == "```diff":
            end = lines.index("```", i)
            found[lines[i - 2].strip("`:")] = "".join(text + "\n" for text in lines[i + 1 : end])
    return found


def patched(source: str, diff: str) -> str:
    """The source with a diff applied, hunk by hunk; after `@@ class NAME` only what follows its head counts."""
    for part in re.split(r"^(?=@@)", diff, flags=re.MULTILINE):
        head, _, hunk = part.partition("\n") if part.startswith("@@") else ("", "", part)
        before, after = ("".join(line[1:] + "\n" for line in hunk.splitlines() if line[0] in kinds) for kinds in (" -", " +"))
        skipped = source.index(head.removeprefix("@@ ")) if head.startswith("@@ ") else 0
        rest = source[skipped:]
        assert rest.count(before) == 1, f"{before!r} stands {rest.count(before)} times"
        source = source[:skipped] + rest.replace(before, after)
    return source


@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_the_command_makes_what_the_page_prints(recipe, clones):
    root = clones(recipe)
    port(recipe, root)
    ported = tree(root)
    assert blocks(recipe).keys() < ported.keys()
    for file, diff in blocks(recipe).items():
        assert ported[file].decode() == patched(MINIATURES[recipe][file], diff)
    (copy,) = re.findall(r"^Copy `anomaly_detection/MADDR_dpa/rec_losses\.py` to `(.*)`\.$", section(recipe), re.MULTILINE)
    assert ported[copy] == Path(rec_losses.__file__).read_bytes()
    assert ported.keys() - MINIATURES[recipe].keys() <= {copy, "README.md", porting.RECORD}


@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_the_page_counts_its_lines(recipe):
    signs = [line[0] for diff in blocks(recipe).values() for line in diff.splitlines()]
    files = "1 file" if len(blocks(recipe)) == 1 else f"{len(blocks(recipe))} files"
    assert f"Changes: +{signs.count('+')} -{signs.count('-')} in {files}." in section(recipe)


def test_the_page_holds_four_recipes_and_nothing_beside_them():
    assert porting.read_recipes().keys() == set(porting.RECIPES) == TITLES.keys()
    assert PAGE.count("```diff") == sum(len(blocks(recipe)) for recipe in porting.RECIPES)
    assert "docs/porting.md" in (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"), [("`models/memae_3dconv.py`:", "models/memae_3dconv.py:"), ("Then: ", ""), ("Repository: ", ""), ("Copy `", "Put `")]
)
def test_a_recipe_that_cannot_be_read_is_an_error(old, new):
    text = "## MemAE " + section("memae")
    assert [recipe.name for recipe in porting.parse_recipes(text)] == ["memae"]
    with pytest.raises(ValueError, match="recipe memae: lacks"):
        porting.parse_recipes(text.replace(old, new, 1))


def test_the_page_out_of_reach_is_told(monkeypatch, clones):
    monkeypatch.setattr(porting, "PAGE", Path("nowhere/docs/porting.md"))
    refused("memae", clones("memae"), words="the page with the recipes is not there")


def test_torch_is_not_needed():
    code = "import sys, anomaly_detection.commands.port; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


# --- Before anything is changed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_a_dry_run_shows_and_changes_nothing(recipe, clones, capsys):
    root = clones(recipe)
    before = tree(root)
    port(recipe, root, "--dry-run")
    assert tree(root) == before
    shown = capsys.readouterr().out
    for file in blocks(recipe):
        assert f"--- a/{file}\n+++ b/{file}\n" in shown
    changed = [line for line in shown.splitlines() if re.match(r"[+-](?!\+\+ |-- )", line)]
    assert sorted(changed) == sorted(line for diff in blocks(recipe).values() for line in diff.splitlines() if line[0] in "+-")
    assert re.search(r"rec_losses\.py: " + ("replaced" if recipe == "dpa" else "new"), shown)


def hunks():
    return [(recipe, number) for recipe in porting.RECIPES for number in range(len(porting.read_recipes()[recipe].hunks))]


@pytest.mark.parametrize(("recipe", "number"), hunks())
def test_a_missing_place_stops_everything(recipe, number, clones):
    hunk = porting.read_recipes()[recipe].hunks[number]
    root, line = clones(recipe), hunk.before()[0]
    edit(root / hunk.file, line + "\n", line + "  # edited\n")
    refused(recipe, root, words=f"{re.escape(hunk.file)}: the line `{re.escape(line.strip())}` does not stand there.*Nothing was changed")


@pytest.mark.parametrize(("recipe", "number"), hunks())
def test_an_ambiguous_place_stops_everything(recipe, number, clones):
    hunk = porting.read_recipes()[recipe].hunks[number]
    root = clones(recipe)
    block = "".join(line + "\n" for line in hunk.before())
    text = (root / hunk.file).read_text()
    start = text.index(hunk.scope) if hunk.scope else 0
    again = text[:start] + text[start:].replace(block, block + block)
    (root / hunk.file).write_text(again)
    where = again[: again.index(block, start)].count("\n") + 1
    words = f"{re.escape(hunk.file)}: `{re.escape(hunk.before()[0].strip())}` stands 2 times.*lines {where}, {where + len(hunk.before())}"
    refused(recipe, root, words=words)


def test_a_class_that_is_there_twice_is_no_place(clones):
    root = clones("dpa")
    file = root / "anomaly_detection/utils/datasets.py"
    file.write_text(file.read_text() + "\n\nclass NIHDataset2(NIHDataset):\n    pass\n")
    port("dpa", root, "--dry-run")  # another name is another class
    file.write_text(file.read_text() + "\n\nclass NIHDataset:\n    pass\n")
    refused("dpa", root, words="does not stand there in class NIHDataset")


def test_a_place_does_not_reach_beyond_its_class(clones):
    hunk = porting.Hunk("a.py", "class A", ("     x = 1", " y = 2", "+z = 3"))
    recipe = replace(porting.read_recipes()["f_anogan"], hunks=(hunk,))
    with pytest.raises(UserError, match="the line `y = 2` does not stand there in class A"):
        porting.port(clones("f_anogan", **{"a.py": "class A:\n    x = 1\ny = 2\n"}), recipe)


def test_lines_that_stand_apart_are_no_place(clones):
    hunk = porting.Hunk("fanogan/train_encoder_izif.py", "", (" import torch", " from torchvision.utils import save_image", "+x"))
    recipe = replace(porting.read_recipes()["f_anogan"], hunks=(hunk,))
    with pytest.raises(UserError, match="the lines from `import torch` on do not stand together"):
        porting.port(clones("f_anogan"), recipe)


def test_the_wrong_folder_is_told(clones, tmp_path):
    refused("dpa", tmp_path / "nowhere", words=r"no such folder; git clone https://github\.com/ninatu/anomaly_detection")
    refused("dpa", clones("memae"), words="has no anomaly_detection/utils/datasets.py; it looks like the codebase of: port memae")
    refused("memae", clones("f_anogan"), "--undo", words="looks like the codebase of: port f_anogan")
    (tmp_path / "other").mkdir()
    refused("ganomaly", tmp_path / "other", words=r"has no lib/model\.py; a clone of https://github\.com/samet-akcay/ganomaly has it")


def test_a_second_run_changes_nothing(clones, capsys):
    root = clones("memae")
    port("memae", root)
    before = tree(root)
    capsys.readouterr()
    port("memae", root)
    assert "is ported already, nothing was changed" in capsys.readouterr().out
    assert tree(root) == before


def test_what_other_hands_ported_is_not_ported_twice(clones):
    root = clones("f_anogan")
    file = root / "fanogan/train_encoder_izif.py"
    diff = blocks("f_anogan")["fanogan/train_encoder_izif.py"]
    file.write_text(patched(file.read_text(), diff.partition("@@\n")[0]))
    refused("f_anogan", root, words="holds the recipe already, or a part of it .`from fanogan.rec_losses import MADDRConstraint`")


@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_a_clone_that_git_restored_is_ported_again(recipe, clones):
    """`git checkout .` leaves the record, and the copied file where the repository has none."""
    root = clones(recipe)
    before = tree(root)
    port(recipe, root)
    ported = tree(root)
    clones(recipe)
    port(recipe, root)
    assert tree(root) == ported
    port(recipe, root, "--undo")
    assert tree(root) == before


def test_a_part_that_git_restored_is_told(clones):
    root = clones("memae")
    port("memae", root)
    (root / "script_training.py").write_text(MINIATURES["memae"]["script_training.py"])
    refused("memae", root, words=r"memae_3dconv\.py: holds the recipe already, or a part of it")


def test_a_read_only_file_stays(clones):
    root = clones("dpa")
    (root / "anomaly_detection/dpa/train.py").chmod(0o444)
    refused("dpa", root, words=r"train\.py: is read-only")


@pytest.mark.parametrize("option", [(), ("--undo",)])
@pytest.mark.parametrize("number", range(6))
def test_a_failing_write_puts_everything_back(number, option, clones, monkeypatch):
    root = clones("dpa")
    if option:
        port("dpa", root)
    put, calls = porting._put, []

    def failing(path, content):
        calls.append(path)
        if len(calls) == number + 1:
            raise OSError(28, "No space left on device")
        put(path, content)

    monkeypatch.setattr(porting, "_put", failing)
    refused("dpa", root, *option, words="No space left on device; every file is as it was")
    assert len(calls) > number


def test_an_interrupted_write_puts_everything_back(clones, monkeypatch):
    root = clones("memae")
    before, put = tree(root), porting._put

    def interrupted(path, content):
        put(path, content)
        if path.name == "script_training.py":
            monkeypatch.setattr(porting, "_put", put)
            raise KeyboardInterrupt

    monkeypatch.setattr(porting, "_put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["port", "memae", str(root)])
    assert tree(root) == before


def test_the_exit_codes(clones, monkeypatch, capsys):
    for recipe, code in (("ganomaly", 0), ("memae", 2)):
        monkeypatch.setattr(sys, "argv", ["anomaly_detection", "port", recipe, str(clones("ganomaly")), "--dry-run"])
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        assert ended.value.code == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


# --- Taking it back -----------------------------------------------------------------------------------------------------------------------


def endings(text: str, newline: str, last: bool) -> str:
    return (text if last else text.rstrip("\n")).replace("\n", newline)


@pytest.mark.parametrize("last", [True, False], ids=["", "no newline at the end"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_undo_gives_every_byte_back(recipe, newline, last, clones):
    root = clones(recipe, **{file: endings(text, newline, last) for file, text in MINIATURES[recipe].items()})
    before = tree(root)
    port(recipe, root)
    for file, diff in blocks(recipe).items():
        assert (root / file).read_bytes().decode() == endings(patched(MINIATURES[recipe][file], diff), newline, last)
    port(recipe, root, "--undo")
    assert tree(root) == before


@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_undo_leaves_the_users_other_edits(recipe, clones):
    root = clones(recipe)
    port(recipe, root)
    for file in blocks(recipe):
        text = (root / file).read_text()
        (root / file).write_text(f"# mine\n{text}# mine, too\n")
    port(recipe, root, "--undo")
    for file in blocks(recipe):
        assert (root / file).read_text() == f"# mine\n{MINIATURES[recipe][file]}# mine, too\n"
    assert not (root / porting.RECORD).exists()


@pytest.mark.parametrize("recipe", porting.RECIPES)
def test_undo_takes_adapted_lines_back(recipe, clones, capsys):
    root = clones(recipe)
    before = tree(root)
    port(recipe, root)
    adapted = 0
    for path in [path for path in root.rglob("*.py") if path.name != "rec_losses.py"]:
        text = path.read_text()
        changed = re.sub(r"^DOMAINS = {.*}", "DOMAINS = {'brain': (0, 0), 'knee': (1, 1)}", text, flags=re.MULTILINE)
        changed = re.sub(r"(?<== MADDRConstraint\()", "num_organs=3, ", changed)
        adapted += changed != text
        path.write_text(changed)
    assert adapted
    capsys.readouterr()
    port(recipe, root, "--undo", "--dry-run")
    assert "-DOMAINS = {'brain': (0, 0)" in capsys.readouterr().out
    port(recipe, root, "--undo")
    assert tree(root) == before


def test_two_lines_that_could_be_the_adapted_one_are_not_guessed_at(clones):
    root = clones("ganomaly")
    port("ganomaly", root)
    path = root / "lib" / "model.py"
    path.write_text(re.sub(r"^DOMAINS = {.*}(.*)$", r"DOMAINS = {}\1\nDOMAINS = {'knee': (0, 0)}\1", path.read_text(), flags=re.MULTILINE))
    refused("ganomaly", root, "--undo", words="the line `DOMAINS = .*` does not stand there")


def test_undo_of_a_file_that_was_continued(clones):
    """The last line had no newline when it was ported, and has one since."""
    root = clones("f_anogan", **{"fanogan/train_encoder_izif.py": MINIATURES["f_anogan"]["fanogan/train_encoder_izif.py"].rstrip("\n")})
    port("f_anogan", root)
    file = root / "fanogan/train_encoder_izif.py"
    file.write_text(file.read_text() + "\n# mine\n")
    port("f_anogan", root, "--undo")
    assert file.read_text() == MINIATURES["f_anogan"]["fanogan/train_encoder_izif.py"] + "# mine\n"


@pytest.mark.parametrize(("recipe", "number"), hunks())
def test_undo_refuses_where_the_places_were_edited(recipe, number, clones):
    root, hunk = clones(recipe), porting.read_recipes()[recipe].hunks[number]
    port(recipe, root)
    line = next(line[1:] for line in hunk.lines if line[0] == "+")
    edit(root / hunk.file, line + "\n", line + "  # mine\n")
    refused(recipe, root, "--undo", words=f"{re.escape(hunk.file)}: the line `{re.escape(line.strip())}` does not stand there")


def test_undo_refuses_an_edited_copy(clones):
    root = clones("memae")
    port("memae", root)
    edit(root / "rec_losses.py", "SMALLEST_DEVIATION = 0.01", "SMALLEST_DEVIATION = 0.02")
    refused("memae", root, "--undo", words=r"rec_losses\.py: was edited after the port")


def test_a_deleted_copy_is_told(clones):
    root = clones("ganomaly")
    port("ganomaly", root)
    (root / "lib/rec_losses.py").unlink()
    refused("ganomaly", root, words="holds the recipe already")
    refused("ganomaly", root, "--undo", words=r"rec_losses\.py: No such file")


def test_undo_needs_a_port(clones):
    root = clones("memae")
    refused("memae", root, "--undo", words=r"without the record of its port, \.maddr_port\.json; there is none")
    port("memae", root)
    (root / porting.RECORD).write_text('{"recipe": "memae"}')
    refused("memae", root, "--undo", words=r"\.maddr_port\.json: damaged")


def test_a_later_page_neither_ports_again_nor_keeps_from_undoing(clones, monkeypatch, tmp_path):
    root = clones("ganomaly")
    before = tree(root)
    port("ganomaly", root)
    (tmp_path / "porting.md").write_text(PAGE.replace("0.1 * self.maddr(", "0.2 * self.maddr("), encoding="utf-8")
    monkeypatch.setattr(porting, "PAGE", tmp_path / "porting.md")
    ported = tree(root)
    port("ganomaly", root)
    assert tree(root) == ported
    port("ganomaly", root, "--undo")
    assert tree(root) == before


def test_bytes_that_are_no_text_and_the_mode_stay(clones):
    root = clones("f_anogan")
    file = root / "fanogan/train_encoder_izif.py"
    file.write_bytes(b"# Norm\xe9n \x0c\n" + file.read_bytes())
    file.chmod(0o755)
    before = tree(root)
    port("f_anogan", root)
    assert file.read_bytes().startswith(b"# Norm\xe9n \x0c\nimport os\n")
    assert os.stat(file).st_mode & 0o777 == 0o755
    port("f_anogan", root, "--undo")
    assert tree(root) == before


def test_a_copy_made_before_is_given_back(clones):
    root = clones("memae", **{"rec_losses.py": "older\n"})
    before = tree(root)
    port("memae", root)
    assert tree(root)["rec_losses.py"] == Path(rec_losses.__file__).read_bytes()
    port("memae", root, "--undo")
    assert tree(root) == before


# --- The ported codebases learn -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ported(clones, monkeypatch):
    """Ports a miniature, goes into it and runs files of it.

    The copied rec_losses.py has the name that the recipe imports it by, and none of the package behind it; stand-ins replace what is left out.
    """

    def run(recipe: str, **stubs: dict) -> Callable[..., SimpleNamespace]:
        root = clones(recipe)
        port(recipe, root)
        monkeypatch.chdir(root)
        copy = root / porting.read_recipes()[recipe].destination
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
