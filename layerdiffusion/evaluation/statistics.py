"""Means over edits and how sure one can be of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000

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
    means = edit_means(values_by_edit)
    if not len(means):
        return Interval(float("nan"), float("nan"), float("nan"))
    return Interval(float(means.mean()), *bounds([means], np.mean))


def edit_means(values_by_edit: Sequence[Values]) -> np.ndarray:
    """Each edit's mean, (edits,); an edit without any value is left out."""
    known = ([float(v) for v in values if v is not None and not np.isnan(v)] for values in values_by_edit)
    return np.array([np.mean(values) for values in known if values])


def bounds(samples: Sequence[np.ndarray], statistic: Callable[..., Any]) -> tuple[float, float]:
    """The ends of the 95 % percentile bootstrap interval of `statistic(*samples, axis=...)`.

    The samples, (edits,) each, are of the same edits in the same order and drawn together.
    """
    from scipy import stats

    if len(samples[0]) == 1:
        only = float(statistic(*samples, axis=-1))
        return only, only
    low, high = stats.bootstrap(
        tuple(samples), statistic, paired=True, vectorized=True, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(low), float(high)
