"""A name becomes the loaded models: a hub id, a folder, a file or "miniature", and LoRA files on top, on a device.

Nothing here is Stable Diffusion v1.4's: sizes, scalings, the noise schedule and the prompt's length are read
from the model's own configs, and its settings' defaults from the `settings.json` in its folder, if there is
one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from layerdiffusion import hub
from layerdiffusion.errors import ModelError
from layerdiffusion.hub import PLUS, split_name
from layerdiffusion.models.family import Family, Network, StableDiffusionXL
from layerdiffusion.models.klein import Klein
from layerdiffusion.models.lora import add_loras
from layerdiffusion.models.memory import fitting_settings
from layerdiffusion.models.models import Models
from layerdiffusion.models.parts import (
    Parts,
    open_file,
    open_folder,
    quiet,
    reason,
)
from layerdiffusion.models.profile import Profile, cuda_problem, device_profile
from layerdiffusion.models.refused import check_name
from layerdiffusion.process import threads_for
from layerdiffusion.settings import PAPER, Settings, model_settings

MINIATURE = Path(__file__).resolve().parents[2] / "assets" / "miniature"
LAPTOP_SETTINGS = Path(__file__).with_name("laptop.json")  # of `hub.LAPTOP`, whose folders have none
LAPTOP_SIDE = 384  # pixels of their pictures on a CPU, where the networks' own 512 take twice as long
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


# A card with less memory computes SDXL's activations again, in stage 1 and in stage 2; predicted, not measured.
XL_STAGE_1, XL_STAGE_2 = 40 * 10**9, 24 * 10**9
KLEIN_ENCODER = 22 * 10**9  # free memory from which klein's text encoder runs on the card, beside the network
XL_PICTURE, XL_REST = 25 * 10**8, 8 * 10**9  # bytes that sampling takes for each of SDXL's pictures, and beside them


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
    """Load a Stable Diffusion 1.x, SDXL or FLUX.2 klein base.

    `name` is "miniature" (the embedded one), "laptop" (the first of `hub.LAPTOP`), a diffusers folder, a single
    .safetensors checkpoint, a hub id, or "auto": with a CUDA device `hub.HUB_DEFAULT`, otherwise, or when the hub can't
    be reached, the miniature, and `Models.notice` says why. `loras` go on top of it, each a file or FILE:SCALE; they
    may as well stand in the name, as in "folder + FILE:0.8". `device`, `dtype`, `low_memory` and `compile` are as in
    `device_profile`; `size` is the pictures' side in pixels, the model's native one by default, and `LAPTOP_SIDE` for
    `hub.LAPTOP` on a CPU. Weights come from safetensors alone, but for `hub.LAPTOP`. Raises `ModelError`.
    """
    profile = device_profile(device, dtype, low_memory, compile)
    base, files = split_name(str(name))
    files += loras
    base, notice = _automatic(profile, device) if base == "auto" else (base, None)
    base = hub.LAPTOP[0] if base == "laptop" else base
    is_laptop = base in hub.LAPTOP
    source = _find(base)
    with quiet():
        parts, folder = (open_folder(source, is_laptop), source) if source.is_dir() else open_file(source)
        add_loras(parts, files)
        threads = threads_for(sum(parameter.numel() for parameter in parts.unet.parameters()))
        if profile.device.type == "cpu" and threads is not None:
            torch.set_num_threads(threads)
        if is_laptop:
            return assemble(
                PLUS.join([base, *files]), parts, folder, profile, size or laptop_size(profile), notice, LAPTOP_SETTINGS
            )
        return assemble(PLUS.join([base, *files]), parts, folder, profile, size, notice)


def laptop_size(profile: Profile) -> int | None:
    """The side of the pictures of `hub.LAPTOP`; None, the native one, where no CPU makes them."""
    return LAPTOP_SIDE if profile.device.type == "cpu" else None


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
    own_settings: Path | None = None,
) -> Models:
    """The models of these parts, placed on the profile's device.

    `own_settings` (None: `settings.json` in `folder`) need not be there. Raises `ModelError`.
    """
    family = parts.family
    native = family.native_size(parts.unet, parts.vae)
    size = size or native
    step = family.step(parts.unet, parts.vae)
    if size % step or size < step:
        raise ModelError(f"size is {size}: for this model it must be a multiple of {step}.")
    if isinstance(family, Klein):
        profile, family = _for_klein(profile, family, parts.unet.dtype)
    if isinstance(family, StableDiffusionXL):
        profile = _for_xl(profile, size / native)
        if size < 0.75 * native:
            notice = f"SDXL was trained on pictures of {native} pixels; at {size} they come out cropped or simplified."
    model_defaults, quick = _model_settings(own_settings or folder / "settings.json", family)
    models = Models(
        name=name,
        folder=folder,
        vae=parts.vae.to(profile.device, _vae_dtype(parts.vae, profile)),
        family=family.to(profile.device),
        **_place(parts.unet, profile, family.tunes_all),
        scheduler=parts.scheduler,
        profile=profile,
        model_defaults=model_defaults,
        quick=quick or family.quick,
        defaults=model_defaults,
        size=size,
        notice=notice,
    )
    if family.defaults.tune != "lora":
        # Others are tuned by LoRA anyway, and the quick way's draws are what they have least memory for.
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


def _for_klein(profile: Profile, family: Klein, stored: torch.dtype) -> tuple[Profile, Klein]:
    """The profile for klein, whose weights are `stored` in bfloat16, and where its text encoder runs.

    A card computes in bfloat16, for float16 overflows, and computes activations again; elsewhere the weights' own type
    is taken. The encoder runs beside the network where the card holds both, else on the CPU.
    """
    on_card = profile.device.type == "cuda"
    if stored == torch.bfloat16 or (on_card and profile.weights != torch.float32):
        bf16 = torch.bfloat16
        profile = replace(profile, precision=bf16, training_precision=bf16, weights=bf16)
    profile = replace(profile, attention_slicing=False, eight_bit_adam=False)
    if not on_card:
        return profile, family
    roomy = profile.memory is None or profile.memory >= KLEIN_ENCODER
    device = None if roomy else torch.device("cpu")
    checkpointed = replace(profile, checkpointing=True, checkpoint_embeddings=True, batch=min(profile.batch, 4))
    return checkpointed, replace(family, encoder_device=device)


def _vae_dtype(vae: Network, profile: Profile) -> torch.dtype:
    """float32, for SDXL's overflows in float16, but where its config has that ruled out (`force_upcast`)."""
    safe = type(vae).__name__ == "AutoencoderKL" and not vae.config.force_upcast
    return torch.float16 if safe and profile.device.type == "cuda" else torch.float32


def _place(unet: Network, profile: Profile, tunes_all: bool) -> dict[str, Network]:
    if profile.channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    if profile.attention_slicing:
        unet.set_attention_slice("auto")
    on_device = unet
    if profile.device.type != "cpu":
        # A parameter at a time: a second network in main memory would be 3.4 GB that are thrown away at once.
        tensors = [*unet.parameters(), *unet.buffers()]
        on_device = copy.deepcopy(unet, {id(each): _moved(each, profile) for each in tensors})
    return {"unet": on_device, "master": unet if tunes_all else on_device}


def _moved(tensor: Tensor, profile: Profile) -> Tensor:
    dtype = profile.weights if tensor.is_floating_point() else tensor.dtype
    moved = tensor.detach().to(profile.device, dtype)
    return torch.nn.Parameter(moved, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else moved


def _model_settings(path: Path, family: Family) -> tuple[Settings, Settings | None]:
    """The model's own settings over its family's and the paper's, and its own quick ones."""
    own, quick = Settings(), None
    if path.is_file():
        try:
            own, quick = model_settings(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:  # EditError and JSONDecodeError are both
            raise ModelError(f"The model's {path} can't be used: {reason(error)}.") from error
    return own.resolve(family.defaults.resolve(PAPER)), quick
