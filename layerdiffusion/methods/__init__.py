"""SDEdit, Imagic and Plug-and-Play as their authors run them, on the same models, edits and seeds as ours.

    result = run_method(editor, "pnp", edit, Settings(seeds=(0, 1)), options_for("pnp", models, attention_share=0.3))

A file a method, functions of tensors as in `layerdiffusion.method`; `run` gives them the editor's turns and caches.
"""

from typing import TYPE_CHECKING, Any

from layerdiffusion.methods.options import (
    DIAL,
    LABELS,
    METHODS,
    SOURCES,
    ImagicOptions,
    PnPOptions,
    SDEditOptions,
    options_for,
)

if TYPE_CHECKING:
    from layerdiffusion.methods.run import run_method

__all__ = [
    "DIAL",
    "LABELS",
    "METHODS",
    "SOURCES",
    "ImagicOptions",
    "PnPOptions",
    "SDEditOptions",
    "options_for",
    "run_method",
]


def __getattr__(name: str) -> Any:
    """`run_method` and torch with it are imported when asked for: the page wants the methods' names at once."""
    if name != "run_method":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from layerdiffusion.methods.run import run_method

    globals()[name] = run_method
    return run_method
