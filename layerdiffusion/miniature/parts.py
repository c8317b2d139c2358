"""The parts that the miniature is made of: how long each is trained, on how many scenes, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """`minutes` and `scenes` are the defaults; `folder` is where in the finished folder its facts lie."""

    minutes: float
    scenes: int
    folder: str
    what: str
    beside: tuple[str, ...] = ()  # other folders of the same part


PARTS = {
    "vae": Part(25, 20_000, "vae", "AutoencoderTiny: 128 × 128 pixels to 16 × 16 × 16 latents"),
    "decoder": Part(20, 20_000, "vae/decoder", "the autoencoder's decoder, trained on: its latents stay what they are"),
    "diffusion": Part(
        240,
        4_000,
        "unet",
        "UNet2DConditionModel and CLIPTextModel, v-prediction",
        ("text_encoder", "tokenizer", "scheduler"),
    ),
    "judge": Part(12, 24_000, "judge", "a plain convolutional classifier"),
    "sam": Part(20, 18_000, "sam", "`segment_anything`'s `Sam` with a small ViT"),
    "clip": Part(20, 24_000, "clip", "`transformers.CLIPModel`, ViT and text transformer"),
    "features": Part(6, 6_000, "features", "a small convolutional network, by whose features KID is measured"),
}
