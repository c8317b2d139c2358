"""Real photographs, scikit-image's own, in their own shapes: from their files to saved results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from layerdiffusion.__main__ import main
from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.images.io import open_image
from layerdiffusion.images.layers import seen
from layerdiffusion.models.load import load_models
from layerdiffusion.recipe import load_recipe
from layerdiffusion.settings import Settings
from layerdiffusion.ui.api import editing
from layerdiffusion.ui.bundle import open_bundle

PHOTOGRAPHS = {  # each: its size, its subject as an ellipse (x, y, radii), the random model's window for it
    "chelsea.png": ((451, 300), (230, 150, 130, 120), (80, 48)),
    "astronaut.png": ((512, 512), (220, 260, 170, 240), (64, 64)),
    "coffee.png": ((600, 400), (330, 200, 170, 150), (80, 48)),
    "rocket.jpg": ((640, 427), (320, 230, 60, 180), (80, 48)),
}
FEW = {"embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 3, "seeds": [5]}


@pytest.fixture(params=PHOTOGRAPHS)
def photograph(request, tmp_path):
    """A photograph's file, a file of its mask, and the random model's window for it."""
    size, (x, y, across, down), window = PHOTOGRAPHS[request.param]
    folder = Path(importlib.util.find_spec("skimage").submodule_search_locations[0]) / "data"
    mask = cv2.ellipse(np.zeros(size[::-1], np.uint8), (x, y), (across, down), 0, 0, 360, 255, -1)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert open_image(folder / request.param).size == size
    return folder / request.param, tmp_path / "mask.png", window


def shows(picture: Image.Image, file: Path) -> bool:
    """Whether the picture is the file's, upright, its middle cut to the picture's shape."""
    expected = ImageOps.fit(open_image(file), picture.size, Image.Resampling.LANCZOS)
    return np.abs(np.asarray(picture, float) - np.asarray(expected, float)).mean() < 6


def test_a_photograph_goes_through_the_command_line_in_its_shape(photograph, tiny_folder, tmp_path, capsys):
    file, mask, window = photograph
    flags = ["--image", file, "--mask", mask, "--prompt", "a cat jumping on the beach", "--dx", "0.1"]
    flags += [part for name, value in FEW.items() if name != "seeds" for part in (f"--{name.replace('_', '-')}", value)]
    out = tmp_path / "out"
    assert main(["edit", *map(str, flags), "--seeds", "5", "--model", str(tiny_folder), "--device", "cpu",
                 "--out", str(out), "--json"]) == 0  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    with Image.open(out / "seed-5.png") as result, Image.open(out / "contact.png") as sheet:
        assert result.size == window and report["settings"]["shape"] == "photo"
        background = sheet.crop((4 + window[0] + 4, 20, 4 + 2 * window[0] + 4, 20 + window[1]))
        assert shows(background, file)
    recipe = load_recipe(out)
    again = Editor(load_models(tiny_folder, "cpu")).run(recipe.edit, recipe.settings)
    assert again.images[0].tobytes() == Image.open(out / "seed-5.png").tobytes()


def test_a_photograph_goes_through_the_api_in_its_shape_and_opens_again(photograph, tiny_models):
    file, mask, window = photograph

    class Backend:
        @staticmethod
        def run(edit, settings, cancel):
            yield "done", Editor(tiny_models).run(edit, settings)

    for paths, report in editing(Backend)(file.read_bytes(), mask.read_bytes(), "a cat on the beach", settings=FEW):
        assert report["settings"]["shape"] == "photo" and not report["warnings"]
        opened = open_bundle(Path(paths[0]).read_bytes())
    assert opened.pictures[5].size == window
    assert opened.recipe.edit == seen(Edit(file, mask, prompt="a cat on the beach"), window)


@pytest.mark.parametrize("photograph", ["chelsea.png"], indirect=True)
def test_a_photograph_goes_through_the_miniature_in_its_shape(photograph):
    file, mask, _ = photograph
    editor = Editor(load_models("miniature", "cpu"))
    settings = Settings(**{**FEW, "embedding_steps": 1, "finetune_steps": 1, "sampling_steps": 2}, shape="photo")
    result = editor.run(Edit(file, mask, prompt="a cat on the beach"), settings)
    assert result.images[0].size == (160, 96) and shows(result.layers.composite, file)
