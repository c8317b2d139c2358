"""Curves and durations as the browser and people take them."""

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.ui.widgets.drawing import duration, heat_map, loss_curve


def test_the_loss_curve_goes_down_with_the_loss():
    line = loss_curve([1.0, 0.8, 0.5, 0.2], 8).split('points="')[1].split('"')[0]
    points = [point.split(",") for point in line.split()]
    downs = [float(y) for _, y in points]
    assert downs == sorted(downs) and float(points[-1][0]) == pytest.approx(160)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 5 s"), (660, "11 min")])
def test_durations_are_written_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_a_heat_map_goes_from_black_to_yellow_and_leaves_the_subject_grey():
    change = np.array([[0.0, 0.1, 1.0, np.nan]])
    nothing, little, much, subject = np.asarray(heat_map(Image.new("RGB", (4, 1), (200, 100, 0)), change))[0].astype(
        int
    )
    assert nothing.max() < 10 and nothing.sum() < little.sum() < much.sum()
    assert much[0] > much[2] and much[1] > much[2], "yellow"
    assert len(set(subject)) == 1
