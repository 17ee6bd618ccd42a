"""Figures of the source tree: files, lines, names that stand twice, import circles, and words that were retired.

``python -m benchmarks.house`` prints them; ``--base FOLDER`` (a checkout of another commit) prints its figures beside.
`tests/test_floors.py` holds the tree to them.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "earsight"
CORE = ("data", "features", "models", "training", "evaluation", "inference")
"""The rooms that whoever changes the system reads; ``models/fast`` is not counted with them."""


def modules(root: Path = ROOT) -> dict[str, Path]:
    """All modules below a package folder by dotted name."""
    paths = {path.relative_to(root.parent).with_suffix(""): path for path in sorted(root.rglob("*.py"))}
    return {".".join(parts.parts).removesuffix(".__init__"): path for parts, path in paths.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a module, functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            # `from earsight import data` and `from earsight.data import audio` both name modules.
            yield from (f"{node.module}.{name.name}" for name in node.names)


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """For each module the modules of the package that it imports.

    A package's ``__init__`` counts where something is taken from it that is no module.
    """
    known = modules(root)
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        found = set()
        for target in imported(ast.parse(path.read_text(encoding="utf-8"))):
            while target and target not in known:
                target = target.rpartition(".")[0]
            found.add(target)
        graph[name] = found - {name, ""}
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others (Tarjan 1972), each sorted."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    out: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                out.append(sorted(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in order:
            visit(name)
    return sorted(out)


def figures(root: Path = ROOT) -> dict[str, object]:
    """What the tree at ``root`` (a folder ``earsight``) measures."""
    paths = sorted(root.rglob("*.py"))
    texts = {path.relative_to(root): path.read_text(encoding="utf-8") for path in paths}
    lines = {path: text.count("\n") for path, text in texts.items()}
    core = [path for path in texts if path.parts[0] in CORE and path.parts[:2] != ("models", "fast")]
    names = Counter(path.name for path in texts if path.name != "__init__.py")
    shown = [path for path in root.rglob("*") if path.suffix in {".py", ".html", ".js", ".css", ".yaml"}]
    words = "\n".join(path.read_text(encoding="utf-8") for path in shown)
    return {
        "files": len(texts),
        "lines": sum(lines.values()),
        "core files": len(core),
        "core lines": sum(lines[path] for path in core),
        "names that stand twice": sorted(name for name, count in names.items() if count > 1),
        "import circles": circles(import_graph(root)),
        "over 600 lines": sorted(str(path) for path, count in lines.items() if count > 600),
        "picture": len(re.findall("picture", words, re.IGNORECASE)),
        "spectrogram": len(re.findall("spectrogram", words, re.IGNORECASE)),
        "write beside, then rename": renames(texts),
    }


def renames(texts: Mapping[Path, str]) -> list[str]:
    """Where a file is given another's place: calls of ``rename``, ``os.replace`` and ``replace`` of a path."""
    out = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                # `str.replace` takes two arguments, `dataclasses.replace` is no attribute call.
                one = len(node.args) == 1 and not node.keywords
                if called in {"os.replace", "os.rename"} or (node.func.attr in {"replace", "rename"} and one):
                    out.append(f"{path}:{node.lineno}")
    return out


def main() -> None:
    """Print the figures, and a base's beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="a checkout of another commit, to measure too")
    base = parser.parse_args().base
    columns = [figures(), *([figures(base / "src" / "earsight")] if base else [])]
    for name in columns[0]:
        print(f"{name:28}" + "   ".join(_shown(column[name]) for column in columns))


def _shown(value: object) -> str:
    return f"{len(value)}: {', '.join(map(str, value))}" if isinstance(value, list) and value else str(value)


if __name__ == "__main__":
    main()
