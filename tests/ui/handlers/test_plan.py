"""The layers' board and the line above Run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from serving import photo

from layerdiffusion.edit import Placement
from layerdiffusion.ui.handlers import plan as handlers
from layerdiffusion.ui.handlers.plan import ready_html, together
from layerdiffusion.ui.session import Session

WORDS = ("a dog on ice", "a dog", "on ice")
BACKEND = SimpleNamespace(ready=True, loading=False, size=48)


@pytest.fixture
def session() -> Session:
    session, mask = Session(), np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    session.photo.show(photo(64, 64))
    session.photo.load_mask(mask)
    return session


def board(session: Session) -> dict:
    return json.loads(together(session, WORDS, "keep", False, BACKEND)[0]["value"])


def test_each_board_is_newer_than_the_last_and_names_the_others_versions(session):
    first, second = board(session), board(session)
    assert second["version"] > first["version"]
    assert second["versions"] == {"photo": session.photo.version, "reference": session.reference.version}
    assert "composite" in second


def test_only_a_placement_off_the_picture_gets_a_warning(session, monkeypatch):
    warned = []
    monkeypatch.setattr(handlers, "warn", warned.append)
    session.photo.clear()
    assert "empty" in board(session) and not warned
    session.photo.undo()
    session.placement = Placement(dx=1, dy=1, scale=0.2)
    assert "empty" in board(session)
    assert [str(error).split(";")[0] for error in warned] == ["The subject is placed outside the picture"]


@pytest.mark.parametrize(
    ("statuses", "seconds", "count", "text"),
    [
        ({"embeddings": "run", "finetune": "run", "sampling": "run"}, 5.2, 4, "4 pictures, about 5 s."),
        ({"embeddings": "reuse", "finetune": "reuse", "sampling": "run"}, 1, 1, "about 1 s · reuses stage 1 and stage"),
        ({"embeddings": "reuse", "sampling": "run"}, None, 2, "</b> 2 pictures · reuses stage 1."),
        ({"embeddings": "skip", "finetune": "reuse", "sampling": "reuse"}, 0, 2, "Nothing to compute"),
    ],
)
def test_the_line_says_what_run_would_do(statuses, seconds, count, text):
    assert text in ready_html(statuses, seconds, count)
