"""A seeded random FLUX.2 klein base of a few thousand parameters, as a diffusers folder: its classes, its names."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import noise_picture  # noqa: F401 - which makes torchvision safe to import

LAYERS = 28  # of the text encoder: of the 27th the network is given the hidden states
WIDTH = 8  # of the text encoder

# As Qwen3's, for one order of a user without thinking.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def tiny_tokenizer():
    """Bytes as tokens, and the marks of the template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2TokenizerFast

    letters = sorted(ByteLevel.alphabet())
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    tokenizer = Qwen2TokenizerFast(vocab={token: index for index, token in enumerate([*letters, *marks])}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_transformer(**changes):
    from diffusers import Flux2Transformer2DModel

    config = dict(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=16,
        mlp_ratio=2.0,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return Flux2Transformer2DModel(**{**config, **changes})


def tiny_klein_vae():
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=64
    )
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.05, 2.0, 16))
    return vae


def tiny_encoder(vocabulary: int):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            tie_word_embeddings=True,
        )
    )


def klein_scheduler():
    """With the config that the model is published with."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, time_shift_type="exponential")


def save_tiny_klein(folder: Path, **index) -> Path:
    """Write a random klein as `Flux2KleinPipeline.save_pretrained` does; `index` changes its model_index.json."""
    from diffusers import Flux2KleinPipeline

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = Flux2KleinPipeline(
            scheduler=klein_scheduler(),
            vae=tiny_klein_vae(),
            text_encoder=tiny_encoder(len(tokenizer)),
            tokenizer=tokenizer,
            transformer=tiny_transformer(),
        )
        for weight in pipeline.transformer.parameters():
            if weight.dim() == 2:
                weight.data *= 2  # so that words and pictures make a difference
    pipeline.register_to_config(**index)
    pipeline.save_pretrained(folder)
    return folder


# What the network of the base of 4B is published with.
TRUE_SIZE = dict(
    in_channels=128,
    num_layers=5,
    num_single_layers=20,
    attention_head_dim=128,
    num_attention_heads=24,
    joint_attention_dim=7680,
    timestep_guidance_channels=256,
    mlp_ratio=3.0,
    axes_dims_rope=(32, 32, 32, 32),
)
