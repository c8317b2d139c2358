"""The examples: every kind is there, each is made by one true edit and reads back as it was."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from serving import save_page_model

from layerdiffusion.__main__ import main
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.models.load import load_models
from layerdiffusion.recipe import load_recipe
from layerdiffusion.ui import examples
from layerdiffusion.ui.examples import make, wishes
from layerdiffusion.ui.widgets.results import examples_strip, slides


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """The examples of the repository, whichever the page of another test shows."""
    monkeypatch.setattr(examples, "FOLDER", examples.ASSETS / "examples")


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return Editor(load_models(save_page_model(tmp_path_factory.mktemp("model")), "cpu", "float32"))


def test_all_kinds_are_there():
    edits = {wish.name: wish.edit() for wish in wishes()}
    assert len(edits) >= 8
    assert {edit.background for edit in edits.values()} == {"keep", "reference", "generate"}
    assert any(not edit.placement.is_identity for edit in edits.values())
    assert any(wish.swap for wish in wishes())


@pytest.mark.parametrize("name", ["lie-down", "generated-background", "roles-swapped"])
def test_an_example_reads_back_as_it_was_made(editor, tmp_path, monkeypatch, name):
    wish = next(wish for wish in wishes() if wish.name == name)
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    make(wish, editor, tmp_path)
    (example,) = examples.examples()
    assert example.name == name and example.recipe.edit == wish.edit()
    replayed = Editor(editor.models).run(example.recipe.edit, example.recipe.settings)
    for image, seed in zip(replayed.images, replayed.seeds, strict=True):
        assert np.array_equal(image, example.pictures[seed])
    assert (example.background is None) == (wish.background == "keep")
    assert wish.title in examples_strip() and example.prompt in slides().value
    assert examples.example_named(name) is example


@pytest.mark.parametrize("name", ["../lie-down", "/etc", "", None, 3, ["lie-down"], {"name": 1}])
def test_only_a_listed_name_opens(name):
    with pytest.raises(EditError, match="no such example"):
        examples.example_named(name)


def test_a_broken_example_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "about.json").write_text('{"title": "x"}')
    assert examples.examples() == ()
    assert "half" in capsys.readouterr().err


# The committed ones

REPLAYED = "lie-down"


@pytest.fixture
def replay(tmp_path, capfd):
    """Run a committed example's recipe again by the command for it; the folder of what came."""

    def run(name: str, *flags: str):
        folder = examples.FOLDER / name
        assert main(["edit", str(folder), "--device", "cpu", "--seeds", "0", "--out", str(tmp_path), *flags]) == 0
        return tmp_path

    return run


def test_the_committed_examples_are_those_that_their_command_makes():
    wished = {wish.name: wish for wish in wishes()}
    found = {example.name: example for example in examples.examples()}
    assert found.keys() == wished.keys()
    for name, example in found.items():
        assert example.recipe.edit == wished[name].edit() and example.recipe.model == "miniature"
        assert example.recipe.settings == replace(example.recipe.settings, **wished[name].settings)
        assert example.title == wished[name].title and example.lesson == wished[name].lesson
        assert list(example.pictures) == list(map(int, example.scores))


def test_a_committed_recipe_replays_with_its_own_pictures_and_layers(replay):
    """In a few steps: all but the results is what it was when the example was made."""
    flags = {"embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 4}
    words = [word for name, steps in flags.items() for word in (f"--{name.replace('_', '-')}", str(steps))]
    folder = replay(REPLAYED, *words)
    before, after = load_recipe(examples.FOLDER / REPLAYED), load_recipe(folder)
    assert after.edit == before.edit and after.model == before.model
    assert after.settings == replace(before.settings, **flags, seeds=(0,)).resolve()
    side, caption, gap = Image.open(folder / "seed-0.png").width, 16, 4
    above = (0, 0, 3 * (side + gap), gap + caption + side)  # subject, background and layers, on the contact sheet
    sheets = (Image.open(path / "contact.png").crop(above) for path in (folder, examples.FOLDER / REPLAYED))
    assert np.array_equal(*sheets)


@pytest.mark.slow
def test_a_committed_example_replays_to_its_picture(replay):
    """With its own settings, on this machine: the arithmetic may round otherwise, on some CPUs to bfloat16."""
    new = Image.open(replay(REPLAYED) / "seed-0.png")
    old = Image.open(examples.FOLDER / REPLAYED / "seed-0.png")
    error = np.mean((np.asarray(new, float) - np.asarray(old, float)) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 25
