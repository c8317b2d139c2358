"""Files on the disk: whole or not at all, and never over somebody else's."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path


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
