"""The import graph of the package, read from its sources: arrows point down, and none comes back."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "anomaly_detection"
ROOT = Path(__file__).parents[1] / PACKAGE
GROUND = f"{PACKAGE}.MADDR_dpa.rec_losses"  # the file that people copy: it imports nothing of the package, and everything may import it

# From the bottom up; what stands in a row may import what stands in its own row and in those before it.
LAYERS = (
    ("system",),
    ("config",),
    ("data",),
    ("baseline", "registry", "components"),
    ("MADDR_dpa", "f_anogan", "ganomaly", "memae", "gaussian", "feature_ae"),
    ("evaluation", "training", "build", "detector", "export", "porting"),
    ("study", "estimator"),
    ("commands", "__main__", ""),  # "" is the package itself: what a user imports
)
BASELINES = LAYERS[4]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in ROOT.rglob("*.py")}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imported(statements) -> set[str]:
    """The modules of the package that some statements import."""
    modules = set()
    for node in statements:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules |= {name if (name := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
    return {module for module in modules if module in FILES}


def top_level(module: str) -> set[str]:
    """What a module imports when it is imported itself."""
    return imported(tree(module).body)


def anywhere(module: str) -> set[str]:
    """What a module imports at any time, in its functions and for type checkers, too."""
    return imported(ast.walk(tree(module)))


def part(module: str) -> str:
    """The folder or file of the package's top level that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def level(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if part(module) in names)


def test_few_modules_stand_beside_the_folders():
    assert len(list(ROOT.glob("*.py"))) <= 9


def test_every_part_has_a_layer():
    assert not {part(module) for module in FILES} - {name for layer in LAYERS for name in layer}


def test_the_graph_is_read():
    assert f"{PACKAGE}.system.errors" in top_level(f"{PACKAGE}.config.layers")
    assert f"{PACKAGE}.study.run" not in top_level(f"{PACKAGE}.__main__")
    assert f"{PACKAGE}.data.phantom.datasets" in anywhere(f"{PACKAGE}.commands.phantom") - top_level(f"{PACKAGE}.commands.phantom")


@pytest.mark.parametrize("module", sorted(FILES))
def test_arrows_point_down(module):
    assert not {other for other in anywhere(module) - {GROUND} if level(other) > level(module)}


def test_no_cycle():
    done, way = set(), []

    def visit(module: str) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            way.append(module)
            for other in sorted(top_level(module)):
                visit(other)
            done.add(way.pop())

    for module in FILES:
        visit(module)


def test_the_file_to_copy_stands_alone():
    assert not anywhere(GROUND)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_knows_no_other(baseline):
    modules = {other for module in FILES if part(module) == baseline for other in anywhere(module)} - {GROUND}
    assert not {part(module) for module in modules} & (set(BASELINES) - {baseline})


def test_training_knows_no_model():
    modules = {other for module in FILES if part(module) == "training" for other in anywhere(module)}
    assert not {part(module) for module in modules - {GROUND}} & {*BASELINES, "registry", "evaluation"}


def test_package_files_do_nothing():
    """Importing a module of a folder imports nothing beside it, and nothing is imported late behind one's back.

    But for one class that users import from the package: it is one of scikit-learn's, which takes a second to import.
    """
    for module, path in FILES.items():
        if path.name == "__init__.py" and path.parent != ROOT:
            assert not path.read_text(encoding="utf-8").strip(), path
        late = [node for node in tree(module).body if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"]
        assert {other for node in late for other in imported(ast.walk(node))} == ({f"{PACKAGE}.estimator"} if module == PACKAGE else set()), path
        assert len(late) == (module == PACKAGE), path


SLOW = {"matplotlib", "sklearn", "torchvision"}  # to import each takes a second; torchvision loads torch's compiler, sklearn the whole of scipy.stats


def loaded(module: str) -> set[str]:
    """All that is imported with a module of the package, of other packages, too, as far as the package's sources say."""
    names, todo = set(), {module}
    while todo:
        names |= todo
        statements = [node for each in todo if each in FILES for node in tree(each).body]
        others = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
        others |= {node.module for node in statements if isinstance(node, ast.ImportFrom)}
        todo = (imported(statements) | others) - names
    return names


@pytest.mark.parametrize("module", ["detector", "export", "training.loop", "evaluation.predictions"])
def test_what_a_trained_network_does_without_is_not_imported(module):
    """Scoring waits for nothing that only training, statistics or drawing need."""
    assert not {name for name in loaded(f"{PACKAGE}.{module}") if name.partition(".")[0] in SLOW or name == "scipy.stats"}


@pytest.mark.parametrize("module", ["data.phantom.datasets", "data.phantom.downloads"])
def test_phantoms_are_rendered_without_torch(module):
    """It is as much to load as all else that each process which renders holds."""
    assert "torch" not in loaded(f"{PACKAGE}.{module}")


def test_the_slow_ones_are_seen():
    assert "torch" in loaded(f"{PACKAGE}.data.twins")
    assert {"sklearn.metrics", "scipy.stats"} <= loaded(f"{PACKAGE}.study.run")
    assert "matplotlib.figure" in loaded(f"{PACKAGE}.evaluation.figures") - loaded(f"{PACKAGE}.study.run")
