"""The user study: who sees what in which order, what is kept, and what is made of it."""

import csv
import io
import sqlite3
import threading

import numpy as np
import pytest
from bench_folder import METHODS, bench_folder

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.study import REVEAL_AFTER, SCALES, Rating, Study, summaries

FAIR = [(3, 4)] * len(METHODS)


@pytest.fixture
def folder(tmp_path):
    return bench_folder(tmp_path / "bench", edits=2, side=16)


@pytest.fixture
def study(folder):
    return Study(folder)


def walk(study, rater, scores=FAIR, count=None):
    """The trials that a rater does, one after the other."""
    seen = []
    while (trial := study.next(rater)) is not None and len(seen) != count:
        study.save(rater, trial.edit, trial.seed, scores)
        seen.append(trial)
    return seen


def test_a_rater_sees_every_picture_once(study):
    seen = walk(study, "me")
    pictures = [picture for trial in seen for picture in trial.pictures]
    assert len(seen) == len(study) == 12 and len(set(pictures)) == len(pictures) == 12 * 4
    assert all(picture.is_file() for picture in pictures) and study.next("me") is None and study.done("me") == 12
    for trial in seen:
        assert sorted(trial.variants) == sorted(METHODS)
        assert [p.name for p in trial.pictures] == [f"{variant}-{trial.seed}.png" for variant in trial.variants]


def test_orders_are_shuffled_anew_for_each_rater_and_stay_the_same_for_one(study, folder):
    me, you = walk(study, "me"), walk(study, "you")
    assert [(t.edit, t.seed) for t in me] != [(t.edit, t.seed) for t in you]
    assert len({t.variants for t in me + you}) > 6, "the place of a method tells its name"
    other = Study(folder)
    assert [other.trial("me", t.edit, t.seed) for t in me] == me


def test_a_rater_goes_on_where_they_stopped_even_after_a_restart(study, folder):
    first = walk(study, "me", count=5)
    rest = walk(Study(folder), "me")
    assert len(first) == 5 and len({(t.edit, t.seed) for t in first + rest}) == 12 == len(first) + len(rest)


def test_no_picture_is_rated_twice_by_one_rater(study):
    trial = study.next("me")
    study.save("me", trial.edit, trial.seed, FAIR)
    with pytest.raises(EditError, match="already"):
        study.save("me", trial.edit, trial.seed, [(1, 1)] * 4)
    assert {(r.background, r.action) for r in study.ratings()} == {(3, 4)}
    study.save("you", trial.edit, trial.seed, FAIR)
    assert len(study.ratings()) == 8


@pytest.mark.parametrize(
    "scores", [[], FAIR[:3], [(3, 0)] * 4, [(6, 3)] * 4, [(None, 3)] * 4, [(True, 3)] * 4, [(2.0, 3)] * 4]
)
def test_scores_that_are_none_are_refused_and_nothing_is_kept(study, scores):
    trial = study.next("me")
    with pytest.raises(EditError, match="both scales"):
        study.save("me", trial.edit, trial.seed, scores)
    assert study.ratings() == [] and study.next("me") == trial


def test_a_trial_of_another_study_is_refused(study):
    with pytest.raises(EditError, match="no such picture"):
        study.save("me", "../secret", 0, FAIR)


def test_scores_are_kept_with_the_method_they_were_given_to(study):
    trial = study.next("me")
    study.save("me", trial.edit, trial.seed, [(1, 2), (2, 3), (3, 4), (4, 5)])
    kept = {rating.variant: (rating.place, rating.background, rating.action) for rating in study.ratings()}
    assert kept == {variant: (at, at + 1, at + 2) for at, variant in enumerate(trial.variants)}


def test_names_are_kept_back_until_enough_is_rated(study):
    assert not study.revealed("me")
    walk(study, "me", count=REVEAL_AFTER - 1)
    assert not study.revealed("me")
    walk(study, "me", count=1)
    assert study.revealed("me") and not study.revealed("you")


def test_a_study_of_fewer_trials_reveals_after_all_of_them(folder):
    study = Study(folder, images=1)
    assert len(study) == 2
    walk(study, "me")
    assert study.revealed("me")


def test_the_trials_are_the_first_edits_that_every_method_has_finished(folder):
    (folder / "records" / "background-00" / "pnp.json").unlink()
    study = Study(folder, images=2, seeds=1)
    assert {(t.edit, t.seed) for t in walk(study, "me")} == {("pose-00", 0), ("both-00", 0)}


@pytest.mark.parametrize("variants", [(), ("ours",), ("ours", "a", "layers-separate")])
def test_a_folder_with_nothing_to_compare_is_refused(tmp_path, variants):
    folder = bench_folder(tmp_path, variants, ("both",), 1, (0,), side=16)
    with pytest.raises(EditError, match="nothing to compare"):
        Study(folder)


def test_a_store_that_can_t_be_opened_is_said_in_a_sentence(folder):
    (folder / "study.sqlite").mkdir()
    with pytest.raises(EditError, match="can't be opened"):
        Study(folder)


def test_many_raters_at_once_lose_nothing(study):
    threads = [threading.Thread(target=walk, args=(study, f"rater {i}")) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(study.ratings()) == 6 * 12 * 4
    with sqlite3.connect(study.folder / "study.sqlite") as store:
        assert store.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_csv_has_a_row_a_rating_and_nobody_s_id(study):
    walk(study, "a-secret-id", count=2)
    walk(study, "another-id", [(5, 1)] * 4, count=1)
    text = study.csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 12 and "secret" not in text and "another" not in text
    assert [row["rater"] for row in rows].count("1") in (4, 8)
    assert {(row["background"], row["action"]) for row in rows} == {("3", "4"), ("5", "1")}
    assert {row["method"] for row in rows} == set(METHODS)


# --- statistics -------------------------------------------------------------------------------------------------------


def given(scores):
    """Ratings from {variant: {(rater, edit): score}}, the same on both scales."""
    return [
        Rating(rater, edit, 0, variant, 0, score, score, "")
        for variant, found in scores.items()
        for (rater, edit), score in found.items()
    ]


def test_histogram_and_mean_are_what_was_given():
    scores = {("a", "x"): 1, ("a", "y"): 5, ("b", "x"): 5, ("b", "y"): 5}
    background, action = summaries(given({"ours": scores}), METHODS)
    assert [point.mean for point in background.shares] == [0.25, 0, 0, 0, 0.75]
    assert background.mean.mean == 4 and background.count == 4 and background.behind_first is None
    assert background.mean.low < 4 < background.mean.high and action.shares == background.shares
    assert (background.scale, action.scale) == SCALES
    assert summaries([], METHODS) == []


def test_the_interval_counts_raters_and_edits_not_ratings():
    """Ten ratings of one mind about one edit are no more than one."""
    rng = np.random.default_rng(0)
    leaning = {f"r{i}": rng.choice([-1, 1]) for i in range(12)}
    scores = {(rater, f"e{j}"): int(3 + lean) for rater, lean in leaning.items() for j in range(10)}
    (summary, _) = summaries(given({"ours": scores}), METHODS)
    over_ratings = 1.96 * np.std(list(scores.values())) / np.sqrt(len(scores))
    assert summary.mean.high - summary.mean.low > 4 * over_ratings


def test_a_difference_that_every_rater_sees_is_sure_though_raters_differ():
    base = {(f"r{i}", f"e{j}"): 2 + (i + j) % 3 for i in range(6) for j in range(5)}
    better = {key: score + 1 for key, score in base.items()}
    found = summaries(given({"ours": better, "pnp": base}), METHODS)
    (behind,) = (s.behind_first for s in found if s.variant == "pnp" and s.scale == "action")
    assert behind == pytest.approx((1, 1, 1))
