"""The documents as a site: `sphinx-build -W -b html docs OUT`."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from earsight import RunOptions
from earsight.errors import worded
from earsight.recipe import Recipe

project = "earsight"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = [".md"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4
suppress_warnings = ["myst.strikethrough"]
html_theme = "furo"
html_title = "earsight"
html_static_path: list[str] = []
smartquotes = False  # it makes a dash of the two hyphens of an option
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
pygments_style = "default"
highlight_language = "text"
FIELDS = "<!-- fields -->"
OPTIONS = "<!-- options -->"


def _values(field: Any) -> str:
    """Which values a field takes: names, or the bounds of a number."""
    kinds, limits = [field.annotation, *get_args(field.annotation)], list(field.metadata)
    for kind in [kind for kind in kinds if get_origin(kind) is Annotated]:  # a number with bounds beside names
        kinds.append(get_args(kind)[0])
        limits += [limit for inner in get_args(kind)[1:] for limit in inner.metadata]
    names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    signs = {"ge": "from ", "gt": "above ", "le": "to ", "lt": "below "}
    bounds = [f"{signs[sign]}{getattr(one, sign):g}" for one in limits for sign in signs if hasattr(one, sign)]
    if names and {int, float} & set(kinds):
        bounds = [" ".join(["or a number", *bounds])]
    if not names and not bounds:
        return {bool: "true, false", str: "a name"}.get(field.annotation, "numbers")
    return ", ".join([*(f"`{name}`" for name in names), *([" ".join(bounds)] if bounds else [])])


def recipe_fields() -> str:
    """Tables of all fields of a recipe, a section each, from the classes that read it."""
    out = []
    for name, field in Recipe.model_fields.items():
        kind: Any = field.annotation
        if not hasattr(kind, "model_fields"):
            continue
        out += ["", f"## {name}", "", (inspect.getdoc(kind) or "").replace("`earsight.", "`"), ""]
        out += ["| field | default | values | |", "|---|---|---|---|"]
        for leaf, one in kind.model_fields.items():
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            shown = str(default).lower() if isinstance(default, bool) else default
            out.append(f"| `{name}.{leaf}` | `{shown}` | {_values(one)} | {one.description or ''} |")
    return "\n".join(out)


def _type(kind: Any) -> str:
    """A type as Python callers write it: places may be texts."""
    if inspect.isclass(kind):
        return {Path: "str | Path", type(None): "None"}.get(kind, kind.__name__)
    if get_origin(kind) is Literal:
        return " | ".join(map(repr, get_args(kind)))
    if get_origin(kind) is list:
        return f"list[{_type(get_args(kind)[0])}]"
    return " | ".join(map(_type, get_args(kind)))  # a union


def _literal(text: str) -> str:
    """A text whose patterns of file names are code: their underscores would set words in italics."""
    return re.sub(r"'(\{[^']*)'", r"`\1`", text)


def option_fields() -> str:
    """A table of the fields of `RunOptions`: their types, and what the command line's help says."""
    out = ["| field | type | default | |", "|---|---|---|---|"]
    hints = get_type_hints(RunOptions, include_extras=True)
    for field in fields(RunOptions):
        kind, option = get_args(hints[field.name])
        cells = [f"`{field.name}`", f"`{_type(kind)}`", f"`{field.default!r}`", _literal(worded(option.help))]
        out.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(out)


def _fill(_app: Any, _name: str, source: list[str]) -> None:
    source[0] = source[0].replace(FIELDS, recipe_fields()).replace(OPTIONS, option_fields())


def setup(app: Any) -> None:
    """Fill in what is made from the code."""
    app.connect("source-read", _fill)
