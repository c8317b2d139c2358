"""The dials: their names, hints and limits, and the presets that set several at once."""

from dataclasses import replace
from typing import NamedTuple

from layerdiffusion.edit import LIMITS, MAX_SEEDS, Limit, Settings
from layerdiffusion.errors import SettingsError


class Dial(NamedTuple):
    name: str  # the field of `Settings`
    label: str
    hint: str
    limit: Limit


def _dial(name: str, label: str, hint: str, low: float | None = None, high: float | None = None) -> Dial:
    limit = LIMITS[name]
    return Dial(name, label, hint, limit._replace(low=low or limit.low, high=high or limit.high))


DIALS = (
    _dial("alpha", "α · subject words", "Higher follows what the subject should do, lower leans on the background."),
    _dial("object_weight", "λ1 · keep subject", "Higher keeps more of its looks; 3 suits a small subject."),
    _dial("background_weight", "λ2 · keep place", "Higher keeps more of the place."),
    _dial("embedding_steps", "Stage 1 · steps", "Fits the words to the place; 0 leaves it out."),
    _dial("finetune_steps", "Stage 2 · steps", "Learns both layers: more is closer to them, fewer is freer."),
    _dial("sampling_steps", "Stage 3 · steps", "Paints the pictures; more is finer and slower.", high=200),
)
ADVANCED = (
    _dial("guidance_scale", "Guidance", "How strictly the words are followed."),
    _dial("embedding_lr", "Stage 1 · learning rate", "How far each step moves the words."),
    _dial("finetune_lr", "Stage 2 · learning rate", "How far each step moves the model."),
    _dial("training_seed", "Training seed", "The chance in stages 1 and 2."),
    _dial("noise_offset", "Noise offset", "Hides colours in training, so that the words learn them; 0 in the paper."),
)
CHOICE_LABELS = {
    "schedule": (
        "Stage 3 · words",
        "Which words a painting step follows.",
        {"alternate": "alternate (the paper)", "object": "subject only", "edit": "mixed only"},
    ),
    "embedding_mask": (
        "Stage 1 · looks at",
        "Which part of the picture the words are fitted to.",
        {
            "background": "background",
            "around": "around the subject",
            "object": "subject",
            "everything": "everything",
        },
    ),
    "tune": ("Stage 2 · trains", "All of the network, or a small addition to it.", {"full": "all", "lora": "LoRA"}),
    "layers": (
        "Stage 2 · learns from",
        "One layered picture, or each picture by itself.",
        {
            "composite": "layered picture",
            "overlay": "layered, unpainted",
            "separate": "separate pictures",
        },
    ),
}
SEEDS_HINT = "How many versions to paint at once."
MOST_SEEDS = min(8, MAX_SEEDS)

PRESETS = ("Paper", "Quick", "Small subject")


def preset(name: str, defaults: Settings) -> Settings:
    """The settings of a preset; every field of `defaults` must be set."""
    if name == "Quick":
        third = {
            field: max(1, round(getattr(defaults, field) / 3)) if getattr(defaults, field) else 0
            for field in ("embedding_steps", "finetune_steps")
        }
        return replace(defaults, sampling_steps=max(10, defaults.sampling_steps // 2), seeds=(0, 1), **third)
    if name == "Small subject":
        return replace(defaults, object_weight=3.0)
    return defaults


def seeds_of(count: int, first: int, exact: str) -> tuple[int, ...]:
    """The seeds: those written out in `exact`, else `count` of them from `first` on."""
    if exact.strip():
        parts = [part for part in exact.replace(",", " ").split() if part]
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise SettingsError(f"The seeds must be whole numbers with commas, as in 3, 17, not “{exact[:40]}”.")
        return tuple(int(part) for part in parts)
    return tuple(range(int(first), int(first) + int(count)))
