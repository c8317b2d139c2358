"""A diffusers folder's weights in one file, under the names that Stable Diffusion's own code gave them."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
}


def save_checkpoint(folder: Path, path: Path) -> Path:
    """Write the unet, vae and text encoder of the diffusers folder to one .safetensors, and return its path."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    blocks = 1 + max(int(name.split(".")[1]) for name in unet if name.startswith("down_blocks"))
    layers = 1 + max(int(name.split(".")[3]) for name in unet if name.startswith("down_blocks.0.resnets"))
    last = max(int(name.split(".")[2]) for name in vae if name.startswith("encoder.down_blocks"))
    attended = {int(name.split(".")[1]) for name in unet if re.match(r"up_blocks\.\d\.attentions", name)}
    weights = {
        f"model.diffusion_model.{unet_name(name, blocks, layers, attended)}": value for name, value in unet.items()
    }
    for name, value in vae.items():
        value = value[..., None, None] if re.search(r"to_\w+(\.0)?\.weight$", name) else value
        weights[f"first_stage_model.{vae_name(name, last)}"] = value
    is_xl = (folder / "text_encoder_2").is_dir()
    first = "conditioner.embedders.0" if is_xl else "cond_stage_model"
    for name, value in text.items():
        weights[f"{first}.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    if is_xl:
        second = open_clip(load_file(folder / "text_encoder_2" / "model.safetensors"))
        weights |= {f"conditioner.embedders.1.model.{name}": value for name, value in second.items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path


def unet_name(name: str, blocks: int, layers: int, attended: set[int]) -> str:
    stem, end = name.rsplit(".", 1)
    if stem in UNET:
        return f"{UNET[stem]}.{end}"
    if match := re.fullmatch(r"mid_block\.(\w+)\.(\d)\.(.*)", name):
        return f"middle_block.{1 if match[1] == 'attentions' else 2 * int(match[2])}.{_resnet(match[3], match[1])}"
    side, block, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    block, index = int(block), int(index)
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (block + 1)}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{(layers + 1) * block + layers}.{1 + (block in attended)}.{rest}"
    number = (layers + 1) * block + index + (1 if side == "down" else 0)
    place = "input" if side == "down" else "output"
    return f"{place}_blocks.{number}.{int(kind == 'attentions')}.{_resnet(rest, kind)}"


def _resnet(rest: str, kind: str) -> str:
    if kind != "resnets":
        return rest
    stem, end = rest.rsplit(".", 1)
    return f"{UNET_RESNET[stem]}.{end}"


def vae_name(name: str, last: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)\.(\w+)", name):
        return f"{match[1]}mid.attn_1.{ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda match: f"up.{last - int(match[1])}.block.", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{last - int(match[1])}.upsample", name)


def open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The second encoder's weights as OpenCLIP names them: q, k and v in one."""
    weights = {}
    for name, value in text.items():
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if match := re.fullmatch(r"(.*)\.([qkv])_proj\.(\w+)", name):
            block, part, end = match.groups()
            weights.setdefault(f"{block}.in_proj_{end}", {})[part] = value
        else:
            weights[name] = value.T if name == "text_projection" else value
    return {
        name: torch.cat([value[part] for part in "qkv"]) if isinstance(value, dict) else value
        for name, value in weights.items()
    }
