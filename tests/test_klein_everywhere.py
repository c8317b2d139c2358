"""A whole edit on FLUX.2 klein base by the command line, replayed from its recipe, and over HTTP."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from serving import photo, served

from layerdiffusion.__main__ import main
from layerdiffusion.ui.handlers.model import badge

FEW = {"embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 3, "seeds": [0, 1]}
WORDS = "a dog jumps on ice"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    mask = np.zeros((60, 80), bool)
    mask[15:45, 20:60] = True
    photo(80, 60).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return {name: folder / name for name in ("image.png", "mask.png")}


def pictures(folder: Path) -> list[bytes]:
    return [Image.open(path).tobytes() for path in sorted(folder.glob("seed-*.png"))]


def test_the_command_line_edits_keeps_the_subject_and_replays(tiny_klein_folder, files, tmp_path, capfd):
    few = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items() if name != "seeds"]
    flags = ["--image", str(files["image.png"]), "--mask", str(files["mask.png"]), "--prompt", WORDS, *few]
    model = ["--model", str(tiny_klein_folder), "--device", "cpu", "--seeds", "0", "1"]
    keep = ["--keep", str(tmp_path / "dog"), "--finetune-lr", "4e-4"]
    assert main(["edit", *flags, *model, *keep, "--out", str(tmp_path / "first")]) == 0
    assert main(["edit", str(tmp_path / "first"), "--device", "cpu", "--out", str(tmp_path / "again")]) == 0
    recipe = json.loads((tmp_path / "first" / "edit.json").read_text())
    assert recipe["model"] == str(tiny_klein_folder)
    assert (recipe["settings"]["tune"], recipe["settings"]["guidance_scale"]) == ("lora", 4.0)
    made = {name: pictures(tmp_path / name) for name in ("first", "again")}
    assert len(made["first"]) == 2 and made["first"] == made["again"]
    lora = ["--lora", str(tmp_path / "dog.safetensors")]
    assert main(["edit", *flags, *model, *lora, "--out", str(tmp_path / "lora")]) == 0
    assert pictures(tmp_path / "lora") != made["first"]
    capfd.readouterr()
    assert main(["edit", *flags, *model, "--tune", "full", "--out", str(tmp_path / "full")]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "tune is “full”" in error and "GB" in error
    assert main(["edit", *flags, "--model", "black-forest-labs/FLUX.2-klein-4B", "--out", str(tmp_path / "four")]) == 2
    assert "distilled to four steps" in capfd.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_comparison_has_the_methods_that_apply(tiny_klein_folder, files, tmp_path, capfd):
    few = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items() if name != "seeds"]
    flags = ["--image", str(files["image.png"]), "--mask", str(files["mask.png"]), "--prompt", WORDS, *few]
    model = ["--model", str(tiny_klein_folder), "--device", "cpu", "--seeds", "0"]
    assert main(["edit", *flags, *model, "--out", str(tmp_path / "first")]) == 0
    sets = ["--set", "imagic.embedding_steps=2", "--set", "imagic.finetune_steps=2"]
    compare = ["compare", str(tmp_path / "first"), "--device", "cpu", "--out", str(tmp_path / "all")]
    assert main([*compare, *sets]) == 0
    report = json.loads((tmp_path / "all" / "compare.json").read_text())
    assert list(report["methods"]) == ["layerdiffusion", "imagic", "klein_picture", "sdedit"]
    capfd.readouterr()
    assert main([*compare, "--methods", "layerdiffusion,pnp"]) == 2
    assert "Plug-and-Play doesn't apply" in capfd.readouterr().err.splitlines()[-1]


def test_the_page_names_it_and_edits_over_http(tiny_klein_folder, files, tmp_path):
    folder = Path(shutil.copytree(tiny_klein_folder, tmp_path / "some-klein"))
    with served(folder) as page:
        assert "FLUX.2 klein base, 64 × 64 pixels" in badge(page.backend) and "some-klein" in badge(page.backend)
        assert (page.backend.defaults().tune, page.backend.defaults().guidance_scale) == ("lora", 4.0)
        sent = {"image": handle_file(files["image.png"]), "mask": handle_file(files["mask.png"])}
        answer = Client(page.url, verbose=False).predict(**sent, prompt=WORDS, settings=FEW, api_name="/edit")
    assert len(answer[0]) == 2
