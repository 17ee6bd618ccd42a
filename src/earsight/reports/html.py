"""HTML pages: a template, its values and its figures become one self-contained file.

Comes in: the name of a template in ``templates/``, its values, and matplotlib figures. Goes out: text, and a file that
is written whole or not at all. Every value is escaped; names of files and classes are isolated from the writing
direction of the text around them; a page loads nothing and runs no script.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from earsight.errors import RunError, remedy_of
from earsight.files import replace_text
from earsight.inference.formats import harmless
from earsight.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

_HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_NOT_SHOWN = re.compile(r"<(metadata|style)\b.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")  # a ">" in a text or an attribute is written as an entity
_NAMESPACES = re.compile(r'\s+xmlns(:\w+)?="[^"]*"')
_HEIGHT = re.compile(r'\s+height="[\d.]+pt"')


def render(template: str, *, title: str, context: Mapping[str, object]) -> str:
    """A page's text, the same for the same context; a name that the template uses and ``context`` lacks is an error.

    ``template`` is its name in ``templates/``; ``title`` is the page's title and first heading.
    """
    return _environment().get_template(template).render(**context, title=title, version=__version__)


def write_page(text: str, path: Path) -> None:
    """Write a page whole or not at all; RunError if it cannot be written there."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe, which must not be replaced
            path.write_text(text, encoding="utf-8")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror or error}); {remedy_of(error)} or name another place for it"
        ) from error


def inline_svg(figure: Figure, *, name: str, alt: str) -> Markup:
    """A drawn figure as an SVG element of a page; the same figure gives the same characters.

    Its text stays text in the page's font, black takes the page's text colour and white its background, so that it
    reads on dark pages as on light ones. The figure is from `earsight.reports.drawings.blank`, in black, white and
    their shades (``alpha``) only; ``name``, letters and digits unique on the page, is a prefix for the ids within it;
    ``alt`` says what it shows, for those who do not see it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn by the reader's own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight", transparent=True)
    drawn = _TAG.sub(
        lambda tag: _in_page(tag.group(), name), _NOT_SHOWN.sub("", _HEAD.sub("", text.getvalue(), count=1))
    )
    return Markup(
        _HEIGHT.sub("", drawn, count=1).replace("<svg", f'<svg role="img" aria-label="{escape(shown(alt))}"', 1)
    )


def _in_page(tag: str, name: str) -> str:
    """A drawing's tag, with ids prefixed by its name and with the page's colours."""
    tag = _NAMESPACES.sub("", tag).replace("xlink:href", "href")
    tag = tag.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    return re.sub(r'(href="|url\()#', rf"\1#{name}-", tag)


def shown(value: object) -> str:
    """A value as one line of text; control characters and broken code points are spelt out."""
    return "".join(_visible(sign) for sign in harmless("" if value is None else str(value)))


def _visible(sign: str) -> str:
    code = ord(sign)
    return f"\\u{code:04x}" if 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE else sign


def _name(value: object) -> Markup:
    """A name from the user, isolated from the writing direction of the text around it."""
    return value if isinstance(value, Markup) else Markup("<bdi>{}</bdi>").format(shown(value))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("earsight", "reports/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"shown": shown, "name": _name}
    return made
