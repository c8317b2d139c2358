"""A name becomes the loaded models: a hub id, a folder, a file or "miniature", and LoRA files on top, on a device.

Nothing here is Stable Diffusion v1.4's: sizes, scalings, the noise schedule and the prompt's length are read
from the model's own configs, and its settings' defaults from the `settings.json` in its folder, if there is
one.
"""

from __future__ import annotations

import copy
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

from layerdiffusion.errors import ModelError, SettingsError
from layerdiffusion.models import hub
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.clip import Clip, load_clip
from layerdiffusion.models.family import Condition, Network, StableDiffusion, StableDiffusionXL
from layerdiffusion.models.lora import PLUS, add_loras, split_name
from layerdiffusion.models.memory import check_need, fitting_preset, fitting_settings
from layerdiffusion.models.parts import (
    Parts,
    native_size,
    open_file,
    open_folder,
    quiet,
    reason,
    side_step,
    vae_factor,
    window_size,
)
from layerdiffusion.models.preview import fit_colours, linear_preview
from layerdiffusion.models.profile import Profile, cuda_problem, device_profile
from layerdiffusion.models.refused import check_name
from layerdiffusion.settings import PAPER, Settings, model_settings
from layerdiffusion.threads import threads_for

MINIATURE = Path(__file__).resolve().parents[2] / "assets" / "miniature"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


# Full tuning: a weight in float32, its gradient, Adam's two averages and the frozen one in half precision; beside them
# activations, autoencoder and CUDA itself. Predicted, not measured: for SDXL 50 GB.
FULL_TUNING_BYTES, FULL_TUNING_REST = 4 * 4 + 2, 4 * 10**9
# A card with less computes SDXL's activations again: in stage 1, which takes 24 to 29 GiB at its peak with all of them,
# and in stage 2; predicted from live storage, not measured.
XL_STAGE_1, XL_STAGE_2 = 40 * 10**9, 24 * 10**9
XL_PICTURE, XL_REST = 25 * 10**8, 8 * 10**9  # bytes that sampling takes for each of SDXL's pictures, and beside them


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
        factor = vae_factor(self.vae)
        return self.unet.config.in_channels, size[1] // factor, size[0] // factor

    def window(self, shape: str, photo: tuple[int, int]) -> tuple[int, int]:
        """The size (W, H) of the pictures that are made of a photo of size `photo`; see `window_size`."""
        step, most = self.family.limits(self.size, side_step(self.unet, self.vae))
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
        return (latents.float() - self._shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The RGB pictures of latents (B, C, h, w); one at a time, which bounds the memory."""
        latents = latents.to(self.device, torch.float32) / self.vae.config.scaling_factor + self._shift
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
        return linear_preview(latents, colours, vae_factor(self.vae))

    def check(self, settings: Settings) -> None:
        """Refuse what can't fit the device whatever is given up for it, with an `EditError` in gigabytes."""
        check_need(self, settings)
        if self.device.type != "cuda" or not isinstance(self.family, StableDiffusionXL):
            return
        _, total = torch.cuda.mem_get_info(self.device)
        parameters = sum(parameter.numel() for parameter in self.master.parameters())
        needed = parameters * FULL_TUNING_BYTES + FULL_TUNING_REST
        if settings.tune == "full" and settings.finetune_steps and total < needed:
            raise SettingsError(
                f"tune is “full”: for {parameters / 1e9:.1f} billion weights that takes about {needed / 1e9:.0f} GB, "
                f"and this card has {total / 1e9:.0f} GB; choose “lora”."
            )

    def preset(self, name: str) -> Settings:
        """The settings of one of `PRESETS`, every field set: of "quick", what the device has memory for."""
        return fitting_preset(self, name)

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
    loras: Sequence[str] = (),
) -> Models:
    """Load a Stable Diffusion 1.x or SDXL.

    `name` is "miniature" (the embedded one), a diffusers folder, a single .safetensors checkpoint, a hub id, or
    "auto": with a CUDA device `hub.HUB_DEFAULT`, otherwise, or when the hub can't be reached, the miniature, and
    `Models.notice` says why. `loras` go on top of it, each a file or FILE:SCALE; they may as well stand in the name, as
    in "folder + FILE:0.8". `device`, `dtype`, `low_memory` and `compile` are as in `device_profile`; `size` is the
    pictures' side in pixels, the model's native one by default. Weights come from safetensors alone. Raises
    `ModelError`.
    """
    ensure_torchvision()  # before the first import of diffusers or transformers
    profile = device_profile(device, dtype, low_memory, compile)
    base, files = split_name(str(name))
    files += loras
    base, notice = _automatic(profile, device) if base == "auto" else (base, None)
    source = _find(base)
    with quiet():
        parts, folder = (open_folder(source), source) if source.is_dir() else open_file(source)
        add_loras(parts, files)
        threads = threads_for(sum(parameter.numel() for parameter in parts.unet.parameters()))
        if profile.device.type == "cpu" and threads is not None:
            torch.set_num_threads(threads)
        return assemble(PLUS.join([base, *files]), parts, folder, profile, size, notice)


def _automatic(profile: Profile, asked: object = None) -> tuple[str, str | None]:
    if profile.device.type != "cuda":
        problem = cuda_problem() if asked is None else None
        return "miniature", problem and f"{problem} Until then, this is the small embedded model."
    try:
        _find(hub.HUB_DEFAULT)
    except ModelError as error:
        return "miniature", f"{error} Until then, this is the small embedded model."
    return hub.HUB_DEFAULT, None


def _find(name: str) -> Path:
    """A model's folder, downloaded if need be, or its single checkpoint file."""
    path = MINIATURE if name == "miniature" else Path(name).expanduser()
    check_name(name)
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


def assemble(
    name: str,
    parts: Parts,
    folder: Path,
    profile: Profile,
    size: int | None = None,
    notice: str | None = None,
) -> Models:
    """The models of these parts, placed on the profile's device. Raises `ModelError`."""
    native = native_size(parts.unet, parts.vae)
    size = size or native
    step = side_step(parts.unet, parts.vae)
    if size % step or size < step:
        raise ModelError(f"size is {size}: for this model it must be a multiple of {step}.")
    if isinstance(parts.family, StableDiffusionXL):
        profile = _for_xl(profile, size / native)
        if size < 0.75 * native:
            notice = f"SDXL was trained on pictures of {native} pixels; at {size} they come out cropped or simplified."
    model_defaults, quick = _model_settings(folder, parts.family)
    models = Models(
        name=name,
        folder=folder,
        vae=parts.vae.to(profile.device, _vae_dtype(parts.vae, profile)),
        family=parts.family.to(profile.device),
        **_place(parts.unet, profile),
        scheduler=parts.scheduler,
        profile=profile,
        model_defaults=model_defaults,
        quick=quick,
        defaults=model_defaults,
        size=size,
        notice=notice,
    )
    if not isinstance(parts.family, StableDiffusionXL):
        # SDXL is tuned by LoRA anyway, and the quick way's draws are what it has least memory for.
        models.defaults = fitting_settings(models)
    return models


def _for_xl(profile: Profile, share: float) -> Profile:
    """The profile for SDXL, whose pictures have this `share` of its native side."""
    if profile.device.type != "cuda":
        return profile
    _, total = torch.cuda.mem_get_info(profile.device)
    batch = max(1, min(profile.batch, int((total - XL_REST) / (XL_PICTURE * share**2))))
    again = profile.checkpointing or total < XL_STAGE_2
    return replace(profile, checkpointing=again, checkpoint_embeddings=total < XL_STAGE_1, batch=batch)


def _vae_dtype(vae: Network, profile: Profile) -> torch.dtype:
    """float32, for SDXL's overflows in float16, but where its config has that ruled out (`force_upcast`)."""
    safe = type(vae).__name__ == "AutoencoderKL" and not vae.config.force_upcast
    return torch.float16 if safe and profile.device.type == "cuda" else torch.float32


def _place(unet: Network, profile: Profile) -> dict[str, Network]:
    if profile.channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    if profile.attention_slicing:
        unet.set_attention_slice("auto")
    on_device = unet
    if profile.device.type != "cpu":
        # A parameter at a time: a second network in main memory would be 3.4 GB that are thrown away at once.
        tensors = [*unet.parameters(), *unet.buffers()]
        on_device = copy.deepcopy(unet, {id(each): _moved(each, profile) for each in tensors})
    return {"unet": on_device, "master": unet}


def _moved(tensor: Tensor, profile: Profile) -> Tensor:
    dtype = profile.weights if tensor.is_floating_point() else tensor.dtype
    moved = tensor.detach().to(profile.device, dtype)
    return torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved


def _model_settings(folder: Path, family: StableDiffusion) -> tuple[Settings, Settings | None]:
    """The settings in the model's folder over its family's and the paper's, and its own quick ones."""
    path = folder / "settings.json"
    own, quick = Settings(), None
    if path.is_file():
        try:
            own, quick = model_settings(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:  # EditError and JSONDecodeError are both
            raise ModelError(f"The model's {path} can't be used: {reason(error)}.") from error
    return own.resolve(family.defaults.resolve(PAPER)), quick
