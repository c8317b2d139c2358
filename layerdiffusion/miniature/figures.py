"""Figures of a miniature beside their bars, and the file they are recorded in, from which the card is made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

FIGURES = "figures.json"


@dataclass(frozen=True)
class Figure:
    """One figure of the table. `value` None: the part isn't there. `bar` None: told, but nothing to reach."""

    part: str
    name: str
    value: float | None
    bar: float | None
    unit: str = "%"  # "%" figures are shares of 1
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the bar is met; what can't be measured doesn't meet it."""
        if self.bar is None:
            return True
        if self.value is None:
            return False
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def formatted(self, number: float | None) -> str:
        """`number` in this figure's unit."""
        if number is None:
            return "–"
        if self.unit == "%":
            return f"{100 * number:.1f} %"
        return f"{number:.3f}" if self.unit == "" else f"{number:.1f} {self.unit}"


def record(figures: list[Figure], folder: Path, quick: bool, order: Iterable[str]) -> None:
    """Put the figures into `figures.json`, parts in that order; those of parts not measured now stay as they were."""
    path = folder / FIGURES
    now = {figure.part for figure in figures}
    stay = [f for f in recorded(folder) if f.part not in now]
    rough = (rough_parts(folder) - now) | (now if quick else set())
    places = {part: at for at, part in enumerate(order)}
    rows = [asdict(figure) for figure in sorted([*stay, *figures], key=lambda figure: places[figure.part])]
    path.write_text(json.dumps({"quick": sorted(rough), "figures": rows}, indent=1) + "\n", encoding="utf-8")


def rough_parts(folder: Path) -> set[str]:
    """The parts whose recorded figures are quick ones."""
    path = folder / FIGURES
    if not path.exists():
        return set()
    saved = json.loads(path.read_text(encoding="utf-8"))
    return set(saved["quick"])


def recorded(folder: Path) -> list[Figure]:
    """The figures that `record` wrote; none where it never did."""
    path = folder / FIGURES
    if not path.exists():
        return []
    return [Figure(**row) for row in json.loads(path.read_text(encoding="utf-8"))["figures"]]
