"""What can be set about each compared method, beside the `Settings` that it shares with ours.

Of those, every method takes `seeds`, `sampling_steps` and `guidance_scale`; Imagic `training_seed` and `tune` as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, TypeVar

from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import Limit, Settings, check_choice, check_number, setting_table

if TYPE_CHECKING:
    from layerdiffusion.models.load import Models

OWN = "layerdiffusion"
METHODS = (OWN, "sdedit", "imagic", "pnp")
LABELS = {OWN: "LayerDiffusion", "sdedit": "SDEdit", "imagic": "Imagic", "pnp": "Plug-and-Play"}
SOURCES = ("photo", "composite")

SHARE = Limit(0.0, 1.0, 0.05)
OPTION_LIMITS: dict[str, Limit] = {
    "strength": SHARE,
    "alpha": Limit(0.0, 2.0, 0.05),
    **{
        name: entry.limit
        for name, entry in setting_table().items()
        if name in ("embedding_steps", "embedding_lr", "finetune_steps", "finetune_lr") and entry.limit
    },
    "inversion_steps": Limit(1, 1000, 1, whole=True),
    "feature_share": SHARE,
    "attention_share": SHARE,
    "noise_share": SHARE,
}
_Self = TypeVar("_Self", bound="Options")


@dataclass(frozen=True)
class Options:
    """Checks itself as `Settings` does; a field that is None takes the model's own value in `resolve`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "source":
                check_choice("source", value, SOURCES)
            elif value is not None or field.default is not None:
                object.__setattr__(self, field.name, check_number(field.name, value, OPTION_LIMITS[field.name]))

    def resolve(self: _Self, defaults: Settings) -> _Self:
        """These options with no gap, for a model whose settings are `defaults`."""
        return self

    def to_dict(self) -> dict[str, object]:
        """Every field that is set, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class SDEditOptions(Options):
    """`strength` is the share of the sampling steps that are taken: 0 gives the photo, 1 leaves little of it.

    `source` is what is edited: "photo", or "composite", the layered picture that ours trains on.
    """

    strength: float = 0.8
    source: str = "photo"


@dataclass(frozen=True)
class ImagicOptions(Options):
    """`alpha` is Imagic's η: 0 samples at the optimised embedding, 1 at the prompt's own, more goes beyond it.

    Steps and learning rates left at None follow the model's own: those of our stages, and 4 times the steps of
    stage 2. On SD v1.4 these are the published 500 at 1e-3 and 1000 at 2e-6.
    """

    alpha: float = 0.7  # the middle of the paper's 0.6 to 0.8
    embedding_steps: int = None  # type: ignore[assignment]  # None: the model's own, by `resolve`
    embedding_lr: float = None  # type: ignore[assignment]
    finetune_steps: int = None  # type: ignore[assignment]
    finetune_lr: float = None  # type: ignore[assignment]
    source: str = "photo"

    def resolve(self, defaults: Settings) -> ImagicOptions:
        own = {name: getattr(defaults, name) for name in ("embedding_steps", "embedding_lr", "finetune_lr")}
        own["finetune_steps"] = min(4 * defaults.finetune_steps, int(OPTION_LIMITS["finetune_steps"].high))
        gaps = {name: value for name, value in own.items() if getattr(self, name) is None}
        return replace(self, **gaps)


@dataclass(frozen=True)
class PnPOptions(Options):
    """The shares of the sampling steps, counted from the first, in which the photo's features (0.8) and its
    self-attention (0.5) take the place of the new picture's own.

    `inversion_steps` is about how many steps the photo is inverted in, and at least as many as are sampled. The
    authors take 999; on the miniature, all injected, 200 already give the photo back at 43 dB beside 45 dB.
    `noise_share` is where seeds come in: see `layerdiffusion.methods.pnp`. At 0, as its authors run it, every seed
    gives the same picture.
    """

    feature_share: float = 0.8
    attention_share: float = 0.5
    noise_share: float = 0.05
    inversion_steps: int = 200
    source: str = "photo"


OPTIONS: dict[str, type[Options]] = {"sdedit": SDEditOptions, "imagic": ImagicOptions, "pnp": PnPOptions}


def options_for(name: str, models: Models, **changes: object) -> Options | None:
    """The method's options on these models, every field set; None for LayerDiffusion, whose dials are in `Settings`.

    Raises a `SettingsError` for a method, an option or a value there is not.
    """
    check_choice("method", name, METHODS)
    if name == OWN:
        if changes:
            raise SettingsError(f"{name} has no option {next(iter(changes))}; its dials are settings of the edit.")
        return None
    known = [field.name for field in fields(OPTIONS[name])]
    unknown = next((change for change in changes if change not in known), None)
    if unknown is not None:
        raise SettingsError(f"{name} has no option {unknown}; it has {', '.join(known)}.")
    return OPTIONS[name](**changes).resolve(models.defaults)


def check_options(name: str, options: Options | None) -> None:
    """Refuse, with a `SettingsError`, a method there is not, and options that are another method's."""
    check_choice("method", name, METHODS)
    if options is not None and not isinstance(options, OPTIONS.get(name, ())):
        raise SettingsError(f"The options of {name} are not {type(options).__name__}; make them by options_for.")
