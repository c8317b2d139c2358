"""What the words ask for decides which settings the page offers."""

from types import SimpleNamespace

import gradio as gr
import pytest

from layerdiffusion.settings import OFFERED, PAPER, Settings
from layerdiffusion.ui.handlers.words import advice, offer, take
from layerdiffusion.ui.widgets.dials import dial_values, settings_of

DEFAULTS = Settings(finetune_steps=150).resolve(PAPER)


def backend(miniature: bool = True) -> SimpleNamespace:
    return SimpleNamespace(is_miniature=miniature, defaults=lambda: DEFAULTS)


def test_words_get_what_was_measured_best_for_them_and_the_line_says_why():
    found, sentence = advice("a red dog", DEFAULTS)
    assert found == OFFERED.resolve(DEFAULTS)
    assert sentence.startswith("“red” names a look") and "in that colour" in sentence
    assert "in that colour" not in advice("a furry dog", DEFAULTS)[1]
    other, sentence = advice("a dog jumping", DEFAULTS)
    assert other == found and "names a look" not in sentence
    assert advice("a red dog", found) is None, "it is taken"
    assert advice(" ", DEFAULTS) is None


def test_one_click_takes_what_is_offered_and_the_offer_goes():
    dials = dial_values(DEFAULTS)
    shown = offer(backend(), "a red dog jumping", *dials)
    assert shown["visible"] and "the words as written" in shown["value"]
    taken = take(backend(), "a red dog jumping", *dials)
    assert settings_of(tuple(taken)) == OFFERED.resolve(DEFAULTS)
    assert not offer(backend(), "a red dog jumping", *taken)["visible"]
    assert take(backend(), "a red dog jumping", *taken) == [gr.skip()] * len(dials)


@pytest.mark.parametrize(
    ("words", "miniature", "steps"), [("", True, 150), ("a red dog", False, 150), ("a red dog", True, "many")]
)
def test_nothing_is_offered_without_words_on_a_model_it_was_not_measured_on_or_beside_bad_dials(
    words, miniature, steps
):
    dials = dial_values(DEFAULTS)
    dials[dials.index(150)] = steps
    assert not offer(backend(miniature), words, *dials)["visible"]
