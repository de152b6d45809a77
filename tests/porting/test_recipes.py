"""The page docs/porting.md, and what is read from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from anomaly_detection.MADDR_dpa import rec_losses
from anomaly_detection.porting import recipes
from anomaly_detection.porting.changes import RECORD
from tests.porting.clones import PAGE, PROJECT, TITLES, blocks, patched, port, refused, section, tree
from tests.porting.miniatures import MINIATURES


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_the_command_makes_what_the_page_prints(recipe, clones):
    root = clones(recipe)
    port(recipe, root)
    ported = tree(root)
    assert blocks(recipe).keys() < ported.keys()
    for file, diff in blocks(recipe).items():
        assert ported[file].decode() == patched(MINIATURES[recipe][file], diff)
    (copy,) = re.findall(r"^Copy `anomaly_detection/MADDR_dpa/rec_losses\.py` to `(.*)`\.$", section(recipe), re.MULTILINE)
    assert ported[copy] == Path(rec_losses.__file__).read_bytes()
    assert ported.keys() - MINIATURES[recipe].keys() <= {copy, "README.md", RECORD}


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_the_page_counts_its_lines(recipe):
    signs = [line[0] for diff in blocks(recipe).values() for line in diff.splitlines()]
    files = "1 file" if len(blocks(recipe)) == 1 else f"{len(blocks(recipe))} files"
    assert f"Changes: +{signs.count('+')} -{signs.count('-')} in {files}." in section(recipe)


def test_the_page_holds_four_recipes_and_nothing_beside_them():
    assert recipes.read_recipes().keys() == set(recipes.RECIPES) == TITLES.keys()
    assert PAGE.count("```diff") == sum(len(blocks(recipe)) for recipe in recipes.RECIPES)
    assert "docs/porting.md" in (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"), [("`models/memae_3dconv.py`:", "models/memae_3dconv.py:"), ("Then: ", ""), ("Repository: ", ""), ("Copy `", "Put `")]
)
def test_a_recipe_that_cannot_be_read_is_an_error(old, new):
    text = "## MemAE " + section("memae")
    assert [recipe.name for recipe in recipes.parse_recipes(text)] == ["memae"]
    with pytest.raises(ValueError, match="recipe memae: lacks"):
        recipes.parse_recipes(text.replace(old, new, 1))


def test_the_page_out_of_reach_is_told(monkeypatch, clones):
    monkeypatch.setattr(recipes, "PAGE", Path("nowhere/docs/porting.md"))
    refused("memae", clones("memae"), words="the page with the recipes is not there")


def test_torch_is_not_needed():
    code = "import sys, anomaly_detection.commands.port; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
