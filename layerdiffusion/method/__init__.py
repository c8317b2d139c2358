"""The paper, a section a file: objective (Eq. 1), embeddings (§3.2.1), finetune (§3.2.2), sampling (§3.2.3).

Functions of tensors and an explicit generator, which change nothing they are given and know nothing of files,
caches or devices beyond the tensors' own.
"""

from layerdiffusion.method.embeddings import edit_embedding, optimize_embeddings
from layerdiffusion.method.finetune import (
    TrainingLayers,
    composite_layers,
    finetune,
    separate_layers,
    with_weights,
)
from layerdiffusion.method.objective import Step
from layerdiffusion.method.sampling import denoise, initial_latents, sample

__all__ = [
    "Step",
    "TrainingLayers",
    "composite_layers",
    "denoise",
    "edit_embedding",
    "finetune",
    "initial_latents",
    "optimize_embeddings",
    "sample",
    "separate_layers",
    "with_weights",
]
