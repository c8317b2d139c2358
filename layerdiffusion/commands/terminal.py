"""What commands share: flags' numbers, a folder to write to, a clean end on Ctrl-C, and a bar for each stage."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiffusion.errors import EditError
from layerdiffusion.settings import Setting

if TYPE_CHECKING:
    from layerdiffusion.progress import Progress


def number(text: str) -> float | int:
    """A flag's number, whole if it is written so."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def finite_or_none(value: float) -> float | None:
    """The value as JSON can hold it: a loss of a step that float16 left out is not finite."""
    return value if math.isfinite(value) else None


def seeds(text: str) -> list[int]:
    """A flag's seeds: 3, 0,1,2 or 0-3."""
    try:
        if text.count("-") == 1 and not text.startswith("-"):
            first, last = (int(part) for part in text.split("-"))
            return list(range(first, min(last, first + 999) + 1))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give whole numbers, as in 0 1 2 or 0-3") from None


def writable(folder: Path) -> Path:
    """Make the folder now: a long edit should not end with nowhere to go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EditError(
            f"The results can't be saved to {folder} ({error.strerror or error}); choose another --out folder."
        ) from error
    return folder


def add_setting(group: argparse._ArgumentGroup, entry: Setting) -> None:
    """The flag of one of the table's settings, its help with what is allowed."""
    flag, words = f"--{entry.name.replace('_', '-')}", entry.help.rstrip(".").replace("%", "%%")
    if entry.choices is not None:
        group.add_argument(flag, choices=tuple(entry.choices), help=words)
    else:
        group.add_argument(flag, type=number, metavar="X", help=f"{words}; {entry.limit}")


@contextlib.contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the edit ends at a clean point; a second one ends it at once."""
    cancel = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return

    def interrupt(*_: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)


STAGE_NAMES = {
    "background": "Background",
    "embeddings": "1 Embeddings",
    "finetune": "2 Layers",
    "sampling": "3 Sampling",
}


class Bars:
    """A tqdm bar for each stage, with its loss; `names` are the stages' names for people."""

    def __init__(self, quiet: bool, names: Mapping[str, str] = STAGE_NAMES) -> None:
        self._quiet, self._names, self._stage, self._bar = quiet, names, None, None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        if progress.stage != self._stage:
            from tqdm import tqdm

            self.__exit__()
            self._stage = progress.stage
            name = self._names[progress.stage]
            self._bar = tqdm(total=progress.steps, desc=f"{name:12}", unit="step", dynamic_ncols=True)
        if progress.loss is not None:
            self._bar.set_postfix(loss=f"{progress.loss:.3f}", refresh=False)
        self._bar.update(progress.step - self._bar.n)
