"""The user study: who sees what in which order, what is kept, and what is made of it."""

import sqlite3
import threading

import numpy as np
import pytest
from bench_folder import METHODS, bench_folder

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.study import Study, mean_scores

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
        assert sorted(trial.methods) == sorted(METHODS)
        assert [p.name for p in trial.pictures] == [f"{variant}-{trial.seed}.png" for variant in trial.methods]


def test_orders_are_shuffled_anew_for_each_rater_and_stay_the_same_for_one(study, folder):
    me, you = walk(study, "me"), walk(study, "you")
    assert [(t.edit, t.seed) for t in me] != [(t.edit, t.seed) for t in you]
    assert len({t.methods for t in me + you}) > 6, "the place of a method tells its name"
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
    assert {(r["background"], r["action"]) for r in study.ratings()} == {(3, 4)}
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
    stored = {rating["method"]: (rating["background"], rating["action"]) for rating in study.ratings()}
    assert stored == {method: (at + 1, at + 2) for at, method in enumerate(trial.methods)}


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


def test_ratings_name_methods_and_number_raters(study):
    walk(study, "a-secret-id", count=2)
    walk(study, "another-id", [(5, 1)] * 4, count=1)
    ratings = study.ratings()
    assert len(ratings) == 12 and {rating["rater"] for rating in ratings} == {1, 2}
    assert {(rating["background"], rating["action"]) for rating in ratings} == {(3, 4), (5, 1)}
    assert {rating["method"] for rating in ratings} == set(METHODS)


def test_the_mean_scores_interval_is_over_raters_and_not_over_ratings():
    """Ten ratings of one mind are no more than one."""
    leaning = {rater: 1 if rater % 3 else -1 for rater in range(12)}
    ratings = [
        {"rater": rater, "method": "ours", "background": 3 + lean, "action": 3}
        for rater, lean in leaning.items()
        for _ in range(10)
    ]
    found = mean_scores(ratings)["Ours"]
    assert found["action"] == (3, 3, 3)
    values = [3 + lean for lean in leaning.values()]
    mean, low, high = found["background"]
    assert mean == pytest.approx(np.mean(values))
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(12), rel=0.2)
    assert mean_scores([]) == {}
