"""Small plots as inline SVG: intervals, a scatter of them, and histograms; drawn for light and for dark pages."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from layerdiffusion.evaluation.statistics import Interval

WIDTH = 470  # of the SVG's own units, in which a text's size is given too
COLOURS = ("#7358f0", "#d17a1f", "#16917a", "#d6456b", "#3f86d8", "#8a8a2b", "#9a6f4b", "#7d8597")
# Which of the series it is, as the colour says too; each with the size that looks as large as the others.
MARKERS = (("o", 8), ("s", 7.5), ("^", 9), ("D", 7.5), ("X", 9.5), ("v", 9), ("P", 9.5), ("*", 11))
# Stand-ins, since the page's own colours are known to its style sheet alone.
INK, FAINT = "#010203", "#040506"
SHOWN = {INK: "currentColor", FAINT: "#88888844"}
_RC_LOCK = threading.Lock()  # matplotlib's settings are the whole process's

Format = Callable[[float], str]


class _Plot:
    """One plot: matplotlib's figure and axes without a frame, and the words that appear over its marks."""

    def __init__(self, title: str, width: float, height: float) -> None:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        self.title = title
        self.hints: list[str] = []
        layout = ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=2 / 72)
        self.figure = Figure(figsize=(width / 72, height / 72), layout=layout)
        self.axes = self.figure.add_subplot()
        self.axes.set_frame_on(False)
        self.axes.tick_params(length=0, labelsize=11, colors=INK)

    def mark(self, x: Any, y: Any, index: int) -> Any:
        """The mark of a series; where it is left without a place, for the legend."""
        shape, size = MARKERS[index % len(MARKERS)]
        return self.axes.plot(x, y, shape, color=colour(index), ms=size, mew=0, clip_on=False)[0]

    def hint(self, artist: Any, words: str) -> None:
        artist.set_gid(f"hint-{len(self.hints)}")
        self.hints.append(words)

    def line(self, x: Sequence[float], y: Sequence[float], color: str, width: float) -> None:
        self.axes.plot(x, y, color=color, lw=width, solid_capstyle="butt", clip_on=False)

    def scale(self, axis: Any, format_value: Format) -> None:
        """Round values with grid lines along the axis."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_value(value)))
        axis.grid(True, color=FAINT, lw=1)

    def legend(self, series: Sequence[str]) -> None:
        """The names of the series above the plot, in one line where they fit."""
        handles = [self.mark([], [], index) for index in range(len(series))]
        widths = [26 + 7.4 * len(name) for name in series]
        columns = len(series) if sum(widths) <= WIDTH else max(1, int(WIDTH / max(widths)))
        self.figure.legend(handles, series, loc="outside upper left", ncols=columns, fontsize=12, frameon=False,
                           labelcolor=INK, handlelength=1, handletextpad=0.3, columnspacing=1)  # fmt: skip

    def svg(self) -> Markup:
        """The plot as an element for a page; the same values give the same text."""
        import matplotlib

        buffer = io.StringIO()
        with _RC_LOCK, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.title}):
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        view = text.partition('viewBox="')[2].partition('"')[0]
        body = text[text.index(">", text.index("<svg")) + 1 :]
        body = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", body, flags=re.DOTALL)
        for hidden, shown in SHOWN.items():
            body = body.replace(hidden, shown)
        body = re.sub(
            r'<g id="hint-(\d+)">', lambda found: f"<g><title>{escape(self.hints[int(found[1])])}</title>", body
        )
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
        body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
        title, width = escape(self.title), round(self.figure.get_figwidth() * 72)
        return Markup(
            f'<svg viewBox="{view}" role="img" aria-label="{title}" class="plot" '
            f'style="max-width:{width}px;width:100%">'
            f"<title>{title}</title>{body.strip()}"
        )


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def interval_plot(
    title: str,
    rows: Sequence[tuple[str, Sequence[Interval | None]]],
    series: Sequence[str],
    format_value: Format,
    zero: bool = False,
) -> Markup:
    """For each row a mark and its interval, one for each of `series`; `zero` draws the line that nothing differs at."""
    if not any(interval for _, found in rows for interval in found):
        return Markup("")
    many = len(series) > 1
    step = 13 if many else 20
    block = step * len(series) + 8
    plot = _Plot(title, WIDTH, block * len(rows) + (64 if many else 34))
    for at, (label, found) in enumerate(rows):
        if at and many:
            plot.axes.axhline(at, color=FAINT, lw=1)
        for index, interval in enumerate(found):
            if interval is not None:
                y = at + (4 + step * (index + 0.5)) / block
                plot.line(interval[1:], [y, y], colour(index), 2)
                mean, low, high = map(format_value, interval)
                words = f"{label}, {series[index]}: {mean}, from {low} to {high}"
                plot.hint(plot.mark(interval.mean, y, index), words)
    if zero:
        plot.axes.axvline(0, color=INK, lw=1.2)
    plot.axes.set_ylim(len(rows), 0)
    plot.axes.set_yticks([at + 0.5 for at in range(len(rows))], [label for label, _ in rows], fontsize=13)
    plot.scale(plot.axes.xaxis, format_value)
    if many:
        plot.legend(series)
    return plot.svg()


def scatter(
    title: str,
    points: Sequence[tuple[Interval, Interval]],
    series: Sequence[str],
    axes: tuple[str, str],
    formats: tuple[Format, Format],
) -> Markup:
    """A mark for each of `series`, with both its intervals as a cross."""
    if not points:
        return Markup("")
    plot = _Plot(title, WIDTH, 356)
    for index, (x, y) in enumerate(points):
        plot.line(x[1:], [y.mean, y.mean], colour(index), 1.6)
        plot.line([x.mean, x.mean], y[1:], colour(index), 1.6)
        hint = f"{series[index]}: {axes[0]} {formats[0](x.mean)}, {axes[1]} {formats[1](y.mean)}"
        plot.hint(plot.mark(x.mean, y.mean, index), hint)
    for axis, name, format_value in zip((plot.axes.xaxis, plot.axes.yaxis), axes, formats, strict=True):
        plot.scale(axis, format_value)
        axis.set_label_text(f"{name} →", fontsize=12, color=INK)
    plot.legend(series)
    return plot.svg()


def histogram(title: str, shares: Sequence[Interval], index: int = 0, width: int = 220, height: int = 150) -> Markup:
    """The share of each score from 1 up, a bar with its interval as a whisker; shares are 0 to 1."""
    plot = _Plot(title, width, height)
    scores = range(1, len(shares) + 1)
    for score, share in zip(scores, shares, strict=True):
        mean, low, high = (f"{100 * value:.0f}" for value in share)
        (bar,) = plot.axes.bar(score, share.mean, 0.72, color=colour(index), alpha=0.55)
        plot.hint(bar, f"{score}: {mean} %, from {low} to {high} %")
        plot.line([score, score], share[1:], INK, 1.4)
        for end in share[1:]:
            plot.line([score - 0.1, score + 0.1], [end, end], INK, 1.4)
        plot.axes.annotate(f"{mean} %", (score, share.high), (0, 4), textcoords="offset points", ha="center",
                           fontsize=11, color=INK)  # fmt: skip
    most = max([0.25, *(share.high for share in shares)])
    plot.axes.set(ylim=(0, 1.15 * most), xlim=(0.5, len(shares) + 0.5), yticks=[], xticks=scores)
    plot.axes.axhline(0, color=INK, lw=1)
    return plot.svg()
