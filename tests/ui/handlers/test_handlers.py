"""Small rules of the handlers that need no page: seeds counted on, rows filled up, words that keep their parts."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from serving import photo
from tiny import QUICK

from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.settings import MAX_SEEDS, Settings
from layerdiffusion.ui.bundle import open_bundle
from layerdiffusion.ui.handlers.dials import split
from layerdiffusion.ui.handlers.jobs import further, gallery_of, missing, pick, picked_html
from layerdiffusion.ui.handlers.results import keep, pack
from layerdiffusion.ui.session import Session, take
from layerdiffusion.ui.widgets.results import RECIPE, show


def result(*seeds: int) -> SimpleNamespace:
    return SimpleNamespace(edit="edit", settings=Settings(seeds=seeds), seeds=seeds)


def shown(*seeds: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(seed=seed) for seed in seeds]


def test_more_seeds_are_as_many_again_counted_on_from_the_last():
    session = Session()
    session.results = [result(0, 1, 2), result(3, 4, 5)]
    assert further(session)[1].seeds == (6, 7, 8)
    session.results = [result(*range(MAX_SEEDS - 1))]
    assert further(session)[1].seeds == (MAX_SEEDS - 1,)
    session.results = [result(*range(MAX_SEEDS))]
    with pytest.raises(EditError, match="which is the most"):
        further(session)


def test_a_comparison_fills_up_the_seeds_that_a_row_lacks():
    session = Session()
    session.results, session.shown = [result(0, 1)], shown(0, 1, 2)
    session.baselines = {"sdedit": shown(1), "pnp": shown(0, 1, 2)}
    assert [(name, settings.seeds) for name, settings in missing(session, ["sdedit", "imagic", "pnp"])] == [
        ("sdedit", (0, 2)),
        ("imagic", (0, 1, 2)),
    ]


def test_words_split_once_they_are_others():
    session = Session()
    assert split(session, "a dog jumping in the forest") == ("a dog jumping", "in the forest")
    assert split(session, "a dog jumping in the forest") == gr.skip()


def test_a_generated_background_is_picked_among_those_shown():
    session = Session()
    session.backgrounds = [(4, photo(8, 8)), (5, photo(8, 8))]
    assert gallery_of(session)["selected_index"] is None and picked_html(session) == ""
    assert "Background 5 is used" in pick(session, SimpleNamespace(index=1))
    assert gallery_of(session)["selected_index"] == 1
    for index in (2, -1, None, "<script>"):
        with pytest.raises(EditError, match="pick one of those shown"):
            pick(session, SimpleNamespace(index=index))


def test_a_fully_tuned_subject_is_handed_over_and_taken_up_again_without_training(tiny_models, edit, tmp_path):
    editor, settings, session = Editor(tiny_models), replace(QUICK, tune="full"), Session()
    backend = SimpleNamespace(editor=editor)
    with pytest.raises(EditError, match="run an edit first"):
        keep(backend, session)
    session.results, session.shown = [editor.run(edit, settings)], shown(0, 1)
    session.folder = tempfile.TemporaryDirectory(dir=tmp_path)
    opened, other = open_bundle(Path(keep(backend, session)).read_bytes()), Session()
    other.photo.show(opened.recipe.edit.object_image)
    other.subject = opened.subject
    subject = other.subject_of(opened.recipe.edit, replace(settings, finetune_steps=0))
    again = Editor(tiny_models).run(opened.recipe.edit, settings, subject=subject)
    assert again.stages["finetune"] == "skip"
    for one, before in zip(again.images, session.results[0].images, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(before)).max() <= 1


def test_files_are_made_again_where_the_temporary_folder_was_emptied(tiny_models, edit):
    editor, session = Editor(tiny_models), Session()
    take(session, editor.run(edit, QUICK), [None] * len(QUICK.seeds))
    before = {item.path: item.path.read_bytes() for item in session.shown}
    shutil.rmtree(session.folder.name)
    show(session)
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(session.folder.name)
    backend = SimpleNamespace(editor=editor)
    assert open_bundle(Path(pack(backend, session, [RECIPE])).read_bytes()).recipe.edit.prompt == edit.prompt
    shutil.rmtree(session.folder.name)
    take(session, editor.run(edit, replace(QUICK, seeds=(7,))), [None], more=True)
    assert [item.seed for item in session.shown] == [*QUICK.seeds, 7] and session.shown[-1].path.is_file()


@pytest.mark.parametrize("more", [True, False])
def test_a_result_that_cannot_be_saved_leaves_those_there_are(tiny_models, edit, full_disk, more):
    editor, session = Editor(tiny_models), Session()
    take(session, editor.run(edit, QUICK), [None] * len(QUICK.seeds))
    before = [item.path.read_bytes() for item in session.shown]
    other = editor.run(edit, replace(QUICK, seeds=(7,)))
    full_disk(Path(tempfile.gettempdir()))
    with pytest.raises(OSError, match="No space"):
        take(session, other, [None], more)
    assert [item.seed for item in session.shown] == [*QUICK.seeds] and len(session.results) == 1
    assert [item.path.read_bytes() for item in session.shown] == before
