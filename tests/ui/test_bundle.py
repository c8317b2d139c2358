"""Saved edits come back whole; anything else is one sentence."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from psd_tools import PSDImage
from safetensors.torch import save
from tiny import QUICK, noise_picture

from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.images.io import png_bytes
from layerdiffusion.images.masks import cut_out
from layerdiffusion.recipe import load_recipe, recipe_to_dict
from layerdiffusion.ui.bundle import open_bundle, save_compared, save_pictures, save_subject, save_zip
from layerdiffusion.ui.session import Session


@pytest.fixture
def result(tiny_models, edit):
    return Editor(tiny_models).run(edit, QUICK)


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_picture_carries_its_whole_edit(result, tmp_path):
    path = save_pictures(result, tmp_path)[1]
    opened = open_bundle(path.read_bytes())
    assert opened.recipe.edit == result.seen
    assert opened.recipe.settings.seeds == (1,)
    assert np.array_equal(opened.pictures[1], result.images[1])


def test_a_picture_carries_no_more_of_the_photo_than_was_used(result, tiny_models, tmp_path):
    carried = open_bundle(save_pictures(result, tmp_path)[0].read_bytes()).recipe
    assert result.edit.object_image.size == (80, 64) and carried.edit.object_image.size == (64, 64)
    again = Editor(tiny_models).run(carried.edit, carried.settings)
    one, other = (np.asarray(images[0], int) for images in (again.images, result.images))
    assert np.abs(one - other).max() <= 1  # it was sampled beside another one there, and is alone here


def test_a_zip_brings_everything_back(result, tmp_path):
    paths = dict(zip(result.seeds, save_pictures(result, tmp_path), strict=True))
    opened = open_bundle(save_zip([result], paths, tmp_path / "all.zip").read_bytes())
    assert opened.recipe.edit == result.seen
    assert opened.recipe.settings == result.settings
    assert list(opened.pictures) == [0, 1]
    assert all(np.array_equal(opened.pictures[seed], image) for seed, image in zip((0, 1), result.images, strict=True))


def test_a_zip_brings_other_methods_pictures_back_beside_ours(result, tmp_path):
    others = save_compared(result, "sdedit", tmp_path) + save_compared(result, "pnp", tmp_path)[:1]
    opened = open_bundle(save_zip([result], {}, tmp_path / "all.zip", others).read_bytes())
    assert list(opened.pictures) == [0, 1]
    assert {name: list(found) for name, found in opened.baselines.items()} == {"sdedit": [0, 1], "pnp": [0]}
    assert np.array_equal(opened.baselines["sdedit"][1], result.images[1])
    with pytest.raises(EditError, match="SDEdit's, for comparison"):
        open_bundle(others[0].read_bytes())


def test_a_picture_or_the_recipe_out_of_the_zip_is_enough(result, tmp_path):
    paths = dict(zip(result.seeds, save_pictures(result, tmp_path), strict=True))
    with zipfile.ZipFile(save_zip([result], paths, tmp_path / "all.zip")) as archive:
        assert open_bundle(archive.read("seed-0.png")).recipe.edit == result.seen
        alone = open_bundle(archive.read("edit.json"))
        assert alone.recipe[:3] == (result.seen, result.settings, result.model) and not alone.pictures


def test_a_picture_that_was_saved_without_the_page_opens_on_it(result, tmp_path):
    opened = open_bundle((result.save(tmp_path / "saved") / "seed-1.png").read_bytes())
    assert opened.recipe.edit == result.seen and list(opened.pictures) == [1]


def test_a_picture_carries_a_large_photo_no_larger_than_the_page_works_on_it(result, edit, tmp_path):
    mask = np.zeros((900, 3200), bool)
    mask[400:402, 1000:1002] = True  # a pixel and less, once it is smaller
    wide = replace(result.layers, object_image=Image.new("RGB", (64, 18)), in_place=True)
    large = replace(result, edit=replace(edit, object_image=noise_picture(0, 3200, 900), object_mask=mask), layers=wide)
    saved = large.save(tmp_path / "saved")
    carried, kept = open_bundle((saved / "seed-0.png").read_bytes()).recipe.edit, load_recipe(saved).edit
    assert carried.object_image.size == (1536, 432) and carried.object_mask.any() and kept == large.edit
    session = Session()
    session.photo.show(large.edit.object_image)
    assert np.array_equal(session.photo.image, carried.object_image)


def test_a_download_without_the_recipe_holds_pictures_and_nothing_of_the_photo(result, tmp_path):
    paths = dict(zip(result.seeds, save_pictures(result, tmp_path), strict=True))
    path = save_zip([result], paths, tmp_path / "all.zip", recipe=False)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["seed-0.png", "seed-1.png"]
        picture = Image.open(io.BytesIO(archive.read("seed-1.png")))
        assert not picture.info and np.array_equal(picture, result.images[1])


def test_a_download_with_detail_holds_pictures_as_large_as_the_background_is(tiny_models, edit, tmp_path):
    large = replace(edit, background_image=edit.background_image.resize((160, 128)), background_mask=None)
    result = Editor(tiny_models).run(large, QUICK)
    paths = dict(zip(result.seeds, save_pictures(result, tmp_path), strict=True))
    opened = open_bundle(save_zip([result], paths, tmp_path / "all.zip", detail=True).read_bytes())
    assert opened.recipe.detail and {image.size for image in opened.pictures.values()} == {(128, 128)}


def test_a_trained_subject_comes_back_from_its_zip(tiny_models, edit, tmp_path):
    editor = Editor(tiny_models)
    subject = editor.subject(edit, replace(QUICK, tune="lora"))
    opened = open_bundle(save_subject(subject, tiny_models, tmp_path / "dog.zip").read_bytes())
    assert opened.subject.key == subject.key and opened.recipe.edit == subject.recipe.edit and not opened.pictures
    session = Session()
    session.photo.show(opened.recipe.edit.object_image)
    session.subject = opened.subject
    assert session.subject_of(opened.recipe.edit, QUICK).train_on == QUICK.finetune_steps
    assert session.subject_of(replace(edit, object_image=noise_picture(5)), QUICK) is None


def test_a_fully_tuned_subject_comes_back_from_its_zip_unless_it_is_too_large(tiny_models, edit, tmp_path):
    from diffusers import UNet2DConditionModel

    editor = Editor(tiny_models)
    subject = editor.subject(edit, replace(QUICK, tune="full"))
    path = save_subject(subject, tiny_models, tmp_path / "dog.zip")
    opened = open_bundle(path.read_bytes())
    assert opened.subject.tune == "full" and opened.recipe.edit == subject.recipe.edit
    opened.subject.check(tiny_models)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "dog")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "dog" / "unet").state_dict()
    for name, weight in subject.weights.items():
        assert torch.equal(opened.subject.weights[name], weight) and torch.equal(unet[name], weight)
    large = replace(subject, weights={"conv_in.weight": torch.zeros(1).expand(900_000_000)})
    with pytest.raises(EditError, match=r"3\.4 GB.*edit FOLDER --keep NAME"):
        save_subject(large, tiny_models, tmp_path / "large.zip")


@pytest.mark.parametrize("prefix", ["./", "downloaded/", "a\\\\b\\\\", "x/y/"])
def test_a_download_that_was_unpacked_and_zipped_again_opens(tiny_models, edit, result, prefix, tmp_path):
    def again(path):
        with zipfile.ZipFile(path) as archive:
            files = {f"{prefix}{name}": archive.read(name) for name in archive.namelist()}
        return open_bundle(zipped({"__MACOSX/._edit.json": b"\0", f"{prefix}.DS_Store": b"", **files}))

    saved = dict(zip(result.seeds, save_pictures(result, tmp_path), strict=True))
    opened = again(save_zip([result], saved, tmp_path / "all.zip"))
    assert opened.recipe.edit == result.seen and set(opened.pictures) == set(result.seeds)
    for tune in ("lora", "full"):
        subject = Editor(tiny_models).subject(edit, replace(QUICK, tune=tune))
        assert again(save_subject(subject, tiny_models, tmp_path / f"{tune}.zip")).subject.key == subject.key


def test_a_kept_subject_opens_by_its_file_alone_and_from_a_zip_of_it_by_any_name(tiny_models, edit, tmp_path):
    subject = Editor(tiny_models).subject(edit, replace(QUICK, tune="lora"))
    file = subject.save(tmp_path / "rex.safetensors", tiny_models)
    alone = open_bundle(file.read_bytes()).subject
    assert all(torch.equal(alone.weights[name], weight) for name, weight in subject.weights.items())
    beside = file.with_suffix(".embeddings.safetensors")
    both = open_bundle(zipped({f"kept/{path.name}": path.read_bytes() for path in (file, beside)}))
    assert both.subject.key == subject.key and both.recipe.edit == subject.recipe.edit


def test_layers_come_as_the_model_saw_them_and_results_cut_out(result, tmp_path):
    subject = result.layers.object_mask
    cut_outs = [cut_out(image, subject) for image in result.images]
    with zipfile.ZipFile(save_zip([result], {}, tmp_path / "all.zip", cut_outs=cut_outs)) as archive:
        found = {
            name: Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if name.endswith("png")
        }
    assert found["layer-subject.png"].mode == "RGBA"
    assert np.array_equal(np.asarray(found["layer-subject.png"].getchannel("A")) > 127, subject)
    assert np.array_equal(found["layer-background.png"], result.layers.inpainted_background)
    assert np.array_equal(found["layer-composite.png"], result.layers.composite)
    assert np.array_equal(np.asarray(found["cutout-seed-1.png"])[subject][:, :3], np.asarray(result.images[1])[subject])


def test_a_download_has_its_layers_in_one_psd_and_one_openraster_file_as_large_as_them(tiny_models, edit, tmp_path):
    large = replace(edit, background_image=noise_picture(4, 128, 128), background_mask=None)
    result = Editor(tiny_models).run(large, QUICK)
    subject = result.layers.object_mask
    cut_outs = [cut_out(image, subject) for image in result.images]
    path = save_zip([result], {}, tmp_path / "all.zip", cut_outs=cut_outs, detail=True)
    with zipfile.ZipFile(path) as archive:
        shown = [Image.open(io.BytesIO(archive.read(f"seed-{seed}.png"))) for seed in result.seeds]
        psd = PSDImage.open(io.BytesIO(archive.read("layers.psd")))
        with zipfile.ZipFile(io.BytesIO(archive.read("layers.ora"))) as layers:
            background = Image.open(io.BytesIO(layers.read("data/0-background.png"))).convert("RGB")
    assert np.array_equal(background, result.seen.background_image)
    assert psd.size == shown[0].size == (128, 128)
    assert np.array_equal(psd[0][0].topil().convert("RGB"), result.seen.background_image)
    assert [group.name for group in psd] == ["layers", *(f"seed {seed}" for seed in result.seeds)]
    for group, picture in zip([*psd][1:], shown, strict=True):
        for layer in group:
            assert np.array_equal(layer.topil().convert("RGB"), picture.crop(layer.bbox))
    assert not np.array_equal(psd[0][1].topil().convert("RGB"), psd[1][1].topil().convert("RGB"))


def test_an_edit_json_with_its_pictures_inside_is_enough(edit):
    data = json.dumps(recipe_to_dict(edit, QUICK, "miniature")).encode()
    opened = open_bundle(data)
    assert opened.recipe.edit == edit and opened.recipe.model == "miniature" and not opened.pictures


def test_what_an_editor_put_a_byte_order_mark_in_front_of_opens_as_it_is_and_in_a_zip(edit):
    data = b"\xef\xbb\xbf" + _recipe(edit)
    for content in (data, zipped({"edit.json": data})):
        assert open_bundle(content).recipe.edit == edit


def _recipe(edit, **changes) -> bytes:
    data = recipe_to_dict(edit, QUICK)
    data["edit"] |= changes
    return json.dumps(data).encode()


BAD = {
    "nothing": lambda edit: b"",
    "text": lambda edit: b"hello",
    "a safetensors file cut short": lambda edit: (99).to_bytes(8, "little") + b'{"a":',
    "a safetensors file of something else": lambda edit: save({"a": torch.zeros(1)}),
    "a zip of two subjects": lambda edit: zipped({"a.safetensors": b"", "b.safetensors": b""}),
    "binary": lambda edit: bytes(range(256)),
    "no recipe": lambda edit: b'{"a": 1}',
    "a number of 5,000 digits": lambda edit: _recipe(edit, background_seed=7).replace(b": 7", b": " + b"9" * 5000),
    "a number of 400 digits": lambda edit: _recipe(edit, background_seed=10**400),
    "a model with a zero byte": lambda edit: _recipe(edit)[:-1] + b', "model": "a\\u0000b"}',
    "deep": lambda edit: b"[" * 100_000,
    "a plain picture": lambda edit: png_bytes(Image.new("RGB", (64, 64))),
    "half a picture": lambda edit: png_bytes(Image.new("RGB", (64, 64)))[:60],
    "no zip": lambda edit: b"PK\x03\x04 not really",
    "an empty zip": lambda edit: zipped({}),
    "a zip of other things": lambda edit: zipped({"notes.txt": b"hi"}),
    "a zip that climbs out": lambda edit: zipped({"../edit.json": _recipe(edit)}),
    "a recipe that climbs out": lambda edit: zipped({"edit.json": _recipe(edit, object_image="../../etc/passwd")}),
    "a recipe that starts at the root": lambda edit: zipped({"edit.json": _recipe(edit, object_image="/etc/passwd")}),
    "a recipe with another's field": lambda edit: _recipe(edit, script="x"),
    "a recipe with a wrong mode": lambda edit: _recipe(edit, background="steal"),
    "a recipe without its pictures": lambda edit: _recipe(edit, object_image="object.png"),
    "a zip of 10,000 files": lambda edit: zipped({f"{index}.png": b"" for index in range(10_000)}),
    "a zip bomb": lambda edit: zipped({"edit.json": _recipe(edit), "object.png": bytes(300 * 2**20)}),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_saved_edit_is_refused_in_a_sentence(kind, edit):
    with pytest.raises(EditError) as error:
        open_bundle(BAD[kind](edit))
    assert str(error.value).endswith(".") and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_zip_leaves_nothing_behind(result, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    bundle = save_zip([result], {}, tmp_path / "all.zip").read_bytes()
    open_bundle(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["all.zip"]
