"""The paper, a section a file: objective (Eq. 1), embeddings (§3.2.1), finetune (§3.2.2), sampling (§3.2.3).

`layerdiffusion` has the three stages in order. The others are functions of tensors and an explicit generator, which
change nothing they are given and know nothing of files, caches or devices.
"""

from layerdiffusion.method.embeddings import edit_embedding, optimize_embeddings
from layerdiffusion.method.finetune import TrainingLayers, composite_layers, finetune, separate_layers
from layerdiffusion.method.sampling import denoise, sample

__all__ = [
    "TrainingLayers",
    "composite_layers",
    "denoise",
    "edit_embedding",
    "finetune",
    "optimize_embeddings",
    "sample",
    "separate_layers",
]
