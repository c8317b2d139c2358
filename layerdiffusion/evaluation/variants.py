"""The columns of a comparison: the methods, the rows of the paper's Table 1, and the readings the paper leaves open.

A column is one way of editing, in plain values, so that it can be written down, sent to a worker and run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerdiffusion.errors import EditError
from layerdiffusion.methods.options import OWN
from layerdiffusion.settings import setting_table


@dataclass(frozen=True)
class Column:
    """One way of editing: a method, and what it changes of its own defaults.

    `name` is safe as a part of a file's name and never changes its meaning. `settings` are fields of `Settings`
    laid over those of the whole run; `options` are what `layerdiffusion.methods.options_for` takes.
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    says: str = ""  # one line for a table's reader

    @property
    def engine(self) -> str:
        """The method's name in `layerdiffusion.methods`; records have always called our own "ours"."""
        return OWN if self.method == "ours" else self.method


_WHOLE = "the photo and the whole prompt"
_LAYERED = "the layered picture that ours trains on, and the whole prompt"
METHODS = {
    "ours": Column("ours", "ours", says="LayerDiffusion, all three stages"),
    "sdedit": Column("sdedit", "sdedit", says=f"SDEdit on {_WHOLE}"),
    "imagic": Column("imagic", "imagic", says=f"Imagic on {_WHOLE}"),
    "pnp": Column("pnp", "pnp", says=f"Plug-and-Play on {_WHOLE}"),
    # Not as their authors run them: what is left of ours' lead once the others see the reference's background too.
    "sdedit-layered": Column("sdedit-layered", "sdedit", {}, {"source": "composite"}, f"SDEdit on {_LAYERED}"),
    "imagic-layered": Column("imagic-layered", "imagic", {}, {"source": "composite"}, f"Imagic on {_LAYERED}"),
    "pnp-layered": Column("pnp-layered", "pnp", {}, {"source": "composite"}, f"Plug-and-Play on {_LAYERED}"),
}


def _row(name: str, says: str, **changes: Any) -> Column:
    # λ1 and λ2 are in every row, so that the table is the paper's whatever the run's own weights are.
    return Column(name, "ours", {"object_weight": 2.0, "background_weight": 1.0} | changes, {}, says)


TABLE_1 = {
    row.name: row
    for row in (
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
}

_READING_SAYS = {
    "layers-composite": "stage 2 trains both terms on the layered picture",
    "layers-overlay": "the background's own subject is left out of the losses, not painted out",
    "layers-separate": "stage 2 trains each term on its own picture",
    "embedding_mask-background": "stage 1 looks at the background",
    "embedding_mask-around": "stage 1 sees the layered picture, and looks off its subject",
    "embedding_mask-object": "stage 1 looks at the subject",
    "embedding_mask-everything": "stage 1 looks at the whole background picture",
    "schedule-alternate": "stage 3 alternates between ê_a and e_opt",
    "schedule-object": "stage 3 takes ê_a at every step",
    "schedule-edit": "stage 3 takes e_opt at every step",
    "tune-full": "stage 2 tunes the whole network",
    "tune-lora": "stage 2 tunes low-rank additions",
}
READINGS = {
    f"{setting}-{choice}": Column(
        f"{setting}-{choice}",
        "ours",
        {setting: choice},
        {},
        _READING_SAYS.get(f"{setting}-{choice}", f"{setting} is {choice}"),
    )
    for setting, entry in setting_table().items()
    for choice in entry.choices or ()
} | {
    "noise_offset-0": Column(
        "noise_offset-0", "ours", {"noise_offset": 0.0}, {}, "stages 1 and 2 see plain noise, as in the paper"
    )
}

ROWS = TABLE_1 | READINGS


def columns(methods: Sequence[str] = (), rows: Sequence[str] = ()) -> list[Column]:
    """The columns of these names, methods first, none twice.

    `methods`: names in `METHODS`. `rows`: names in `ROWS`, which are the paper's "a" to "k" and open readings such
    as "layers-separate". Raises `EditError` for a name that isn't there.
    """
    asked = [_named(name, METHODS, "method") for name in dict.fromkeys(methods)]
    return asked + [_named(name, ROWS, "row") for name in dict.fromkeys(rows)]


def _named(name: str, known: Mapping[str, Column], what: str) -> Column:
    if name not in known:
        raise EditError(f"There is no {what} {name!r}; choose from {', '.join(known)}.")
    return known[name]
