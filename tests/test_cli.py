"""`python -m layerdiffusion edit`: pictures for good input, status 2 and one sentence for bad, a clean end on
Ctrl-C.
"""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from tiny import save_tiny_clip

from layerdiffusion.__main__ import main
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.errors import ModelError
from layerdiffusion.models.sam import SamConfig, build_sam, load_sam, save_sam
from layerdiffusion.models.segmenter import Segmenter
from layerdiffusion.recipe import CARRIED, load_recipe, recipe_from_dict, save_recipe
from layerdiffusion.settings import Settings, setting_table
from layerdiffusion.subject import load_subject

QUICK = ["--embedding-steps", "2", "--finetune-steps", "2", "--sampling-steps", "3", "--seeds", "0", "1"]
WORDS = ["--prompt", "a dog jumps on ice"]


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory) -> Path:
    config = SamConfig(image_size=64, patch_size=8, embed_dim=32, depth=1, num_heads=2, out_chans=32,
                       decoder_num_heads=2, decoder_mlp_dim=32, window_size=0)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1074)  # one whose masks are neither too small nor all of a picture
        sam = build_sam(config)
        for parameter in sam.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
    return save_sam(sam, config, tmp_path_factory.mktemp("sam"))


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A working folder with a photo, its mask, a reference, and nothing else."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save("dog.png")
    Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save("beach.png")
    mask = np.zeros((64, 80), bool)
    mask[16:48, 24:56] = True
    Image.fromarray(mask).save("mask.png")
    return tmp_path


@pytest.fixture
def cli(files, tiny_folder, sam_folder, capfd):
    """Run the command in this process with the tiny model; (status, stdout, stderr)."""

    def run(*flags: str, model: Path | str | None = tiny_folder) -> tuple[int, str, str]:
        models = [] if model is None else ["--model", str(model), "--sam", str(sam_folder), "--device", "cpu"]
        status = main(["edit", *map(str, flags), *models])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


def refusal(answer: tuple[int, str, str]) -> str:
    status, out, err = answer
    lines = [line for line in err.splitlines() if line and "step/s" not in line]
    assert status == 2, answer
    assert out == "" and len(lines) == 1, answer
    assert lines[0].startswith("layerdiffusion: ") and lines[0].endswith("."), answer
    assert "Traceback" not in err
    return lines[0]


# Good input


def test_a_photo_a_mask_and_a_sentence_become_a_folder_of_pictures(cli):
    status, out, err = cli("--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--out", "result")
    assert status == 0
    assert out.split() == ["result/contact.png", "result/seed-0.png", "result/seed-1.png"]
    for file in out.split():
        Image.open(file).verify()
    recipe = load_recipe("result")
    assert (recipe.edit.object_prompt, recipe.edit.background_prompt) == ("a dog jumps", "on ice")
    assert recipe.edit.background == "keep"
    assert (recipe.edit.object_mask == (np.asarray(Image.open("mask.png")) > 0)).all()


def test_every_stage_has_a_bar_for_people_and_none_for_machines(cli):
    flags = ["--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--out", "result"]
    _, _, err = cli(*flags)
    assert all(name in err for name in ("Embeddings", "Fine-tuning", "Sampling", "3/3", "loss="))
    status, out, err = cli(*flags, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["images"] == ["result/seed-0.png", "result/seed-1.png"]
    assert report["settings"]["sampling_steps"] == 3 and report["seeds"] == [0, 1]
    assert len(report["losses"]["embeddings"]) == 2
    assert set(report["stages"].values()) == {"run"}


def test_clicks_on_both_pictures_become_the_segmenters_masks(cli, sam_folder, monkeypatch):
    asked = []
    candidates = Segmenter.candidates

    def spy(self, points, labels, box, *, image):
        asked.append((points, labels, box))
        return candidates(self, points, labels, box, image=image)

    monkeypatch.setattr(Segmenter, "candidates", spy)
    status, _, err = cli(
        "--image", "dog.png", "--point", "40,30", "--point", "30.5,25", "--not-point", "2,2",
        "--reference", "beach.png", "--reference-point", "20,20", "--reference-not-point", "60,60",
        "--reference-box", "5,5,40,40", *WORDS, *QUICK, "--out", "result",
    )  # fmt: skip
    assert status == 0, err
    assert asked == [
        ([(40, 30), (30.5, 25), (2, 2)], [1, 1, 0], None),
        ([(20, 20), (60, 60)], [1, 0], (5, 5, 40, 40)),
    ]
    segmenter = Segmenter(load_sam(sam_folder))
    edit = load_recipe("result").edit
    subject = segmenter.mask([(40, 30), (30.5, 25), (2, 2)], [1, 1, 0], image=Image.open("dog.png"))
    other = segmenter.mask([(20, 20), (60, 60)], [1, 0], (5, 5, 40, 40), image=Image.open("beach.png"))
    assert (edit.object_mask == subject).all()
    assert (edit.background_mask == other).all()
    assert edit.background == "reference"


def test_a_box_alone_is_enough(cli):
    assert cli("--image", "dog.png", "--box", "10,10,50,50", *WORDS, *QUICK)[0] == 0


def test_without_a_folder_the_results_get_one_named_by_the_edit(cli):
    status, out, _ = cli("--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--json")
    report = json.loads(out)
    assert status == 0 and report["folder"] == f"edit-{report['edit_id']}"
    assert Path(report["recipe"]).is_file()


def test_a_saved_recipe_replays_to_the_same_pixels(cli):
    flags = ["--image", "dog.png", "--point", "40,30", "--reference", "beach.png", *WORDS, *QUICK]
    assert cli(*flags, "--scale", "0.8", "--rotate", "20", "--out", "first")[0] == 0
    assert cli("first/edit.json", "--out", "again")[0] == 0
    assert cli("again", "--out", "once more")[0] == 0
    for name in ("seed-0.png", "seed-1.png", "contact.png", "edit.json"):
        assert Path("first", name).read_bytes() == Path("again", name).read_bytes()
        assert Path("first", name).read_bytes() == Path("once more", name).read_bytes()


def test_flags_beside_a_recipe_change_what_they_name_and_nothing_else(cli, edit):
    settings = Settings(embedding_steps=2, finetune_steps=2, sampling_steps=3, seeds=(0, 1), alpha=0.2)
    save_recipe(edit, settings, "recipe")
    flags = ["--seeds", "5", "--dx", "0.1", "--flip", "--prompt", "a cat sleeps in the snow"]
    assert cli("recipe", *flags, "--out", "result")[0] == 0
    changed = load_recipe("result")
    assert (changed.settings.seeds, changed.settings.alpha) == ((5,), 0.2)
    assert changed.edit.placement == Placement(dx=0.1, flip=True)
    assert changed.edit.object_prompt == "a cat sleeps" and changed.edit.background_prompt == "in the snow"
    assert (changed.edit.object_mask == edit.object_mask).all()
    assert cli("recipe", "--object-prompt", "a cat", "--out", "other")[0] == 0
    words = load_recipe("other").edit
    assert (words.prompt, words.object_prompt, words.background_prompt) == ("a cat on ice", "a cat", "on ice")


def test_every_setting_and_placement_has_a_flag_that_reaches_the_recipe(cli, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = Settings(
        alpha=0.35, object_weight=1.5, background_weight=0.5, embedding_steps=1, embedding_lr=0.002,
        finetune_steps=1, finetune_lr=0.0003, sampling_steps=2, guidance_scale=3.5, schedule="object", solver="dpmpp",
        seeds=(7, 9), training_seed=4, noise_offset=0.2, tune="lora", layers="separate",
        draws=2, shape="3:2",
    )  # fmt: skip
    placement = Placement(scale=0.9, dx=0.05, dy=-0.05, rotation=-15, flip=True)
    flags = []
    for name, value in settings.to_dict().items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name.replace('_', '-')}", *map(str, values)]
    flags += ["--scale", "0.9", "--dx", "0.05", "--dy", "-0.05", "--rotate", "-15", "--flip"]
    status, _, err = cli("--image", "dog.png", "--mask", "mask.png", *WORDS, *flags, "--out", "result")
    assert status == 0, err
    recipe = load_recipe("result")
    assert recipe.settings == settings and recipe.edit.placement == placement
    assert None not in vars(recipe.settings).values()


def test_detail_is_how_results_are_saved_and_their_recipe_says_so(cli):
    Image.open("dog.png").resize((800, 640)).save("large.png")
    flags = ["--image", "large.png", "--mask", "mask.png", *WORDS, *QUICK, "--detail", "--out", "result"]
    assert cli(*flags)[0] == 0
    assert cli("result", "--out", "again")[0] == 0
    for folder in ("result", "again"):
        assert load_recipe(folder).detail
        assert Image.open(f"{folder}/seed-{load_recipe(folder).settings.seeds[0]}.png").height > 600


def test_a_preset_sets_several_flags_win_over_it_and_it_over_a_recipe(cli):
    few = ["--embedding-steps", "1", "--finetune-steps", "1", "--sampling-steps", "2"]
    flags = ["--image", "dog.png", "--mask", "mask.png", *WORDS, *few, "--seeds", "5", "--json"]
    settings = json.loads(cli(*flags, "--tune", "full", "--preset", "quick", "--out", "full")[1])["settings"]
    assert (settings["tune"], settings["draws"], settings["finetune_steps"]) == ("full", 4, 1)
    settings = json.loads(cli("full", *few, "--preset", "small-subject", "--json")[1])["settings"]
    assert (settings["object_weight"], settings["draws"], settings["seeds"]) == (3.0, 1, [5])


def test_seeds_may_be_listed_or_given_as_a_range(cli):
    flags = ["--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK[:-3], "--json"]
    assert json.loads(cli(*flags, "--seeds", "3-5", "9")[1])["seeds"] == [3, 4, 5, 9]
    assert json.loads(cli(*flags, "--seeds", "3,8")[1])["seeds"] == [3, 8]


def test_swapping_takes_the_subject_from_the_reference(cli):
    flags = ["--image", "dog.png", "--mask", "mask.png", "--reference", "beach.png", "--reference-box", "5,5,40,40"]
    assert cli(*flags, *WORDS, *QUICK, "--swap", "--out", "swapped")[0] == 0
    assert cli(*flags, *WORDS, *QUICK, "--out", "plain")[0] == 0
    assert load_recipe("swapped").edit == load_recipe("plain").edit.swapped()


def test_a_background_is_generated_on_request(cli):
    flags = ["--image", "dog.png", "--mask", "mask.png", "--background", "generate", "--background-seed", "3"]
    status, _, err = cli(*flags, *WORDS, *QUICK, "--out", "result")
    assert status == 0 and "Background" in err
    edit = load_recipe("result").edit
    assert (edit.background, edit.background_seed) == ("generate", 3)


def test_a_prompt_that_is_cut_is_told_but_still_edits(cli):
    long = "a dog jumps over and over again in a very large and very deep forest"
    status, _, err = cli("--image", "dog.png", "--mask", "mask.png", "--prompt", long, *QUICK)
    assert status == 0 and "The model reads only the first" in err


def test_windows_are_flags_that_reach_the_recipe_and_change_it(cli):
    photo = ["--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--shape", "square"]
    assert cli(*photo, "--window", "1,0.25", "--out", "right")[0] == 0
    edit = load_recipe("right").edit
    assert (edit.object_window, edit.background_window) == ((1.0, 0.25), None)
    with Image.open("right/seed-0.png") as result, Image.open("dog.png") as dog:
        seen = recipe_from_dict(json.loads(result.text[CARRIED])).edit
        assert seen.object_image.tobytes() == dog.crop((16, 0, 80, 64)).tobytes()
    Image.open("beach.png").resize((64, 96)).save("tall.png")
    both = ["--reference", "tall.png", "--window", "0,0", "--reference-window", "0.5,0.75"]
    assert cli(*photo, *both, "--out", "both")[0] == 0
    assert cli("both", "--reference-window", "0,0", "--out", "up")[0] == 0
    up = load_recipe("up").edit
    assert load_recipe("both").edit.background_window == (0.5, 0.75)
    assert (up.object_window, up.background_window) == ((0.0, 0.0), (0.0, 0.0))
    assert "recipe has none" in refusal(cli("right", "--reference-window", "0,0"))


def test_a_subject_is_kept_and_taken_up_again_with_new_words_and_further_training(cli):
    photo = ["--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--tune", "lora"]
    status, _, err = cli(*photo, "--keep", "kept/dog", "--out", "first")
    assert status == 0 and "kept in kept/dog.safetensors" in err
    assert Path("kept/dog.embeddings.safetensors").is_file()
    again = ["--subject", "kept/dog.safetensors", "--json", "--out"]
    report = json.loads(cli(*again, "again")[1])
    assert (report["stages"]["embeddings"], report["stages"]["finetune"]) == ("skip", "skip")
    for seed in (0, 1):  # the same pictures, without training
        assert pixels(f"again/seed-{seed}.png") == pixels(f"first/seed-{seed}.png")
    report = json.loads(cli(*again, "asleep", "--prompt", "a dog asleep on ice", "--seeds", "0")[1])
    assert report["prompts"]["prompt"] == "a dog asleep on ice" and report["stages"]["finetune"] == "skip"
    assert pixels("asleep/seed-0.png") != pixels("first/seed-0.png") and not Path("asleep/seed-1.png").exists()
    report = json.loads(cli(*again, "on", "--train-on", "3", "--keep", "kept/on")[1])
    assert len(report["losses"]["finetune"]) == 3 and not report["losses"].get("embeddings")
    assert pixels("on/seed-0.png") != pixels("first/seed-0.png")
    assert load_subject("kept/on.safetensors").recipe.settings.finetune_steps == 2 + 3


def test_a_full_edits_subject_is_kept_as_a_folder_and_taken_up_again(cli):
    photo = ["--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--tune", "full"]
    assert cli(*photo, "--keep", "dog", "--out", "first")[0] == 0
    assert Path("dog/unet/config.json").is_file() and Path("dog/embeddings.safetensors").is_file()
    report = json.loads(cli("--subject", "dog", "--json", "--out", "again")[1])
    assert report["stages"]["finetune"] == "skip" and report["settings"]["tune"] == "full"
    ours, again = (np.frombuffer(pixels(f"{name}/seed-1.png"), np.uint8) for name in ("first", "again"))
    assert np.abs(ours.astype(int) - again).max() <= 1  # sums of one rounding or another


def test_layers_are_saved_beside_the_results_whose_subjects_are_cut_out(cli, tiny_folder, tmp_path, monkeypatch):
    photo = ["--image", "dog.png", "--mask", "mask.png", "--reference", "beach.png", *WORDS, *QUICK]
    photo += ["--shape", "square", "--save-layers"]
    model = save_tiny_clip(Path(shutil.copytree(tiny_folder, tmp_path / "with-clip")))
    status, out, err = cli(*photo, "--out", "result", model=model)
    assert status == 0, err
    names = ["layer-background.png", "layer-composite.png", "layer-subject.png"]
    assert sorted(path.name for path in Path("result").glob("layer-*")) == names
    with Image.open("result/layer-subject.png") as subject, Image.open("result/layer-background.png") as background:
        assert subject.mode == "RGBA" and 0 < np.mean(np.asarray(subject)[..., 3] > 0) < 1
        assert background.convert("RGB").tobytes() == Image.open("beach.png").tobytes()
    for seed in (0, 1):
        with Image.open(f"result/cutout-seed-{seed}.png") as cut, Image.open(f"result/seed-{seed}.png") as result:
            own = np.asarray(cut)[..., 3] > 0
            assert own.any() and (np.asarray(cut)[own][:, :3] == np.asarray(result)[own]).all()

    def no_clip(*_):
        raise ModelError("There is no CLIP.")

    monkeypatch.setattr(Editor, "cut_out", no_clip)
    status, out, err = cli(*photo, "--out", "without")
    assert status == 0 and "no result's subject is cut out. There is no CLIP." in err
    assert sorted(path.name for path in Path("without").glob("layer-*")) == names


def pixels(path: str) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


# Bad input

GOOD = ["--image", "dog.png", "--mask", "mask.png", *WORDS]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "There is no photo"),
        (["--mask", "mask.png", *WORDS], "There is no photo"),
        (["--image", "dog.png", *WORDS], "No subject is marked"),
        (["--image", "dog.png", "--find", "the dog", "--point", "1,1", *WORDS], "--find and clicks"),
        ([*GOOD, "--reference-find", "the dog"], "--reference-find needs a reference picture"),
        (["--image", "cat.png", "--point", "1,1", *WORDS], "no picture at cat.png"),
        (["--image", "dog.png", "--not-point", "1,1", *WORDS], "No subject is clicked"),
        (["--image", "dog.png", "--point", "80,1", *WORDS], "not on the picture, which is 80 × 64"),
        (["--image", "dog.png", "--point", "1", *WORDS], "must be 2 numbers"),
        (["--image", "dog.png", "--box", "1,2,3", *WORDS], "must be 4 numbers"),
        (["--image", "dog.png", "--box", "9,9,3,3", *WORDS], "left, top, right, bottom"),
        ([*GOOD, "--point", "3,3"], "--mask and clicks"),
        ([*GOOD[:-2]], "The prompt is empty"),
        ([*GOOD[:-1], "  "], "The prompt is empty"),
        ([*GOOD[:-1], "dog " * 10_000], "10000 words"),
        ([*GOOD, "--reference-point", "1,1"], "--reference-point needs a reference"),
        ([*GOOD, "--swap"], "--swap needs a reference"),
        ([*GOOD, "--window", "2,0"], "'2,0' must be 2 shares from 0 to 1"),
        ([*GOOD, "--window", "0.5"], "'0.5' must be 2 numbers"),
        ([*GOOD, "--reference-window", "0,1"], "--reference-window needs a reference"),
        ([*GOOD, "--train-on", "5"], "--train-on needs a kept subject"),
        (["--subject", "none.safetensors", *WORDS], "no subject at none.safetensors"),
        (["--subject", "none.safetensors", "--window", "0,1"], "--window can't be combined with --subject"),
        ([*GOOD, "--background", "reference"], "background_image is missing"),
        ([*GOOD, "--background", "keep", "--reference", "beach.png"], 'background is "keep"'),
        ([*GOOD, "--background", "mars"], "Argument --background: invalid choice: 'mars'"),
        ([*GOOD, "--alpha", "1.5"], "alpha must be a number from 0 to 1, not 1.5"),
        ([*GOOD, "--alpha", "nan"], "alpha must be a number from 0 to 1, not nan"),
        ([*GOOD, "--alpha", "much"], "'much' is no number"),
        ([*GOOD, "--sampling-steps", "0"], "sampling_steps must be a whole number from 1"),
        ([*GOOD, "--seeds", "0-199"], "seeds has 200 numbers"),
        ([*GOOD, "--seeds", "1-99999999999999"], "seeds has 1000 numbers"),
        ([*GOOD, "--seeds", "one"], "'one' is no seed"),
        ([*GOOD, "--scale", "100"], "scale must be a number"),
        ([*GOOD, "--dx", "1", *QUICK], "outside the picture"),
        ([*GOOD, "--colour", "red"], "unrecognized arguments: --colour"),
        ([*GOOD, "--alp", "0.5"], "unrecognized arguments: --alp"),
        (["nowhere/edit.json"], "no recipe at nowhere"),
        (["mask.png"], "can't be read as text"),
        (["mask.png", "--image", "dog.png"], "--image can't be combined with a recipe"),
        ([*GOOD, "--out", "dog.png/results"], "can't be saved to dog.png/results"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_flags_end_with_status_two_and_one_sentence(cli, flags, words):
    assert words.lower() in refusal(cli(*flags)).lower()


def spoil(name: str) -> str:
    """Write a photo that is wrong in the way its name says; its file name."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(0, 256, (64, 80, 3), dtype=np.uint8))
    file = f"{name}.png"
    if name == "one pixel":
        image.crop((0, 0, 1, 1)).save(file)
    elif name == "too many pixels":
        Image.new("1", (11000, 10000)).save(file)
    elif name == "text":
        Path(file).write_text("no picture")
    elif name == "empty":
        Path(file).touch()
    elif name == "animated":
        file = "animated.gif"
        image.save(file, save_all=True, append_images=[image.rotate(90)])
    else:
        image.save(file)
        content = bytearray(Path(file).read_bytes())
        if name == "truncated":
            content = content[: len(content) // 2]
        else:
            content[len(content) // 2] ^= 0xFF
        Path(file).write_bytes(content)
    return file


@pytest.mark.parametrize("name", ["one pixel", "too many pixels", "text", "empty", "animated", "truncated", "corrupt"])
def test_a_spoilt_photo_reference_or_mask_ends_with_one_sentence(cli, name):
    file = spoil(name)
    assert file in refusal(cli("--image", file, "--point", "1,1", *WORDS))
    refusal(cli(*GOOD, "--reference", file))
    refusal(cli("--image", "dog.png", "--mask", file, *WORDS))


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "P", "RGBA", "L", "1"])
def test_a_photo_of_any_other_kind_is_edited(cli, mode):
    image = Image.open("dog.png")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    assert image.mode == mode
    name = "photo.tiff" if mode == "CMYK" else "photo.png"
    image.save(name)
    assert cli("--image", name, *GOOD[2:], *QUICK)[0] == 0


def test_a_sideways_phone_photo_is_clicked_on_as_it_is_seen(cli):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open("dog.png").save("phone.jpg", exif=exif, quality=95)  # stored 80 × 64, seen 64 × 80
    assert "64 × 80" in refusal(cli("--image", "phone.jpg", "--point", "70,10", *WORDS))
    assert cli("--image", "phone.jpg", "--point", "10,70", *WORDS, *QUICK, "--out", "result")[0] == 0
    assert load_recipe("result").edit.object_image.size == (64, 80)


@pytest.mark.parametrize(("fill", "words"), [(0, "the mask is empty"), (90, "white"), (255, "object_mask covers")])
def test_an_empty_a_dark_and_a_whole_mask_end_with_one_sentence(cli, fill, words):
    Image.new("L", (80, 64), fill).save("mask.png")
    assert words in refusal(cli(*GOOD))


def test_a_mask_of_another_size_ends_with_one_sentence(cli):
    Image.new("L", (64, 80), 255).save("mask.png")
    assert "64 × 80 pixels but its picture is 80 × 64" in refusal(cli(*GOOD))


def test_a_missing_and_a_broken_model_end_with_one_sentence(cli, tiny_folder, tmp_path):
    refusal(cli(*GOOD, model=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    refusal(cli(*GOOD, model=tmp_path / "empty"))


def test_a_half_written_sam_ends_with_one_sentence(cli, tiny_folder, sam_folder, files):
    content = (sam_folder / "model.safetensors").read_bytes()
    Path("sam.safetensors").write_bytes(content[: len(content) // 2])
    flags = ["--image", "dog.png", "--point", "9,9", *WORDS, "--model", tiny_folder, "--sam", "sam.safetensors"]
    assert "half-written" in refusal(cli(*flags, model=None))


def test_a_hub_model_without_a_network_ends_with_one_sentence(cli, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refusal(cli(*GOOD, model="nobody/no-such-model"))


def test_a_disk_that_fills_up_while_saving_ends_with_one_sentence(cli, full_disk):
    full_disk(Path("/"))
    assert "No space left on device" in refusal(cli(*GOOD, *QUICK, "--out", "result"))


def test_a_loss_that_is_not_finite_is_null_in_json(cli, monkeypatch):
    """As float16 leaves steps out whose loss overflowed."""
    run = Editor.run

    def overflowed(self, *args, **kwargs):
        result = run(self, *args, **kwargs)
        result.losses["finetune"][0] = math.inf
        return result

    monkeypatch.setattr(Editor, "run", overflowed)
    status, out, _ = cli("--image", "dog.png", "--mask", "mask.png", *WORDS, *QUICK, "--json")
    losses = json.loads(out)["losses"]["finetune"]
    assert status == 0 and losses[0] is None and all(loss > 0 for loss in losses[1:])


def test_bad_input_is_json_too_when_a_machine_asks(cli):
    status, out, err = cli(*GOOD, "--alpha", "2", "--json")
    assert (status, err) == (2, "")
    assert "alpha" in json.loads(out)["error"]


# The process


def test_help_comes_at_once_and_names_every_setting_with_its_range():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "layerdiffusion", "edit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for name, entry in setting_table().items():
        assert f"--{name.replace('_', '-')}" in text
        if entry.limit and name != "seeds":
            assert str(entry.limit) in text
    assert not any(heavy in done.stderr for heavy in ("| torch\n", "| diffusers\n", "| transformers\n", "| gradio\n"))
    assert after.ru_utime - before.ru_utime < 5  # of the processor, however busy it is


def test_without_a_command_the_commands_are_told():
    done = subprocess.run([sys.executable, "-m", "layerdiffusion"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    done = subprocess.run(
        [sys.executable, "-m", "layerdiffusion", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "edit a photo" in done.stdout


@pytest.mark.slow
def test_ctrl_c_ends_an_edit_within_a_step_and_leaves_no_traceback(files, tiny_folder):
    command = [sys.executable, "-m", "layerdiffusion", "edit", *GOOD, "--model", str(tiny_folder), "--device", "cpu",
               "--embedding-steps", "2000", "--finetune-steps", "2000", "--out", "result"]  # fmt: skip
    source = str(Path(__file__).resolve().parent.parent)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": source}
    ) as process:
        seen = ""
        while "Embeddings" not in seen:  # the edit itself has begun
            letter = process.stderr.read(1)
            assert letter, seen
            seen += letter
        process.send_signal(signal.SIGINT)
        interrupted = time.perf_counter()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.perf_counter() - interrupted < 10
    assert out == "" and "Traceback" not in err and err.rstrip().endswith("layerdiffusion: Interrupted.")
    assert not list(Path("result").glob("*.png"))


def test_the_edit_command_makes_the_very_pictures_the_library_makes(cli, tiny_folder):
    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models

    settings = Settings(embedding_steps=2, finetune_steps=2, sampling_steps=3, seeds=(0, 1))
    mask = np.asarray(Image.open("mask.png")) > 0
    edit = Edit(Image.open("dog.png"), mask, prompt="a dog jumps on ice")
    expected = Editor(load_models(tiny_folder, "cpu")).run(edit, settings)
    assert cli(*GOOD, *QUICK, "--out", "result")[0] == 0
    for seed, image in zip(expected.seeds, expected.images, strict=True):
        assert (np.asarray(Image.open(f"result/seed-{seed}.png")) == np.asarray(image)).all()
