"""HTML and SVG from Python: everything is escaped unless it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = {"img", "meta", "br", "hr"}


class Html(str):
    """Text that is markup already, and is put in as it is."""


def escape(text: object) -> Html:
    """The text with `<`, `&` and quotes made harmless; markup as it is."""
    return text if isinstance(text, Html) else Html(html.escape(str(text), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element: `tag("td", "a < b", class_="number")`; attributes that are None or False are left out."""
    told = ""
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            told += f" {key}" if value is True else f' {key}="{escape(value)}"'
    if name in VOID:
        return Html(f"<{name}{told}>")
    return Html(f"<{name}{told}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Html:
    return Html("".join(escape(part) for part in parts))


def table(caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], numbers: bool = True) -> Html:
    """A table whose first column names its rows, in a box of its own that scrolls on narrow screens."""
    columns = join(tag("th", cell, scope="col") for cell in head)
    body = join(
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in map(list, rows)
    )
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", columns)),
        tag("tbody", body),
        class_="numbers" if numbers else None,
    )
    return tag("div", whole, class_="scroll", role="region", tabindex=0, aria_label=caption)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same as Markdown; a bar or a line break in a cell would end it, so both are replaced."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(map(markdown_text, line)) + " |" for line in lines)


def markdown_text(text: object) -> str:
    """Words that Markdown shows as they are, on one line."""
    text = " ".join(str(text).split())
    for character in "\\`*_[]|<>":
        text = text.replace(character, "\\" + character)
    return text
