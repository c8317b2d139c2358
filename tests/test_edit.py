"""An edit checks itself, says what is wrong in one sentence, and survives the way through a recipe."""

import base64
import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError, MaskError, PromptError, RecipeError, SettingsError
from layerdiffusion.images.io import png_bytes
from layerdiffusion.recipe import Recipe, load_recipe, recipe_from_dict, recipe_to_dict, save_recipe
from layerdiffusion.settings import MAX_SEEDS, PAPER, Settings, setting_table

WORDS = {name: entry.choices for name, entry in setting_table().items() if entry.choices and not entry.check_text}
NUMBERS = [name for name in PAPER.to_dict() if setting_table()[name].limit and name != "seeds"]


def photo(width: int = 40, height: int = 32, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def blob(width: int = 40, height: int = 32) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    return mask


def an_edit(**changes) -> Edit:
    fields = {"object_image": photo(), "object_mask": blob(), "prompt": "a dog jumping in the forest"}
    return Edit(**{**fields, **changes})


def with_reference(**changes) -> Edit:
    reference = {"background_image": photo(48, 24, seed=1), "background_mask": blob(48, 24)}
    return an_edit(**{**reference, **changes})


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 300, text
    assert "Traceback" not in text
    return text


# Settings


def test_the_papers_defaults_are_the_papers_to_the_digit():
    assert (
        Settings(
            alpha=0.7,
            object_weight=2,
            background_weight=1,
            embedding_steps=500,
            embedding_lr=0.001,
            finetune_steps=250,
            finetune_lr=0.000002,
            sampling_steps=50,
            guidance_scale=7.5,
            schedule="alternate",
            solver="ddim",
            shape="photo",
            seeds=[0, 1, 2, 3],
            training_seed=0,
            noise_offset=0.0,
            draws=1,
            tune="full",
            layers="composite",
        )
        == PAPER
    )


def test_unset_fields_take_the_models_default_and_then_the_papers():
    resolved = Settings(alpha=0.3).resolve(Settings(alpha=0.9, finetune_lr=1e-4))
    assert resolved.alpha == 0.3
    assert resolved.finetune_lr == 1e-4
    assert resolved.embedding_steps == 500
    assert None not in dataclasses.astuple(resolved)


def test_settings_of_zero_are_set_and_not_filled():
    zeros = Settings(alpha=0, object_weight=0, embedding_steps=0, finetune_steps=0, training_seed=0)
    resolved = zeros.resolve(Settings(training_seed=5))
    assert (resolved.alpha, resolved.object_weight, resolved.embedding_steps) == (0, 0, 0)
    assert (resolved.finetune_steps, resolved.training_seed) == (0, 0)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_allowed_at_both_ends_of_its_range_and_refused_beyond(name):
    low, high, _, whole = setting_table()[name].limit
    for value in (low, high):
        assert getattr(Settings(**{name: value}), name) == value
    beyond = (low - 1, high + 1) if whole else (low - 1e-6, high + 1e-6)
    for value in beyond:
        with pytest.raises(SettingsError) as error:
            Settings(**{name: value})
        text = one_sentence(error)
        assert name in text and f"{low:.10g}" in text and f"{high:.10g}" in text


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 10**400, -(10**5000), True, np.bool_(False), "1", [1], 1j, np.array([1.0])],
    ids=lambda value: "long" if isinstance(value, int) and abs(value) > 9 else repr(value),
)
def test_every_number_refuses_what_is_no_number(name, value):
    with pytest.raises(SettingsError) as error:
        Settings(**{name: value})
    assert name in one_sentence(error)


def test_numpys_numbers_become_plain_ones_that_json_can_hold():
    settings = Settings(
        alpha=np.float32(0.5), embedding_steps=np.int64(7), finetune_steps=np.float64(3), seeds=np.arange(2)
    )
    assert json.loads(json.dumps(settings.to_dict())) == {
        "alpha": 0.5,
        "embedding_steps": 7,
        "finetune_steps": 3,
        "seeds": [0, 1],
    }
    assert type(settings.alpha) is float and type(settings.embedding_steps) is int
    assert type(settings.finetune_steps) is int and {type(seed) for seed in settings.seeds} == {int}


def test_a_step_count_with_a_fraction_is_refused():
    with pytest.raises(SettingsError, match="whole number"):
        Settings(sampling_steps=10.5)


def test_there_is_at_least_one_sampling_step():
    with pytest.raises(SettingsError, match="sampling_steps must be a whole number from 1 to"):
        Settings(sampling_steps=0)


@pytest.mark.parametrize("name", WORDS)
def test_every_choice_takes_its_words_and_names_them_when_it_refuses_another(name):
    for word in WORDS[name]:
        assert getattr(Settings(**{name: word}), name) == word
    for wrong in ("sideways", "", 1, None.__class__):
        with pytest.raises(SettingsError) as error:
            Settings(**{name: wrong})
        assert all(word in one_sentence(error) for word in (name, *WORDS[name]))


def test_one_to_sixteen_seeds_are_allowed_and_two_hundred_are_not():
    assert Settings(seeds=3).seeds == (3,)
    assert Settings(seeds=range(MAX_SEEDS)).seeds == tuple(range(16))
    for seeds in (range(200), ()):
        with pytest.raises(SettingsError, match="1 to 16"):
            Settings(seeds=seeds)


@pytest.mark.parametrize("seeds", [[-1], [2**32], [1.5], [True], ["1"], "12", {"a": 1}, [math.nan], [4, 4], [10**400]])
def test_seeds_that_are_no_seeds_are_refused(seeds):
    with pytest.raises(SettingsError) as error:
        Settings(seeds=seeds)
    assert "seeds" in one_sentence(error)


def test_settings_and_edits_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().alpha = 1
    edit = an_edit()
    with pytest.raises(dataclasses.FrozenInstanceError):
        edit.prompt = "another"
    with pytest.raises(ValueError):
        edit.object_mask[0, 0] = True


# Placement


@pytest.mark.parametrize(
    "wrong", [{"scale": 0}, {"scale": 9}, {"dx": 1.5}, {"dy": math.nan}, {"rotation": 720}, {"flip": 1}], ids=repr
)
def test_a_placement_outside_its_range_is_refused_by_name(wrong):
    with pytest.raises(SettingsError) as error:
        Placement(**wrong)
    assert next(iter(wrong)) in one_sentence(error)


def test_an_untouched_placement_is_the_identity():
    assert Placement(scale=np.float64(1)).is_identity
    assert not Placement(flip=True).is_identity


# Edits


def test_an_edit_splits_its_prompt_unless_the_parts_are_given():
    edit = an_edit()
    assert (edit.object_prompt, edit.background_prompt) == ("a dog jumping", "in the forest")
    edit = an_edit(object_prompt="a brown dog jumping", background_prompt="")
    assert (edit.object_prompt, edit.background_prompt) == ("a brown dog jumping", "")


def test_an_edit_given_in_parts_has_them_together_for_its_prompt():
    edit = an_edit(prompt=None, object_prompt="a dog jumping", background_prompt="in the forest")
    assert edit.prompt == "a dog jumping in the forest"


def test_where_the_background_comes_from_follows_from_what_is_given():
    assert an_edit().background == "keep"
    assert with_reference().background == "reference"
    assert an_edit(background="generate").background == "generate"


def test_a_reference_without_a_mask_is_all_background():
    assert with_reference(background_mask=None).background_mask is None


def test_an_edit_keeps_its_own_copy_of_what_it_was_given():
    image, mask = photo(), blob()
    edit = an_edit(object_image=image, object_mask=mask)
    before = edit.fingerprint()
    image.paste("red", (0, 0, 40, 32))
    mask[:] = True
    assert edit.fingerprint() == before


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"object_mask": None}, MaskError, "No subject is marked"),
        ({"object_mask": np.zeros((32, 40), bool)}, MaskError, "empty"),
        ({"object_mask": np.ones((32, 40), bool)}, MaskError, "whole picture"),
        ({"object_mask": np.zeros((40, 32), bool)}, MaskError, "32 × 40 pixels but its picture is 40 × 32"),
        ({"object_mask": "no such mask.png"}, EditError, "no picture at"),
        ({"object_mask": 7}, MaskError, "int"),
        ({"object_image": None}, EditError, "no photo"),
        ({"object_image": 7}, EditError, "int"),
        ({"background": "beach"}, SettingsError, "keep, reference or generate"),
        ({"background": "reference"}, EditError, "background_image is missing"),
        ({"background_mask": blob()}, EditError, 'background is "keep"'),
        ({"background": "generate", "background_prompt": ""}, PromptError, "describe the place"),
        ({"background_seed": -1}, SettingsError, "background_seed"),
        ({"placement": 2}, SettingsError, "placement"),
        ({"prompt": ""}, PromptError, "empty"),
        ({"prompt": None}, PromptError, "empty"),
        ({"prompt": " \n\t"}, PromptError, "empty"),
        ({"prompt": 5}, PromptError, "must be text"),
        ({"prompt": "\ud800"}, PromptError, "not text"),
        ({"object_prompt": " "}, PromptError, "object_prompt is empty"),
        ({"prompt": "dog " * 10_000}, PromptError, "10000 words"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_edit_is_refused_in_one_sentence(changes, kind, words):
    with pytest.raises(kind) as error:
        an_edit(**changes)
    assert words in one_sentence(error)


def test_a_reference_that_is_all_subject_is_refused():
    with pytest.raises(MaskError, match="background_mask covers the whole reference"):
        with_reference(background_mask=np.ones((24, 48), bool))


def test_a_references_mask_that_marks_nothing_is_never_taken_silently():
    with pytest.raises(MaskError, match="background_mask is empty"):
        with_reference(background_mask=np.zeros((24, 48), bool))


def test_swapping_the_roles_hands_the_subject_to_the_reference_and_back():
    edit = with_reference()
    swapped = edit.swapped()
    assert swapped.object_image == edit.background_image
    assert (swapped.object_mask == blob(48, 24)).all()
    assert swapped.background_image == edit.object_image
    assert (swapped.background_mask == blob()).all()
    assert swapped.swapped() == edit


def test_roles_are_not_swapped_without_a_subject_on_the_reference():
    with pytest.raises(EditError, match="without a reference"):
        an_edit().swapped()
    with pytest.raises(MaskError, match="No subject is marked on the reference"):
        with_reference(background_mask=None).swapped()


def test_equal_edits_have_equal_fingerprints_and_every_field_counts():
    edit = with_reference()
    assert edit == with_reference() and hash(edit) == hash(with_reference())
    other_mask = blob()
    other_mask[0, 0] = True
    changes = {
        "object_image": photo(seed=9),
        "object_mask": other_mask,
        "background_image": photo(48, 24, seed=9),
        "background_mask": None,
        "prompt": "a dog sleeping in the forest",
        "object_prompt": "a cat",
        "background_prompt": "at home",
        "background_seed": 1,
        "placement": Placement(dx=0.1),
        "object_alpha": np.where(edit.object_mask, 200, 9).astype(np.uint8),
        "background_alpha": np.where(edit.background_mask, 200, 9).astype(np.uint8),
        "object_window": (0.5, 0.5),
        "background_window": (0.5, 0.5),
    }
    assert set(changes) | {"background", "notes"} == {field.name for field in dataclasses.fields(Edit)}
    fingerprints = {dataclasses.replace(edit, **{name: value}).fingerprint() for name, value in changes.items()}
    assert len(fingerprints | {edit.fingerprint()}) == len(changes) + 1


# Recipes


def full_edit() -> Edit:
    return with_reference(placement=Placement(1.5, 0.1, -0.2, 30, True), background_seed=4)


@pytest.mark.parametrize("make", [an_edit, full_edit, lambda: an_edit(background="generate")])
def test_a_recipe_in_a_folder_comes_back_the_same_to_the_pixel(make, tmp_path):
    edit, settings = make(), Settings(alpha=0.4, seeds=(5, 6), layers="separate")
    path = save_recipe(edit, settings, tmp_path / "new" / "folder", model="miniature")
    assert path.name == "edit.json"
    assert load_recipe(path) == Recipe(edit, settings, "miniature")
    assert load_recipe(path.parent) == Recipe(edit, settings, "miniature")


def test_a_recipe_with_its_pictures_inside_needs_no_folder():
    text = json.dumps(recipe_to_dict(full_edit(), PAPER))
    assert recipe_from_dict(json.loads(text)) == Recipe(full_edit(), PAPER)


def test_a_recipe_with_retired_settings_takes_the_papers_and_names_them():
    data = recipe_to_dict(an_edit(), Settings(alpha=0.5))
    data["settings"] |= {"forget": "decoder", "strength": 0.9, "layers": "overlay", "embedding_mask": "background"}
    found = recipe_from_dict(data)
    assert found.settings == Settings(alpha=0.5, layers="composite")
    (note,) = found.notes
    assert "forget=decoder, strength=0.9, layers=overlay" in note and "embedding_mask" not in note


@pytest.mark.parametrize(("said", "detail"), [("on", True), ("off", False)])
def test_detail_of_an_old_recipe_is_how_its_results_are_saved(said, detail):
    data = recipe_to_dict(an_edit(), Settings())
    data["settings"]["detail"] = said
    found = recipe_from_dict(data)
    assert found.detail == detail and not found.notes
    assert recipe_from_dict(recipe_to_dict(found.edit, found.settings, detail=detail)) == found


def off_subject(mask: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(png_bytes(~mask)).decode()


def test_a_recipe_of_version_1_means_what_it_meant():
    edit = full_edit()
    data = recipe_to_dict(edit, Settings(alpha=0.5)) | {"layerdiffusion": 1}
    data["edit"]["background_mask"] = off_subject(edit.background_mask)  # then it marked what lies off the subject
    assert recipe_from_dict(data) == Recipe(edit, Settings(alpha=0.5, shape="square"))
    data["edit"]["background_mask"] = off_subject(np.zeros((24, 48), bool))  # all of the reference was background
    assert recipe_from_dict(data).edit.background_mask is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_recipe_from_before_pictures_had_a_shape_stays_square(version):
    data = recipe_to_dict(an_edit(), Settings())
    assert recipe_from_dict(data).settings == Settings()
    assert recipe_from_dict(data | {"layerdiffusion": version}).settings == Settings(shape="square")


@pytest.mark.parametrize("shape", ["photo", "square", "4:3", "1:2", "2:1", "1000:501"])
def test_a_shape_is_a_word_or_a_ratio(shape):
    assert Settings(shape=shape).shape == shape == setting_table()["shape"].check(shape.replace(":", " : "))


@pytest.mark.parametrize(
    "shape", ["portrait", "", "4", "4:", "0:0", "1:3", "21:10", "4:3:2", "-4:-3", "٤:٣", 1.5, ["4:3"]]
)
def test_what_is_no_shape_is_refused_with_what_is_one(shape):
    with pytest.raises(SettingsError) as error:
        Settings(shape=shape)
    assert all(word in one_sentence(error) for word in ("shape", "photo", "square", "1:2", "2:1", "4:3"))


def test_a_recipes_pictures_are_ordinary_png_files(tmp_path):
    edit = full_edit()
    save_recipe(edit, Settings(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"edit.json", "object.png", "object_mask.png", "background.png", "background_mask.png"}
    assert Image.open(tmp_path / "object.png").tobytes() == edit.object_image.tobytes()
    assert ((np.asarray(Image.open(tmp_path / "object_mask.png")) > 0) == edit.object_mask).all()


def test_a_recipe_written_by_hand_needs_only_what_has_no_default(tmp_path):
    photo().save(tmp_path / "dog.png")
    Image.fromarray(blob()).save(tmp_path / "mask.png")
    edit = {"object_image": "dog.png", "object_mask": "mask.png", "prompt": "a dog jumping in the forest"}
    (tmp_path / "edit.json").write_text(json.dumps({"layerdiffusion": 1, "edit": edit}))
    assert load_recipe(tmp_path / "edit.json") == Recipe(an_edit(), Settings(shape="square"))


def broken(change) -> dict:
    data = recipe_to_dict(full_edit(), Settings(alpha=0.5))
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("layerdiffusion"), "no recipe"),
        (lambda data: data.update(layerdiffusion=4), "versions 1 to 3"),
        (lambda data: data.update(layerdiffusion=True), "version"),
        (lambda data: data.update(extra=1), '"extra"'),
        (lambda data: data.pop("edit"), '"edit"'),
        (lambda data: data.update(edit=[]), '"edit"'),
        (lambda data: data.update(settings=3), '"settings"'),
        (lambda data: data.update(model=3), "model"),
        (lambda data: data["edit"].update(colour="red"), '"colour"'),
        (lambda data: data["settings"].update(aplha=0.5), '"aplha"'),
        (lambda data: data["settings"].update(alpha=math.nan), "alpha"),
        (lambda data: data["settings"].update(alpha="0.5"), "alpha"),
        (lambda data: data["edit"].pop("object_image"), '"object_image"'),
        (lambda data: data["edit"].pop("object_mask"), '"object_mask"'),
        (lambda data: data["edit"].update(object_image=5), "object_image"),
        (lambda data: data["edit"].update(object_image="dog.png"), "came alone"),
        (lambda data: data["edit"].update(object_image="data:image/png;base64,%%%"), "base64"),
        (lambda data: data["edit"].update(object_image="data:image/png;base64,aGVsbG8="), "no picture"),
        (lambda data: data["edit"].update(object_mask=data["edit"]["background_mask"]), "object_mask is 48 × 24"),
        (lambda data: data["edit"].update(placement=5), '"placement"'),
        (lambda data: data["edit"]["placement"].update(skew=5), '"skew"'),
        (lambda data: data["edit"]["placement"].update(scale=50), "scale"),
        (lambda data: data["edit"].update(prompt=["a dog"]), "prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_recipe_is_refused_in_one_sentence(change, words):
    with pytest.raises(EditError) as error:
        recipe_from_dict(broken(change))
    assert words in one_sentence(error)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null", b'{"a": ' * 9999], ids=range(6))
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(content, tmp_path):
    (tmp_path / "edit.json").write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "edit.json")
    one_sentence(error)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match="no recipe at .*nowhere.json"):
        load_recipe(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/hostname", "a\0b.png", "missing.png", ".", "..\\secret.png", "C:\\a.png"],
)
def test_a_recipe_reads_no_file_outside_its_folder(name, tmp_path):
    photo().save(tmp_path / "secret.png")
    folder = tmp_path / "recipe"
    path = save_recipe(an_edit(), Settings(), folder)
    data = json.loads(path.read_text())
    data["edit"]["object_image"] = name
    path.write_text(json.dumps(data))
    with pytest.raises(EditError) as error:
        load_recipe(path)
    one_sentence(error)


def test_a_recipe_from_windows_is_read(tmp_path):
    """Its separators, and the mark that its editors put in front."""
    edit = an_edit()
    path = save_recipe(edit, Settings(), tmp_path)
    data = json.loads(path.read_text())
    (tmp_path / "photos").mkdir()
    (tmp_path / data["edit"]["object_image"]).rename(tmp_path / "photos" / "dog.png")
    data["edit"]["object_image"] = "photos\\dog.png"
    path.write_text(json.dumps(data), encoding="utf-8-sig")
    assert load_recipe(path).edit.object_image.tobytes() == edit.object_image.tobytes()


def test_a_full_disk_is_told_in_one_sentence(tmp_path, full_disk):
    full_disk(tmp_path)
    with pytest.raises(RecipeError, match="No space left on device") as error:
        save_recipe(an_edit(), Settings(), tmp_path)
    assert "free some space" in one_sentence(error)
