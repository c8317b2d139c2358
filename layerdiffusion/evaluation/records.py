"""The folder of an evaluation: one JSON record and its pictures for each edit and variant, and a manifest.

    bench.json                            what the run is: command, model, settings, variants, edits, versions
    records/<edit>/<variant>.json          one finished edit; it is there only when all of it is there
    pictures/<edit>/photo.png             the photo, the reference and the layered picture, as the model sees them
    pictures/<edit>/<variant>-<seed>.png   the results

A record appears in one step, after its pictures, so a run can be killed at any moment and go on where it was.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from layerdiffusion.errors import EditError
from layerdiffusion.files import saving, write_files

MANIFEST = "bench.json"
FIXED_FIELDS = ("bench", "model", "settings")  # the fields of a manifest that may not change


class Records:
    """The records in `folder`; of several runs at once in one folder, all but the first are refused (`lock`)."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def has(self, edit: str, variant: str) -> bool:
        """Whether the record is there, readable, with all its pictures."""
        return self._read(self._path(edit, variant)) is not None

    def write(self, record: Mapping[str, Any], pictures: Mapping[int, bytes], sources: Mapping[str, bytes]) -> None:
        """Write a record and its pictures, PNG by seed; and of its edit, once, the `sources`, PNG by name.

        Numbers in "measures" that are not finite become null, as are those that could not be measured. Raises an
        `EditError` for a record that is there already, and when the folder can't be written.
        """
        edit, variant = record["edit"], record["variant"]
        if self.has(edit, variant):
            raise EditError(f"The record of {edit}, {variant} is in {self.folder} already; it is never written twice.")
        names = {seed: f"pictures/{_file(edit)}/{_file(variant)}-{seed}.png" for seed in pictures}
        with saving("The records", self.folder):
            for name, content in sources.items():
                path = self.folder / "pictures" / _file(edit) / f"{_file(name)}.png"
                if not path.exists():
                    write_files({path: content})
            for seed, content in pictures.items():
                write_files({self.folder / names[seed]: content})
            whole = {
                **record,
                "pictures": list(names.values()),
                "measures": [{key: _finite(value) for key, value in one.items()} for one in record["measures"]],
            }
            write_files({self._path(edit, variant): _json(whole)})

    def read(self) -> list[dict[str, Any]]:
        """All complete records, in the order of the manifest's variants and edits."""
        found = [self._read(path) for path in sorted((self.folder / "records").glob("*/*.json"))]
        manifest = self.manifest() or {}
        places = {
            name: {key: at for at, key in enumerate(manifest.get(f"{name}s", {}))} for name in ("variant", "edit")
        }
        last = 1 << 30
        records = [record for record in found if record is not None]
        records.sort(key=lambda record: [places[name].get(record[name], last) for name in ("variant", "edit")])
        return records

    def manifest(self) -> dict[str, Any] | None:
        """The content of `bench.json`, None where there is none. Raises an `EditError` for one that can't be read."""
        path = self.folder / MANIFEST
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError) as error:
            raise EditError(f"{path} can't be read, so nobody knows what this run was; use another folder.") from error

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, or go on with the run that is there: new edits and variants are added to it.

        Raises an `EditError` for a folder whose run has another bench, model or settings (seeds among them), or
        means something else by a variant or an edit of the same name.
        """
        before = self.manifest()
        if before is None:
            if any((self.folder / "records").glob("*/*.json")):
                raise EditError(f"{self.folder} holds records but no {MANIFEST}; choose another folder.")
            before = {**manifest, "commands": []}
        for key in FIXED_FIELDS:
            _same(self.folder, key, before[key], _plain(manifest[key]))
        for key in ("variants", "edits"):
            for name in manifest[key].keys() & before[key].keys():
                _same(self.folder, f"{key[:-1]} “{name}”", before[key][name], _plain(manifest[key][name]))
        whole = {
            **before,
            **manifest,
            "commands": [*dict.fromkeys([*before["commands"], manifest["command"]])],
            "variants": {**before["variants"], **manifest["variants"]},
            "edits": {**before["edits"], **manifest["edits"]},
        }
        with saving("The records", self.folder):
            write_files({self.folder / MANIFEST: _json(whole)})

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep the folder to this process. Raises an `EditError` while another one has it."""
        try:
            import fcntl
        except ImportError:  # Windows has none
            yield
            return
        with saving("The records", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise EditError(f"Another run is writing to {self.folder}; wait for it, or end it first.") from error
            yield

    def _path(self, edit: str, variant: str) -> Path:
        return self.folder / "records" / _file(edit) / f"{_file(variant)}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            whole = all((self.folder / name).is_file() for name in record["pictures"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if whole else None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """The value as it will be read again: tuples are lists in JSON."""
    return json.loads(json.dumps(value))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _file(name: str) -> str:
    """The name as that of a file: nothing in it leads to another folder."""
    quoted = quote(name, safe=" =+,()")
    return quoted.replace(".", "%2E") if name.startswith(".") else quoted


def _same(folder: Path, what: str, before: Any, now: Any) -> None:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if key != "name" and before.get(key) != now.get(key)]
        if not keys:  # one model under two names is one model
            return
        what, before, now = f"{what}'s {keys[0]}", before.get(keys[0]), now.get(keys[0])
    if before == now:
        return
    raise EditError(
        f"{folder} was started with another {what} ({_shown(before)}, now {_shown(now)}); "
        "run it as it was, or choose another folder."
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
