"""Each method's dial is chosen by one figure that no method can buy, on the tuning edits; the search is on paper."""

import json
from dataclasses import replace

import pytest

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation import search
from layerdiffusion.evaluation.search import ALL, GRIDS, NOTHING, TIE, candidates, choose, flags, likeness, score
from layerdiffusion.evaluation.variants import variants
from layerdiffusion.methods.options import OPTIONS, options_for
from layerdiffusion.models.load import MINIATURE
from layerdiffusion.settings import PAPER


def records(results: dict[str, list[dict]]) -> list[dict]:
    """Records of edits 0, 1, … with one picture each, by variant."""
    return [
        {"edit": f"edit-{index}", "variant": variant, "measures": [picture]}
        for variant, pictures in results.items()
        for index, picture in enumerate(pictures)
    ]


def picture(satisfied: bool, kept: bool = True, psnr: float = 20.0) -> dict:
    return {"seed": 0, "satisfied": satisfied, "kept": kept, "background_psnr": psnr, "clip_score": 0.3}


@pytest.fixture
def tries():
    return candidates(variants(["sdedit"]))


def results_of(tries, **by_strength) -> list[dict]:
    """The same pictures for every try, but for those of a strength given as `s0_6`."""
    usual = [picture(index % 2 == 0) for index in range(4)]
    named = {name.replace("s0_", "sdedit-strength-0."): pictures for name, pictures in by_strength.items()}
    return records({one.variant.name: named.get(one.variant.name, usual) for one in tries})


def winner(found) -> dict[str, float]:
    (chosen,) = [one for one in found if one.chosen]
    return chosen.values


MAIN_DIAL = {"sdedit": "strength", "pnp": "attention_share"}  # what matters most; of the others, α


def test_every_method_has_as_many_tries_on_its_main_dial_and_the_first_are_its_authors(tiny_models):
    assert set(GRIDS) == {"ours", *OPTIONS} and len({len(grid) for grid in GRIDS.values()}) == 1
    for method, grid in GRIDS.items():
        defaults = PAPER if method == "ours" else options_for(method, tiny_models)
        assert all(getattr(defaults, name) == value for name, value in grid[0].items())
        assert len({values[MAIN_DIAL.get(method, "alpha")] for values in grid}) >= 5
        for values in grid:  # every one of them is allowed
            replace(PAPER, **values) if method == "ours" else options_for(method, tiny_models, **values)


def test_a_try_lays_its_values_over_its_method_and_has_a_name_of_its_own(tiny_models):
    tries = candidates(variants(GRIDS))
    assert len({one.variant.name for one in tries}) == len(tries) == sum(map(len, GRIDS.values()))
    by_name = {one.variant.name: one for one in tries}
    assert by_name["ours-alpha-0.9"].variant.settings == {"alpha": 0.9}
    assert by_name["pnp-attention_share-0.2-feature_share-0.3"].variant.options == GRIDS["pnp"][3]
    assert [one.variant.name for one in tries if one.default][:2] == ["ours-alpha-0.7", "sdedit-strength-0.8"]
    with pytest.raises(EditError, match="takes the values of sdedit"):
        candidates(variants(["sdedit-layered"]))


def test_the_score_can_be_bought_with_no_two_of_its_three_parts():
    assert score(1, 1, 1) == 1 and score(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert score(0.6, 0.3, 0.2) == pytest.approx(3 / (1 / 0.6 + 1 / 0.3 + 1 / 0.2))
    assert score(0, 1, 1) == score(1, 0, 1) == score(1, 1, 0) == 0
    assert score(0.4, 0.4, 0.4) > score(0.1, 1, 1)
    assert (likeness(NOTHING - 3), likeness((NOTHING + ALL) / 2), likeness(ALL + 70)) == (0, 0.5, 1)
    assert likeness(None) is None


def test_the_better_dial_is_chosen(tries):
    good = [picture(True) for _ in range(4)]
    found = choose(results_of(tries, s0_6=good, s0_5=[picture(True, kept=False) for _ in range(4)]), tries)
    assert winner(found) == {"strength": 0.6}
    chosen = next(one for one in found if one.chosen)
    assert (chosen.satisfied, chosen.preserved, chosen.background) == (1, 1, 0.5)
    assert chosen.score == pytest.approx(score(1, 1, 0.5)) and chosen.low <= chosen.score <= chosen.high
    usual = next(one for one in found if one.default)
    assert usual.score == pytest.approx(score(0.5, 1, 0.5)) and usual.low < usual.score < usual.high
    assert flags(found) == ["--set sdedit.strength=0.6"]


def test_the_authors_own_value_stays_in_a_tie_and_for_a_gain_that_is_none(tries):
    assert winner(choose(results_of(tries), tries)) == {"strength": 0.8}
    bit = [picture(index % 2 == 0, psnr=20.05) for index in range(4)]
    found = choose(results_of(tries, s0_6=bit), tries)
    gain = {one.variant: one.score for one in found}
    assert 0 < gain["sdedit-strength-0.6"] - gain["sdedit-strength-0.8"] < TIE
    assert winner(found) == {"strength": 0.8}


def test_only_edits_that_every_try_has_are_counted(tries):
    """The best try failed on the hard edit; that must not be what makes it the best."""
    some = [one for one in results_of(tries, s0_6=[picture(True)] + [picture(False)] * 3)]
    some = [one for one in some if one["variant"] != "sdedit-strength-0.6" or one["edit"] == "edit-0"]
    found = choose(some, tries)
    assert {one.edits for one in found} == {1} and winner(found) == {"strength": 0.8}
    with pytest.raises(EditError, match="No edit has been finished"):
        choose([one for one in some if one["variant"] != "sdedit-strength-0.6"], tries)


def test_without_a_judge_there_is_no_search(tries):
    unjudged = [{"seed": 0, "background_psnr": 20.0, "clip_score": 0.3}]
    with pytest.raises(EditError, match="judge"):
        choose(results_of(tries, s0_4=unjudged * 4), tries)


@pytest.mark.skipif(not (MINIATURE / "judge").is_dir(), reason="the miniature is not in this checkout")
def test_the_command_tries_chooses_and_writes_down(tmp_path, monkeypatch, capsys):
    from layerdiffusion.__main__ import main

    monkeypatch.setattr(search, "GRIDS", {"sdedit": ({"strength": 0.8}, {"strength": 0.0})})
    out = tmp_path / "search"
    command = ["evaluate", "search", "--methods", "sdedit", "--edits", "2", "--seeds", "0"]
    command += ["--set", "sampling_steps=2", "--out", str(out)]
    assert main(command) == 0
    written = json.loads((out / "search.json").read_text(encoding="utf-8"))
    first, second = written["tried"]
    assert [first["variant"], second["variant"]] == ["sdedit-strength-0.8", "sdedit-strength-0"]
    assert second["satisfied"] == 0 == second["score"], "strength 0 is the photo, which never is what was asked for"
    assert second["preserved"] == 1, "and has all that the photo has"
    assert written["chosen"] == {"sdedit": {"strength": 0.8}} and written["flags"] == ["--set sdedit.strength=0.8"]
    page = (out / "search.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out and page.count("| sdedit |") == 2 and page.count("**chosen**") == 1
    before = {path: path.stat().st_mtime_ns for path in out.glob("records/*/*.json")}
    assert len(before) == 4 and main(command) == 0, "a second run finds all of them"
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("records/*/*.json")}
