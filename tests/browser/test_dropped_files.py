"""Files that fall on the page: a saved edit comes back whole, anything else is refused."""

import zipfile

import numpy as np
import pytest
from serving import photo

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.settings import Settings
from layerdiffusion.ui.bundle import open_bundle, save_zip


@pytest.fixture(scope="module")
def saved(page, tmp_path_factory):
    """A finished edit and the files that may be dropped to have it back."""
    mask, own = np.zeros((64, 96), bool), np.zeros((80, 64), bool)
    mask[20:40, 30:70], own[30:50, 10:40] = True, True
    edit = Edit(
        photo(96, 64),
        mask,
        photo(64, 80, seed=1),
        ~own,
        object_prompt="a dog that jumps high",
        background_prompt="on thick ice",
        placement=Placement(scale=1.2, flip=True),
    )
    settings = Settings(embedding_steps=3, finetune_steps=2, sampling_steps=4, alpha=0.55, seeds=(3, 7))
    result, tmp_path = page.backend.editor.run(edit, settings), tmp_path_factory.mktemp("saved")
    folder = result.save(tmp_path / "saved")
    save_zip([result], {}, tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        archive.extract("edit.json", tmp_path)
    files = {"zip": tmp_path / "all.zip", "recipe": tmp_path / "edit.json", "result": folder / "seed-7.png"}
    return result, files


@pytest.mark.parametrize(
    ("kind", "seeds"),
    [("zip", (3, 7)), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("recipe", ()), ("result", (7,))))],
)
def test_a_dropped_file_brings_everything_back(tab, saved, kind, seeds):
    result, files = saved
    page, edit = tab.page, result.seen
    tab.drop(files[kind])
    tab.wait("photo-board", f"data.area == {edit.object_mask.sum()}")
    page.wait_for_selector("#reference-board .ld-has-picture")
    tab.wait("reference-board", f"data.area == {edit.background_mask.sum()}")
    page.wait_for_selector("#place-board .ld-has-picture")
    tab.shows("object-prompt", "a dog that jumps high")
    tab.shows("dial-alpha", "0.55")
    tab.ready()
    shown = page.locator("#gallery .thumbnail-item")
    assert shown.count() == len(seeds) and all(f"seed {seed} ·" in page.inner_text("#gallery") for seed in seeds)
    if not seeds:
        page.click("#run")
        tab.done()
    opened = open_bundle(tab.packed())
    assert opened.recipe.edit == edit
    for seed, image in opened.pictures.items():
        assert np.array_equal(image, result.images[result.seeds.index(seed)])


def test_a_file_that_is_no_edit_is_refused_and_the_page_stays(tab, pictures, tmp_path):
    (tmp_path / "x.json").write_text('{"<script>": 1}')
    tab.upload("restore", tmp_path / "x.json")
    tab.page.wait_for_selector(".toast-body:has-text('no recipe')")
    tab.drop(pictures["photo"])
    tab.page.wait_for_selector(".toast-body:has-text('carries no recipe')")
    tab.drop(pictures["photo"], "#photo-board .ld-stage")  # there it is a photo
    tab.page.wait_for_selector("#photo-board .ld-has-picture")
