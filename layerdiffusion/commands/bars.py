"""Progress bars: redrawn on a terminal, plain lines now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from layerdiffusion.progress import Progress

EVERY = 10  # seconds between two lines where there is no terminal
STAGE_NAMES = {
    "background": "Background",
    "embeddings": "Embeddings",
    "finetune": "Fine-tuning",
    "sampling": "Sampling",
    "inversion": "Inversion",
}


class PlainLines(tqdm):
    """tqdm for a log, a pipe or CI: a line every `EVERY` seconds at most, and one at the end."""

    def __init__(self, *args: Any, **options: Any) -> None:
        form = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        # A delay, however short, leaves out the line before the first step.
        super().__init__(*args, bar_format=form, mininterval=EVERY, miniters=1, delay=1e-9, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the bar as a line; `close` calls this with a position and ends the line itself."""
        self.fp.write(f"{self}{chr(10) if pos is None else ''}")

    @classmethod
    def write(cls, s: str, file: Any = None, end: str = "\n", nolock: bool = False) -> None:
        """Write a line between those of the bars, which stay as they are."""
        print(s, file=file, end=end)

    def close(self) -> None:
        """Write the last line, also of a bar that ended within its delay."""
        self.delay = 0
        super().close()


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A bar on stderr with tqdm's `options`, as suits what stderr is."""
    return tqdm(items, dynamic_ncols=True, **options) if sys.stderr.isatty() else PlainLines(items, **options)


class Bars:
    """A bar for each stage, with its loss."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Draw one step."""
        if self._quiet:
            return
        if progress.stage != self._stage:
            self.__exit__()
            self._stage = progress.stage
            self._bar = progress_bar(total=progress.steps, desc=f"{STAGE_NAMES[progress.stage]:12}", unit="step")
        if progress.loss is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        self._bar.update(progress.step - self._bar.n)
