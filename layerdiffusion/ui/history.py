"""The edits of a tab, which open again from their files; a page that was reloaded finds them by their ids."""

import logging
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakValueDictionary

from layerdiffusion.ui.bundle import save_edit
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.drawing import thumbnail_url

MOST = 8
log = logging.getLogger(__name__)


class SavedEdit:
    """An edit whose files are there for as long as a session lists it; only its own browser knows the id."""

    def __init__(self, folder: TemporaryDirectory) -> None:
        self.id = secrets.token_urlsafe(16)
        self.folder = folder
        self.prompt = self.thumbnail = ""
        self.downloaded = False
        _alive[self.id] = self


_alive: WeakValueDictionary[str, SavedEdit] = WeakValueDictionary()


def current(session: Session) -> SavedEdit | None:
    """The one whose results are shown."""
    return next((edit for edit in session.edits if edit.folder is session.folder), None)


def drop(folder: TemporaryDirectory | None) -> None:
    """Remove the folder, unless it is that of an edit which a tab lists."""
    if folder is not None and all(edit.folder is not folder for edit in _alive.values()):
        folder.cleanup()


def remember(session: Session, downloaded: bool = False) -> None:
    """Write the recipe of the results shown beside their files, and list them as the tab's last edit.

    Where it can't be written, the results stay as they are, and the edit isn't listed.
    """
    assert session.folder is not None
    saved = current(session) or SavedEdit(session.folder)
    try:
        save_edit(session.results, Path(saved.folder.name))
    except OSError as error:
        log.warning("an edit can't be opened again: %s", error)
        return
    saved.prompt, saved.downloaded = session.results[0].edit.prompt, downloaded
    saved.thumbnail = thumbnail_url(session.shown[session.chosen].image)
    session.edits = [*(edit for edit in session.edits if edit is not saved), saved][-MOST:]


def recall(session: Session, ids: Any) -> None:
    """List the edits that a browser has kept the ids of, as far as they are still there."""
    known = [_alive.get(name) for name in ids if isinstance(name, str)] if isinstance(ids, list) else []
    session.edits = [edit for edit in known if edit is not None][-MOST:]
