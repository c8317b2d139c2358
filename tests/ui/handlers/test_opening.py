"""What the page opens with, New edit, and earlier edits that open again from their files."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from tiny import QUICK

from layerdiffusion.editor import Editor
from layerdiffusion.settings import PAPER
from layerdiffusion.ui import examples
from layerdiffusion.ui.handlers.opening import first, open_finished, start_anew
from layerdiffusion.ui.options import PageOptions
from layerdiffusion.ui.session import MOST, Session, current, remember, take
from layerdiffusion.ui.widgets.dials import dial_names


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    monkeypatch.setattr(examples, "FOLDER", examples.ASSETS / "examples")


def backend(miniature: bool = True, **options) -> SimpleNamespace:
    """One without a device: whatever would compute fails."""
    return SimpleNamespace(
        options=PageOptions(**options),
        is_miniature=miniature,
        loading=True,
        ready=False,
        opening=lambda: PAPER,
        defaults=lambda: PAPER,
    )


def opened(session: Session, ids: object = (), **options):
    return first(backend(**options), session, list(ids) if isinstance(ids, tuple) else ids)


@pytest.fixture
def ran(tiny_models, edit):
    """A session that has run an edit, and the result."""
    session, result = Session(), Editor(tiny_models).run(edit, QUICK)
    take(session, result, [None] * len(result.seeds))
    remember(session)
    return session, result


def test_the_page_opens_on_a_finished_example_before_there_is_a_model():
    session, example = Session(), examples.examples()[0]
    photo, _, mode, _, *words = opened(session)[:7]
    assert session.photo.marked and json.loads(photo["value"])["marked"]
    assert mode["value"] == example.recipe.edit.background and words[0] == example.prompt
    assert [item.seed for item in session.shown] == list(example.pictures)
    assert not session.edits, "it is nobody's own"


def test_another_models_dials_stay_its_own():
    steps = 7 + dial_names().index("embedding_steps")
    theirs = examples.examples()[0].recipe.settings.embedding_steps
    assert opened(Session())[steps] == theirs != PAPER.embedding_steps
    assert opened(Session(), miniature=False)[steps] == PAPER.embedding_steps


def test_no_example_leaves_the_page_as_it_is():
    session = Session()
    assert opened(session, no_example=True) == gr.skip() and session.photo.image is None


def test_new_edit_empties_the_page():
    session = Session()
    opened(session)
    photo, reference, mode, swap, *words = start_anew(backend(), session)[:7]
    assert not json.loads(photo["value"]).get("picture") and not json.loads(reference["value"]).get("picture")
    assert (mode["value"], words) == ("keep", ["", "", ""])
    assert not session.results and session.folder is None and session.background_seed is None


def test_after_a_reload_the_last_edit_is_there_again_and_not_the_example(ran):
    before, result = ran
    after = Session()
    words = [*opened(after, ("unknown", before.edits[0].id))[4:7]]
    assert words == [result.edit.prompt, result.edit.object_prompt, result.edit.background_prompt]
    assert after.results[0].edit == result.edit and after.results[0].settings == result.settings
    assert [item.seed for item in after.shown] == list(result.seeds)
    for item, image in zip(after.shown, result.images, strict=True):
        assert np.array_equal(item.image, image) and item.path.is_file()
    assert current(after) is before.edits[0]


@pytest.mark.parametrize("ids", [None, "x", 3, {"a": 1}, [1, None], ["../../etc"]])
def test_what_else_a_browser_may_have_kept_is_no_edit(ids):
    session = Session()
    opened(session, ids)
    assert not session.edits and session.results, "the example is there"


def test_an_edit_whose_files_are_gone_gives_way_to_the_example(ran):
    before, _ = ran
    for file in Path(before.folder.name).iterdir():
        file.unlink()
    after = Session()
    opened(after, (before.edits[0].id,))
    assert after.results[0].edit.prompt == examples.examples()[0].prompt and not after.edits


def test_earlier_edits_open_again_until_there_are_too_many(ran):
    session, result = ran
    first_edit = session.edits[0]
    take(session, result, [None] * len(result.seeds))
    remember(session)
    assert len(session.edits) == 2 and current(session) is session.edits[1]
    open_finished(backend(), session, SimpleNamespace(_data={"name": first_edit.id}))
    assert current(session) is first_edit and Path(session.edits[1].folder.name).is_dir()
    for _ in range(MOST):
        take(session, result, [None] * len(result.seeds))
        remember(session)
    assert len(session.edits) == MOST and first_edit not in session.edits


def test_the_files_go_with_the_last_session_that_lists_them(ran):
    before, _ = ran
    name, folder = before.edits[0].id, Path(before.folder.name)
    after = Session()
    opened(after, (name,))
    vars(before).clear()
    gc.collect()
    assert folder.is_dir()
    vars(after).clear()
    gc.collect()
    assert not folder.exists()
