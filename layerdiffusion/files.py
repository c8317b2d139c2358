"""Files on the disk: whole or not at all; and what is said where they can't be written."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError

from layerdiffusion.errors import EditError, SavedElsewhere


def write_files(files: Mapping[Path, bytes | Path]) -> None:
    """Write each file, bytes or a copy of another, beside its place, then put all in their places.

    An error while they are written changes nothing that was there, and whenever the program dies, each file is the old
    one or the whole new one. Folders are made; the mode is what the user's umask says. Raises `OSError`.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            parts[path] = path.with_name(f".{uuid.uuid4().hex}.part")
            with parts[path].open("xb") as file:
                if isinstance(content, Path):
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()


def check_writable(folder: Path) -> None:
    """Make the folder and try to write in it; raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")


@contextlib.contextmanager
def saving(
    what: str,
    place: Path,
    advice: str = "free some space or choose another folder",
    error: type[EditError] = EditError,
) -> Iterator[None]:
    """An `OSError` inside becomes an `error` of one sentence: `what` can't be saved to `place`, why, and `advice`."""
    try:
        yield
    except (OSError, SafetensorError) as cause:
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{what} can't be saved to {place} ({reason}); {advice}.") from cause


def save_or_rescue(write: Callable[[Path], Path], what: str, place: Path, prefix: str, inside: str = "") -> Path:
    """What `write(place)` returns; where it raises an `EditError`, it writes to a new temporary folder.

    That folder's name begins with `prefix`, and `inside` is the path in it. A `SavedElsewhere` says where it is; where
    there is no place for it either, the first error is raised.
    """
    try:
        return write(place)
    except EditError as error:
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=prefix))
            elsewhere = write(folder / inside)
        except (OSError, EditError):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise error from error.__cause__
        cause = error.__cause__
        reason = getattr(cause, "strerror", None) or cause or str(error).partition(";")[0]
        raise SavedElsewhere(
            f"{what} can't be saved to {place} ({reason}), so everything is in {elsewhere}; "
            "move it before that temporary folder is emptied.",
            elsewhere,
        ) from error
