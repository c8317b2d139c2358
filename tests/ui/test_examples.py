"""The examples: every kind is there, each is made by one true edit and reads back as it was."""

import numpy as np
import pytest
from serving import save_page_model

from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.models import load_models
from layerdiffusion.ui import examples
from layerdiffusion.ui.showcase import examples_strip, slides


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return Editor(load_models(save_page_model(tmp_path_factory.mktemp("model")), "cpu", "float32"))


def test_all_kinds_are_there():
    wishes = {wish.name: wish.edit() for wish in examples.WISHES}
    assert len(wishes) >= 8
    assert {edit.background for edit in wishes.values()} == {"keep", "reference", "generate"}
    assert any(not edit.placement.is_identity for edit in wishes.values())
    assert any(wish.swap for wish in examples.WISHES)


@pytest.mark.parametrize("name", ["lie-down", "to-the-moon", "roles-swapped"])
def test_an_example_reads_back_as_it_was_made(editor, tmp_path, monkeypatch, name):
    wish = next(wish for wish in examples.WISHES if wish.name == name)
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    examples.make(wish, editor, tmp_path)
    (example,) = examples.examples()
    assert example.name == name and example.recipe.edit == wish.edit()
    replayed = Editor(editor.models).run(example.recipe.edit, example.recipe.settings)
    for image, seed in zip(replayed.images, replayed.seeds, strict=True):
        assert np.array_equal(image, example.pictures[seed])
    assert (example.background is None) == (wish.background == "keep")
    assert wish.title in examples_strip().value and example.prompt in slides().value
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
