"""The templates of the report: HTML, in which every value is escaped, and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def markdown_text(text: object) -> str:
    """Words that Markdown shows as they are, on one line."""
    text = " ".join(str(text).split())
    for character in "\\`*_[]|<>":
        text = text.replace(character, "\\" + character)
    return text


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=lambda name: name is not None and name.endswith(".html.j2"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["md"] = markdown_text


def render(name: str, **values: Any) -> str:
    """The template of this name, filled in."""
    return _TEMPLATES.get_template(name).render(values)


def table(caption: str, head: Sequence[object], rows: Iterable[Sequence[object]]) -> Markup:
    """A table whose first column names its rows, in a box of its own that scrolls on narrow screens."""
    parts: Any = _TEMPLATES.get_template("parts.html.j2").module
    return parts.table(caption, head, list(rows))
