"""SDEdit, Imagic, Plug-and-Play and klein's own editing as their authors run them, on the same models and edits.

    editor.run(edit, Settings(seeds=(0, 1)), method="pnp", options=options_for("pnp", models, attention_share=0.3))

A file a baseline: its `Options`, its maths, and `edit`, which says its stages as `method.layerdiffusion.edit` does. A
new one is one more file, and is called what its docstring begins with, up to the bracket; if there are models
that it doesn't apply to, its `unsuited` says why. Of `Settings` every baseline takes `seeds`, `sampling_steps` and
`guidance_scale`; Imagic `training_seed` and `tune` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import Limit, Settings, check_choice, check_number

if TYPE_CHECKING:
    from layerdiffusion.cache import Run, Stage
    from layerdiffusion.engine import Task
    from layerdiffusion.models.models import Models

OWN = "layerdiffusion"


def _labels(folder: Path) -> dict[str, str]:
    """What people call the baseline of each file; nothing is imported, as torch would be with it."""
    files = (file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_"))
    return {file.stem: file.read_text("utf-8").removeprefix('"""').partition(" (")[0] for file in files}


BASELINES = _labels(Path(__file__).parent)
LABELS = {OWN: "LayerDiffusion", **BASELINES}
PAPERS = ("imagic", "pnp", "sdedit")  # those that the paper compares itself with
SOURCES = ("photo", "composite")

SHARE = Limit(0.0, 1.0, 0.05)
_Self = TypeVar("_Self", bound="BaselineOptions")


def option(default: float | None, limit: Limit) -> Any:
    """A number of a baseline's options; None: the model's own, by `resolve`."""
    return field(default=default, metadata={"limit": limit})


@dataclass(frozen=True)
class BaselineOptions:
    """Checks itself as `Settings` does; a field that is None takes the model's own value in `resolve`.

    `source` is what is edited: "photo", or "composite", the layered picture that ours trains on.
    """

    source: str = "photo"

    def __post_init__(self) -> None:
        check_choice("source", self.source, SOURCES)
        for one in fields(self):
            value = getattr(self, one.name)
            if "limit" in one.metadata and not (value is None and one.default is None):
                object.__setattr__(self, one.name, check_number(one.name, value, one.metadata["limit"]))

    def resolve(self: _Self, defaults: Settings) -> _Self:
        """These options with no gap, for a model whose settings are `defaults`."""
        return self

    def to_dict(self) -> dict[str, object]:
        """Every field that is set, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def options_class(name: str) -> type[BaselineOptions]:
    """The baseline's class of options."""
    return cast("type[BaselineOptions]", import_module(f"{__name__}.{name}").Options)


def edit_of(name: str) -> Callable[[Task, Run], Stage[Any]]:
    """What says the method's stages."""
    module = "layerdiffusion.method.layerdiffusion" if name == OWN else f"{__name__}.{name}"
    return cast("Callable[[Task, Run], Stage[Any]]", import_module(module).edit)


def options_for(name: str, models: Models, **changes: object) -> BaselineOptions | None:
    """The method's options on these models, every field set; None for LayerDiffusion, whose dials are in `Settings`.

    Raises a `SettingsError` for a method, an option or a value there is not, and a method that doesn't apply to them.
    """
    _check_method(name, models)
    if name == OWN:
        if changes:
            raise SettingsError(f"{name} has no option {next(iter(changes))}; its dials are settings of the edit.")
        return None
    options = options_class(name)
    known = [one.name for one in fields(options)]
    unknown = next((change for change in changes if change not in known), None)
    if unknown is not None:
        raise SettingsError(f"{name} has no option {unknown}; it has {', '.join(known)}.")
    return options(**changes).resolve(models.defaults)  # type: ignore[arg-type]  # checked by the class


def unsuited(name: str, models: Models) -> str | None:
    """Why the method doesn't apply to these models; None where it does."""
    why = None if name == OWN else getattr(import_module(f"{__name__}.{name}"), "unsuited", None)
    return why(models) if why else None


def suited(models: Models) -> list[str]:
    """The baselines that apply to these models."""
    return [name for name in BASELINES if unsuited(name, models) is None]


def check_options(name: str, options: BaselineOptions | None, models: Models) -> None:
    """Refuse, with a `SettingsError`, a method there is not, or not for these models, and another method's options."""
    _check_method(name, models)
    if options is not None and (name == OWN or not isinstance(options, options_class(name))):
        raise SettingsError(f"The options of {name} are not {type(options).__name__}; make them by options_for.")


def _check_method(name: str, models: Models) -> None:
    check_choice("method", name, tuple(LABELS))
    if why := unsuited(name, models):
        raise SettingsError(f"{LABELS[name]} doesn't apply: {why}; choose another method.")
