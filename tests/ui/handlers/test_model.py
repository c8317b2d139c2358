"""What a network has to say about opened pictures: a notice only where it is due, and how well results fit."""

from types import SimpleNamespace

import gradio as gr
import pytest
from serving import photo

from layerdiffusion.scoring import Score, score_of
from layerdiffusion.ui.handlers.model import inspect, notice, own_pictures, request_inspection
from layerdiffusion.ui.session import Session


@pytest.mark.parametrize(
    ("miniature", "outside", "own", "shown"),
    [(True, True, True, True), (True, False, True, False), (True, True, False, False), (False, True, True, False)],
)
def test_only_an_own_picture_from_outside_the_miniatures_world_gets_a_notice(miniature, outside, own, shown):
    session = Session()
    session.photo.show(photo(64, 64), own=own)
    for allowed, way in ((True, "an edit then takes minutes"), (False, "python app.py --model laptop")):
        backend = SimpleNamespace(
            is_miniature=miniature, out_of_distribution=lambda image: outside, may_download=allowed
        )
        found = notice(session, backend)
        assert ("not from the toybox" in found) is shown and (way in found) is shown


def test_nothing_is_asked_of_the_device_where_there_is_nothing_to_inspect():
    session, backend = Session(), SimpleNamespace(is_miniature=True)
    assert request_inspection(own_pictures(session, backend)) == gr.skip()
    session.photo.show(photo(64, 64), own=True)
    first, second = (request_inspection(own_pictures(session, backend)) for _ in range(2))
    assert second > first, "every request is another value, or Gradio sees no change"


def item(seed: int) -> SimpleNamespace:
    return SimpleNamespace(seed=seed, image=photo(16, 16, seed), score=None, path=f"{seed}.png")


def test_how_well_results_fit_comes_in_its_turn_and_the_best_is_chosen(monkeypatch):
    session = Session()
    session.results = [SimpleNamespace(edit="the edit", layers="its layers")]
    session.shown, session.baselines = [item(0), item(1)], {"sdedit": [item(0)]}
    session.shown[0].score = score_of(0.6, None, None, own_clip=True)  # an example's: the words alone are known
    asked, found = [], [Score(0.6, 1.0, 0.1, 0.5), Score(0.3, 0.5, 0.6, 0.5), Score(0.2, 0.4, 0.4, 0.4)]

    def scores(images, edit, layers):
        asked.append((len(images), edit, layers))
        return found

    monkeypatch.setattr("layerdiffusion.ui.handlers.model.show", lambda session: ("shown",))
    backend = SimpleNamespace(is_miniature=False, ready=True, scores=scores)
    assert inspect(backend, session) == ("", "shown")
    assert asked == [(3, "the edit", "its layers")] and session.chosen == 1
    assert [one.score for one in (*session.shown, *session.baselines["sdedit"])] == found
    inspect(backend, session)
    assert len(asked) == 1, "what is known is not asked for again"
