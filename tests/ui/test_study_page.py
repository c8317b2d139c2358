"""The study's page: blind until the rater has done enough, resumable, and closed to all but its own buttons."""

import base64
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
from serving import served

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.study import REVEAL_AFTER, Study
from layerdiffusion.ui.study import KEY, known, opener, reporter, results, saver, view

ME = "0123456789abcdef" * 2
GOOD = [4, 5] * len(METHODS)


@pytest.fixture
def study(tmp_path):
    return Study(bench_folder(tmp_path / "bench", edits=2, side=24))


@pytest.fixture(scope="module")
def page_with_study(page_model, tmp_path_factory):
    folder = bench_folder(tmp_path_factory.mktemp("study") / "bench", edits=1, side=24)
    with served(page_model, study=str(folder)) as page:
        yield page, folder


def do(study, count, rater=ME):
    for _ in range(count):
        current = view(study, rater)[0]
        saver(study)(rater, current, *GOOD)


def test_what_is_shown_before_names_nobody(study):
    """Neither names, nor file names, nor the metadata that every saved result carries."""
    for path in (study.folder / "pictures").rglob("*.png"):
        carried = PngInfo()
        carried.add_text("layerdiffusion", "made by pnp")
        with Image.open(path) as image:
            image.save(path, pnginfo=carried)
    current, *shown = view(study, ME)
    text = " ".join(map(str, [*current, *shown]))
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", text)]
    assert len(pictures) == 2 + len(METHODS)
    for secret in (*METHODS, "Plug-and-Play", "records", str(study.folder)):
        assert secret.lower() not in re.sub(r"base64,[^\"]+", "", text).lower()
        assert all(secret.encode() not in data for data in pictures)


def test_saving_goes_on_to_the_next_with_no_scores_given(study):
    rater, current, asked, *rest = opener(study)("")
    assert known(rater) == rater and "1 of 12" in asked and rest[-8:] == [None] * 8
    following = saver(study)(rater, current, *GOOD)
    assert following[0] != current and "2 of 12" in following[1] and list(following[-8:]) == [None] * 8
    assert opener(study)(rater)[1:3] == following[:2], "a reload goes on there"
    kept = {rating.variant: (rating.background, rating.action) for rating in study.ratings()}
    assert kept == dict.fromkeys(METHODS, (4, 5))


def test_the_end_is_said_and_hides_the_scores(study):
    do(study, len(study))
    current, asked, row, save, show, *_ = view(study, ME)
    assert current is None and "Thank you" in asked
    assert not row["visible"] and not save["visible"] and show["interactive"]


@pytest.mark.parametrize("rater", [None, "", "me", 7, ["a"], "Z" * 32, "../../x", "0" * 33])
def test_only_an_id_of_ours_is_a_rater(study, rater):
    with pytest.raises(EditError, match="reload"):
        saver(study)(rater, ("both-00", 0), *GOOD)
    assert known(opener(study)(rater)[0]), "the page gives a new one"
    with pytest.raises(EditError, match="give the methods away"):
        reporter(study)(rater)


def test_scores_must_be_complete(study):
    current = view(study, ME)[0]
    with pytest.raises(EditError, match="both scales"):
        saver(study)(ME, current, *GOOD[:-1], None)
    assert study.ratings() == []


def test_a_trial_rated_in_another_tab_is_not_rated_again(study):
    current = view(study, ME)[0]
    saver(study)(ME, current, *GOOD)
    with pytest.raises(EditError, match="already"):
        saver(study)(ME, current, *GOOD)


def test_results_come_after_enough_is_rated(study):
    do(study, REVEAL_AFTER - 1)
    with pytest.raises(EditError, match="give the methods away"):
        reporter(study)(ME)
    do(study, 1)
    text = reporter(study)(ME)
    for name in ("Ours", "SDEdit", "Imagic", "Plug-and-Play"):
        assert text.count(f"<b>{name}</b>") == 2
    assert text.count("<svg") == 2 * len(METHODS) and "1 rater, 20 pictures rated" in text
    assert "4.00 [4.00, 4.00]" in text and "5.00 [5.00, 5.00]" in text
    data = base64.b64decode(re.search(r"text/csv;base64,([^\"]+)", text)[1]).decode()
    assert data == study.csv() and ME not in text + data


def test_results_of_nobody_are_drawn_as_well(study):
    assert "0 raters, 0 pictures rated" in results(study)


def test_without_the_option_there_is_no_study(page):
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{page.url}study", timeout=20)


def test_the_study_is_a_page_of_its_own(page_with_study):
    page, _ = page_with_study
    text = urllib.request.urlopen(f"{page.url}study", timeout=20).read().decode()
    assert "study-trial" in text and "photo-board" not in text
    assert "study-trial" not in urllib.request.urlopen(page.url, timeout=20).read().decode()
    assert not any(f"{method}-0.png" in text for method in METHODS)


def test_ratings_and_pictures_can_not_be_fetched(page_with_study):
    page, folder = page_with_study
    for name in ("study.sqlite", "pictures/both-00/ours-0.png", "records/both-00/ours.json"):
        path = urllib.parse.quote(str(folder / name))
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{page.url}gradio_api/file={path}", timeout=20)
        assert refused.value.code in (403, 404)


def test_the_study_has_no_public_endpoints(page_with_study):
    page, _ = page_with_study
    info = json.loads(urllib.request.urlopen(f"{page.url}gradio_api/info", timeout=20).read())
    assert set(info["named_endpoints"]) == {"/segment", "/split_prompt", "/edit"} and not info["unnamed_endpoints"]


def test_the_rater_is_kept_in_the_browser_s_own_storage(page_with_study):
    page, _ = page_with_study
    (kept,) = (block for block in page.blocks.blocks.values() if isinstance(block, gr.BrowserState))
    assert kept.storage_key == KEY and kept.default_value == ""
