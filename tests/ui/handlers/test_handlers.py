"""Small rules of the handlers that need no page: seeds counted on, rows filled up, words that keep their parts."""

from types import SimpleNamespace

import gradio as gr
import pytest
from serving import photo

from layerdiffusion.errors import EditError
from layerdiffusion.settings import MAX_SEEDS, Settings
from layerdiffusion.ui.handlers.backgrounds import gallery_of, pick, picked_html
from layerdiffusion.ui.handlers.compare import missing
from layerdiffusion.ui.handlers.run import further
from layerdiffusion.ui.handlers.words import split
from layerdiffusion.ui.session import Session


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
    assert split(session, "a dog jumping in the forest") == (gr.skip(), gr.skip())


def test_a_generated_background_is_picked_among_those_shown():
    session = Session()
    session.backgrounds = [(4, photo(8, 8)), (5, photo(8, 8))]
    assert gallery_of(session)["selected_index"] is None and picked_html(session) == ""
    assert "Background 5 is used" in pick(session, SimpleNamespace(index=1))
    assert gallery_of(session)["selected_index"] == 1
    for index in (2, -1, None, "<script>"):
        with pytest.raises(EditError, match="pick one of those shown"):
            pick(session, SimpleNamespace(index=index))
