"""What a network has to say about opened pictures: a notice only where it is due, and scores that were missing."""

from types import SimpleNamespace

import gradio as gr
import pytest
from serving import photo

from layerdiffusion.ui.handlers.inspection import inspector, notice, own_pictures, request_inspection
from layerdiffusion.ui.session import Session


@pytest.mark.parametrize(
    ("miniature", "outside", "own", "shown"),
    [(True, True, True, True), (True, False, True, False), (True, True, False, False), (False, True, True, False)],
)
def test_only_an_own_picture_from_outside_the_miniatures_world_gets_a_notice(miniature, outside, own, shown):
    session = Session()
    session.photo.show(photo(64, 64), own=own)
    backend = SimpleNamespace(is_miniature=miniature, out_of_distribution=lambda image: outside)
    assert ("not from the toybox" in notice(session, backend)) is shown


def test_nothing_is_asked_of_the_device_where_there_is_nothing_to_inspect():
    session, backend = Session(), SimpleNamespace(is_miniature=True)
    assert request_inspection(own_pictures(session, backend)) == gr.skip()
    session.photo.show(photo(64, 64), own=True)
    first, second = (request_inspection(own_pictures(session, backend)) for _ in range(2))
    assert second > first, "every request is another value, or Gradio sees no change"


def item(seed: int, score: float | None = None) -> SimpleNamespace:
    return SimpleNamespace(seed=seed, image=photo(16, 16, seed), score=score, path=f"{seed}.png")


def test_missing_scores_come_in_their_turn_and_the_best_is_chosen(monkeypatch):
    session = Session()
    session.results = [SimpleNamespace(edit=SimpleNamespace(prompt="a dog on ice"))]
    session.shown, session.baselines = [item(0), item(1)], {"sdedit": [item(0)]}
    scored = []

    def scores(images, prompt):
        scored.append((len(images), prompt))
        return [0.1, 0.3, 0.2]

    monkeypatch.setattr("layerdiffusion.ui.handlers.inspection.show", lambda session: ("shown",))
    backend = SimpleNamespace(is_miniature=False, ready=True, scores=scores)
    assert inspector(backend)(session) == ("", "shown")
    assert scored == [(3, "a dog on ice")] and session.chosen == 1
    assert [one.score for one in session.shown] == [0.1, 0.3] and session.baselines["sdedit"][0].score == 0.2
    inspector(backend)(session)
    assert len(scored) == 1, "what has a score is not scored again"
