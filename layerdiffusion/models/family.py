"""What differs between families of models, and nothing else: conditions, latents, LoRA's layers, defaults.

The three stages see latents, a noise schedule and a `Condition`, and never ask which family they are of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from layerdiffusion.prompts import truncation_warning
from layerdiffusion.settings import Settings

Network = Any  # an `nn.Module` with a `config`, for which neither diffusers nor transformers has a type
LoraTargets = tuple[str, ...] | str  # ends of layers' names, or a pattern of the whole names, as PEFT has them
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
_Self = TypeVar("_Self", bound="Condition")
_Family = TypeVar("_Family", bound="Family")


@dataclass(frozen=True, eq=False)
class Condition:
    """What a network is asked with beside latents and timestep: B prompts, as tensors with a row for each.

    Stage 1 fits its tensors, Eq. 2 mixes them all, and stage 3 swaps them together. A family whose network takes more
    than embeddings adds fields, and their names to `arguments`; one whose network is called in another way has its own
    `ask`.
    """

    prompt_embeds: Tensor  # (B, L, D)

    def arguments(self, latents: Tensor) -> dict[str, Any]:
        """How the network takes it: keyword arguments of its call on `latents` (B, C, h, w)."""
        return {"encoder_hidden_states": self.prompt_embeds}

    def ask(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor) -> Tensor:
        """What the network predicts for `latents` (B, C, h, w) at `timesteps` (B,) or (), of the same shape."""
        predicted: Tensor = network(latents, timesteps, **self.arguments(latents)).sample
        return predicted

    def unfrozen(self: _Self) -> tuple[list[Tensor], Callable[[], _Self]]:
        """Float32 copies of what stage 1 fits, which take gradients, and what makes the condition of them."""
        fitted = self.map(lambda tensor: tensor.detach().float().clone().requires_grad_(True))
        return list(fitted.tensors.values()), lambda: fitted

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by the name of its field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def map(self: _Self, change: Callable[..., Tensor], *others: Condition) -> _Self:
        """The condition whose tensors are `change` of its own and, beside them, those of `others`."""
        rest = [other.tensors for other in others]
        changed = {name: change(own, *(each[name] for each in rest)) for name, own in self.tensors.items()}
        return replace(self, **changed)

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def __getitem__(self: _Self, rows: slice) -> _Self:
        return self.map(lambda tensor: tensor[rows])

    def expand(self: _Self, count: int) -> _Self:
        """The one prompt `count` times, without a copy."""
        return self.map(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def join(self: _Self, *others: Condition) -> _Self:
        """Its prompts and those of `others`, one after the other."""
        return self.map(lambda *tensors: torch.cat(tensors), *others)

    def to(self: _Self, device: torch.device | str) -> _Self:
        """The same on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def float(self: _Self) -> _Self:
        """The same in float32."""
        return self.map(lambda tensor: tensor.float())

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, eq=False)
class ConditionXL(Condition):
    """SDXL's: beside the embeddings, a vector for the whole prompt, and the size of the picture."""

    pooled_prompt_embeds: Tensor  # (B, P)
    vae_factor: int  # how many pixels a latent cell is wide

    def arguments(self, latents: Tensor) -> dict[str, Any]:
        """As in `Condition`; original and target size are those of the window that `latents` are of, nothing cropped.

        So `StableDiffusionXLPipeline` has it for a picture of that size.
        """
        time_ids = latents.new_zeros(len(self), 6)  # filled on the device: a CUDA graph can't copy from the host
        time_ids[:, 0::4] = latents.shape[-2] * self.vae_factor
        time_ids[:, 1::4] = latents.shape[-1] * self.vae_factor
        added = {"text_embeds": self.pooled_prompt_embeds, "time_ids": time_ids}
        return super().arguments(latents) | {"added_cond_kwargs": added}


@dataclass(eq=False)
class Family:
    """A family's encoders and tokenizers, and its answers to what differs."""

    text_encoder: Network
    tokenizer: Any

    label: ClassVar[str]
    network: ClassVar[str] = "unet"  # what its pipeline calls the network
    left_out: ClassVar[dict[str, Any]] = {}  # of its pipeline's parts
    defaults: ClassVar[Settings] = Settings()  # where they are not the paper's
    quick: ClassVar[Settings | None] = None  # what its quick preset sets, where it has one of its own
    lora_targets: ClassVar[LoraTargets] = LORA_TARGETS
    tunes_all: ClassVar[bool] = True  # whether stage 2 can train all of the network's weights

    @staticmethod
    def pipeline_class() -> Any:
        """diffusers' own pipeline of the same parts."""
        raise NotImplementedError

    @property
    def parts(self) -> dict[str, Any]:
        """Its encoders and tokenizers by the names that diffusers' pipeline has for them."""
        names = (field.name for field in fields(self) if field.name.startswith(("text_", "token")))
        return {name: getattr(self, name) for name in names}

    @property
    def tokens(self) -> int:
        """L, the length of a prompt in tokens, with the marks around it."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @property
    def networks(self) -> tuple[Network, ...]:
        """Its encoders."""
        return tuple(part for name, part in self.parts.items() if name.startswith("text_"))

    def limits(self, native: int, step: int) -> tuple[int, float]:
        """What the sides of its pictures are multiples of, and the most pixels they may have.

        `native` is the side of a square one, `step` what its networks can do.
        """
        return step, math.inf

    def to(self: _Family, device: torch.device) -> _Family:
        """The same with its encoders on the device."""
        return replace(self, text_encoder=self.text_encoder.to(device))

    @staticmethod
    def cell(vae: Network) -> int:
        """How many pixels a latent cell is wide."""
        return int(2 ** (len(vae.config.block_out_channels) - 1))

    def step(self, unet: Network, vae: Network) -> int:
        """What the sides of a picture, in pixels, are multiples of: the autoencoder's factor times the network's."""
        return int(self.cell(vae) * 2 ** (len(unet.config.block_out_channels) - 1))

    def native_size(self, unet: Network, vae: Network) -> int:
        """The side, in pixels, of the pictures that the network was trained on."""
        side = unet.config.sample_size
        return (side if isinstance(side, int) else min(side)) * self.cell(vae)

    def normalised(self, encoded: Tensor, vae: Network) -> Tensor:
        """The latents (B, C, h, w) that the network sees, of what the autoencoder gave, both float32."""
        scaled: Tensor = (encoded - _shift(vae)) * vae.config.scaling_factor
        return scaled

    def denormalised(self, latents: Tensor, vae: Network) -> Tensor:
        """What the autoencoder takes, of latents (B, C, h, w), both float32; the inverse of `normalised`."""
        encoded: Tensor = latents / vae.config.scaling_factor + _shift(vae)
        return encoded

    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """What the network is asked with for each prompt, float32; None is no prompt at all."""
        raise NotImplementedError

    def prompt_warnings(self, prompts: Sequence[str]) -> list[str]:
        """A sentence for each prompt that the text encoder cuts short."""
        found = (truncation_warning(self.tokenizer, prompt, self.tokens) for prompt in prompts)
        return [warning for warning in found if warning]


def _shift(vae: Network) -> float:
    return getattr(vae.config, "shift_factor", None) or 0.0


@dataclass(eq=False)
class StableDiffusion(Family):
    """Stable Diffusion 1.x: a condition is the text encoder's last hidden states, that of no prompt those of ""."""

    label: ClassVar[str] = "Stable Diffusion 1.x"
    left_out: ClassVar[dict[str, Any]] = {"safety_checker": None, "feature_extractor": None}

    @staticmethod
    def pipeline_class() -> Any:
        """diffusers' own pipeline of the same parts."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """What the network is asked with for each prompt, float32 on the encoder's device; None is no prompt at all."""
        words = self._words(self.tokenizer, prompts)
        device = self.text_encoder.device
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = words.attention_mask.to(device)
        return Condition(self.text_encoder(words.input_ids.to(device), attention_mask=mask)[0].float())

    def _words(self, tokenizer: Any, prompts: Sequence[str | None]) -> Any:
        words = [prompt or "" for prompt in prompts]
        return tokenizer(words, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt")


@dataclass(eq=False)
class StableDiffusionXL(StableDiffusion):
    """SDXL: two encoders' last hidden states but one, side by side, and the second one's pooled vector.

    Podell et al. 2023, arXiv:2307.01952. Its network is tuned by LoRA unless asked otherwise, and sampled at the
    guidance of its own pipeline.
    """

    text_encoder_2: Network
    tokenizer_2: Any
    zeros_for_none: bool  # no prompt is zeros, not the embedding of ""
    vae_factor: int

    label: ClassVar[str] = "SDXL"
    left_out: ClassVar[dict[str, Any]] = {}
    defaults: ClassVar[Settings] = Settings(tune="lora", guidance_scale=5.0)

    @staticmethod
    def pipeline_class() -> Any:
        """diffusers' own pipeline of the same parts."""
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline

    @property
    def tokens(self) -> int:
        """L, the length of a prompt in tokens, with the marks around it."""
        second = min(self.tokenizer_2.model_max_length, self.text_encoder_2.config.max_position_embeddings)
        return min(super().tokens, second)

    def limits(self, native: int, step: int) -> tuple[int, float]:
        """As in `StableDiffusion`: multiples of 64, no more pixels than the square has (its appendix I)."""
        return max(step, native // 16), native**2

    def to(self, device: torch.device) -> StableDiffusionXL:
        """The same with its encoders on the device, on CUDA in float16: in float32 they are 3.3 GB."""
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        first, second = (encoder.to(device, dtype) for encoder in (self.text_encoder, self.text_encoder_2))
        return replace(self, text_encoder=first, text_encoder_2=second)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> ConditionXL:
        """What the network is asked with for each prompt, float32 on the encoders' device; None is no prompt at all."""
        encoders = (self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2)
        first, second = (
            encoder(self._words(tokenizer, prompts).input_ids.to(encoder.device), output_hidden_states=True)
            for encoder, tokenizer in encoders
        )
        embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1).float()
        condition = ConditionXL(embeds, second.text_embeds.float(), self.vae_factor)
        if not self.zeros_for_none:
            return condition
        given = [prompt is not None for prompt in prompts]
        return condition.map(
            lambda tensor: torch.stack(
                [row if there else torch.zeros_like(row) for row, there in zip(tensor, given, strict=True)]
            )
        )
