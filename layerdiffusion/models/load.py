"""A name becomes the loaded models: a hub id, a diffusers folder or "miniature", on a device and its profile.

Nothing here is Stable Diffusion v1.4's: sizes, scalings, the noise schedule and the prompt's length are read
from the model's own configs, and its settings' defaults from the `settings.json` in its folder, if there is
one.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from layerdiffusion.errors import ModelError
from layerdiffusion.models import hub
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.clip import load_clip
from layerdiffusion.models.family import Condition, StableDiffusion
from layerdiffusion.models.parts import (
    Network,
    native_size,
    open_file,
    open_folder,
    quiet,
    reason,
    side_step,
    vae_factor,
    window_size,
)
from layerdiffusion.models.profile import Profile, device_profile
from layerdiffusion.settings import PAPER, Settings

MINIATURE = Path(__file__).resolve().parents[2] / "assets" / "miniature"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


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
    family: StableDiffusion  # how its words become what `unet` is asked with
    scheduler: Any  # a DDIMScheduler with the model's own noise schedule; not to be stepped
    profile: Profile
    defaults: Settings  # every field set
    size: int
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
        factor = vae_factor(self.vae)
        return self.unet.config.in_channels, size[1] // factor, size[0] // factor

    def window(self, shape: str, photo: tuple[int, int]) -> tuple[int, int]:
        """The size (W, H) of the pictures that are made of a photo of size `photo`; see `window_size`."""
        return window_size(shape, photo, self.size, side_step(self.unet, self.vae))

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
        encoded = self.vae.encode(pixels.to(self.device, torch.float32) / 127.5 - 1)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents.float() - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The RGB pictures of latents (B, C, h, w); one at a time, which bounds the memory."""
        latents = latents.to(self.device, torch.float32) / self.vae.config.scaling_factor + self._shift
        pictures = []
        for one in latents.split(1):
            pixels = (self.vae.decode(one).sample[0].float() / 2 + 0.5).clamp(0, 1)
            array = (pixels.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
            pictures.append(Image.fromarray(array))
        return pictures

    def segmenter(self) -> Any:
        """This model's `Segmenter`, loaded at the first call: its own SAM, else ViT-H or the miniature's."""

        def load() -> Any:
            from layerdiffusion.models.sam import load_sam
            from layerdiffusion.models.segmenter import Segmenter

            own = self.folder / "sam"
            return Segmenter(load_sam(own if own.is_dir() else "auto", self.helpers_device or self.device))

        return self._once("segmenter", load)

    def clip(self) -> tuple[Network, Any]:
        """The `CLIPModel` (float32) and `CLIPProcessor` of the score, loaded at the first call.

        From the model's `clip` folder, else ViT-B/32 from the hub. Raises `ModelError`.
        """

        return self._once("clip", lambda: load_clip(self.folder / "clip", self.helpers_device or self.device))

    def _once(self, name: str, load: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._lazy:
                self._lazy[name] = load()
            return self._lazy[name]

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0


def load_models(
    name: str | Path = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    size: int | None = None,
    low_memory: bool | None = None,
    compile: bool = False,
) -> Models:
    """Load a Stable Diffusion 1.x-type model.

    `name` is "miniature" (the embedded one), a diffusers folder, a single .safetensors checkpoint, a hub id, or
    "auto": with a CUDA device `hub.HUB_DEFAULT`, otherwise, or when the hub can't be reached, the miniature, and
    `Models.notice` says why. `device`, `dtype`, `low_memory` and `compile` are as in `device_profile`; `size` is the
    pictures' side in pixels, the model's native one by default. Weights come from safetensors alone. Raises
    `ModelError`.
    """
    ensure_torchvision()  # before the first import of diffusers or transformers
    profile = device_profile(device, dtype, low_memory, compile)
    name, notice = _automatic(profile) if str(name) == "auto" else (str(name), None)
    source = _find(name)
    with quiet():
        return _assemble(name, source, profile, size, notice)


def _automatic(profile: Profile) -> tuple[str, str | None]:
    if profile.device.type != "cuda":
        return "miniature", None
    try:
        _find(hub.HUB_DEFAULT)
    except ModelError as error:
        return "miniature", f"{error} Until then, this is the small embedded model."
    return hub.HUB_DEFAULT, None


def _find(name: str) -> Path:
    """A model's folder, downloaded if need be, or its single checkpoint file."""
    path = MINIATURE if name == "miniature" else Path(name).expanduser()
    if path.is_dir() or path.is_file():
        return path
    if name == "miniature":
        raise ModelError(f"The embedded model is missing from {MINIATURE}; get the repository complete.")
    if path.suffix == ".safetensors":
        raise ModelError(f"There is no model file at {path}; check the path.")
    if not HUB_ID.fullmatch(name):
        raise ModelError(f"There is no model folder at {path}; give a diffusers folder, a hub id or “miniature”.")
    try:
        return hub.download_model(name)
    except ModelError as error:
        if path.parent.is_dir():  # so it was meant as a path
            raise ModelError(f"There is no model folder at {path}, and none on the hub to be had; check it.") from error
        raise


def _assemble(name: str, source: Path, profile: Profile, size: int | None, notice: str | None) -> Models:
    parts, folder = (open_folder(source), source) if source.is_dir() else open_file(source)
    size = size or native_size(parts.unet, parts.vae)
    step = side_step(parts.unet, parts.vae)
    if size % step or size < step:
        raise ModelError(f"size is {size}: for this model it must be a multiple of {step}.")
    return Models(
        name=name,
        folder=folder,
        vae=parts.vae.to(profile.device),
        family=StableDiffusion(parts.text_encoder.to(profile.device), parts.tokenizer),
        **_place(parts.unet, profile),
        scheduler=parts.scheduler,
        profile=profile,
        defaults=_defaults(folder, profile),
        size=size,
        notice=notice,
    )


def _place(unet: Network, profile: Profile) -> dict[str, Network]:
    if profile.channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    if profile.attention_slicing:
        unet.set_attention_slice("auto")
    on_device = unet if profile.device.type == "cpu" else copy.deepcopy(unet).to(profile.device, profile.weights)
    if profile.compile:
        on_device.compile()
    return {"unet": on_device, "master": unet}


def _defaults(folder: Path, profile: Profile) -> Settings:
    """The model's own settings over the paper's; on a small CUDA card without 8-bit Adam, LoRA."""
    path = folder / "settings.json"
    own = Settings()
    if path.is_file():
        try:
            own = Settings.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:  # EditError and JSONDecodeError are both
            raise ModelError(f"The model's {path} can't be used: {reason(error)}.") from error
    if own.tune is None and profile.low_memory and not profile.eight_bit_adam:
        own = replace(own, tune="lora")
    return own.resolve(PAPER)
