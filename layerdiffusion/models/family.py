"""What differs between families of models, and nothing else: how words become what a network is asked with.

The three stages see a `Condition` and never ask which family it is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from layerdiffusion.models.parts import Network
from layerdiffusion.prompts import truncation_warning

_Self = TypeVar("_Self", bound="Condition")


@dataclass(frozen=True, eq=False)
class Condition:
    """What a network is asked with beside latents and timestep: B prompts, as tensors with a row for each.

    Stage 1 fits every one of its tensors, Eq. 2 mixes them all, and stage 3 swaps them together. A family whose
    network takes more than embeddings adds fields, and their names to `arguments`.
    """

    prompt_embeds: Tensor  # (B, L, D)

    def arguments(self, latents: Tensor) -> dict[str, Any]:
        """How the network takes it: keyword arguments of its call on `latents` (B, C, h, w)."""
        return {"encoder_hidden_states": self.prompt_embeds}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by the name of its field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

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


@dataclass(eq=False)
class StableDiffusion:
    """Stable Diffusion 1.x: a condition is the text encoder's last hidden states, that of no prompt those of ""."""

    text_encoder: Network
    tokenizer: Any

    @property
    def tokens(self) -> int:
        """L, the length of a prompt in tokens, with the marks around it."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> Condition:
        """What the network is asked with for each prompt, float32 on the encoder's device; None is no prompt at all."""
        words = self.tokenizer(
            [prompt or "" for prompt in prompts],
            padding="max_length",
            max_length=self.tokens,
            truncation=True,
            return_tensors="pt",
        )
        device = self.text_encoder.device
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = words.attention_mask.to(device)
        return Condition(self.text_encoder(words.input_ids.to(device), attention_mask=mask)[0].float())

    def prompt_warnings(self, prompts: Sequence[str]) -> list[str]:
        """A sentence for each prompt that the text encoder cuts short."""
        found = (truncation_warning(self.tokenizer, prompt, self.tokens) for prompt in prompts)
        return [warning for warning in found if warning]
