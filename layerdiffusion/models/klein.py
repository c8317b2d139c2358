"""FLUX.2 klein base, a transformer that is trained by flow matching: what differs for it from Stable Diffusion.

Black Forest Labs 2026, https://bfl.ai/blog/flux2-klein-towards-interactive-visual-intelligence. As diffusers'
`Flux2KleinPipeline` has it: latents are patches of 2 × 2 of the autoencoder's, and the network sees them as a sequence
of tokens with a place each, behind those of the words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from layerdiffusion.models.family import Condition, Family, LoraTargets, Network
from layerdiffusion.settings import Settings

LAYERS = (9, 18, 27)  # of the text encoder, whose hidden states lie side by side
TOKENS = 512
PATCH = 2  # of the autoencoder's latents, in both directions
TIMESTEPS = 1000  # the network takes σ, from 0 to 1
PICTURE_TIME = 10  # the place in time of a picture that is given beside the noisy one
MOST_KNOWN = 16  # prompts whose conditions are kept: the encoder is read once for each


@dataclass(frozen=True, eq=False)
class KleinCondition(Condition):
    """The hidden states (B, L, 3 · D) of a prompt's tokens and its padding; and a picture to go by, where there is one.

    Stage 1 moves each token relative to its own size, layer by layer: they differ by orders of magnitude.
    """

    is_word: Tensor  # (B, L): 1 on a token of the prompt, 0 on padding, which stage 1 leaves as it is
    picture: Tensor | None = None  # its latents (B, C, h', w')

    def ask(self, network: Callable[..., Any], latents: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity (B, C, h, w) that the network predicts for `latents` at `timesteps` (B,) or (), from 0 to T."""
        count, device = len(latents), latents.device
        pictures = [(0, latents)] + ([] if self.picture is None else [(PICTURE_TIME, self.picture)])
        places = [positions(device, time, *each.shape[-2:]) for time, each in pictures]
        predicted = network(
            torch.cat([packed(each) for _, each in pictures], 1),
            timestep=timesteps.reshape(-1).expand(count) / TIMESTEPS,
            encoder_hidden_states=self.prompt_embeds,
            txt_ids=positions(device, tokens=self.prompt_embeds.shape[1]),
            img_ids=torch.cat(places),
        ).sample
        return unpacked(predicted[:, : len(places[0])], latents.shape[-2:])

    def unfrozen(self) -> tuple[list[Tensor], Callable[[], KleinCondition]]:
        """As in `Condition`: how far each token is moved, in units of the root mean square of its part of a layer."""
        start = self.prompt_embeds.detach().float()
        parts = start.unflatten(-1, (len(LAYERS), -1))
        size = parts.square().mean(-1, keepdim=True).sqrt().expand_as(parts).flatten(-2) * self.is_word[..., None]
        moved = torch.zeros_like(start).requires_grad_(True)
        return [moved], lambda: replace(self, prompt_embeds=start + size * moved)


def packed(latents: Tensor) -> Tensor:
    """Latents (B, C, h, w) as a sequence of tokens (B, h · w, C), row by row."""
    return latents.flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """The inverse of `packed`: latents (B, C, h, w) on a `grid` (h, w)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


def positions(device: torch.device, time: int = 0, height: int = 1, width: int = 1, tokens: int = 1) -> Tensor:
    """The places (N, 4) of a sequence's tokens: time, row, column and index among words, made on the device."""
    spans = [(time, time + 1), (0, height), (0, width), (0, tokens)]
    return torch.cartesian_prod(*(torch.arange(*span, device=device) for span in spans))


@dataclass(eq=False)
class Klein(Family):
    """FLUX.2 klein base. Its text encoder, as large as the network, waits in main memory; see `embed`."""

    device: torch.device = torch.device("cpu")  # of the network
    encoder_device: torch.device | None = None  # where the text encoder runs; None: there too
    known: dict[str, KleinCondition] = field(default_factory=dict)  # prompts that were embedded, in main memory

    label: ClassVar[str] = "FLUX.2 klein base"
    network: ClassVar[str] = "transformer"
    defaults: ClassVar[Settings] = Settings(tune="lora", guidance_scale=4.0)
    quick: ClassVar[Settings | None] = Settings(embedding_steps=60, finetune_steps=100, sampling_steps=25)
    lora_targets: ClassVar[LoraTargets] = (
        r".*\.(to_q|to_k|to_v|to_out\.0|to_qkv_mlp_proj)|single_transformer_blocks\.\d+\.attn\.to_out"
    )
    tunes_all: ClassVar[bool] = False

    @staticmethod
    def pipeline_class() -> Any:
        """diffusers' own pipeline of the same parts."""
        from diffusers import Flux2KleinPipeline

        return Flux2KleinPipeline

    @property
    def tokens(self) -> int:
        """L, the length of a prompt in tokens, with the marks around it."""
        return TOKENS

    @property
    def networks(self) -> tuple[Network, ...]:
        """None: the encoder is on the device only while it reads."""
        return ()

    @staticmethod
    def cell(vae: Network) -> int:
        """How many pixels a latent cell is wide."""
        return PATCH * Family.cell(vae)

    def step(self, unet: Network, vae: Network) -> int:
        """What the sides of a picture, in pixels, are multiples of."""
        return self.cell(vae)

    def native_size(self, unet: Network, vae: Network) -> int:
        """The side, in pixels, of the pictures that the autoencoder was trained on; the network has none of its own."""
        return int(vae.config.sample_size)

    def limits(self, native: int, step: int) -> tuple[int, float]:
        """As in `Family`: no more pixels than the square has, which the memory is predicted for."""
        return step, native**2

    def normalised(self, encoded: Tensor, vae: Network) -> Tensor:
        """As in `Family`: patches of 2 × 2 as channels, by the mean and variance that the autoencoder counted."""
        mean, deviation = _statistics(vae)
        return (F.pixel_unshuffle(encoded, PATCH) - mean) / deviation

    def denormalised(self, latents: Tensor, vae: Network) -> Tensor:
        """The inverse of `normalised`."""
        mean, deviation = _statistics(vae)
        return F.pixel_shuffle(latents * deviation + mean, PATCH)

    def to(self, device: torch.device) -> Klein:
        """The same for a network on the device; the encoder stays where it is."""
        return replace(self, device=device, known={})

    @torch.no_grad()
    def embed(self, prompts: Sequence[str | None]) -> KleinCondition:
        """What the network is asked with for each prompt, float32 on its device; no prompt at all is "".

        The encoder is put on its device for this and taken off again; a prompt that was read lately is not read again.
        """
        words = [prompt or "" for prompt in prompts]
        new = [prompt for prompt in dict.fromkeys(words) if prompt not in self.known]
        if new:
            encoder = self.text_encoder.to(self.encoder_device or self.device)
            read = {prompt: self._read(encoder, prompt) for prompt in new}
            if encoder.device.type != "cpu":
                self.text_encoder = encoder.to("cpu")
            self.known.update(read)
        rows = [self.known[prompt] for prompt in words]
        for prompt in list(self.known)[:-MOST_KNOWN]:
            del self.known[prompt]
        return rows[0].join(*rows[1:]).to(self.device)

    def prompt_warnings(self, prompts: Sequence[str]) -> list[str]:
        """A sentence for each prompt that the text encoder cuts short."""
        return [
            f"The model reads only {TOKENS} tokens of “{prompt[:40]}…” and ignores its end; shorten it."
            for prompt in prompts
            if len(self._words(prompt, return_overflowing_tokens=True).input_ids) > 1
        ]

    def _read(self, encoder: Network, prompt: str) -> KleinCondition:
        words = self._words(prompt, return_tensors="pt").to(encoder.device)
        # The model within, for its words' probabilities, which nobody asks for, would be the largest tensor of all.
        states = encoder.model(
            input_ids=words.input_ids, attention_mask=words.attention_mask, output_hidden_states=True, use_cache=False
        ).hidden_states
        embeds = torch.cat([states[layer] for layer in LAYERS], -1).float().cpu()
        return KleinCondition(embeds, words.attention_mask.float().cpu())

    def _words(self, prompt: str, **options: Any) -> Any:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        # A list, for the tokenizer keeps how it was asked as a state, and gives rows for a list alone.
        return self.tokenizer([text], padding="max_length", truncation=True, max_length=TOKENS, **options)


def _statistics(vae: Network) -> tuple[Tensor, Tensor]:
    """The mean and standard deviation (C, 1, 1) of latents that training has counted."""
    mean, variance = (each.float().view(-1, 1, 1) for each in (vae.bn.running_mean, vae.bn.running_var))
    return mean, torch.sqrt(variance + vae.config.batch_norm_eps)
