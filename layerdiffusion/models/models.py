"""`Models`: one text-to-image model on its device, and what is made of pictures and prompts with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layerdiffusion.models.clip import Clip, load_clip
from layerdiffusion.models.family import Condition, Family, Network, StableDiffusionXL
from layerdiffusion.models.parts import window_size
from layerdiffusion.models.profile import Profile
from layerdiffusion.settings import Settings

PREVIEW_SIDE = 256  # of the picture that `fit_colours` looks at, at most: a thousand pixels of latents are enough


@dataclass(eq=False)
class Models:
    """One text-to-image model, loaded and never changed, with what its pictures, prompts and settings need.

    `unet` is on the device and ready to run; `master` has the same weights in float32, in main memory, for
    stage 2 to start from (on a CPU they are one). `size` is the side of the square pictures that it was trained
    on; those it makes have about that area (see `window`).
    """

    name: str
    folder: Path
    vae: Network
    unet: Network
    master: Network
    family: Family  # how its words become what `unet` is asked with
    scheduler: Any  # a DDIMScheduler or a `FlowMatching` with the model's own noise schedule; not to be stepped
    profile: Profile
    model_defaults: Settings  # the model's recommended ones, every field set
    defaults: Settings  # what an edit takes by itself: the same, or quicker ones where memory is short
    size: int
    quick: Settings | None = None  # what its own quick preset sets, where it has one
    notice: str | None = None  # one line for the user: why this is not the model they might expect
    helpers_device: torch.device | None = None  # where SAM and CLIP go; None: to the same device
    _lazy: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def device(self) -> torch.device:
        return self.profile.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a square picture's latents."""
        return self.latent_shape_of((self.size, self.size))

    def latent_shape_of(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, h, w) of the latents of pictures of `size` (W, H)."""
        factor = self.family.cell(self.vae)
        return self.unet.config.in_channels, size[1] // factor, size[0] // factor

    def window(self, shape: str, photo: tuple[int, int]) -> tuple[int, int]:
        """The size (W, H) of the pictures that are made of a photo of size `photo`; see `window_size`."""
        step, most = self.family.limits(self.size, self.family.step(self.unet, self.vae))
        return window_size(shape, photo, self.size, step, most)

    @property
    def tokens(self) -> int:
        """L, the length of a prompt in tokens, with the marks around it."""
        return self.family.tokens

    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """What the network is asked with for each prompt, float32 on the device; None is no prompt at all."""
        return self.family.embed(prompts)

    def prompt_warnings(self, prompts: Sequence[str]) -> list[str]:
        """A sentence for each prompt that the text encoder cuts short."""
        return self.family.prompt_warnings(prompts)

    @torch.no_grad()
    def encode(self, image: Image.Image) -> Tensor:
        """The latents (1, C, h, w) of an RGB picture, float32 on the device; of a distribution, its mode."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        encoded = self.vae.encode((pixels.to(self.device, torch.float32) / 127.5 - 1).to(self.vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return self.family.normalised(latents.float(), self.vae)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The RGB pictures of latents (B, C, h, w); one at a time, which bounds the memory."""
        latents = self.family.denormalised(latents.to(self.device, torch.float32), self.vae)
        pictures = []
        for one in latents.split(1):
            pixels = (self.vae.decode(one.to(self.vae.dtype)).sample[0].float() / 2 + 0.5).clamp(0, 1)
            array = (pixels.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
            pictures.append(Image.fromarray(array))
        return pictures

    def preview(self, latents: Tensor) -> list[Image.Image]:
        """About what `decode` gives, in its size: where the autoencoder is a large one, soft and without it."""
        if type(self.vae).__name__ == "AutoencoderTiny":
            return self.decode(latents)
        colours = self._once("preview", lambda: fit_colours(self.encode, self.size))
        return linear_preview(latents, colours, self.family.cell(self.vae))

    def checkpoints(self, draws: int) -> bool:
        """Whether stage 1, and LoRA in stage 2 beside it, compute activations again at so many draws a step."""
        return self.profile.checkpoint_embeddings or (draws > 1 and isinstance(self.family, StableDiffusionXL))

    @property
    def networks(self) -> tuple[Network, ...]:
        """What is on the device as long as the models are."""
        return self.unet, self.vae, *self.family.networks

    def segmenter(self, name: str | Path | None = None) -> Any:
        """The `Segmenter`, loaded at the first call: of `name`, as in `load_sam`; else the model's own SAM, else one
        that the device has room for.
        """

        def load() -> Any:
            from layerdiffusion.models.sam import load_sam
            from layerdiffusion.models.segmenter import Segmenter

            own, device = self.folder / "sam", self.helpers_device or self.device
            usual = self.profile.segmenter if device == self.device else "auto"
            sam = load_sam(name or (own if own.is_dir() else usual), device)
            return Segmenter(sam, resident=not self.profile.low_memory)

        return self._once(f"segmenter {name}", load)

    def clip(self) -> Clip:
        """The CLIP of the score, loaded at the first call: the one in the model's `clip` folder, else ViT-B/32 from the
        hub. Raises `ModelError`.
        """
        return self._once("clip", lambda: load_clip(self.folder / "clip", self.helpers_device or self.device))

    def _once(self, name: str, load: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._lazy:
                self._lazy[name] = load()
            return self._lazy[name]


@torch.no_grad()
def fit_colours(encode: Callable[[Image.Image], Tensor], side: int) -> Tensor:
    """(C + 1, 3): what a latent pixel's channels, and 1, are multiplied by for its red, green and blue, from −1 to 1.

    By least squares on one picture of coarse and fine patches in every colour. `encode` gives the latents (1, C, h, w)
    of a picture, `side` is that of the model's own pictures.
    """
    rng, side = np.random.default_rng(0), min(side, PREVIEW_SIDE)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (count, count, 3), dtype=np.uint8)).resize((side, side))
        for count in (4, side // 8)
    )
    image = Image.blend(coarse, fine, 0.4)
    latents = encode(image)[0]
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    colours = nn.functional.interpolate(pixels, latents.shape[1:], mode="area")[0].flatten(1).T
    fitted, *_ = np.linalg.lstsq(_with_one(latents).cpu().numpy(), colours.numpy(), rcond=None)
    return torch.from_numpy(fitted).to(latents.device)


@torch.no_grad()
def linear_preview(latents: Tensor, colours: Tensor, factor: int) -> list[Image.Image]:
    """Latents (B, C, h, w) seen without the autoencoder: soft RGB pictures, `factor` times as large.

    `colours` are those of `fit_colours`.
    """
    pictures = []
    for one in latents.float():
        seen = (_with_one(one) @ colours / 2 + 0.5).clamp(0, 1).view(*one.shape[1:], 3)
        image = Image.fromarray((seen.cpu().numpy() * 255).round().astype(np.uint8))
        size = factor * image.width, factor * image.height
        pictures.append(image.resize(size, Image.Resampling.BICUBIC))
    return pictures


def _with_one(latents: Tensor) -> Tensor:
    """(C, h, w) as (h · w, C + 1)."""
    channels = latents.flatten(1).T
    return torch.cat([channels, torch.ones_like(channels[:, :1])], 1)
