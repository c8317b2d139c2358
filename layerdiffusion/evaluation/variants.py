"""The variants of a comparison: the methods, the rows of the paper's Table 1, and ablations of what it leaves open.

A variant is one way of editing, in plain values, so that it can be written down, sent to a worker and run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerdiffusion.baselines import BASELINES, OWN, PAPERS
from layerdiffusion.errors import EditError
from layerdiffusion.settings import setting_table


@dataclass(frozen=True)
class Variant:
    """One way of editing: a method, and what it changes of its own defaults.

    `name` is safe as a part of a file's name and never changes its meaning. `settings` are fields of `Settings`
    laid over those of the whole run; `options` are what `layerdiffusion.baselines_for` takes.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    description: str = ""  # one line for a table's reader

    @property
    def engine(self) -> str:
        """The method's name in `layerdiffusion.baselines.LABELS`; records have always called our own "ours"."""
        return OWN if self.method == "ours" else self.method


def _compared(name: str, label: str) -> tuple[Variant, Variant]:
    """A compared method as its authors run it, and given the reference's background too: what is left of our lead."""
    layered = "the layered picture that ours trains on, and the whole prompt"
    return (
        Variant(name, name, description=f"{label} on the photo and the whole prompt"),
        Variant(f"{name}-layered", name, options={"source": "composite"}, description=f"{label} on {layered}"),
    )


def _row(name: str, description: str, **changes: Any) -> Variant:
    # λ1 and λ2 are in every row, so that the table is the paper's whatever the run's own weights are.
    return Variant(name, "ours", {"object_weight": 2.0, "background_weight": 1.0} | changes, {}, description)


def _by_name(*variants: Variant) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants}


_PLAIN, _LAYERED = zip(*(_compared(name, BASELINES[name]) for name in PAPERS), strict=True)
METHOD_VARIANTS = _by_name(
    Variant("ours", "ours", description="LayerDiffusion, all three stages"),
    *_PLAIN,
    *_LAYERED,
)
TABLE_1 = _by_name(
    _row("a", "no subject term (λ1 = 0)", object_weight=0.0),
    _row("b", "no background term (λ2 = 0)", background_weight=0.0),
    _row("c", "λ1 = 1, λ2 = 1", object_weight=1.0),
    _row("d", "λ1 = 3, λ2 = 1", object_weight=3.0),
    _row("e", "λ1 = 1, λ2 = 3", object_weight=1.0, background_weight=3.0),
    _row("f", "full: λ1 = 2, λ2 = 1"),
    _row("g", "no stage 1", embedding_steps=0),
    _row("h", "no stage 2", finetune_steps=0),
    _row("i", "no stage 3 (e_opt at every step)", schedule="edit"),
    _row("j", "α = 1 (the object's embedding alone)", alpha=1.0),
    _row("k", "α = 0 (the background's embedding alone)", alpha=0.0),
)

_ABLATION_DESCRIPTIONS = {
    "layers-composite": "stage 2 trains both terms on the layered picture",
    "layers-separate": "stage 2 trains each term on its own picture",
    "schedule-alternate": "stage 3 alternates between ê_a and e_opt",
    "schedule-object": "stage 3 takes ê_a at every step",
    "schedule-edit": "stage 3 takes e_opt at every step",
    "tune-full": "stage 2 tunes the whole network",
    "tune-lora": "stage 2 tunes low-rank additions",
}


def _ablation(setting: str, value: str) -> Variant:
    name = f"{setting}-{value}"
    description = _ABLATION_DESCRIPTIONS.get(name, f"{setting} is {value}")
    return Variant(name, "ours", {setting: value}, {}, description)


ABLATIONS = _by_name(
    *(
        _ablation(setting, choice)
        for setting, entry in setting_table().items()
        if not entry.check_text
        for choice in entry.choices or ()
    ),
    Variant("noise_offset-0", "ours", {"noise_offset": 0.0}, {}, "stages 1 and 2 see plain noise, as in the paper"),
)
ROWS = TABLE_1 | ABLATIONS


def variants(methods: Sequence[str] = (), rows: Sequence[str] = ()) -> list[Variant]:
    """The variants of these names, methods first, none twice.

    `methods`: names in `METHOD_VARIANTS`. `rows`: names in `ROWS`, which are the paper's "a" to "k" and ablations such
    as "layers-separate". Raises `EditError` for a name that isn't there.
    """
    asked = [_named(name, METHOD_VARIANTS, "method") for name in dict.fromkeys(methods)]
    return asked + [_named(name, ROWS, "row") for name in dict.fromkeys(rows)]


def _named(name: str, known: Mapping[str, Variant], kind: str) -> Variant:
    if name not in known:
        raise EditError(f"There is no {kind} {name!r}; choose from {', '.join(known)}.")
    return known[name]
