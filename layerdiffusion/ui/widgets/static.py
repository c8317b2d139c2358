"""The page's scripts and styles, from the folder `static`."""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "static"


@cache
def static_text(*names: str) -> str:
    """The files' text, one after the other."""
    return "".join((FOLDER / name).read_text(encoding="utf-8") for name in names)
