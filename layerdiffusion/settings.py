"""`Settings`, the dials of the method, as one table: each field carries its default, range and words.

The command line's help, the page's dials and the recipe's checks are made from this table; a new setting is one more
field here, and its use in `method.layerdiffusion.edit`.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple, TypeVar, cast

import numpy as np

from layerdiffusion.errors import RecipeError, SettingsError, printable

MAX_SEEDS = 16
EMBEDDINGS, FINETUNE, SAMPLING = "embeddings", "finetune", "sampling"  # the stages, in their order
MOST_ELONGATED = 2  # of a picture: its longer side in shorter ones
_Self = TypeVar("_Self", bound="Settings")
T = TypeVar("T")


class Limit(NamedTuple):
    """An allowed range, ends included; `step` is a slider's, `whole` says that only integers make sense."""

    low: float
    high: float
    step: float
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low:.10g} to {self.high:.10g}"


SEED = Limit(0, 2**32 - 1, 1, whole=True)


@dataclass(frozen=True)
class Setting:
    """One entry of the table."""

    default: object  # the paper's, for Stable Diffusion v1.4 at 512 × 512
    label: str
    help: str  # one line: what it does to the picture
    limit: Limit | None = None  # of a number
    choices: Mapping[str, str] | None = None  # of a word: each value and its label
    check_text: Callable[[object], str] | None = None  # of a word that the choices are only examples of
    advanced: bool = False  # folded away on the page
    slider_high: float | None = None  # a slider's end, where the limit's would make it too coarse
    name: str = ""  # the field's, put in by `setting_table`

    def check(self, value: object) -> object:
        """The value as the field keeps it; raises a `SettingsError` that names the field and what is allowed."""
        if self.name == "seeds":
            return _seeds(value)
        if self.check_text is not None:
            return self.check_text(value)
        if self.choices is not None:
            return check_choice(self.name, value, tuple(self.choices))
        assert self.limit is not None
        return check_number(self.name, value, self.limit)


def setting(default: T, **entry: object) -> T:
    """A field of `Settings` that is None until it is set, with its `Setting`, whose other fields are `entry`."""
    return cast(T, field(default=None, metadata={"setting": Setting(default, **entry)}))  # type: ignore[arg-type]


def _shape(value: object) -> str:
    """ "photo", "square", or "W:H" with whole numbers from 1 : 2 to 2 : 1."""
    parts = str(value).replace(" ", "").split(":")
    if value in ("photo", "square"):
        return str(value)
    if len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        width, height = map(int, parts)
        if 0 < max(width, height) <= MOST_ELONGATED * min(width, height):
            return f"{width}:{height}"
    raise SettingsError(
        f"shape is {shortened(value)}: it must be photo, square or a ratio from 1:{MOST_ELONGATED} to "
        f"{MOST_ELONGATED}:1, as in 4:3."
    )


@dataclass(frozen=True)
class Settings:
    """The dials of the method; a field that is left out takes the model's own default (see `resolve`).

    Numbers outside their range and unknown words are refused with a `SettingsError` that names the field and what is
    allowed. Zero steps of stage 1 or stage 2 are legal: they are Table 1's rows (g) and (h).
    """

    alpha: float = setting(
        0.7, limit=Limit(0.0, 1.0, 0.05), label="α · subject words",
        help="Eq. 2: higher follows what the subject should do, lower leans on the background.",
    )  # fmt: skip
    object_weight: float = setting(
        2.0, limit=Limit(0.0, 10.0, 0.1), label="λ1 · keep subject",
        help="Higher keeps more of the subject's looks; 3 suits a small subject.",
    )  # fmt: skip
    background_weight: float = setting(
        1.0, limit=Limit(0.0, 10.0, 0.1), label="λ2 · keep place", help="Higher keeps more of the place.",
    )  # fmt: skip
    embedding_steps: int = setting(
        500, limit=Limit(0, 2000, 10, whole=True), label="Stage 1 · steps",
        help="Steps that fit the words to the background; 0 leaves stage 1 out.",
    )  # fmt: skip
    embedding_lr: float = setting(
        1e-3, limit=Limit(0.0, 0.1, 1e-4), advanced=True, label="Stage 1 · learning rate",
        help="How far each step of stage 1 moves the words.",
    )  # fmt: skip
    finetune_steps: int = setting(
        250, limit=Limit(0, 2000, 10, whole=True), label="Stage 2 · steps",
        help="Steps that fit the model to both layers: more is closer to them, fewer is freer; 0 leaves stage 2 out.",
    )  # fmt: skip
    finetune_lr: float = setting(
        2e-6, limit=Limit(0.0, 0.1, 1e-6), advanced=True, label="Stage 2 · learning rate",
        help="How far each step of stage 2 moves the model.",
    )  # fmt: skip
    sampling_steps: int = setting(
        50, limit=Limit(1, 1000, 1, whole=True), slider_high=200, label="Stage 3 · steps",
        help="Steps that make the pictures; more is finer and slower.",
    )  # fmt: skip
    guidance_scale: float = setting(
        7.5, limit=Limit(0.0, 30.0, 0.5), advanced=True, label="Guidance",
        help="How strictly the words are followed.",
    )  # fmt: skip
    schedule: str = setting(
        "alternate", advanced=True, label="Stage 3 · words",
        choices={"alternate": "alternate (the paper)", "object": "subject only", "edit": "mixed only"},
        help="Eq. 7: which words a step of stage 3 follows.",
    )  # fmt: skip
    solver: str = setting(
        "ddim", advanced=True, label="Stage 3 · solver",
        choices={"ddim": "DDIM (the paper)", "dpmpp": "DPM-Solver++"},
        help="How a step of stage 3 is taken: DPM-Solver++ comes as far in about half the steps.",
    )  # fmt: skip
    shape: str = setting(
        "photo", check_text=_shape, advanced=True, label="Shape of the pictures",
        choices={"photo": "as the photo", "square": "square (the paper)", "4:3": "4:3", "3:2": "3:2", "16:9": "16:9",
                 "3:4": "3:4", "2:3": "2:3", "9:16": "9:16"},
        help="What is cut to this shape is what the model sees; or any other ratio from 1:2 to 2:1.",
    )  # fmt: skip
    seeds: tuple[int, ...] = setting(
        (0, 1, 2, 3), limit=SEED, label="Seeds", help="One picture for each, made as one batch.",
    )  # fmt: skip
    training_seed: int = setting(
        0, limit=SEED, advanced=True, label="Training seed",
        help="The noise of stages 1 and 2.",
    )  # fmt: skip
    noise_offset: float = setting(
        0.0, limit=Limit(0.0, 1.0, 0.05), advanced=True, label="Noise offset",
        help="How far that noise is moved as a whole: it hides colours, so that the words learn them; the paper has 0.",
    )  # fmt: skip
    draws: int = setting(
        1, limit=Limit(1, 8, 1, whole=True), advanced=True, label="Draws a step",
        help="How many draws of noise each step of stages 1 and 2 learns from at once; the paper has 1.",
    )  # fmt: skip
    tune: str = setting(
        "full", advanced=True, label="Stage 2 · trains", choices={"full": "all", "lora": "LoRA"},
        help="All of the network, or a small addition to it.",
    )  # fmt: skip
    layers: str = setting(
        "composite", advanced=True, label="Stage 2 · learns from",
        choices={"composite": "layered picture", "separate": "separate pictures"},
        help="One picture, the subject laid over the background; or each picture by itself.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name, entry in setting_table(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, entry.check(value))

    def resolve(self: _Self, defaults: Settings | None = None) -> _Self:
        """These settings, every gap filled: first from `defaults` (the model's own), then by the paper's."""
        filled = {}
        for name, entry in setting_table(type(self)).items():
            candidates = getattr(self, name), getattr(defaults, name, None), entry.default
            filled[name] = next(value for value in candidates if value is not None)
        return type(self)(**filled)  # type: ignore[arg-type]  # checked one by one, by the class

    def to_dict(self) -> dict[str, object]:
        """The fields that are set, as JSON holds them."""
        values = {name: getattr(self, name) for name in setting_table(type(self))}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }

    @classmethod
    def from_dict(cls: type[_Self], data: object) -> _Self:
        """The settings that `to_dict` wrote; raises `RecipeError` for a field there is not."""
        return cls(**known_fields(data, setting_table(cls), "settings"))  # type: ignore[arg-type]


_TABLES: dict[type[Settings], dict[str, Setting]] = {}


def setting_table(settings: type[Settings] = Settings) -> dict[str, Setting]:
    """Name → entry of every field of `settings`, in the order in which people read them."""
    if settings not in _TABLES:
        _TABLES[settings] = {
            one.name: replace(one.metadata["setting"], name=one.name)
            for one in fields(settings)
            if "setting" in one.metadata
        }
    return _TABLES[settings]


def check_number(name: str, value: object, limit: Limit) -> float | int:
    """The value as a plain number inside the limit; raises a `SettingsError` that names it and what is allowed."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    kind = "a whole number" if limit.whole else "a number"
    refusal = SettingsError(f"{name} must be {kind} from {limit}, not {shortened(value)}.")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refusal
    number = cast(float, value)
    if not limit.low <= number <= limit.high:  # true of NaN, and of integers too long for a float
        raise refusal
    number = float(number)
    if limit.whole and number != math.floor(number):
        raise refusal
    return int(number) if limit.whole else number


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """The value, one of the words allowed; raises a `SettingsError` that names them."""
    if not isinstance(value, str) or value not in allowed:
        raise SettingsError(f"{name} is {shortened(value)}: it must be {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return value


def known_fields(data: object, known: Iterable[str], where: str) -> dict[str, object]:
    """`data` as a dict that has only `known` names; raises a `RecipeError` that names the part of the recipe."""
    if not isinstance(data, Mapping):
        raise RecipeError(f'The recipe\'s "{where}" is {shortened(data)}: it must be a JSON object.')
    extra = sorted(str(name) for name in set(data) - set(known))
    if extra:
        raise RecipeError(
            f'The recipe\'s {where} has an unknown field "{printable(extra[0])}"; remove it or correct its spelling.'
        )
    return dict(data)


def shortened(value: object) -> str:
    """The value as an error shows it."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."


def _seeds(value: object) -> tuple[int, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable | numbers.Number):
        raise SettingsError(f"seeds is {shortened(value)}: it must be a list of whole numbers.")
    values = list(value) if isinstance(value, Iterable) and getattr(value, "ndim", True) else [value]
    if not 1 <= len(values) <= MAX_SEEDS:
        raise SettingsError(f"seeds has {len(values)} numbers: it must have 1 to {MAX_SEEDS}, one for each picture.")
    seeds = tuple(int(check_number("seeds", seed, SEED)) for seed in values)
    twice = [seed for index, seed in enumerate(seeds) if seed in seeds[:index]]
    if twice:
        raise SettingsError(f"seeds has {twice[0]} twice, which would make the same picture twice; name it once.")
    return seeds


PRESETS = ("paper", "quick", "small subject")
PRESET_FLAGS = {name.replace(" ", "-"): name for name in PRESETS}  # as a command line has them


def model_settings(text: str) -> tuple[Settings, Settings | None]:
    """What a model's `settings.json` says: its own settings, and under "quick" those of its quick preset, or None.

    Raises a `ValueError` for what is no such file, a `SettingsError` among them.
    """
    given = json.loads(text)
    quick = given.pop("quick", None) if isinstance(given, dict) else None
    return Settings.from_dict(given), None if quick is None else Settings.from_dict(quick)


def preset(name: str, model_defaults: Settings, quick: Settings | None = None) -> Settings:
    """The settings of one of `PRESETS` for a model that has these defaults, every field set; seeds stay as they are.

    "quick" trains LoRA on four draws a step, in a fifth of stage 2's steps and a twelfth of stage 1's, and samples by
    DPM-Solver++ in two fifths of the steps; a step of four draws costs much less than four steps. A model can have
    another way, `quick`.
    """
    if name == "quick" and quick is not None:
        return quick.resolve(model_defaults)
    if name == "quick":
        fewer = {"embedding_steps": 12, "finetune_steps": 5, "sampling_steps": 2.5}
        steps = {field: math.ceil(getattr(model_defaults, field) / part) for field, part in fewer.items()}
        return replace(model_defaults, tune="lora", draws=4, solver="dpmpp", **steps)
    if name == "small subject":
        return replace(model_defaults, object_weight=3.0)
    check_choice("preset", name, PRESETS)
    return model_defaults


# Fields that settings once had, and the paper's value of each: the only one there is now.
RETIRED = {
    "target_weight": 0.0, "strength": 1.0, "layout": 0.0, "surroundings": 0.0, "start": "layered", "forget": "none",
    "embedding_training": "before", "embedding_mask": "background",
}  # fmt: skip
PAPER = Settings().resolve()  # the paper's own, Stable Diffusion v1.4 at 512 × 512
