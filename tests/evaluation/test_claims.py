"""What records show: paired differences, verdicts by their intervals, and the paper's claims."""

import math

import pytest
from bench_folder import METHODS, bench_folder

from layerdiffusion.evaluation.claims import (
    BACKGROUND,
    CLIP,
    FAILS,
    HOLDS,
    SATISFIED,
    UNDECIDED,
    UNMEASURED,
    WANTED,
    BenchResults,
    Claim,
    Comparison,
    Interval,
    label,
)
from layerdiffusion.evaluation.records import Records


def bench(values, measure=SATISFIED.name):
    """Results from {variant: {edit: [value of seed 0, of seed 1, …]}}."""
    return BenchResults(
        {
            "edit": edit,
            "kind": "both",
            "variant": variant,
            "seeds": list(range(len(found))),
            "measures": [{"seed": seed, measure: value} for seed, value in enumerate(found)],
        }
        for variant, edits in values.items()
        for edit, found in edits.items()
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.01, 0.2, HOLDS), (-0.1, 0.2, UNDECIDED), (-0.2, -0.1, FAILS), (0.0, 0.0, FAILS), (0.0, 0.1, UNDECIDED)],
)
def test_a_verdict_is_read_off_the_interval(low, high, verdict):
    assert Comparison("ours", "pnp", SATISFIED, Interval((low + high) / 2, low, high), 10).verdict == verdict


def test_a_claim_holds_only_where_all_its_comparisons_do():
    def verdict(*intervals):
        found = (Comparison("f", "a", SATISFIED, one and Interval(0, *one), 5) for one in intervals)
        return Claim("", "", SATISFIED, tuple(found)).verdict

    assert verdict((0.1, 0.2), (0.1, 0.3)) == HOLDS
    assert verdict((0.1, 0.2), (-0.1, 0.3)) == UNDECIDED
    assert verdict((0.1, 0.2), (-0.1, 0.3), (-0.2, -0.1)) == FAILS
    assert verdict((0.1, 0.2), None) == UNMEASURED


def test_differences_are_paired_by_edit_and_seed():
    """Edits differ wildly and the variants by one tenth each time: only a paired interval is so narrow."""
    values = {f"e{i}": [i / 10, i / 10 + 1] for i in range(8)}
    less = {edit: [value - 0.1 for value in found] for edit, found in values.items()}
    less["e9"] = [5.0, 5.0]  # of an edit that the other one lacks
    del less["e0"]
    found = bench({"ours": values, "sdedit": less}, CLIP.name).compare("ours", "sdedit", CLIP)
    assert found.difference == pytest.approx((0.1, 0.1, 0.1)) and found.edits == 7 and found.verdict == HOLDS


def test_seeds_that_only_one_has_are_left_out_of_the_difference():
    found = bench({"ours": {"e": [1.0, 0.0, 9.0]}, "pnp": {"e": [0.0, math.nan]}}).compare("ours", "pnp", SATISFIED)
    assert found.difference == pytest.approx((1.0, 1.0, 1.0))


def test_the_claims_are_about_the_papers_kind_of_edit(tmp_path):
    folder = bench_folder(tmp_path, (*METHODS, *"fabghi"), side=16)
    found = BenchResults(Records(folder).read())
    claims = {(claim.title.partition(" ")[0] + claim.title[-3:], claim.measure.name): claim for claim in found.claims()}
    ahead, parts = claims["Oursund", WANTED.name], claims["Each(i)", CLIP.name]
    lift, stage_1 = claims["Stageext", SATISFIED.name], claims["Stagelar", BACKGROUND.name]
    assert [one.worse for one in ahead.comparisons] == ["sdedit", "imagic", "pnp"]
    assert {one.edits for one in ahead.comparisons} == {4} and {one.edits for one in parts.comparisons} == {12}
    assert [one.worse for one in parts.comparisons] == list("abghi") and parts.verdict == HOLDS
    assert lift.comparisons[0].worse == "i" and lift.verdict == HOLDS
    assert stage_1.comparisons[0].worse == "g" and stage_1.verdict == HOLDS
    assert found.full == "f" and BenchResults(r for r in found.records if r["variant"] != "f").full == "ours"


def test_baselines_that_see_the_reference_too_are_a_claim_of_their_own(tmp_path):
    folder = bench_folder(tmp_path, ("ours", "sdedit-layered"), ("both",), 2, (0,), side=16)
    *_, last = BenchResults(Records(folder).read()).claims()
    assert "layered picture" in last.title and {one.worse for one in last.comparisons} == {"sdedit-layered"}


def test_variants_are_named_for_people():
    assert [label(name) for name in ("ours", "pnp", "imagic-layered", "a", "layers-separate")] == [
        "Ours", "Plug-and-Play", "Imagic, layered", "(a)", "layers-separate",
    ]  # fmt: skip
