"""Meta's Segment Anything at any size: build it from a config, save it as safetensors, open any checkpoint of it.

A folder holds `config.json` (the fields of `SamConfig`) and `model.safetensors` (Meta's key names).
Checkpoints that come without a config, `sam_vit_*.pth`, are recognised by the shapes of their weights.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from layerdiffusion.errors import ModelError
from layerdiffusion.hub import download
from layerdiffusion.models.parts import BUILDING

__all__ = ["HUB_NAMES", "MINIATURE", "Sam", "SamConfig", "build_sam", "load_sam", "save_sam"]

MINIATURE = Path(__file__).resolve().parents[2] / "assets" / "miniature" / "sam"

# The hub's copies are safetensors, in transformers' key names; Meta's own files are pickles.
HUB_NAMES = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
}


@dataclass(frozen=True)
class SamConfig:
    """The sizes that make a `Sam`; the defaults are ViT-B's. `config.json` holds these fields."""

    image_size: int = 1024  # the longer side of what the encoder sees, padded to a square
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window_size: int = 14  # in patches; 0: every block looks at the whole picture
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    out_chans: int = 256  # of the image embedding, the prompts and the decoder
    mask_in_chans: int = 16
    decoder_depth: int = 2
    decoder_num_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


def build_sam(config: SamConfig | Mapping[str, Any]) -> Sam:
    """A `Sam` of that size with fresh weights, in eval mode on the CPU.

    Its masks come out at four pixels a patch; `out_chans` must be divisible by 8 and by twice
    `decoder_num_heads`. Raises `ModelError` for a config that makes no `Sam`.
    """
    config = config if isinstance(config, SamConfig) else _config_from(config)
    try:
        grid = config.image_size // config.patch_size
        sam = Sam(
            image_encoder=ImageEncoderViT(
                img_size=config.image_size,
                patch_size=config.patch_size,
                embed_dim=config.embed_dim,
                depth=config.depth,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                out_chans=config.out_chans,
                window_size=config.window_size,
                global_attn_indexes=config.global_attn_indexes,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                qkv_bias=True,
                use_rel_pos=True,
            ),
            prompt_encoder=PromptEncoder(
                embed_dim=config.out_chans,
                image_embedding_size=(grid, grid),
                input_image_size=(config.image_size, config.image_size),
                mask_in_chans=config.mask_in_chans,
            ),
            mask_decoder=MaskDecoder(
                num_multimask_outputs=3,
                transformer=TwoWayTransformer(
                    depth=config.decoder_depth,
                    embedding_dim=config.out_chans,
                    mlp_dim=config.decoder_mlp_dim,
                    num_heads=config.decoder_num_heads,
                ),
                transformer_dim=config.out_chans,
                iou_head_depth=config.iou_head_depth,
                iou_head_hidden_dim=config.iou_head_hidden_dim,
            ),
            pixel_mean=list(config.pixel_mean),
            pixel_std=list(config.pixel_std),
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(
            f"The SAM config describes no model that can be built ({error}); correct config.json."
        ) from error
    return sam.eval()


def save_sam(sam: Sam, config: SamConfig | Mapping[str, Any], folder: str | Path) -> Path:
    """Write `config.json` and `model.safetensors` (the weights' own dtype) to `folder`, and return it."""
    config = config if isinstance(config, SamConfig) else _config_from(config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sam.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    return folder


def load_sam(name: str | Path = "auto", device: str | torch.device = "cpu") -> Sam:
    """A `Sam` in eval mode on `device`, float32; on CUDA its image encoder is float16.

    `name` is "miniature", "vit_b", "vit_l" or "vit_h" (from the hub), "auto" (ViT-H on CUDA, else the
    miniature), a hub id, a folder that `save_sam` or transformers wrote, or a `.pth` or `.safetensors` file
    with Meta's key names. Nothing is unpickled but tensors. Raises `ModelError`.
    """
    if name == "auto":
        name = "vit_h" if torch.device(device).type == "cuda" else "miniature"
    path = MINIATURE if name == "miniature" else Path(name)
    if path.is_dir():
        sam = _from_folder(path)
    elif path.is_file():
        weights = _read_weights(path)
        sam = _with_weights(_recognise(weights, path), weights, path)
    elif name == "miniature":
        raise ModelError("The miniature's SAM is missing from assets/miniature/sam; check the installation out again.")
    elif name in HUB_NAMES or re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        repository = HUB_NAMES.get(str(name), str(name))
        sam = _from_folder(download(repository, ("config.json", "model.safetensors")))
    else:
        raise ModelError(
            f"There is no SAM at {name}; give a folder, a checkpoint file, a hub id, or one of "
            f"miniature, {', '.join(HUB_NAMES)}."
        )
    return place_sam(sam, device)


def place_sam(sam: Sam, device: str | torch.device) -> Sam:
    """The `Sam` on `device`; on CUDA its image encoder, nearly all of it, computes in float16."""
    sam = sam.to(device)
    if torch.device(device).type == "cuda":
        _halve(sam.image_encoder)
    return sam


def _halve(encoder: nn.Module) -> None:
    encoder.half()
    encoder.register_forward_pre_hook(lambda _, given: (given[0].half(),))
    encoder.register_forward_hook(lambda _, given, embedding: embedding.float())


def _from_folder(folder: Path) -> Sam:
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no config.json, so it is no SAM; give the folder of one.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'} can't be read; download or save the model again.") from error
    weights = _read_weights(folder / "model.safetensors")
    if isinstance(data, Mapping) and data.get("model_type") == "sam":
        weights = _from_transformers(weights)
        heads = data.get("mask_decoder_config", {}).get("num_attention_heads", 8)
        config = _recognise(weights, folder, decoder_num_heads=heads)
    else:
        config = _config_from(data)
    return _with_weights(config, weights, folder)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"There is no {path.name} in {path.parent}; download or save the model again.") from error
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ModelError(
            f"{path} is no complete checkpoint of tensors; it may be half-written, so download it again."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ModelError(f"{path} holds no plain weights; give a checkpoint as Meta publishes it.")
    return weights


def _recognise(weights: Mapping[str, torch.Tensor], path: Path, decoder_num_heads: int = 8) -> SamConfig:
    """The config that the weights' shapes imply; only the decoder's number of heads leaves no trace."""
    try:
        grid = weights["image_encoder.pos_embed"].shape[1]
        embed_dim, _, patch_size, _ = weights["image_encoder.patch_embed.proj.weight"].shape
        depth = _count(weights, "image_encoder.blocks")
        reach = [weights[f"image_encoder.blocks.{block}.attn.rel_pos_h"].shape for block in range(depth)]
        widths = [(length + 1) // 2 for length, _ in reach]
        windows = {width for width in widths if width != grid}
        if len(windows) > 1:
            raise ValueError("its blocks have windows of different sizes")
        return SamConfig(
            image_size=grid * patch_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=embed_dim // reach[0][1],
            mlp_ratio=weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / embed_dim,
            window_size=windows.pop() if windows else 0,
            global_attn_indexes=tuple(block for block, width in enumerate(widths) if width == grid),
            out_chans=weights["image_encoder.neck.0.weight"].shape[0],
            mask_in_chans=weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
            decoder_depth=_count(weights, "mask_decoder.transformer.layers"),
            decoder_num_heads=decoder_num_heads,
            decoder_mlp_dim=weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            iou_head_depth=_count(weights, "mask_decoder.iou_prediction_head.layers"),
            iou_head_hidden_dim=weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"{path} is no SAM checkpoint ({error}); give a sam_vit_*.pth or a SAM's folder.") from error


def _count(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    numbers = (re.match(re.escape(prefix) + r"\.(\d+)\.", name) for name in weights)
    return 1 + max(int(number[1]) for number in numbers if number)


def _with_weights(config: SamConfig, weights: Mapping[str, torch.Tensor], path: Path) -> Sam:
    with BUILDING, torch.device("meta"):  # fresh weights would only be thrown away
        sam = build_sam(config)
    try:
        sam.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights in {path} don't fit its SAM config; they may be half-written, so download or save them again."
        ) from error
    for name in ("pixel_mean", "pixel_std"):  # constants of the config, not weights
        constant = torch.tensor(getattr(config, name), dtype=torch.float32)
        sam.register_buffer(name, constant.view(-1, 1, 1), persistent=False)
    return sam


def _config_from(data: Any) -> SamConfig:
    names = {field.name for field in fields(SamConfig)}
    if not isinstance(data, Mapping) or set(data) - names:
        wrong = sorted(set(data) - names)[0] if isinstance(data, Mapping) else type(data).__name__
        raise ModelError(f"The SAM config has {wrong!r}, which is no field of it; correct config.json.")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return SamConfig(**values)


# Parts of transformers' names and what Meta calls them, replaced in this order.
_RENAMED = [
    ("vision_encoder.layers.", "image_encoder.blocks."),
    ("vision_encoder.", "image_encoder."),
    ("patch_embed.projection", "patch_embed.proj"),
    (".neck.conv1", ".neck.0"),
    (".neck.layer_norm1", ".neck.1"),
    (".neck.conv2", ".neck.2"),
    (".neck.layer_norm2", ".neck.3"),
    (".mask_embed.conv1", ".mask_downscaling.0"),
    (".mask_embed.layer_norm1", ".mask_downscaling.1"),
    (".mask_embed.conv2", ".mask_downscaling.3"),
    (".mask_embed.layer_norm2", ".mask_downscaling.4"),
    (".mask_embed.conv3", ".mask_downscaling.6"),
    (".point_embed.", ".point_embeddings."),
    (".upscale_conv1", ".output_upscaling.0"),
    (".upscale_layer_norm", ".output_upscaling.1"),
    (".upscale_conv2", ".output_upscaling.3"),
    (".layer_norm", ".norm"),
]
_HEADS = r"mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head)"
_MLP = re.compile(rf"({_HEADS})\.(proj_in|proj_out|layers\.\d+)\.")


def _from_transformers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' `SamModel` weights under Meta's names."""
    renamed = {}
    for name, tensor in weights.items():
        if "positional_embedding" in name:  # one tensor, which older files hold under two names
            renamed["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"] = tensor
            continue
        for theirs, metas in _RENAMED:
            name = name.replace(theirs, metas)
        if match := _MLP.match(name):  # of which transformers counts the inner layers alone
            inner = sum(other.startswith(f"{match[1]}.layers.") and other.endswith(".weight") for other in weights)
            ends = {"proj_in": 0, "proj_out": inner + 1}
            layer = ends[match[2]] if match[2] in ends else int(match[2].removeprefix("layers.")) + 1
            name = f"{match[1]}.layers.{layer}.{name[match.end() :]}"
        renamed[name] = tensor
    return renamed
