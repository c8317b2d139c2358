"""FLUX.2 klein base's architecture at its true size, and the models of it on whatever device there is."""

from pathlib import Path
from typing import Any

import torch
from sd14 import placed
from tiny_klein import TRUE_SIZE, klein_scheduler, tiny_tokenizer

from layerdiffusion.models.flow import FlowMatching
from layerdiffusion.models.klein import Klein
from layerdiffusion.models.load import assemble
from layerdiffusion.models.models import Models
from layerdiffusion.models.parts import Parts
from layerdiffusion.models.profile import Profile

# Qwen3's of 4B, less what is the same in every release.
TEXT_ENCODER = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


def networks() -> tuple[Any, Any, Any]:
    """The network, the autoencoder and the text encoder in bfloat16, as they are published, without contents."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3ForCausalLM

    with torch.device("meta"):
        network = Flux2Transformer2DModel(**TRUE_SIZE, guidance_embeds=False)
        vae, encoder = AutoencoderKLFlux2(), Qwen3ForCausalLM(Qwen3Config(**TEXT_ENCODER))
    return network.to(torch.bfloat16), vae, encoder.to(torch.bfloat16)


def flux2_klein(profile: Profile, size: int | None = None) -> Models:
    """The models as the loader places them, of fake tensors; to be called while there is a `fake_card`."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    network, vae, encoder = map(placed, networks())
    family = Klein(encoder, tiny_tokenizer())
    parts = Parts(network, vae, family, FlowMatching(klein_scheduler(), compute_empirical_mu))
    return assemble("klein", parts, Path("/nowhere"), profile, size)
