"""The judge: a plain convolutional classifier that says what a picture of the toybox shows.

It finds the subject first (a coarse mask, learnt from the drawn scenes), averages its features over it, and names
animal, paint, pose, size, place, marking and accent, and whether the subject is whole or broken. It judges decoded
pictures, so it learns from pictures that were blurred, made noisy and compressed, and from pictures run through the
trained autoencoder once there is one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from layerdiffusion.miniature.autoencoder import encode
from layerdiffusion.miniature.data import Scenes, to_pictures, to_tensor
from layerdiffusion.miniature.training import Plan, Rates, autocast, fit, load_half, save_half
from layerdiffusion.miniature.world import ACCENTS, ANIMALS, MARKINGS, PAINTS, PLACES, POSES, SHAPES, SIDE, SIZES

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

ATTRIBUTES = {
    "animal": ANIMALS,
    "paint": tuple(PAINTS),
    "pose": POSES,
    "size": tuple(SIZES),
    "place": PLACES,
}
# What it names: besides what captions name, looks that only pictures show, and what no drawn subject is.
LABELS = {**ATTRIBUTES, "marking": MARKINGS, "accent": tuple(ACCENTS), "shape": SHAPES}
BROKEN_SHARE = 0.35  # of the scenes it learns from
BATCH = 48
WIDTHS = (64, 128, 192)  # channels at a quarter, an eighth and a sixteenth of the picture's side
DECODED = 1500  # scenes run through the autoencoder, where there is one: a third of every batch


class Block(nn.Module):
    """Two 3 × 3 convolutions beside an identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


class Network(nn.Module):
    """The judge's network. `labels`: attribute → its values, in the order of the outputs."""

    def __init__(
        self,
        labels: Mapping[str, Sequence[str]] = LABELS,
        widths: Sequence[int] = WIDTHS,
        side: int = SIDE,
    ):
        super().__init__()
        self.labels = {key: tuple(values) for key, values in labels.items()}
        self.widths, self.side = tuple(widths), side
        quarter, eighth, sixteenth = widths
        self.stem = nn.Sequential(nn.Conv2d(3, quarter, 4, 4), nn.BatchNorm2d(quarter), nn.ReLU())
        self.fine = nn.Sequential(Block(quarter), nn.Conv2d(quarter, eighth, 2, 2), Block(eighth), Block(eighth))
        self.coarse = nn.Sequential(nn.Conv2d(eighth, sixteenth, 2, 2), Block(sixteenth))
        self.find = nn.Conv2d(eighth + sixteenth, 1, 1)
        self.mix = nn.Conv2d(eighth + sixteenth, sixteenth, 1)
        self.name = nn.Sequential(nn.Linear(2 * sixteenth + 3, 256), nn.ReLU())
        self.heads = nn.ModuleDict({key: nn.Linear(256, len(values)) for key, values in self.labels.items()})

    def forward(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Pixels (N, 3, side, side) in −1 … 1 to logits by attribute, and the mask's (N, 1, side/8, side/8)."""
        features, mask = self.features(pixels)
        weight = mask.sigmoid()
        subject = (weight * features).sum((2, 3)) / (weight.sum((2, 3)) + 1e-3)
        # How large it is in all, how tall and how wide: that is what its size is read from.
        extent = [weight.mean((1, 2, 3)), weight.amax(3).mean((1, 2)), weight.amax(2).mean((1, 2))]
        pooled = self.name(torch.cat([subject, features.mean((2, 3)), torch.stack(extent, 1)], 1))
        return {key: head(pooled).float() for key, head in self.heads.items()}, mask

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What it sees where: (N, C, side/8, side/8) of pixels as `forward` takes them, and the mask's logits."""
        fine = self.fine(self.stem(pixels))
        both = torch.cat([fine, F.interpolate(self.coarse(fine), scale_factor=2.0)], 1)
        return F.relu(self.mix(both)).float(), self.find(both).float()


class Judge:
    """Says what pictures show."""

    def __init__(self, network: Network):
        self.network = network.eval()
        self.labels = network.labels

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image | np.ndarray], batch: int = 64) -> list[dict[str, str]]:
        """What each picture, RGB and of any size, shows: attribute → value."""
        found: list[dict[str, str]] = []
        for start in range(0, len(images), batch):
            logits, _ = self.network(self._pixels(images[start : start + batch]))
            chosen = {key: values.argmax(1).tolist() for key, values in logits.items()}
            found += [
                {key: self.labels[key][at] for key, at in zip(chosen, row, strict=True)}
                for row in zip(*chosen.values(), strict=True)
            ]
        return found

    @torch.no_grad()
    def masks(self, images: Sequence[Image.Image | np.ndarray]) -> list[np.ndarray]:
        """Where it sees the subject of each picture: bool (H, W), in cells of an eighth of the side it works at."""
        sizes = [image.size[::-1] if isinstance(image, Image.Image) else image.shape[:2] for image in images]
        _, found = self.network.features(self._pixels(images))
        return [
            (F.interpolate(logits[None], size) > 0)[0, 0].cpu().numpy()
            for logits, size in zip(found, sizes, strict=True)
        ]

    def _pixels(self, images: Sequence[Image.Image | np.ndarray]) -> Tensor:
        side = self.network.side
        resized = []
        for image in images:
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
            resized.append(np.asarray(image.convert("RGB")))
        return to_tensor(np.stack(resized)).to(next(self.network.parameters()).device)


def save_judge(judge: Judge, folder: str | Path) -> Path:
    """Write `config.json` and `model.safetensors` (float16) to `folder`, and return it."""
    folder = Path(folder)
    save_half(judge.network, folder)
    network = judge.network
    config = {"side": network.side, "widths": network.widths, "labels": network.labels}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def load_judge(folder: str | Path, device: str | torch.device = "cpu") -> Judge:
    """The judge in `folder`, float32, in eval mode."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = Network(config["labels"], config["widths"], config["side"])
    load_half(network, folder)
    return Judge(network.to(device))


def accuracy(judge: Judge, scenes: Scenes) -> dict[str, float]:
    """The share of scenes of which the judge names each attribute as drawn; an empty scene counts for its place."""
    found = judge(list(scenes.images))
    right: dict[str, list[bool]] = {key: [] for key in judge.labels}
    for seen, drawn in zip(found, scenes.attributes, strict=True):
        for key in right:
            value = shape_of(drawn) if key == "shape" else drawn.get(key)
            if value is not None:
                right[key].append(seen[key] == value)
    return {key: float(np.mean(values)) for key, values in right.items() if values}


def shape_of(attributes: dict[str, str | None]) -> str | None:
    """Whether a drawn scene's subject is whole or broken; None where there is nobody."""
    return attributes.get("shape") or ("whole" if attributes["animal"] else None)


def targets(
    attributes: Sequence[dict[str, str | None]], labels: Mapping[str, Sequence[str]] = ATTRIBUTES
) -> dict[str, Tensor]:
    """Class numbers of the attributes, int64 (N,) each; −100, which cross entropy skips, where there is none."""
    return {
        key: torch.tensor([-100 if a.get(key) is None else values.index(a[key]) for a in attributes])
        for key, values in labels.items()
    }


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture, uint8 (H, W, 3), as JPEG gives it back."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def worn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels (N, 3, H, W) with what sampling and decoding do to a picture: blur, noise fine and coarse, off colours."""

    def amount(most: float, share: float, channels: int = 1) -> Tensor:
        drawn = torch.rand(len(pixels), channels, 1, 1, generator=generator) * most
        return drawn * (torch.rand(len(pixels), 1, 1, 1, generator=generator) < share)

    def noise(factor: int) -> Tensor:
        n, c, h, w = pixels.shape
        drawn = torch.randn(n, c, h // factor, w // factor, generator=generator)
        return F.interpolate(drawn, (h, w), mode="bilinear") if factor > 1 else drawn

    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    blurred = F.avg_pool2d(F.pad(blurred, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pixels = pixels.lerp(blurred, amount(1.0, 0.5))
    pixels = pixels + amount(0.08, 0.5) * noise(1) + amount(0.2, 0.5) * noise(4) + amount(0.12, 0.3) * noise(16)
    colour = 1 + amount(0.16, 0.5, 3) - 0.08
    return (pixels * colour + amount(0.12, 0.5, 3) - 0.06).clamp(-1, 1)


@torch.no_grad()
def decoded(vae: AutoencoderTiny, images: np.ndarray, seed: int = 0, batch: int = 32) -> np.ndarray:
    """The pictures as the autoencoder gives them back, from latents with a little noise; uint8 as they came."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in encode(vae, images, batch).split(batch):
        latents = part.float()
        strength = 0.2 * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents = latents + strength * torch.randn(latents.shape, generator=generator)
        with autocast(vae.device):
            pixels = vae.decode(latents.to(vae.device) / vae.config.scaling_factor).sample
        parts.append(to_pictures(pixels))
    return np.concatenate(parts)


def train(scenes: Scenes, plan: Plan, vae: AutoencoderTiny | None = None, start: Judge | None = None) -> Judge:
    """Train on `scenes`, some of them broken, for `plan.minutes`.

    With `vae`, on `DECODED` of them run through it as well. `start`: a trained judge to go on from, which may know
    fewer labels.
    """
    torch.manual_seed(plan.seed)
    network = Network().to(plan.device)
    if start is not None:
        network.load_state_dict(start.network.state_dict(), strict=False)
    wanted = targets([{**a, "shape": shape_of(a)} for a in scenes.attributes], LABELS)
    seen_through = None if vae is None else decoded(vae, scenes.images[:DECODED], plan.seed)

    def loss_of(step: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        chosen = rng.integers(len(scenes), size=BATCH)
        images = scenes.images[chosen]
        if seen_through is not None:
            chosen[: BATCH // 3] = rng.integers(len(seen_through), size=BATCH // 3)
            images[: BATCH // 3] = seen_through[chosen[: BATCH // 3]]
        for i in np.nonzero(rng.random(BATCH) < 0.15)[0]:
            images[i] = compressed(images[i], int(rng.integers(40, 95)))
        pixels = worn(to_tensor(images), generator).to(plan.device)
        masks = torch.from_numpy(scenes.masks[chosen].any(1))[:, None].float()
        cells = F.avg_pool2d(masks, 8).to(plan.device)
        logits, found = network(pixels.contiguous(memory_format=torch.channels_last))
        loss = 2 * F.binary_cross_entropy_with_logits(found, cells)
        for key, values in logits.items():
            classes = wanted[key][chosen].to(plan.device)
            if bool((classes >= 0).any()):  # of a batch of wrecks alone there is nothing to name
                loss = loss + F.cross_entropy(values, classes, label_smoothing=0.02)
        return loss

    fresh = Rates(lr=2e-3, weight_decay=0.02, ema=0.998, muon=True)
    rates = fresh if start is None else replace(fresh, lr=1e-3, warmup=20, ema=0.99, cooldown=0.5)
    fit("judge", nn.ModuleDict({"judge": network}), loss_of, plan, rates)
    return Judge(network)
