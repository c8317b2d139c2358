"""LayerDiffusion: edit a photo's subject and its background in one go (ICML 2023 workshop on AI & HCI)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerdiffusion.edit import Edit, Placement
    from layerdiffusion.editor import Editor
    from layerdiffusion.errors import EditError
    from layerdiffusion.models.load import load_models
    from layerdiffusion.models.models import Models
    from layerdiffusion.progress import Cancelled, Progress
    from layerdiffusion.recipe import load_recipe, save_recipe
    from layerdiffusion.result import Result
    from layerdiffusion.settings import Settings

__all__ = [
    "Cancelled",
    "Edit",
    "EditError",
    "Editor",
    "Models",
    "Placement",
    "Progress",
    "Result",
    "Settings",
    "load_models",
    "load_recipe",
    "save_recipe",
]

_HOMES = {
    "Cancelled": "progress",
    "Edit": "edit",
    "EditError": "errors",
    "Editor": "editor",
    "Models": "models.models",
    "Placement": "edit",
    "Progress": "progress",
    "Result": "result",
    "Settings": "settings",
    "load_models": "models.load",
    "load_recipe": "recipe",
    "save_recipe": "recipe",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that `import layerdiffusion` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
