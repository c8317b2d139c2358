"""LayerDiffusion: edit a photo's subject and its background in one go (ICML 2023 workshop on AI & HCI)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerdiffusion.edit import Edit as Edit
    from layerdiffusion.edit import Placement as Placement
    from layerdiffusion.editor import Editor as Editor
    from layerdiffusion.errors import EditError as EditError
    from layerdiffusion.models.load import load_models as load_models
    from layerdiffusion.models.models import Models as Models
    from layerdiffusion.progress import Cancelled as Cancelled
    from layerdiffusion.progress import Progress as Progress
    from layerdiffusion.recipe import load_recipe as load_recipe
    from layerdiffusion.recipe import save_recipe as save_recipe
    from layerdiffusion.result import Result as Result
    from layerdiffusion.settings import Settings as Settings

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
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Public names are imported when first asked for, so that `import layerdiffusion` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
