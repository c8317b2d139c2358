"""What one browser tab is working on: two pictures with their marks, a placement, results, and its last edits.

Nothing is shared between tabs. Edits open again from their files; a page that was reloaded finds them by their ids.
"""

import json
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from PIL import Image

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError, MaskError
from layerdiffusion.images.layers import Layers
from layerdiffusion.scoring import Score
from layerdiffusion.settings import Settings
from layerdiffusion.ui.bundle import save_compared, save_edit, save_pictures
from layerdiffusion.ui.marks import MarkedPicture
from layerdiffusion.ui.widgets.drawing import cutout_url, picture_url, thumbnail_url


class Session:
    """One tab's work. Lives in a `gr.State`, whose copies start afresh; no dataclass, as Gradio would take it apart."""

    def __init__(self) -> None:
        self.photo = MarkedPicture()
        self.reference = MarkedPicture()
        self.prompt = ""  # the one whose split is on the page
        self.subject: Any = None  # a trained `Subject` that was opened
        self.nouns: dict[str, str] = {}  # by board, what its subject is called in the words
        self.placement = Placement()
        self.backgrounds: list[tuple[int, Image.Image]] = []  # generated ones by seed
        self.backgrounds_prompt = ""
        self.background_seed: int | None = None
        self.results: list[Any] = []  # what ran: the last edit, then its further seeds
        self.shown: list[Any] = []  # their pictures, as they came
        self.baselines: dict[str, list[Any]] = {}  # their pictures of the same edit and seeds, by method
        self.chosen = 0  # which of them is compared
        self.best_first = False
        self.changes = False  # it is compared with a heat map of its changes, not with the photo
        self.folder: TemporaryDirectory | None = None  # of their files; goes when the session goes
        self.edits: list[Any] = []  # the tab's `SavedEdit`s, the last one last
        self.dials_due = True  # they take the model's defaults once it is loaded
        self.cancel = threading.Event()
        self.running = False  # a job waits or runs
        self.started = False  # it runs
        self.marking = threading.Lock()  # clicks and strokes that come at once are taken one after the other
        self._last: tuple[Any, Edit] | None = None

    def __deepcopy__(self, memo: dict) -> "Session":
        return Session()

    def empty(self) -> None:
        """No pictures, words, placement or generated backgrounds; the results stay."""
        self.photo.show(None)
        self.reference.show(None)
        self.prompt, self.subject, self.placement = "", None, Placement()
        self.backgrounds, self.backgrounds_prompt, self.background_seed = [], "", None

    def edit(self, words: tuple[str, str, str], background: str, swap: bool) -> Edit:
        """The edit as the page has it; raises an `EditError` that says what is missing."""
        key = (words, background, swap, self.background_seed, self.placement)
        key = (*key, self.photo.version, self.reference.version)
        if self._last is None or self._last[0] != key:
            self._last = key, self._edit(words, background, swap)
        return self._last[1]

    def subject_of(self, edit: Edit, settings: Settings) -> Any:
        """The opened `Subject`, for an edit of its own photo; stage 2's steps are what it is trained on by."""
        own = self.subject and self.subject.recipe.edit.object_image
        if not own or (own.size, own.tobytes()) != (edit.object_image.size, edit.object_image.tobytes()):
            return None
        return replace(self.subject, train_on=settings.finetune_steps or 0)

    def _edit(self, words: tuple[str, str, str], background: str, swap: bool) -> Edit:
        if self.photo.image is None:
            raise EditError("There is no photo yet; choose one, or draw a toybox scene.")
        whole, thing, place = (text.strip() for text in words)
        subject, other = self.photo, self.reference
        if swap and background == "reference":
            subject, other = other, subject
        values: dict[str, Any] = {}
        if background == "reference":
            if self.reference.image is None:
                raise EditError("There is no reference picture yet; choose one, or keep the photo's background.")
            values = {
                "background_image": other.image,
                "background_mask": other.opened if other.marked else None,
                "background_window": other.marks.window,
            }
        elif background == "generate":
            if self.background_seed is None:
                raise EditError("No background is generated yet; press “Generate backgrounds” and pick one.")
            values = {"background_seed": self.background_seed}
        if not subject.marked:
            where = "reference" if subject is self.reference else "photo"
            raise MaskError(f"No subject is marked; click on it in the {where} first.")
        return Edit(
            object_image=subject.image,
            object_mask=subject.opened,
            prompt=whole or None,
            object_prompt=thing or None,
            background_prompt=place if thing else None,
            background=background,
            placement=self.placement,
            object_window=subject.marks.window,
            **values,
        )

    def place_board(self, version: int, **values: Any) -> str:
        """What the board of both layers reads (JSON), and the versions and nouns that the other boards should have."""
        versions = {"photo": self.photo.version, "reference": self.reference.version}
        values |= {"version": version, "versions": versions, "nouns": self.nouns, "photo": self.photo.picture_version}
        return json.dumps(values, default=float)

    def together(self, version: int, layers: Layers, still: Layers, windows: dict[str, Any]) -> str:
        """Both layers for the board of them; `still` has the subject unplaced, `windows` are what each board shows."""
        rows, columns = (np.flatnonzero(still.object_mask.any(axis=axis)) for axis in (1, 0))
        return self.place_board(
            version,
            windows=windows,
            width=layers.composite.width,
            height=layers.composite.height,
            composite=picture_url(layers.composite),
            subject=cutout_url(still.object_image, still.object_mask),
            background=picture_url(layers.inpainted_background),
            centre=[(columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2],
            half=[(columns[-1] - columns[0] + 1) / 2, (rows[-1] - rows[0] + 1) / 2],
            placement=asdict(self.placement),
            readout="Drag the subject; its corners scale it, the handle above turns it.",
            description="Both layers together: this is what the model learns from.",
        )


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


def take(
    session: Session,
    result: Any,
    scores: Sequence[Score | None],
    more: bool = False,
    folder: TemporaryDirectory | None = None,
) -> None:
    """Keep the result, how well it fits, and its pictures as files that carry their recipe; `more` of the same edit.

    The files go into `folder`, or into a new one.
    """
    if not more or not session.results:
        earlier = session.folder
        session.folder = folder or TemporaryDirectory(prefix="layerdiffusion-")
        try:
            items = _items(result, scores, lambda: save_pictures(result, files_folder(session)))
        except BaseException:
            drop(session.folder)
            session.folder = earlier
            raise
        if earlier is not session.folder:
            drop(earlier)
        session.results, session.shown, session.baselines, session.changes = [result], items, {}, False
        session.chosen = best_index(session)
        return
    first = len(session.shown)
    session.shown += _items(result, scores, lambda: save_pictures(result, files_folder(session)))
    session.results.append(result)
    session.chosen, session.changes = first, False


def take_baseline(session: Session, name: str, result: Any, scores: Sequence[Score | None]) -> None:
    """Add a baseline's pictures to its row, as files that say how they were made."""
    items = _items(result, scores, lambda: save_compared(result, name, files_folder(session)))
    session.baselines.setdefault(name, []).extend(items)


def _items(result: Any, scores: Sequence[Score | None], save: Callable[[], list[Path]]) -> list[SimpleNamespace]:
    """The result's pictures with their files, which `save` writes, now and whenever they are gone."""
    found = zip(result.seeds, result.images, scores, save(), strict=True)
    return [
        SimpleNamespace(seed=seed, image=image, score=score, path=path, save=save, change=None)
        for seed, image, score, path in found
    ]


def files_folder(session: Session) -> Path:
    """Where the tab's files are; made again, for this user alone, where somebody emptied the temporary folder."""
    assert session.folder is not None
    folder = Path(session.folder.name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def file_of(item: SimpleNamespace) -> Path:
    """The picture's file, written again if it is gone."""
    if not item.path.is_file():
        item.save()
    return item.path


def unmeasured(session: Session) -> list[SimpleNamespace]:
    """The pictures shown of which it isn't known yet how well they fit, the baselines' among them."""
    rows = [session.shown, *session.baselines.values()]
    return [item for row in rows for item in row if item.score is None or item.score.subject is None]


def forget(session: Session) -> None:
    """Drop the last results, and their files where they are none of the tab's edits."""
    drop(session.folder)
    session.results, session.shown, session.folder, session.chosen = [], [], None, 0
    session.baselines = {}


def _whole(item: SimpleNamespace) -> float:
    """How well the picture fits in all; below everything where that isn't known."""
    return -1.0 if item.score is None else item.score.overall


def best_index(session: Session) -> int:
    return max(range(len(session.shown)), key=lambda index: _whole(session.shown[index]), default=0)


def order(session: Session) -> list[int]:
    """The gallery's pictures by their place in `session.shown`."""
    indices = range(len(session.shown))
    return sorted(indices, key=lambda index: -_whole(session.shown[index])) if session.best_first else list(indices)
