"""What commands share: a parser, flags' numbers, a folder to write to, a clean end on Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from layerdiffusion.errors import EditError, SettingsError
from layerdiffusion.files import check_writable, saving
from layerdiffusion.settings import Setting, Settings, setting_table


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, and whose flags are those of a module imported when they are needed.

    `module` has `add_arguments(parser)`, and `run(args) -> int` unless all it does is done by sub-commands.
    """

    def __init__(self, *, module: str | None = None, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the module's flags, then parse; argparse calls this for the sub-command that is asked for alone."""
        if self._module is not None:
            command, self._module = import_module(self._module), None
            command.add_arguments(self)
            self.set_defaults(run=getattr(command, "run", None))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Refuse bad flags in one sentence, as bad input is refused."""
        raise EditError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


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


class Seeds(argparse.Action):
    """The action of a `--seeds` flag: its words, each read by `seeds`, as one list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"type": seeds, "nargs": "+", "metavar": "N", **kwargs})

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [seed for part in values for seed in part])


def assignments(flags: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `--set` gives: by method ("" for the whole run) its values by name, numbers where they are written so.

    Raises an `EditError` for a flag that is neither NAME=VALUE nor METHOD.NAME=VALUE.
    """
    found: dict[str, dict[str, Any]] = {}
    for flag in flags:
        target, _, value = flag.partition("=")
        method, dot, name = target.rpartition(".")
        if not (name and value) or bool(dot) != bool(method):
            raise EditError(
                f"--set {flag} is not NAME=VALUE, as in alpha=0.5, or METHOD.NAME=VALUE, as in pnp.alpha=1."
            )
        try:
            found.setdefault(method, {})[name] = number(value)
        except argparse.ArgumentTypeError:
            found.setdefault(method, {})[name] = value
    return found


def with_changes(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """The settings with these fields changed; raises a `SettingsError` for one there is not."""
    known = [name for name in setting_table() if name != "seeds"]  # which have a flag of their own
    unknown = next((name for name in changes if name not in known), None)
    if unknown is not None:
        raise SettingsError(f"There is no setting {unknown!r}; there are {', '.join(known)}.")
    return replace(settings, **changes)


def writable(folder: Path) -> Path:
    """Make the folder and write in it now: a long edit should not end with nowhere to go."""
    with saving("The results", folder, "choose another --out folder"):
        check_writable(folder)
    return folder


def add_lora(group: Any) -> None:
    """The flag for LoRA files; without one it is absent, or None where the parser has no other default."""
    words = "a LoRA's .safetensors on top of the model, and how much of it (1); may be repeated"
    group.add_argument("--lora", action="append", metavar="FILE[:SCALE]", help=words)


def add_setting(group: argparse._ArgumentGroup, entry: Setting) -> None:
    """The flag of one of the table's settings, its help with what is allowed."""
    flag, words = f"--{entry.name.replace('_', '-')}", entry.help.rstrip(".").replace("%", "%%")
    if entry.check_text is not None:
        group.add_argument(flag, metavar="X", help=f"{words}; {', '.join(entry.choices or ())}")
    elif entry.choices is not None:
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
