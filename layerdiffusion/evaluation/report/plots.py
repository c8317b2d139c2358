"""Small plots as inline SVG: intervals, a scatter of them, and histograms; drawn for light and for dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from layerdiffusion.evaluation.report.markup import Html, join, tag

WIDTH = 470
COLOURS = ("#7358f0", "#d17a1f", "#16917a", "#d6456b", "#3f86d8", "#8a8a2b", "#9a6f4b", "#7d8597")
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
INK, FAINT = "currentColor", "#8884"


class Point(NamedTuple):
    """A mean and its interval."""

    mean: float
    low: float
    high: float


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def interval_plot(
    title: str,
    rows: Sequence[tuple[str, Sequence[Point | None]]],
    series: Sequence[str],
    told: Callable[[float], str],
    zero: bool = False,
) -> Html:
    """For each row a dot and its interval, one for each of `series`; `zero` draws the line that nothing differs at."""
    points = [point for _, found in rows for point in found if point is not None]
    if not points:
        return Html("")
    left = min(170, 24 + 6.6 * max(len(label) for label, _ in rows))
    step = 13 if len(series) > 1 else 20
    top = (36 if len(series) > 1 else 12) + 18 * (_legend_lines(series) - 1)
    block = step * len(series) + 8
    height = top + block * len(rows) + 30
    low, high = min(p.low for p in points), max(p.high for p in points)
    scale = _Scale(min(low, 0) if zero else low, max(high, 0) if zero else high, left, WIDTH - 16)
    parts = [_across(scale, top, height - 26, told)]
    if zero:
        parts.append(_line(scale(0), top - 4, scale(0), height - 26, INK, 1.2))
    for at, (label, found) in enumerate(rows):
        y = top + at * block
        parts.append(_text(left - 10, y + block / 2, label, "end"))
        if at and len(series) > 1:
            parts.append(_line(0, y, WIDTH, y, FAINT, 1))
        for index, point in enumerate(found):
            if point is None:
                continue
            row = y + 4 + step * (index + 0.5)
            parts.append(_line(scale(point.low), row, scale(point.high), row, colour(index), 2))
            hint = f"{label}, {series[index]}: {told(point.mean)}, from {told(point.low)} to {told(point.high)}"
            parts.append(_mark(scale(point.mean), row, index, hint))
    if len(series) > 1:
        parts.append(_legend(series))
    return _svg(title, height, parts)


def scatter(
    title: str,
    points: Sequence[tuple[Point, Point]],
    series: Sequence[str],
    axes: tuple[str, str],
    told: tuple[Callable[[float], str], Callable[[float], str]],
) -> Html:
    """A mark for each of `series`, with both its intervals as a cross."""
    if not points:
        return Html("")
    top, bottom, left = 34 + 18 * (_legend_lines(series) - 1), 310, 54
    across = _Scale(min(x.low for x, _ in points), max(x.high for x, _ in points), left + 10, WIDTH - 16)
    up = _Scale(min(y.low for _, y in points), max(y.high for _, y in points), bottom - 8, top + 8)
    parts = [_across(across, top, bottom, told[0])]
    for value in up.ticks():
        parts.append(_line(left, up(value), WIDTH - 10, up(value), FAINT, 1))
        parts.append(_text(left - 6, up(value), told[1](value), "end", 11))
    for index, (x, y) in enumerate(points):
        parts.append(_line(across(x.low), up(y.mean), across(x.high), up(y.mean), colour(index), 1.6))
        parts.append(_line(across(x.mean), up(y.low), across(x.mean), up(y.high), colour(index), 1.6))
        hint = f"{series[index]}: {axes[0]} {told[0](x.mean)}, {axes[1]} {told[1](y.mean)}"
        parts.append(_mark(across(x.mean), up(y.mean), index, hint, 6))
    parts.append(_text((left + WIDTH) / 2, bottom + 36, axes[0] + " →", "middle", 12))
    side = _text(0, 0, axes[1] + " →", "middle", 12)
    parts.append(tag("g", side, transform=f"translate(11 {(top + bottom) / 2}) rotate(-90)"))
    parts.append(_legend(series))
    return _svg(title, bottom + 46, parts)


def histogram(title: str, shares: Sequence[Point], index: int = 0, width: int = 220, height: int = 150) -> Html:
    """The share of each score from 1 up, a bar with its interval as a whisker; shares are 0 to 1."""
    most = max([0.25, *(point.high for point in shares)])
    foot, room = height - 22, (width - 12) / len(shares)
    parts = [_line(4, foot, width - 4, foot, INK, 1)]
    for at, point in enumerate(shares):
        x, tall = 6 + at * room, (foot - 20) * point.mean / most
        hint = f"{at + 1}: {100 * point.mean:.0f} %, from {100 * point.low:.0f} to {100 * point.high:.0f} %"
        bar = tag("title", hint)
        parts.append(tag("rect", bar, x=_n(x + 4), y=_n(foot - tall), width=_n(room - 8), height=_n(tall), rx=2,
                         fill=colour(index), fill_opacity=0.55))  # fmt: skip
        middle, ends = x + room / 2, [foot - (foot - 20) * end / most for end in (point.low, point.high)]
        parts.append(_line(middle, ends[0], middle, ends[1], INK, 1.4))
        parts += [_line(middle - 4, end, middle + 4, end, INK, 1.4) for end in ends]
        parts.append(_text(middle, height - 9, str(at + 1), "middle", 12))
        parts.append(_text(middle, max(9, ends[1] - 9), f"{100 * point.mean:.0f} %", "middle", 11))
    return _svg(title, height, parts, width)


class _Scale:
    """Values to pixels, with a little room at both ends."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the scale."""
        rough = (self.high - self.low) / count
        ten = 10.0 ** math.floor(math.log10(rough))
        step = next(ten * m for m in (1, 2, 2.5, 5, 10) if ten * m >= rough)
        first = math.ceil(self.low / step)
        return [(first + i) * step for i in range(math.floor(self.high / step) - first + 1)]


def _across(scale: _Scale, top: float, bottom: float, told: Callable[[float], str]) -> Html:
    lines = (_line(scale(value), top - 4, scale(value), bottom, FAINT, 1) for value in scale.ticks())
    return join([*lines, *(_text(scale(value), bottom + 14, told(value), "middle", 11) for value in scale.ticks())])


def _legend_places(series: Sequence[str]) -> list[tuple[float, int]]:
    places, x, line = [], 8.0, 0
    for name in series:
        width = 26 + 7.2 * len(name)
        if x + width > WIDTH and x > 8:
            x, line = 8.0, line + 1
        places.append((x, line))
        x += width
    return places


def _legend_lines(series: Sequence[str]) -> int:
    return _legend_places(series)[-1][1] + 1


def _legend(series: Sequence[str]) -> Html:
    parts = []
    for index, (name, (x, line)) in enumerate(zip(series, _legend_places(series), strict=True)):
        parts += [_mark(x + 6, 12 + 18 * line, index), _text(x + 17, 12 + 18 * line, name, "start")]
    return join(parts)


def _svg(title: str, height: float, parts: Sequence[Html], width: int = WIDTH) -> Html:
    return tag("svg", tag("title", title), *parts, viewBox=f"0 0 {width} {_n(height)}", role="img", aria_label=title,
               class_="plot", style=f"max-width:{width}px;width:100%")  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float) -> Html:
    return tag("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), stroke=stroke, stroke_width=width)


def _text(x: float, y: float, words: str, anchor: str, size: float = 13) -> Html:
    return tag("text", words, x=_n(x), y=_n(y), text_anchor=anchor, font_size=size, fill=INK,
               dominant_baseline="central")  # fmt: skip


def _mark(x: float, y: float, index: int, hint: str = "", r: float = 4.5) -> Html:
    """The shape says which of the series it is, as its colour does."""
    fill, title = colour(index), [tag("title", hint)] if hint else []
    shape = SHAPES[index % len(SHAPES)]
    if shape == "circle":
        return tag("circle", *title, cx=_n(x), cy=_n(y), r=r, fill=fill)
    if shape == "square":
        return tag("rect", *title, x=_n(x - r * 0.9), y=_n(y - r * 0.9), width=r * 1.8, height=r * 1.8, fill=fill)
    if shape == "cross":
        d = f"M{_n(x - r)} {_n(y - r)}L{_n(x + r)} {_n(y + r)}M{_n(x - r)} {_n(y + r)}L{_n(x + r)} {_n(y - r)}"
        return tag("path", *title, d=d, stroke=fill, stroke_width=2.4)
    corners = (
        [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)] if shape == "triangle" else [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)]
    )
    return tag("polygon", *title, points=" ".join(f"{_n(x + r * a)},{_n(y + r * b)}" for a, b in corners), fill=fill)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
