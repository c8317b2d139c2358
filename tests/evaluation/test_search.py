"""Each method's dial is chosen on the tuning edits, by one figure that weighs words, looks and background."""

import json
from dataclasses import replace

import pytest

from layerdiffusion.baselines import PAPERS, options_for
from layerdiffusion.commands.evaluate import search
from layerdiffusion.commands.evaluate.search import GRIDS, TIE, candidates, choose, scores_of
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import BenchResults
from layerdiffusion.evaluation.variants import variants
from layerdiffusion.models.load import MINIATURE
from layerdiffusion.settings import PAPER


def picture(satisfied: bool = True, kept: bool = True, psnr: float | None = 30.0) -> dict:
    return {"seed": 0, "satisfied": satisfied, "kept": kept, "background_psnr": psnr}


def results(**by_variant: list[dict]) -> BenchResults:
    """Results of edits 0, 1, … with one picture each, by variant."""
    return BenchResults(
        {"edit": f"edit-{index}", "kind": "both", "variant": variant, "seeds": [0], "measures": [measures]}
        for variant, pictures in by_variant.items()
        for index, measures in enumerate(pictures)
    )


def score(*pictures: dict) -> float:
    return scores_of(results(a=list(pictures)), ["a"])[0]


def test_every_method_has_as_many_tries_and_the_first_are_its_authors(tiny_models):
    assert set(GRIDS) == {"ours", *PAPERS} and len({len(grid) for grid in GRIDS.values()}) == 1
    for method, grid in GRIDS.items():
        defaults = PAPER if method == "ours" else options_for(method, tiny_models)
        assert all(getattr(defaults, name) == value for name, value in grid[0].items())
        for values in grid:  # every one of them is allowed
            replace(PAPER, **values) if method == "ours" else options_for(method, tiny_models, **values)


def test_a_try_lays_its_values_over_its_method_and_has_a_name_of_its_own():
    by_name = {one.name: one for variant in variants(GRIDS) for one in candidates(variant)}
    assert len(by_name) == sum(map(len, GRIDS.values()))
    assert by_name["ours-alpha-0.9"].settings == {"alpha": 0.9}
    assert by_name["pnp-attention_share-0.2-feature_share-0.3"].options == GRIDS["pnp"][3]
    with pytest.raises(EditError, match="takes the values of sdedit"):
        candidates(*variants(["sdedit-layered"]))


def test_the_score_gives_up_none_of_its_three_parts():
    assert score(picture()) == 1
    assert score(picture(), picture(False, False, 10.0)) == pytest.approx(0.5)
    assert score(picture(False)) == score(picture(kept=False)) == score(picture(psnr=10.0)) == 0
    assert score(picture(), picture(psnr=None)) == 1, "a background that can't be measured counts nothing"


def test_the_best_value_is_chosen_and_the_authors_own_in_a_tie():
    assert choose([0.5, 0.4, 0.7]) == 2
    assert choose([0.5, 0.5 + TIE / 2, 0.4]) == 0


def test_only_edits_that_every_try_has_are_counted():
    """The second try failed on the hard edit; that must not be what makes it the best."""
    found = results(a=[picture(), picture(False)], b=[picture()])
    assert scores_of(found, ["a", "b"]) == [1, 1]
    with pytest.raises(EditError, match="No edit has been finished"):
        scores_of(found, ["a", "c"])


def test_without_a_judge_there_is_no_search():
    with pytest.raises(EditError, match="judge"):
        score({"seed": 0, "background_psnr": 20.0})


@pytest.mark.skipif(not (MINIATURE / "judge").is_dir(), reason="the miniature is not in this checkout")
def test_the_command_tries_chooses_and_writes_down(tmp_path, monkeypatch, capsys):
    from layerdiffusion.__main__ import main

    monkeypatch.setattr(search, "GRIDS", {"sdedit": ({"strength": 0.8}, {"strength": 0.0})})
    out = tmp_path / "search"
    command = ["evaluate", "search", "--methods", "sdedit", "--edits", "2", "--seeds", "0"]
    command += ["--set", "sampling_steps=2", "--out", str(out)]
    assert main(command) == 0
    written = json.loads((out / "search.json").read_text(encoding="utf-8"))
    assert written["scores"]["sdedit"][1] == 0, "strength 0 is the photo, which never is what was asked for"
    assert written["flags"] == ["--set sdedit.strength=0.8"]
    assert "--set sdedit.strength=0.8" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.glob("records/*/*.json")}
    assert len(before) == 4 and main(command) == 0, "a second run finds all of them"
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("records/*/*.json")}
