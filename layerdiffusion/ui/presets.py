"""The dials, from the table of settings, and the presets that set several at once."""

from dataclasses import replace

from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import MAX_SEEDS, Settings, setting_table

TABLE = {name: entry for name, entry in setting_table().items() if name != "seeds"}
DIALS = tuple(entry for entry in TABLE.values() if not entry.advanced)
ADVANCED = tuple(entry for entry in TABLE.values() if entry.advanced and entry.limit)
WORDS = tuple(entry for entry in TABLE.values() if entry.choices)
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
