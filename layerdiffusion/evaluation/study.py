"""The user study, as the paper's: results of every method without their names, rated for background and action.

Pictures come from the folder of a bench; ratings go to `study.sqlite` in it. Who rates is known by a random id alone,
from which the order of everything follows, so that a rater can stop and go on.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import Interval, bootstrap, label
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.variants import METHOD_VARIANTS

RATINGS = "study.sqlite"
SCALES = ("background", "action")
SCORES = (1, 2, 3, 4, 5)
IMAGES, SEEDS = 10, 2  # the paper's study: 10 pictures, 2 seeds, 20 raters
BUSY = 20  # seconds to wait for somebody else's rating to be written
RATING_FIELDS = ("rater", "edit", "seed", "method", *SCALES, "at")
_TABLE = """
CREATE TABLE IF NOT EXISTS scores (
    rater TEXT NOT NULL, edit TEXT NOT NULL, seed INTEGER NOT NULL, method TEXT NOT NULL,
    background INTEGER NOT NULL, action INTEGER NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (rater, edit, seed, method)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Trial:
    """One edit with one seed, by every method: `pictures[i]` is by `methods[i]`, in the order this rater sees them."""

    edit: str
    seed: int
    prompt: str
    photo: Path
    reference: Path | None  # None: the photo's own scene is kept
    methods: tuple[str, ...]
    pictures: tuple[Path, ...]


class Study:
    """The study of one bench folder: the first edits that every method has finished, the same for all raters.

    Raises `EditError` where fewer than two methods share an edit, or the folder can't be written.
    """

    def __init__(self, folder: str | Path, images: int = IMAGES, seeds: int = SEEDS) -> None:
        self.folder = Path(folder)
        by_edit: dict[str, dict[str, dict]] = {}
        for record in Records(self.folder).read():
            if record["variant"] in METHOD_VARIANTS:
                by_edit.setdefault(record["edit"], {})[record["variant"]] = record
        self.methods = tuple(name for name in METHOD_VARIANTS if any(name in found for found in by_edit.values()))
        whole = {edit: found for edit, found in by_edit.items() if len(found) == len(self.methods)}
        if len(self.methods) < 2 or not whole:
            raise EditError(
                f"There is nothing to compare in {self.folder}: no edit is finished by two or more methods; "
                "run `python -m layerdiffusion evaluate toybench --out DIR` first."
            )
        self._records = dict(list(whole.items())[:images])
        self._trials = [
            (edit, seed)
            for edit, found in self._records.items()
            for seed in sorted(set.intersection(*(set(record["seeds"]) for record in found.values())))[:seeds]
        ]
        with self._store() as store:
            store.execute("PRAGMA journal_mode = WAL")
            store.execute(_TABLE)

    def __len__(self) -> int:
        return len(self._trials)

    def trial(self, rater: str, edit: str, seed: int) -> Trial:
        """The trial as this rater sees it. Raises `EditError` for one that isn't there."""
        if (edit, seed) not in self._trials:
            raise EditError("There is no such picture in this study; reload the page.")
        methods = list(self.methods)
        random.Random(f"{rater} {edit} {seed}").shuffle(methods)
        records = [self._records[edit][method] for method in methods]
        pictures = [self.folder / record["pictures"][record["seeds"].index(seed)] for record in records]
        photo, reference = (pictures[0].with_name(f"{name}.png") for name in ("photo", "reference"))
        shown = reference if reference.exists() else None
        return Trial(edit, seed, records[0]["prompt"], photo, shown, tuple(methods), tuple(pictures))

    def next(self, rater: str) -> Trial | None:
        """The first trial of the rater's own order that they have not rated; None when they have rated all."""
        order = list(self._trials)
        random.Random(rater).shuffle(order)
        done = self._done(rater)
        return next((self.trial(rater, *key) for key in order if key not in done), None)

    def done(self, rater: str) -> int:
        """How many of the trials the rater has rated."""
        return len(self._done(rater) & {*self._trials})

    def save(self, rater: str, edit: str, seed: int, scores: Sequence[Sequence[int]]) -> None:
        """Store a trial's scores, (background, action) from 1 to 5 for each picture in the rater's order.

        Raises `EditError` for scores that are missing or none, and for a trial this rater has rated already.
        """
        trial = self.trial(rater, edit, seed)
        if len(scores) != len(trial.methods) or any(type(s) is not int or s not in SCORES for p in scores for s in p):
            raise EditError("A score must be 1, 2, 3, 4 or 5; rate every picture on both scales.")
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        rows = [(rater, edit, seed, method, *pair, now) for method, pair in zip(trial.methods, scores, strict=True)]
        try:
            with self._store() as store:
                store.executemany("INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.IntegrityError as error:
            raise EditError("You have rated these pictures already; go on with the next ones.") from error

    def ratings(self) -> list[dict]:
        """Everybody's ratings by `RATING_FIELDS`, the oldest first; raters are numbered, as an id is secret."""
        with self._store() as store:
            rows = store.execute("SELECT * FROM scores ORDER BY at, rater, edit, seed, method").fetchall()
        number = {rater: at for at, rater in enumerate(dict.fromkeys(row[0] for row in rows), 1)}
        return [dict(zip(RATING_FIELDS, (number[row[0]], *row[1:]), strict=True)) for row in rows]

    def _done(self, rater: str) -> set[tuple[str, int]]:
        with self._store() as store:
            return set(store.execute("SELECT DISTINCT edit, seed FROM scores WHERE rater = ?", (rater,)))

    @contextmanager
    def _store(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction: handlers run in threads of their own, and may be many."""
        try:
            with closing(sqlite3.connect(self.folder / RATINGS, timeout=BUSY)) as store, store:
                yield store
        except sqlite3.OperationalError as error:
            raise EditError(f"The ratings in {self.folder / RATINGS} can't be opened ({error}).") from error


def mean_scores(ratings: Sequence[dict]) -> dict[str, dict[str, Interval]]:
    """Method → scale → mean score with its 95 % interval, by bootstrap over raters."""
    raters = {rating["rater"] for rating in ratings}
    return {
        label(method): {
            scale: bootstrap(
                [[r[scale] for r in ratings if r["rater"] == rater and r["method"] == method] for rater in raters]
            )
            for scale in SCALES
        }
        for method in METHOD_VARIANTS
        if any(rating["method"] == method for rating in ratings)
    }
