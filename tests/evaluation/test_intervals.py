"""Intervals are those of plain resampling, over edits and not over pictures."""

import math

import numpy as np
import pytest

from layerdiffusion.evaluation.claims import bootstrap


def test_the_bootstraps_interval_is_that_of_the_mean_over_edits():
    """For many edits the percentile interval comes near the normal one, of the edits' own spread."""
    rng = np.random.default_rng(3)
    edits = rng.normal(5, 2, 200)
    values = [[edit - 1, edit + 1] for edit in edits]  # pictures of one edit differ, their mean is the edit's
    mean, low, high = bootstrap(values)
    half = 1.96 * edits.std() / math.sqrt(len(edits))
    assert mean == pytest.approx(edits.mean())
    assert low == pytest.approx(mean - half, abs=0.1 * half) and high == pytest.approx(mean + half, abs=0.1 * half)
    assert bootstrap(values) == (mean, low, high), "the same every time"
    assert bootstrap([values[0]]) == (edits[0], edits[0], edits[0])


def test_each_edit_counts_once_however_many_of_its_pictures_could_be_measured():
    assert bootstrap([[1, 1, 1, None], [0, math.nan], [None]]).mean == 0.5
    assert all(math.isnan(value) for value in bootstrap([[None], []]))


def test_the_interval_is_that_of_edits_drawn_again_by_hand():
    means = np.random.default_rng(1).random(7)
    drawn = np.random.default_rng(2).integers(7, size=(20_000, 7))
    low, high = np.quantile(means[drawn].mean(1), [0.025, 0.975])
    found = bootstrap([[mean] for mean in means])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)
