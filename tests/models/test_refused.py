"""Models of another kind are refused by name, with the reason."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from refusals import change_json, sentence
from safetensors.torch import save_file

from layerdiffusion.errors import ModelError
from layerdiffusion.models.load import load_models


def is_stable_diffusion_3(folder):
    shutil.rmtree(folder / "unet")
    change_json(folder / "model_index.json", _class_name="StableDiffusion3Pipeline")


def is_flux(folder):
    shutil.rmtree(folder / "unet")
    change_json(folder / "model_index.json", _class_name="FluxPipeline")


def is_inpainting(folder):
    change_json(folder / "unet" / "config.json", in_channels=9)


def is_refiner(folder):
    change_json(folder / "model_index.json", requires_aesthetics_score=True)


def is_turbo(folder):
    spaced = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    change_json(folder / "scheduler" / "scheduler_config.json", **spaced)


def is_lcm(folder):
    change_json(folder / "unet" / "config.json", time_cond_proj_dim=256)


FOLDERS = {
    is_stable_diffusion_3: "StableDiffusion3Pipeline",
    is_flux: "FluxPipeline",
    is_inpainting: "inpainting",
    is_refiner: "refiner",
    is_turbo: r"without guidance \(Turbo\)",
    is_lcm: r"without guidance \(LCM\)",
}


@pytest.mark.parametrize("change", FOLDERS, ids=lambda change: change.__name__)
def test_a_folder_of_another_kind_is_named(tiny_xl_folder, tmp_path, change):
    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "model"))
    change(folder)
    with pytest.raises(ModelError, match=FOLDERS[change]) as error:
        load_models(folder, "cpu")
    assert "not a Stable Diffusion 1.x, SDXL or FLUX.2 klein base model" in sentence(error)


@pytest.mark.parametrize("name", ["stabilityai/sdxl-turbo", "someone/dreamLightningXL_lcm", "models/real-Lightning"])
def test_a_distilled_model_is_known_by_its_name_before_it_is_fetched(no_network, name):
    with pytest.raises(ModelError, match="without guidance"):
        load_models(name, "cpu")


FILES = {
    "Stable Diffusion 3": ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", (4, 4)),
    "Flux": ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", (4,)),
    "inpainting": ("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3)),
    "refiner": ("conditioner.embedders.0.model.positional_embedding", (4, 4)),
    "Stable Diffusion 2": ("cond_stage_model.model.positional_embedding", (4, 4)),
    "LoRA": ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", (4, 4)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind_is_named(tmp_path, kind):
    name, shape = FILES[kind]
    save_file({name: torch.zeros(shape)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=kind) as error:
        load_models(tmp_path / "model.safetensors", "cpu")
    sentence(error)


def test_512_pixels_are_warned_of_where_1024_are_native(tiny_xl_folder, tmp_path):
    assert load_models(tiny_xl_folder, "cpu").notice is None
    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "model"))
    config = json.loads((folder / "unet" / "config.json").read_text())
    change_json(folder / "unet" / "config.json", sample_size=2 * config["sample_size"])
    notice = load_models(folder, "cpu", size=64).notice
    assert notice is not None and "128 pixels" in notice
