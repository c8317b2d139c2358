"""The study's page, started by a command of its own: blind, resumable, closed to all but its own buttons."""

import base64
import csv
import json
import re
import urllib.error
import urllib.parse
import urllib.request

import gradio as gr
import pytest
from bench_folder import METHODS, bench_folder
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layerdiffusion.__main__ import main
from layerdiffusion.commands.study import KEY, is_rater, study_page
from layerdiffusion.evaluation.study import Study

ME = "0123456789abcdef" * 2
GOOD = [4, 5] * len(METHODS)


@pytest.fixture
def study(tmp_path):
    return Study(bench_folder(tmp_path / "bench", edits=2, side=24))


def handlers(study):
    """The page's two event handlers: what a visit shows, and what saving does."""
    return [function.fn for function in study_page(study).fns.values()]


def test_what_is_shown_before_names_nobody(study):
    """Neither names, nor file names, nor the metadata that every saved result carries."""
    for path in (study.folder / "pictures").rglob("*.png"):
        carried = PngInfo()
        carried.add_text("layerdiffusion", "made by pnp")
        with Image.open(path) as image:
            image.save(path, pnginfo=carried)
    load, _ = handlers(study)
    text = " ".join(map(str, load(ME)))
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", text)]
    assert len(pictures) == 2 + len(METHODS)
    for secret in (*METHODS, "Plug-and-Play", "records", str(study.folder)):
        assert secret.lower() not in re.sub(r"base64,[^\"]+", "", text).lower()
        assert all(secret.encode() not in data for data in pictures)


def test_saving_goes_on_to_the_next_with_no_scores_given(study):
    load, save = handlers(study)
    rater, current, asked, *rest = load("")
    assert is_rater(rater) and "1 of 12" in asked and rest[-8:] == [None] * 8
    following = save(rater, current, *GOOD)
    assert following[0] != current and "2 of 12" in following[1] and list(following[-8:]) == [None] * 8
    assert load(rater)[1:3] == following[:2], "a reload goes on there"
    stored = {rating["method"]: (rating["background"], rating["action"]) for rating in study.ratings()}
    assert stored == dict.fromkeys(METHODS, (4, 5))


def test_the_end_is_said_and_hides_the_scores(study):
    load, save = handlers(study)
    while (current := load(ME)[1]) is not None:
        save(ME, current, *GOOD)
    _, _, asked, row, button, *_ = load(ME)
    assert "Thank you" in asked and not row["visible"] and not button["visible"]


@pytest.mark.parametrize("rater", [None, "", "me", 7, ["a"], "Z" * 32, "../../x", "0" * 33])
def test_only_an_id_that_the_page_gave_is_a_rater(study, rater):
    load, save = handlers(study)
    with pytest.raises(gr.Error, match="reload"):
        save(rater, ("both-00", 0), *GOOD)
    assert is_rater(load(rater)[0]), "the page gives a new one"


def test_scores_must_be_complete_and_are_given_once(study):
    load, save = handlers(study)
    current = load(ME)[1]
    with pytest.raises(gr.Error, match="both scales"):
        save(ME, current, *GOOD[:-1], None)
    assert study.ratings() == []
    save(ME, current, *GOOD)
    with pytest.raises(gr.Error, match="already"):
        save(ME, current, *GOOD)


def test_ratings_and_pictures_can_not_be_fetched(study):
    blocks = study_page(study)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True)
    try:
        page = urllib.request.urlopen(url, timeout=20).read().decode()
        assert "study-trial" in page and not any(f"{method}-0.png" in page for method in METHODS)
        for name in ("study.sqlite", "pictures/both-00/ours-0.png", "records/both-00/ours.json"):
            path = urllib.parse.quote(str(study.folder / name))
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{url}gradio_api/file={path}", timeout=20)
            assert refused.value.code in (403, 404)
        info = json.loads(urllib.request.urlopen(f"{url}gradio_api/info", timeout=20).read())
        assert not info["named_endpoints"] and not info["unnamed_endpoints"]
        (stored,) = (block for block in blocks.blocks.values() if isinstance(block, gr.BrowserState))
        assert stored.storage_key == KEY and stored.default_value == ""
    finally:
        blocks.close()


def test_the_results_are_printed_and_written_as_csv(study, tmp_path, capsys):
    trial = study.next(ME)
    study.save(ME, trial.edit, trial.seed, [(4, 5)] * len(METHODS))
    assert main(["study", str(study.folder), "--results", str(tmp_path / "ratings.csv")]) == 0
    printed = capsys.readouterr().out
    assert "1 raters, 4 pictures rated" in printed
    assert "Plug-and-Play  background 4.00 [4.00, 4.00]  action 5.00 [5.00, 5.00]" in printed
    with (tmp_path / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == set(METHODS) and ME not in str(rows)


def test_a_folder_without_a_bench_is_refused(tmp_path, capsys):
    assert main(["study", str(tmp_path)]) == 2
    assert "nothing to compare" in capsys.readouterr().err
