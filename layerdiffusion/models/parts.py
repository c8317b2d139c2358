"""A model's parts: from a diffusers folder or a single checkpoint file, checked to fit each other."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from layerdiffusion import hub
from layerdiffusion.errors import ModelError
from layerdiffusion.models import refused
from layerdiffusion.models.family import Family, Network, StableDiffusion, StableDiffusionXL
from layerdiffusion.models.flow import FlowMatching
from layerdiffusion.models.klein import LAYERS, PATCH, Klein
from layerdiffusion.settings import MOST_ELONGATED

# Held by whoever builds a network: diffusers and transformers patch `torch.nn` meanwhile, for the whole process, and of
# two at once the second puts back the first one's patch for good.
BUILDING = threading.RLock()


class Parts(NamedTuple):
    """A model's networks on the CPU, float32 but for klein's, frozen, in eval mode; and what goes with them."""

    unet: Network
    vae: Network
    family: Family  # with its text encoders and tokenizers
    scheduler: Any  # a DDIMScheduler, or a `FlowMatching`, with the model's own noise schedule


def open_folder(folder: Path, pickled: bool = False) -> Parts:
    """The parts in a diffusers folder, from safetensors alone (`*.fp16.safetensors` where there are no others).

    With `pickled`, a part that has neither is read from its .bin, with `weights_only`.

    Raises `ModelError` for another kind of model and for damaged or missing files.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes: dict[str, dict[str, Any]] = {
        "unet": {"UNet2DConditionModel": UNet2DConditionModel},
        "vae": {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny},
        "text_encoder": {"CLIPTextModel": CLIPTextModel},
        "text_encoder_2": {"CLIPTextModelWithProjection": CLIPTextModelWithProjection},
    }
    index = _index(folder)
    refused.check_index(folder, index)
    if index.get("_class_name") == hub.KLEIN:
        return _open_klein(folder)
    unet = _config(folder, "unet")
    refused.check_configs(folder, unet, _config(folder, "scheduler", "scheduler_config.json"))
    is_xl = unet.get("addition_embed_type") == "text_time"
    parts = hub.XL_NETWORKS if is_xl else hub.NETWORKS
    configs = {part: _config(folder, part) for part in parts}
    opened = {}
    for part, config in configs.items():
        kind = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
        if kind not in classes[part]:
            refused.refuse(folder, f"its {part} is a {kind}")
        opened[part] = _open_part(folder, part, classes[part][kind], pickled)
    tokenizers = {name: _tokenizer(folder, name, CLIPTokenizer) for name in ("tokenizer", "tokenizer_2")[: 1 + is_xl]}
    return _assembled(folder, opened | tokenizers, _scheduler(folder), index)


def _open_klein(folder: Path) -> Parts:
    try:
        from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
        from transformers import Qwen2TokenizerFast, Qwen3ForCausalLM
    except ImportError as error:
        raise ModelError(f"{folder} is a FLUX.2 klein, which diffusers has from release 0.37 on; update it.") from error
    scheduler = _config(folder, "scheduler", "scheduler_config.json")
    network = _open_part(folder, "transformer", Flux2Transformer2DModel, dtype=_stored(folder / "transformer"))
    vae = _open_part(folder, "vae", AutoencoderKLFlux2)
    encoder = _open_part(folder, "text_encoder", Qwen3ForCausalLM, dtype=_stored(folder / "text_encoder"))
    tokenizer = _tokenizer(folder, "tokenizer", Qwen2TokenizerFast)
    config, takes = network.config, vae.config.latent_channels * PATCH**2
    words, gives = encoder.config, encoder.config.hidden_size * len(LAYERS)
    if config.guidance_embeds:
        refused.refuse(folder, "its network takes the guidance as a number, so it is distilled from guidance")
    if (config.in_channels, config.joint_attention_dim) != (takes, gives) or words.num_hidden_layers < LAYERS[-1]:
        refused.refuse(folder, f"its network isn't made for the {takes} channels and {gives} numbers a token beside it")
    flow = FlowMatching(FlowMatchEulerDiscreteScheduler.from_config(scheduler), compute_empirical_mu)
    return Parts(network, vae, Klein(encoder, tokenizer), flow)


def _stored(folder: Path) -> torch.dtype:
    """bfloat16, the type that klein is published in, where its weights have it; else float32."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                dtype = file.get_slice(next(iter(file.keys()))).get_dtype()
            return torch.bfloat16 if dtype == "BF16" else torch.float32
        except (SafetensorError, OSError, StopIteration):
            continue  # what is damaged is named by the library that opens it
    return torch.float32


def open_file(path: Path) -> tuple[Parts, Path]:
    """The parts in a single .safetensors checkpoint of a Stable Diffusion 1.x or SDXL, and the folder of its configs.

    Such a file has no configs and no tokenizer: they are the ones beside it, if its folder is a diffusers folder, else
    those of `hub.HUB_DEFAULT` or `hub.HUB_XL`, from the hub's cache or fetched. Raises `ModelError`.
    """
    if path.suffix != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file; give one, or a model's folder.")
    shapes = _shapes(path)
    refused.check_weights(path, shapes)
    is_xl = refused.is_xl(shapes)
    folder, repository = path.parent, hub.HUB_XL if is_xl else hub.HUB_DEFAULT
    if not (folder / "model_index.json").is_file():
        try:
            folder = hub.download(repository, hub.CONFIG_FILES)
        except ModelError as error:
            raise ModelError(
                f"{path} is a single checkpoint file, which opens with the configs of {repository}, and these are "
                "not on this machine and can't be fetched; connect once, or give a model's folder."
            ) from error
    family = StableDiffusionXL if is_xl else StableDiffusion
    try:
        pipeline = family.pipeline_class().from_single_file(
            str(path),
            config=str(folder),
            local_files_only=True,
            torch_dtype=torch.float32,
            **family.left_out,
        )
    except Exception as error:  # whatever the file holds instead
        raise _not_single(path, error) from error
    names = ("unet", "vae", "text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if is_xl else ()))
    opened = {name: getattr(pipeline, name) for name in names}
    for name in hub.XL_NETWORKS if is_xl else hub.NETWORKS:
        opened[name] = opened[name].float().requires_grad_(False).eval()
    return _assembled(path, opened, _scheduler(folder), _index(folder)), folder


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise _not_single(path, error) from error


def _not_single(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} can't be opened as a single Stable Diffusion 1.x or SDXL checkpoint ({reason(error)}); "
        "it may be of another kind, or half written."
    )


def _index(folder: Path) -> dict[str, Any]:
    return _config(folder, ".", "model_index.json") if (folder / "model_index.json").is_file() else {}


def _assembled(source: Path, parts: Mapping[str, Any], scheduler: Any, index: Mapping[str, Any]) -> Parts:
    """The parts by name made one, or refused: what has the same classes but another shape."""
    unet, vae, encoders = parts["unet"], parts["vae"], dict(parts)
    del encoders["unet"], encoders["vae"]
    family: Family
    if "text_encoder_2" in encoders:
        zeros = index.get("force_zeros_for_empty_prompt", True)
        family = StableDiffusionXL(**encoders, zeros_for_none=zeros, vae_factor=Family.cell(vae))
    else:
        family = StableDiffusion(**encoders)
    width = sum(part.config.hidden_size for name, part in encoders.items() if name.startswith("text_encoder"))
    given = None if type(family) is StableDiffusion else "text_time"
    config = unet.config
    if config.addition_embed_type != given or config.class_embed_type or config.cross_attention_dim != width:
        refused.refuse(source, f"its network asks for more than the {width} numbers a token that it is given")
    if len({config.in_channels, config.out_channels, vae.config.latent_channels}) > 1:
        takes, has = config.in_channels, vae.config.latent_channels
        refused.refuse(source, f"its network takes {takes} channels, its latents have {has}")
    if getattr(vae.config, "latents_mean", None):
        refused.refuse(source, "its latents are normalised by a mean of their own")
    return Parts(unet, vae, family, scheduler)


def window_size(shape: str, photo: tuple[int, int], native: int, step: int, most: float = math.inf) -> tuple[int, int]:
    """The size (W, H) of the pictures that a model of `native` side makes of a photo of size `photo`.

    `shape` is "photo", "square" or "W:H". Sides are multiples of `step`, from 1 : 2 to 2 : 1, which a longer photo is
    cut to, and their product is `most` or less. Of these sizes the one whose shape and whose area are nearest to the
    wanted one and the square's, as ratios, the shape counted twice; on a tie the smaller.
    """
    if shape == "square":
        return native, native
    wide, high = photo if shape == "photo" else (int(part) for part in shape.split(":"))
    wanted = min(max(wide / high, 1 / MOST_ELONGATED), MOST_ELONGATED)
    sides = range(step, 2 * native + 1, step)

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        width, height = size
        off = 2 * abs(math.log(width / height / wanted)) + abs(math.log(width * height / native**2))
        return round(off, 9), width * height

    sizes = ((width, height) for width in sides for height in sides if width * height <= most)
    return min((size for size in sizes if max(size) <= MOST_ELONGATED * min(size)), key=distance)


def reason(error: Exception | str) -> str:
    """The first line of an error's text, short enough for a sentence."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].rstrip(" .") if len(text[0]) <= 160 else text[0][:157] + "..."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """One load at a time, without the libraries' bars and advice; what matters is raised as an error."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    with BUILDING:
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


def _open_part(folder: Path, part: str, cls: Any, pickled: bool = False, dtype: torch.dtype = torch.float32) -> Network:
    options: dict[str, Any] = {"dtype" if part.startswith("text_encoder") else "torch_dtype": dtype}
    whole = any((folder / part / f"{stem}.safetensors").is_file() for stem in hub.WEIGHTS)
    half = any((folder / part).glob("*.fp16.safetensors"))
    if half and not whole:
        options["variant"] = "fp16"
    options["use_safetensors"] = whole or half or not pickled
    try:
        model, info = cls.from_pretrained(folder / part, output_loading_info=True, local_files_only=True, **options)
    except Exception as error:  # damaged files raise nearly anything
        raise _damaged(folder, part, error) from error
    missing = [*info["missing_keys"], *info["mismatched_keys"]]
    if missing:
        raise _damaged(folder, part, f"{len(missing)} of its weights are missing or of another size")
    return model.requires_grad_(False).eval()


def _tokenizer(folder: Path, name: str, cls: Any) -> Any:
    try:
        return cls.from_pretrained(folder / name, local_files_only=True)
    except Exception as error:  # its files are JSON and text, each parsed by another library
        raise _damaged(folder, name, error) from error


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
        refused.refuse(folder, f"its prediction_type is {scheduler.config.prediction_type}")
    return scheduler


def _config(folder: Path, part: str, file: str = "config.json") -> dict[str, Any]:
    path = folder / part / file
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        refused.refuse(folder, f"it has no {part}/{file}")
    except (OSError, ValueError) as error:
        raise _damaged(folder, part, error) from error
    if not isinstance(config, dict):
        raise _damaged(folder, part, f"{file} is no JSON object")
    return config


def _damaged(folder: Path, part: str, error: Exception | str) -> ModelError:
    return ModelError(
        f"The model's {part} in {folder} can't be opened ({reason(error)}); it may be half written: "
        "download or save it again, as safetensors."
    )
