from pathlib import Path

import pytest

from tests.porting.miniatures import MINIATURES


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
