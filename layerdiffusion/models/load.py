"""A name becomes the loaded models: a hub id, a diffusers folder or "miniature", on a device and its profile.

Nothing here is Stable Diffusion v1.4's: sizes, scalings, the noise schedule and the prompt's length are read
from the model's own configs, and its settings' defaults from the `settings.json` in its folder, if there is
one.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from layerdiffusion.errors import EditError, ModelError
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.profile import Profile, device_profile
from layerdiffusion.prompts import truncation_warning
from layerdiffusion.settings import PAPER, Settings

MINIATURE = Path(__file__).resolve().parents[2] / "assets" / "miniature"
HUB_DEFAULT = "CompVis/stable-diffusion-v1-4"
HUB_CLIP = "openai/clip-vit-base-patch32"  # what CLIPScore is defined with
HUB_FILES = ("model_index.json", "settings.json", "scheduler/*.json", "tokenizer/*") + tuple(
    f"{part}/{file}"
    for part in ("unet", "vae", "text_encoder")
    for file in ("config.json", "model.safetensors", "diffusion_pytorch_model.safetensors")
)


@dataclass(eq=False)
class Models:
    """One text-to-image model, loaded and never changed, with what its pictures, prompts and settings need.

    `unet` is on the device and ready to run; `master` has the same weights in float32, in main memory, for
    stage 2 to start from (on a CPU they are one). Pictures are square, `size` pixels a side.
    """

    name: str
    folder: Path
    vae: nn.Module
    unet: nn.Module
    master: nn.Module
    text_encoder: nn.Module
    tokenizer: Any
    scheduler: Any  # a DDIMScheduler with the model's own noise schedule; not to be stepped
    profile: Profile
    defaults: Settings  # every field set
    size: int
    notice: str | None = None  # one line for the user: why this is not the model they might expect
    _lazy: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.RLock, repr=False)

    @property
    def device(self) -> torch.device:
        return self.profile.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one picture's latents."""
        side = self.size // _vae_factor(self.vae)
        return self.unet.config.in_channels, side, side

    @property
    def tokens(self) -> int:
        """L, the length of a prompt in tokens, with the marks around it."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """The text encoder's last hidden states, (len(prompts), L, D), float32 on the device."""
        words = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt"
        )
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = words.attention_mask.to(self.device)
        return self.text_encoder(words.input_ids.to(self.device), attention_mask=mask)[0].float()

    def prompt_warnings(self, prompts: Sequence[str]) -> list[str]:
        """A sentence for each prompt that the text encoder cuts short."""
        found = (truncation_warning(self.tokenizer, prompt, self.tokens) for prompt in prompts)
        return [warning for warning in found if warning]

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
            return Segmenter(load_sam(own if own.is_dir() else "auto", self.device))

        return self._once("segmenter", load)

    def clip(self) -> tuple[nn.Module, Any]:
        """The `CLIPModel` (float32) and `CLIPProcessor` of the score, loaded at the first call.

        From the model's `clip` folder, else ViT-B/32 from the hub. Raises `ModelError`.
        """

        def load() -> tuple[nn.Module, Any]:
            from transformers import CLIPModel, CLIPProcessor

            own = self.folder / "clip"
            try:
                source = own if own.is_dir() else _download(HUB_CLIP, ("*.json", "*.txt", "model.safetensors"))
                with _quiet():
                    model = CLIPModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
                return model.to(self.device).requires_grad_(False).eval(), CLIPProcessor.from_pretrained(source)
            except (OSError, ValueError, RuntimeError) as error:
                if isinstance(error, EditError):
                    raise
                raise ModelError(f"The CLIP model in {own} can't be opened ({_reason(error)}).") from error

        return self._once("clip", load)

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

    `name` is "miniature" (the embedded one), a diffusers folder, a hub id, or "auto": with a CUDA device
    `HUB_DEFAULT`, otherwise, or when the hub can't be reached, the miniature, and `Models.notice` says why.
    `device`, `dtype`, `low_memory` and `compile` are as in `device_profile`; `size` is the pictures' side in
    pixels, the model's native one by default. Weights come from safetensors alone. Raises `ModelError`.
    """
    ensure_torchvision()  # before the first import of diffusers or transformers
    profile = device_profile(device, dtype, low_memory, compile)
    name, notice = _automatic(profile) if str(name) == "auto" else (str(name), None)
    folder = _find(name)
    with _quiet():
        return _open_folder(name, folder, profile, size, notice)


def _automatic(profile: Profile) -> tuple[str, str | None]:
    if profile.device.type != "cuda":
        return "miniature", None
    try:
        _find(HUB_DEFAULT)
    except ModelError as error:
        return "miniature", f"{error} Until then, this is the small embedded model."
    return HUB_DEFAULT, None


def _find(name: str) -> Path:
    """The folder of a model, downloaded if need be."""
    folder = MINIATURE if name == "miniature" else Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name == "miniature":
        raise ModelError(f"The embedded model is missing from {MINIATURE}; get the repository complete.")
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        return _download(name, HUB_FILES)
    raise ModelError(f"There is no model folder at {folder}; give a diffusers folder, a hub id or “miniature”.")


def _download(repository: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise ModelError(f"{repository} asks for a login: accept its terms on the hub, and log in.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"There is no folder and no model on the hub called {repository}.") from error
    except OSError as error:  # the hub's and the network's errors, and a full disk
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise ModelError(f"The disk is full: {repository} can't be downloaded; free some space.") from error
        raise ModelError(
            f"{repository} is not on this machine and the hub can't be reached; "
            "check the network, or give a model's folder."
        ) from error


def _open_folder(name: str, folder: Path, profile: Profile, size: int | None, notice: str | None) -> Models:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    configs = {part: _config(folder, part) for part in ("unet", "vae", "text_encoder")}
    classes = {
        "unet": {"UNet2DConditionModel": UNet2DConditionModel},
        "vae": {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny},
        "text_encoder": {"CLIPTextModel": CLIPTextModel},
    }
    parts = {}
    for part, config in configs.items():
        kind = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
        if kind not in classes[part]:
            raise _wrong_type(folder, f"its {part} is a {kind}")
        parts[part] = _open_part(folder, part, classes[part][kind])
    unet, vae, text_encoder = parts["unet"], parts["vae"], parts["text_encoder"]
    _check_parts(folder, unet, vae, text_encoder)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # its files are JSON and text, each parsed by another library
        raise _damaged(folder, "tokenizer", error) from error

    size = size or _native_size(unet, vae)
    step = _vae_factor(vae) * 2 ** (len(unet.config.block_out_channels) - 1)
    if size % step or size < step:
        raise ModelError(f"size is {size}: for this model it must be a multiple of {step}.")
    placed = {"vae": vae.to(profile.device), "text_encoder": text_encoder.to(profile.device)}
    return Models(
        name=name,
        folder=folder,
        **placed,
        **_place(unet, profile),
        tokenizer=tokenizer,
        scheduler=_scheduler(folder),
        profile=profile,
        defaults=_defaults(folder, profile),
        size=size,
        notice=notice,
    )


def _open_part(folder: Path, part: str, cls: type) -> nn.Module:
    kind = {"dtype": torch.float32} if part == "text_encoder" else {"torch_dtype": torch.float32}
    try:
        model, info = cls.from_pretrained(
            folder / part, use_safetensors=True, output_loading_info=True, local_files_only=True, **kind
        )
    except Exception as error:  # damaged files raise nearly anything
        raise _damaged(folder, part, error) from error
    missing = [*info["missing_keys"], *info["mismatched_keys"]]
    if missing:
        raise _damaged(folder, part, f"{len(missing)} of its weights are missing or of another size")
    return model.requires_grad_(False).eval()


def _check_parts(folder: Path, unet: nn.Module, vae: nn.Module, text_encoder: nn.Module) -> None:
    """Refuse what has the same classes but another shape: XL, inpainting and upscaling models."""
    width, words = unet.config.cross_attention_dim, text_encoder.config.hidden_size
    if unet.config.addition_embed_type or unet.config.class_embed_type or width != words:
        raise _wrong_type(folder, f"its network asks for more than the {words} numbers a token that it is given")
    channels = {unet.config.in_channels, unet.config.out_channels, vae.config.latent_channels}
    if len(channels) > 1:
        raise _wrong_type(
            folder,
            f"its network takes {unet.config.in_channels} channels, its latents have {vae.config.latent_channels}",
        )


def _place(unet: nn.Module, profile: Profile) -> dict[str, nn.Module]:
    if profile.channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    if profile.attention_slicing:
        unet.set_attention_slice("auto")
    on_device = unet if profile.device.type == "cpu" else copy.deepcopy(unet).to(profile.device, profile.weights)
    if profile.compile:
        on_device.compile()
    return {"unet": on_device, "master": unet}


def _scheduler(folder: Path) -> Any:
    """DDIM with the folder's noise schedule, whichever scheduler it was written for."""
    from diffusers import DDIMScheduler

    config = _config(folder, "scheduler", "scheduler_config.json")
    # Latents have no bounds to clip to, though other schedulers' configs don't say so. StableDiffusionPipeline sets
    # the same.
    config = {"steps_offset": 1, "set_alpha_to_one": False, **config, "clip_sample": False}
    try:
        scheduler = DDIMScheduler.from_config(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise _damaged(folder, "scheduler", error) from error
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise _wrong_type(folder, f"its prediction_type is {scheduler.config.prediction_type}")
    return scheduler


def _defaults(folder: Path, profile: Profile) -> Settings:
    """The model's own settings over the paper's; on a small CUDA card without 8-bit Adam, LoRA."""
    path = folder / "settings.json"
    own = Settings()
    if path.is_file():
        try:
            own = Settings.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:  # EditError and JSONDecodeError are both
            raise ModelError(f"The model's {path} can't be used: {_reason(error)}.") from error
    if own.tune is None and profile.low_memory and not profile.eight_bit_adam:
        own = replace(own, tune="lora")
    return own.resolve(PAPER)


def _config(folder: Path, part: str, file: str = "config.json") -> dict[str, Any]:
    path = folder / part / file
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _wrong_type(folder, f"it has no {part}/{file}") from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, part, error) from error
    if not isinstance(config, dict):
        raise _damaged(folder, part, f"{file} is no JSON object")
    return config


def _wrong_type(folder: Path, reason: str) -> ModelError:
    return ModelError(f"{folder} is not a Stable Diffusion 1.x model: {reason}; choose one that is.")


def _damaged(folder: Path, part: str, error: Exception | str) -> ModelError:
    return ModelError(
        f"The model's {part} in {folder} can't be opened ({_reason(error)}); it may be half written: "
        "download or save it again, as safetensors."
    )


def _reason(error: Exception | str) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].rstrip(" .") if len(text[0]) <= 160 else text[0][:157] + "..."


def _vae_factor(vae: nn.Module) -> int:
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _native_size(unet: nn.Module, vae: nn.Module) -> int:
    side = unet.config.sample_size
    return (side if isinstance(side, int) else min(side)) * _vae_factor(vae)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No bars and no advice from the libraries while they load; what matters is raised as an error."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
