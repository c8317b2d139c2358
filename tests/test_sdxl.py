"""A whole edit on SDXL: by the command line with a LoRA on top, replayed from its recipe, and over HTTP."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from gradio_client import Client, handle_file
from PIL import Image
from safetensors.torch import load_file, save_file
from serving import photo, served
from tiny import QUICK, WIDTH, XL_WIDTH

from layerdiffusion.__main__ import main
from layerdiffusion.editor import Editor
from layerdiffusion.engine import initial_latents
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
    generator = torch.Generator().manual_seed(0)
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_{}.weight"
    shapes = {"A": (2, WIDTH + XL_WIDTH), "B": (16, 2)}
    lora = {stem.format(side): torch.randn(shape, generator=generator) for side, shape in shapes.items()}
    save_file(lora, folder / "style.safetensors")
    return {name: folder / name for name in ("image.png", "mask.png", "style.safetensors")}


def pictures(folder: Path) -> list[bytes]:
    return [Image.open(path).tobytes() for path in sorted(folder.glob("seed-*.png"))]


def test_the_command_line_edits_with_a_lora_on_top_and_its_recipe_replays(tiny_xl_folder, files, tmp_path, capfd):
    few = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items() if name != "seeds"]
    flags = ["--image", str(files["image.png"]), "--mask", str(files["mask.png"]), "--prompt", WORDS, *few]
    lora = f"{files['style.safetensors']}:0.5"
    model = ["--model", str(tiny_xl_folder), "--device", "cpu", "--seeds", "0", "1"]
    assert main(["edit", *flags, *model, "--out", str(tmp_path / "plain")]) == 0
    assert main(["edit", *flags, *model, "--lora", lora, "--out", str(tmp_path / "lora")]) == 0
    assert main(["edit", str(tmp_path / "lora"), "--device", "cpu", "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "lora" / "edit.json").read_text())["model"] == f"{tiny_xl_folder} + {lora}"
    made = {name: pictures(tmp_path / name) for name in ("plain", "lora", "again")}
    assert len(made["lora"]) == 2 and made["lora"] == made["again"] and made["lora"] != made["plain"]
    assert main(["edit", *flags, *model, "--lora", f"{lora}0:x"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("layerdiffusion: ")


@pytest.mark.slow
def test_the_benchmark_times_each_of_its_stages(tiny_xl_folder, tmp_path, capfd):
    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "some-xl"))
    (folder / "settings.json").write_text(json.dumps(FEW))
    assert main(["benchmark", "--model", str(folder), "--device", "cpu", "--steps", "1", "--json"]) == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["model"] == str(folder)
    assert all(found["seconds"]["total"] > 0 for found in figures["presets"].values())


def test_the_page_names_it_and_edits_over_http(tiny_xl_folder, files, tmp_path):
    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "some-xl"))
    with served(folder, lora=(str(files["style.safetensors"]),)) as page:
        assert "SDXL, 64 × 64 pixels" in badge(page.backend) and "some-xl + style.safetensors" in badge(page.backend)
        assert page.backend.defaults().tune == "lora"
        sent = {"image": handle_file(files["image.png"]), "mask": handle_file(files["mask.png"])}
        answer = Client(page.url, verbose=False).predict(**sent, prompt=WORDS, settings=FEW, api_name="/edit")
    assert len(answer[0]) == 2


def test_a_kept_lora_opens_in_diffusers_and_makes_the_same_picture_there(
    tiny_xl_models, tiny_xl_folder, edit, tmp_path
):
    settings = replace(QUICK, tune="lora", finetune_lr=2e-3, schedule="edit", guidance_scale=5.0)
    editor = Editor(tiny_xl_models)
    path = editor.subject(edit, settings).save(tmp_path / "dog", tiny_xl_models)
    words, none = load_file(path.with_suffix(".embeddings.safetensors")), tiny_xl_models.embed([None])
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_xl_folder)
    pipeline.set_progress_bar_config(disable=True)
    made = {
        "prompt_embeds": words["edit.prompt_embeds"][None],
        "pooled_prompt_embeds": words["edit.pooled_prompt_embeds"][None],
        "negative_prompt_embeds": none.prompt_embeds,
        "negative_pooled_prompt_embeds": none.pooled_prompt_embeds,
        "latents": initial_latents([0], (4, 8, 8)),
        "height": 64,
        "width": 64,
        "num_inference_steps": settings.sampling_steps,
        "guidance_scale": 5.0,
        "output_type": "np",
    }
    untuned = pipeline(**made).images[0]
    pipeline.load_lora_weights(str(path))
    ours = np.asarray(editor.run(edit, settings).images[0]) / 255
    assert np.abs(pipeline(**made).images[0] - ours).max() < 2 / 255 < 4 / 255 < np.abs(untuned - ours).max()
