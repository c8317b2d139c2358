"""Stable Diffusion v1.4's architecture at its true size, with random weights: opened, and a step of every stage."""

import dataclasses
import json
import resource
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_tokenizer

from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.models.load import Models, load_models
from layerdiffusion.settings import PAPER, Settings

pytestmark = pytest.mark.slow

# The configs that CompVis/stable-diffusion-v1-4 is published with, less what is the same in every release.
UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT_ENCODER = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 49408,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@pytest.fixture(scope="module")
def true_size_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("stable-diffusion-v1-4")
    with torch.device("meta"):
        models = {
            "unet": (UNET, UNet2DConditionModel.from_config(UNET), "diffusion_pytorch_model", ""),
            "vae": (VAE, AutoencoderKL.from_config(VAE), "diffusion_pytorch_model", ""),
            # Its weights carry a prefix that today's transformers no longer writes.
            "text_encoder": (TEXT_ENCODER, CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)), "model", "text_model."),
        }
    for part, (config, model, file, prefix) in models.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
        weights = {prefix + name: random_weight(name, value) for name, value in model.named_parameters()}
        save_file(weights, folder / part / f"{file}.safetensors", metadata={"format": "pt"})
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    tokenizer = tiny_tokenizer()  # its few ids are among the 49,408
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(folder / "tokenizer")
    yield folder
    for path in folder.rglob("*.safetensors"):  # two gigabytes that nobody needs to keep
        path.unlink()


BLOCK = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)


def random_weight(name: str, like: torch.Tensor) -> torch.Tensor:
    """Noise of the size a trained layer keeps its activations in bounds with; one block over and over, for speed."""
    if like.dim() < 2:
        return torch.full(like.shape, float(name.endswith("weight")), dtype=torch.bfloat16)
    repeats = -(-like.numel() // len(BLOCK))
    fan_in = like[0].numel()
    return (BLOCK * (0.7 * fan_in**-0.5)).repeat(repeats)[: like.numel()].reshape(like.shape).contiguous()


@pytest.fixture(scope="module")
def true_size(true_size_folder) -> Models:
    return load_models(true_size_folder, "cpu")


def test_its_native_size_is_512_and_its_defaults_are_the_papers(true_size):
    assert true_size.size == 512
    assert true_size.latent_shape == (4, 64, 64)
    assert true_size.defaults == PAPER


def test_stable_diffusions_true_size_opens_and_takes_a_step_of_every_stage(true_size, edit: Edit):
    models = dataclasses.replace(true_size, size=64)
    assert sum(p.numel() for p in models.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in models.family.text_encoder.parameters()) == 123_060_480
    assert sum(p.numel() for p in models.vae.parameters()) == 83_653_863
    assert models.tokens == 77
    assert models.latent_shape == (4, 8, 8)
    assert models.embed(["a dog"]).prompt_embeds.shape == (1, 77, 768)

    settings = Settings(embedding_steps=1, finetune_steps=1, sampling_steps=1, tune="lora", seeds=(0,))
    before = models.unet.conv_in.weight.clone()
    result = Editor(models).run(edit, settings)

    assert result.stages == {"embeddings": "run", "finetune": "run", "sampling": "run"}
    assert all(0 < loss < 100 for losses in result.losses.values() for loss in losses)
    assert result.images[0].size == (64, 64)
    assert torch.equal(models.unet.conv_in.weight, before)
    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit < 16 * 2**30
