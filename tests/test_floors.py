"""The floors of the house: who may import whom, what stays light, and what no source file may hold."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.house import circles, figures, import_graph, imported

import earsight
from earsight import api

ROOT = Path(earsight.__file__).parent
FLOORS = (
    *(
        "errors",
        "arguments",
        "cache",
        "portable",
        "files",
        "signals",
        "openmp",
        "library_output",
        "parallel",
        "version",
        "recipe",
    ),
    *("kernels", "data", "evaluation", "features", "models", "training", "calibration", "execution"),
    *("analysis", "inference", "tuning", "onnx", "ensembles", "reports", "experiments", "serving"),
    *("console", "quickstart", "commands", "api", "cli", "__main__"),
)
# It imports `earsight.api` when a public name is first asked for, and names all of them for type checkers.
EXCEPTION = Path("__init__.py")
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def _top_level(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: everything but function bodies."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.inside = getattr(node, "inside", False) or isinstance(  # type: ignore[attr-defined]
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
            )
    for node in ast.walk(tree):
        if not getattr(node, "inside", False):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield str(node.module)


def _floor(name: str) -> str | None:
    """The floor that an import of earsight's reaches; None for other packages and for `earsight.__version__`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "earsight" and len(parts) > 1 and not parts[1].startswith("__") else None


def _uphill(path: Path, tree: ast.AST) -> list[str]:
    """Imports that a module at this path may not have."""
    here = path.parts[0].removesuffix(".py")
    allowed = FLOORS[: FLOORS.index(here) + 1]
    return [name for name in imported(tree) if (floor := _floor(name)) is not None and floor not in allowed]


def _tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def test_every_file_has_a_floor():
    known = {*FLOORS, "recipes", "__init__"}
    assert {path.parts[0].removesuffix(".py") for path in MODULES} <= known
    assert len(MODULES) > 40


@pytest.mark.parametrize("path", [path for path in MODULES if path != EXCEPTION], ids=str)
def test_modules_import_only_from_above(path):
    assert _uphill(path, _tree(path)) == []


def test_dir_shows_what_is_meant_for_callers():
    assert dir(earsight) == sorted(earsight.__all__)
    assert {"train", "crossval", "evaluate", "load", "explain", "Recipe", "EarsightError"} < set(dir(earsight))
    assert all(hasattr(earsight, name) for name in earsight.__all__)
    assert set(earsight.__all__) == {*api.__all__, "__version__"}
    with pytest.raises(AttributeError, match="it has Classifier, "):
        earsight.trian  # noqa: B018


def test_only_public_names_are_imported_for_type_checkers():
    reached = {name.rpartition(".")[2] for name in imported(_tree(EXCEPTION)) if _floor(name)}
    assert reached == set(earsight.__all__)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("evaluation/metrics.py", "from earsight.features import stft"),
        ("evaluation/metrics.py", "def f():\n    import earsight.features.stft"),
        ("data/audio.py", "from earsight import features"),
        ("models/weights.py", "if TYPE_CHECKING:\n    from earsight.training.loop import fit"),
        ("recipe.py", "from earsight.cli import app"),
        ("errors.py", "from earsight.recipe import Recipe"),
    ],
)
def test_an_import_from_below_is_seen(path, code):
    assert len(_uphill(Path(path), ast.parse(code))) == 1
    assert _uphill(Path("cli.py"), ast.parse(code)) == []


def _reaches_kernels(path: Path, tree: ast.AST) -> bool:
    """Whether a module that may not imports a kernel or its runtime."""
    allowed = path.parts[0] == "kernels" or path.parts[:2] == ("models", "fast") or path == Path("features/stft.py")
    return not allowed and any(_floor(name) == "kernels" for name in imported(tree))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_the_stft_and_the_fast_layers_import_kernels(path):
    assert not _reaches_kernels(path, _tree(path))


@pytest.mark.parametrize(
    "code",
    [
        "from earsight.kernels.runtime import run",
        "from earsight import kernels",
        "def f():\n    import earsight.kernels.simd",
    ],
)
def test_an_import_of_kernels_is_seen(code):
    tree = ast.parse(code)
    assert _reaches_kernels(Path("features/store.py"), tree)
    assert _reaches_kernels(Path("models/weights.py"), tree)
    assert not _reaches_kernels(Path("features/stft.py"), tree)
    assert not _reaches_kernels(Path("models/fast/swap.py"), tree)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_modules_are_described_and_safe(path):
    tree = _tree(path)
    relative = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert not relative, "a relative import hides its floor"
    assert ast.get_docstring(tree), "no docstring"
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)], "assert"
    bare = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not bare, "bare except"
    heavy = {name.split(".")[0] for name in _top_level(tree)} & {"librosa", "pickle", "python_stretch"}
    assert not heavy


def test_no_import_circles():
    """Of files, by imports inside functions and for type checkers too."""
    graph = import_graph(ROOT)
    assert len(graph) > 100
    assert circles(graph) == []


@pytest.mark.parametrize(
    ("importer", "code"),
    [
        # The four circles that there were, by the names that the modules have now.
        ("kernels/runtime.py", "def f():\n    from earsight.features.store import open_store"),
        ("inference/recordings.py", "def f():\n    from earsight.inference.classifier import Classifier"),
        ("training/batches.py", "if TYPE_CHECKING:\n    from earsight.training.loop import fit"),
        ("features/spectrogram.py", "from earsight.features import store"),
    ],
)
def test_a_circle_is_seen(tmp_path, importer, code):
    house = tmp_path / "earsight"
    shutil.copytree(ROOT, house, ignore=shutil.ignore_patterns("__pycache__"))
    with (house / importer).open("a", encoding="utf-8") as file:
        file.write(f"\n{code}\n")
    found = circles(import_graph(house))
    assert len(found) == 1
    assert "earsight." + importer.removesuffix(".py").replace("/", ".") in found[0]


def test_circles_are_told_apart():
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"e"}, "e": {"c", "a"}, "f": {"a"}}) == [
        ["a", "b"],
        ["c", "d", "e"],
    ]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_figures_of_the_house():
    """What `python -m benchmarks.house` prints, within the bounds that docs/design.md states."""
    found = figures(ROOT)
    assert found["names that stand twice"] == []
    assert found["over 600 lines"] == []
    assert found["core files"] <= 83
    assert found["core lines"] <= 21_057
    assert found["lines"] <= 43_800
    assert found["picture"] <= 40
    # Where a file, and a folder that is built whole, take their names.
    assert [place.split(":")[0] for place in found["write beside, then rename"]] == 3 * ["files.py"]


def test_top_level_means_outside_functions():
    tree = ast.parse("import a\ntry:\n    import b.c\nexcept ImportError:\n    pass\ndef f():\n    import d\n")
    assert list(_top_level(tree)) == ["a", "b.c"]


@pytest.mark.parametrize("module", ["earsight", "earsight.cli"])
def test_importing_is_light(module):
    """What makes --help answer at once: none of the heavy packages is there after the import."""
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'timm', 'matplotlib', 'sklearn', 'scipy', 'soundfile', 'pydantic', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
