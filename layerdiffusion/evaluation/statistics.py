"""Means over edits and how sure one can be of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL, RESAMPLES = 0.95, 10_000

Values = Sequence[float | None]  # of one edit, one a picture; None and NaN are left out


class Interval(NamedTuple):
    """A mean and the ends of its interval; NaN where there is nothing to take the mean of."""

    mean: float
    low: float
    high: float


def bootstrap(values_by_edit: Sequence[Values]) -> Interval:
    """The mean over edits of each edit's mean, and its 95 % percentile bootstrap interval over edits.

    The edits are drawn again, not the pictures: seeds of one edit succeed and fail together, and an interval over
    pictures would be too narrow. An edit without any value is left out. The same values give the same interval.
    """
    from scipy import stats

    known = ([float(v) for v in values if v is not None and not np.isnan(v)] for values in values_by_edit)
    means = np.array([np.mean(values) for values in known if values])
    if len(means) < 2:
        only = float(means[0]) if len(means) else float("nan")
        return Interval(only, only, only)
    low, high = stats.bootstrap(
        (means,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Interval(float(means.mean()), float(low), float(high))
