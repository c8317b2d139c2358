"""Stable Diffusion v1.4's architecture at its true size, with random weights: opened, and a step of every stage."""

import dataclasses
import json
import resource
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sd14 import SCHEDULER, TEXT_ENCODER, UNET, VAE
from tiny import tiny_tokenizer

from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.models.load import load_models
from layerdiffusion.models.models import Models
from layerdiffusion.settings import PAPER, Settings

pytestmark = pytest.mark.slow


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
