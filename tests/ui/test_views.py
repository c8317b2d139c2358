"""What is drawn for the browser: the bar, the plan, the dials, the notice, the badge."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
from PIL import Image
from serving import photo

from layerdiffusion.errors import SettingsError
from layerdiffusion.progress import Progress
from layerdiffusion.settings import PAPER, Settings, setting_table
from layerdiffusion.ui import presets
from layerdiffusion.ui.handlers.layers import dial_names, dial_values, notice, settings_of
from layerdiffusion.ui.session import Session
from layerdiffusion.ui.widgets.drawing import duration, loss_curve
from layerdiffusion.ui.widgets.progress import ProgressView


def test_the_bar_only_moves_on_and_names_the_stages():
    view = ProgressView({"embeddings": "reuse", "finetune": "run", "sampling": "run"})
    view.take([Progress("finetune", 1, 10, loss=0.5, seconds_left=10.0)])
    first = view.share
    view.take([Progress("finetune", 2, 10, loss=0.4, seconds_left=400.0)])
    assert view.share >= first
    text = view.html()
    assert (
        "Words<em>reused" in text and "Layers<em>now" in text and "step 2 of 10" in text and "about 6 min 40 s" in text
    )


def test_a_preview_takes_the_place_of_the_curve():
    view = ProgressView({"sampling": "run"})
    view.take([Progress("sampling", 3, 50, seconds_left=1.0, preview=Image.new("RGB", (8, 8)))])
    assert "data:image/png" in view.html() and "polyline" not in view.html()


def test_the_loss_curve_goes_down_with_the_loss():
    points = [
        point.split(",") for point in loss_curve([1.0, 0.8, 0.5, 0.2], 8).split('points="')[1].split('"')[0].split()
    ]
    downs = [float(y) for _, y in points]
    assert downs == sorted(downs) and float(points[-1][0]) == pytest.approx(160)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (660, "11 min")])
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_the_dials_give_back_the_settings_they_were_given():
    for seeds in ((0, 1, 2, 3), (7, 8), (3, 17), tuple(range(12))):
        settings = Settings(seeds=seeds).resolve(PAPER)
        assert settings_of(tuple(dial_values(settings)), dial_names()) == settings


def test_every_setting_has_a_dial():
    assert {field.name for field in fields(Settings)} - set(dial_names()) == {"seeds"}


def test_dials_stay_within_the_limits():
    for dial in (*presets.DIALS, *presets.ADVANCED):
        limit = setting_table()[dial.name].limit
        assert limit.low <= dial.limit.low < dial.limit.high <= limit.high


@pytest.mark.parametrize("text", ["a", "1.5", "-1", "1;2", "٣"])
def test_seeds_that_are_none_are_refused(text):
    with pytest.raises(SettingsError):
        presets.seeds_of(4, 0, text)


def test_presets_differ_where_they_say():
    assert presets.preset("Paper", PAPER) == PAPER
    assert presets.preset("Small subject", PAPER).object_weight == 3
    quick = presets.preset("Quick", PAPER)
    assert (
        quick.finetune_steps < PAPER.finetune_steps and len(quick.seeds) == 2 and quick.finetune_lr == PAPER.finetune_lr
    )


@pytest.mark.parametrize(
    ("miniature", "strange", "own", "told"),
    [(True, True, True, True), (True, False, True, False), (True, True, False, False), (False, True, True, False)],
)
def test_only_a_strange_picture_on_the_miniature_gets_a_word(miniature, strange, own, told):
    session = Session()
    session.photo.show(photo(64, 64), own=own)
    device = SimpleNamespace(is_miniature=miniature, strange=lambda image: strange)
    assert ("not from the toybox" in notice(device, session)) is told
