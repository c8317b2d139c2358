"""The network whose features KID compares (see `measures.kid`), in place of Inception's.

Inception's weights can't be had offline and were trained on photographs; this one names what drawn scenes show, from
pictures with the faults of a decoder, and nothing that makes pictures is trained by it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layerdiffusion.miniature.data import Scenes, to_tensor
from layerdiffusion.miniature.judge import Block, worn
from layerdiffusion.miniature.training import Plan, Rates, fit, load_half, save_half
from layerdiffusion.miniature.world import ANIMALS, FACINGS, MARKINGS, PAINTS, PLACES, POSES, POSITIONS, SIZES

LABELS = {
    "animal": ANIMALS, "paint": tuple(PAINTS), "pose": POSES, "size": tuple(SIZES), "place": PLACES,
    "facing": FACINGS, "position": POSITIONS, "marking": MARKINGS,
}  # fmt: skip
WIDTHS = (32, 64, 96)  # channels at a quarter, an eighth and a sixteenth of the side
FEATURES = 96
GRID = 4  # features are kept for each of 4 × 4 parts of the picture until the last layer
BATCH = 32


class Features(nn.Module):
    """Pictures, uint8 (N, 3, 128, 128), to features (N, `num_features`), as torchmetrics takes its networks."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        quarter, eighth, sixteenth = WIDTHS
        self.body = nn.Sequential(
            nn.Conv2d(3, quarter, 4, 4), nn.BatchNorm2d(quarter), nn.ReLU(), Block(quarter),
            nn.Conv2d(quarter, eighth, 2, 2), Block(eighth),
            nn.Conv2d(eighth, sixteenth, 2, 2), Block(sixteenth), nn.AdaptiveAvgPool2d(GRID),
        )  # fmt: skip
        self.last = nn.Linear(sixteenth * GRID**2, FEATURES)
        self.heads = nn.ModuleDict({key: nn.Linear(FEATURES, len(values)) for key, values in LABELS.items()})

    def forward(self, images: Tensor) -> Tensor:
        return self.of(images.float() / 127.5 - 1)

    def of(self, pixels: Tensor) -> Tensor:
        """The features of pixels in −1 … 1, (N, 3, 128, 128)."""
        return self.last(self.body(pixels).flatten(1))


def train(scenes: Scenes, plan: Plan, rates: Rates | None = None) -> Features:
    """Train on `scenes`, each with a subject, for `plan.minutes`; in eval mode."""
    torch.manual_seed(plan.seed)
    network = Features().to(plan.device)
    wanted = {
        key: torch.tensor([values.index(a[key]) for a in scenes.attributes], device=plan.device)
        for key, values in LABELS.items()
    }

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        chosen = rng.integers(len(scenes), size=BATCH)
        pixels = worn(to_tensor(scenes.images[chosen]), generator).to(plan.device)
        features = F.relu(network.of(pixels.contiguous(memory_format=torch.channels_last)))
        losses = [F.cross_entropy(head(features), wanted[key][chosen]) for key, head in network.heads.items()]
        return torch.stack(losses).sum()

    fit("features", nn.ModuleDict({"features": network}), loss_of, plan, rates or Rates(lr=2e-3, ema=0.99, muon=True))
    return network.eval()


def save(network: Features, folder: Path) -> Path:
    """Write `model.safetensors` (float16) to `folder`, and return it."""
    save_half(network, folder)
    return folder


def load(folder: Path) -> Features:
    """The network in `folder`, float32, in eval mode."""
    network = Features()
    load_half(network, folder)
    return network
