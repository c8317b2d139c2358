"""The user study, as the paper's: results of every method without their names, rated for background and action.

Pictures come from the folder of a bench; ratings go to `study.sqlite` in it. Who rates is known by a random id alone,
from which the order of everything follows, so that a rater can stop and go on.
"""

from __future__ import annotations

import csv
import io
import random
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.statistics import Interval
from layerdiffusion.evaluation.variants import METHOD_VARIANTS

FILE = "study.sqlite"
SCALES = ("background", "action")
SCORES = (1, 2, 3, 4, 5)
IMAGES, SEEDS = 10, 2  # the paper's study: 10 pictures, 2 seeds, 20 raters
REVEAL_AFTER = 5  # trials a rater does before any name is shown
RESAMPLES = 4000
BUSY = 20  # seconds to wait for somebody else's rating to be written
_TABLE = """
CREATE TABLE IF NOT EXISTS ratings (
    rater TEXT NOT NULL,
    edit TEXT NOT NULL,
    seed INTEGER NOT NULL,
    "column" TEXT NOT NULL,
    place INTEGER NOT NULL,
    background INTEGER NOT NULL CHECK (background BETWEEN 1 AND 5),
    action INTEGER NOT NULL CHECK (action BETWEEN 1 AND 5),
    at TEXT NOT NULL,
    PRIMARY KEY (rater, edit, seed, "column")
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Trial:
    """One edit with one seed, by every method: `pictures[i]` is by `variants[i]`, in the order this rater sees them."""

    edit: str
    seed: int
    prompt: str
    photo: Path
    reference: Path | None  # None: the photo's own scene is kept
    variants: tuple[str, ...]
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Rating:
    """A row of the store: one rater's two scores for one picture, which stood at `place`, from 0."""

    rater: str
    edit: str
    seed: int
    variant: str
    place: int
    background: int
    action: int
    at: str  # UTC, ISO 8601


@dataclass(frozen=True)
class Summary:
    """What all raters gave a method on one scale, with 95 % intervals over raters and edits."""

    variant: str
    scale: str
    count: int
    shares: tuple[Interval, ...]  # of each score, 0 to 1
    mean: Interval
    behind_first: Interval | None  # the first variant's mean less this one's; None for itself


class Study:
    """The study of one bench folder.

    Its trials are the first `images` edits that every method has finished, with their first `seeds` seeds: the same
    for all raters. Raises `EditError` where fewer than two methods share an edit, or the folder can't be written.
    """

    def __init__(self, folder: str | Path, images: int = IMAGES, seeds: int = SEEDS) -> None:
        self.folder = Path(folder)
        records = [record for record in Records(self.folder).read() if record["variant"] in METHOD_VARIANTS]
        present = {record["variant"] for record in records}
        self.variants = tuple(name for name in METHOD_VARIANTS if name in present)
        by_edit: dict[str, dict[str, dict]] = {}
        for record in records:
            by_edit.setdefault(record["edit"], {})[record["variant"]] = record
        whole = [found for found in by_edit.values() if len(found) == len(self.variants)]
        if len(self.variants) < 2 or not whole:
            raise EditError(
                f"There is nothing to compare in {self.folder}: no edit is finished by two or more methods; "
                "run `python -m layerdiffusion evaluate toybench --out DIR` first."
            )
        trials = [self._trial(found, seed) for found in whole[:images] for seed in _shared_seeds(found)[:seeds]]
        self._trials = {(trial.edit, trial.seed): trial for trial in trials}
        with self._store() as store:
            store.execute("PRAGMA journal_mode = WAL")
            store.execute(_TABLE)

    def __len__(self) -> int:
        return len(self._trials)

    def trial(self, rater: str, edit: str, seed: int) -> Trial:
        """The trial as this rater sees it. Raises `EditError` for one that isn't there."""
        trial = self._trials.get((edit, seed))
        if trial is None:
            raise EditError("There is no such picture in this study; reload the page.")
        order = list(range(len(self.variants)))
        random.Random(f"{rater} {edit} {seed}").shuffle(order)
        return replace(
            trial,
            variants=tuple(trial.variants[i] for i in order),
            pictures=tuple(trial.pictures[i] for i in order),
        )

    def next(self, rater: str) -> Trial | None:
        """The first trial of the rater's own order that they have not rated; None when they have rated all."""
        order = sorted(self._trials)
        random.Random(rater).shuffle(order)
        done = self._done(rater)
        return next((self.trial(rater, *key) for key in order if key not in done), None)

    def done(self, rater: str) -> int:
        """How many of the trials the rater has rated."""
        return len(self._done(rater) & self._trials.keys())

    def revealed(self, rater: str) -> bool:
        """Whether the rater has done enough to be shown which method is which."""
        return self.done(rater) >= min(REVEAL_AFTER, len(self))

    def save(self, rater: str, edit: str, seed: int, scores: Sequence[tuple[int, int]]) -> None:
        """Store a trial's scores, (background, action) from 1 to 5 for each picture in the rater's order.

        Raises `EditError` for scores that are missing or none, and for a trial this rater has rated already.
        """
        trial = self.trial(rater, edit, seed)
        if not rater or len(scores) != len(trial.variants):
            raise EditError("Some scores are missing; rate every picture on both scales.")
        if any(type(score) is not int or score not in SCORES for pair in scores for score in pair):
            raise EditError("A score must be 1, 2, 3, 4 or 5; rate every picture on both scales.")
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rows = [
            (rater, edit, seed, variant, place, *pair, now)
            for place, (variant, pair) in enumerate(zip(trial.variants, scores, strict=True))
        ]
        try:
            with self._store() as store:
                store.executemany("INSERT INTO ratings VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            raise EditError("You have rated these pictures already; go on with the next ones.") from error

    def ratings(self) -> list[Rating]:
        """Everybody's ratings, the oldest first."""
        with self._store() as store:
            return [
                Rating(*row) for row in store.execute('SELECT * FROM ratings ORDER BY at, rater, edit, seed, "column"')
            ]

    def csv(self) -> str:
        """All ratings as CSV; raters are numbered, since an id is all that it takes to go on as somebody."""
        ratings = self.ratings()
        number = {rater: at for at, rater in enumerate(dict.fromkeys(rating.rater for rating in ratings), 1)}
        text = io.StringIO()
        sheet = csv.writer(text, lineterminator="\n")
        sheet.writerow(["rater", "edit", "seed", "method", "place", *SCALES, "at"])
        for r in ratings:
            sheet.writerow([number[r.rater], r.edit, r.seed, r.variant, r.place, r.background, r.action, r.at])
        return text.getvalue()

    def _done(self, rater: str) -> set[tuple[str, int]]:
        with self._store() as store:
            return set(store.execute("SELECT DISTINCT edit, seed FROM ratings WHERE rater = ?", (rater,)))

    def _trial(self, found: Mapping[str, dict], seed: int) -> Trial:
        records = [found[variant] for variant in self.variants]
        names = [record["pictures"][record["seeds"].index(seed)] for record in records]
        here = (self.folder / names[0]).parent
        reference = here / "reference.png"
        return Trial(
            edit=records[0]["edit"],
            seed=seed,
            prompt=records[0]["prompt"],
            photo=here / "photo.png",
            reference=reference if reference.exists() else None,
            variants=self.variants,
            pictures=tuple(self.folder / name for name in names),
        )

    @contextmanager
    def _store(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction: handlers run in threads of their own, and may be many."""
        try:
            with closing(sqlite3.connect(self.folder / FILE, timeout=BUSY)) as store, store:
                yield store
        except sqlite3.OperationalError as error:
            raise EditError(f"The ratings in {self.folder / FILE} can't be opened ({error}).") from error


def _shared_seeds(found: Mapping[str, dict]) -> list[int]:
    first, *others = found.values()
    return [seed for seed in first["seeds"] if all(seed in record["seeds"] for record in others)]


def summaries(ratings: Sequence[Rating], variants: Sequence[str], resamples: int = RESAMPLES) -> list[Summary]:
    """For each scale and each of `variants` that was rated: histogram, mean, and how far it is behind the first.

    Raters differ and so do edits, and each gives many ratings, so both are drawn again at once, as two independent
    bootstraps whose weights multiply (Owen 2007's pigeonhole bootstrap, which SciPy's can't do). The same ratings give
    the same intervals.
    """
    raters = {name: at for at, name in enumerate(sorted({rating.rater for rating in ratings}))}
    edits = {name: at for at, name in enumerate(sorted({rating.edit for rating in ratings}))}
    variants = [variant for variant in variants if any(rating.variant == variant for rating in ratings)]
    if not variants:
        return []
    rng = np.random.default_rng(0)
    weights = [
        np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), resamples)]) for n in (len(raters), len(edits))
    ]
    found: list[Summary] = []
    first: np.ndarray | None
    for scale in SCALES:
        first = None
        for variant in variants:
            counts = np.zeros((len(raters), len(edits), len(SCORES)))
            for rating in ratings:
                if rating.variant == variant:
                    counts[raters[rating.rater], edits[rating.edit], getattr(rating, scale) - 1] += 1
            drawn = np.einsum("be,bes->bs", weights[1], np.tensordot(weights[0], counts, 1))  # the first: as it was
            with np.errstate(invalid="ignore"):
                shares = drawn / drawn.sum(1, keepdims=True)
            means = shares @ np.array(SCORES)
            behind: Interval | None = None if first is None else _interval(first - means)
            first = means if first is None else first
            bars = tuple(_interval(share) for share in shares.T)
            found.append(Summary(variant, scale, int(counts.sum()), bars, _interval(means), behind))
    return found


def _interval(values: np.ndarray) -> Interval:
    """The value as measured, which comes first, and the interval of those drawn; a draw of nobody counts nothing."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975]) if np.isfinite(values[1:]).any() else (values[0], values[0])
    return Interval(float(values[0]), float(low), float(high))
