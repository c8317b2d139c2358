"""Curves and durations as the browser and people take them."""

import pytest

from layerdiffusion.ui.widgets.drawing import duration, loss_curve


def test_the_loss_curve_goes_down_with_the_loss():
    line = loss_curve([1.0, 0.8, 0.5, 0.2], 8).split('points="')[1].split('"')[0]
    points = [point.split(",") for point in line.split()]
    downs = [float(y) for _, y in points]
    assert downs == sorted(downs) and float(points[-1][0]) == pytest.approx(160)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (660, "11 min")])
def test_durations_are_written_as_people_say_them(seconds, words):
    assert duration(seconds) == words
