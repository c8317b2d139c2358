"""Imagic (Kawar et al. 2023, https://arxiv.org/abs/2210.09276): the whole prompt and the whole network fitted to
the photo, then sampled between what the words mean and what the photo made of them.

Its two fits are stages 1 and 2 of ours with a single embedding, a single picture and no mask. Of diffusers' community
pipeline it keeps the arithmetic, without its two traps: gradients that stay scaled, and noise that no seed governs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerdiffusion.method import composite_layers, finetune, optimise_embeddings
from layerdiffusion.method.finetune import Weights


def fit_embedding(unet: nn.Module, scheduler: Any, latents: Tensor, embedding: Tensor, **arguments: Any) -> Tensor:
    """Step A, text embedding optimisation: e_opt (1, L, D), from the prompt's `embedding` with the model frozen.

    `latents` (1, C, h, w) are the photo's; the other `arguments` are those of `method.optimise_embeddings`.
    """
    return optimise_embeddings(unet, scheduler, latents, _everywhere(latents), embedding, **arguments)


def fit_network(unet: nn.Module, scheduler: Any, latents: Tensor, embedding: Tensor, **arguments: Any) -> Weights:
    """Step B, model fine-tuning: the weights that denoise the photo best at `embedding`, which is e_opt (1, L, D).

    The other `arguments` are those of `method.finetune`, which tunes a copy.
    """
    layers = composite_layers(latents, _everywhere(latents))
    return finetune(unet, scheduler, layers, embedding, object_weight=1.0, background_weight=0.0, **arguments)


def interpolated(target: Tensor, optimised: Tensor, alpha: float) -> Tensor:
    """Step C, interpolation: ē = η · e_tgt + (1 − η) · e_opt; `alpha` is η, `target` the prompt's own embedding."""
    return alpha * target + (1 - alpha) * optimised


def _everywhere(latents: Tensor) -> Tensor:
    return torch.ones_like(latents[:, :1])
