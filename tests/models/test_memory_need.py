"""What an edit takes of a card: predicted at Stable Diffusion v1.4's true size, and refused where it can't fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from refusals import sentence
from sd14 import TEXT_ENCODER, UNET, VAE

from layerdiffusion.models.memory import TooLarge, check_need, fitting_settings, predicted_need
from layerdiffusion.models.profile import GIB, Profile
from layerdiffusion.settings import PAPER

A10G, T4, SMALL = 21.5, 14.1, 7.6  # GiB free on cards of 22, 14.6 and 8 GiB


@pytest.fixture(scope="module")
def networks():
    """The true architectures, without contents."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNET).to(torch.float16)
        return unet, AutoencoderKL.from_config(VAE), CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))


@pytest.fixture
def on(networks):
    """The models as they are on a card with so many GiB free."""

    def on(gib: float, low: bool = False, eight_bit: bool = False):
        half = torch.float16, torch.bfloat16, torch.float16
        profile = Profile(
            torch.device("cuda"), *half, checkpointing=low, eight_bit_adam=eight_bit, memory=int(gib * GIB)
        )
        profile = replace(profile, batch=2 if low else 16)
        return SimpleNamespace(
            networks=networks, family=None, unet=networks[0], latent_shape=(4, 64, 64), profile=profile, own=PAPER
        )

    return on


@pytest.mark.parametrize(
    ("gib", "low", "eight_bit", "tune", "most"),
    [
        (A10G, False, False, "full", 19),
        (T4, True, True, "full", 14),
        (T4, True, False, "lora", 14),
        (SMALL, True, True, "lora", 8),
        (SMALL, True, False, "lora", 8),
    ],
)
def test_each_card_gets_the_best_way_that_fits_it_with_everything_else(on, gib, low, eight_bit, tune, most):
    models = on(gib, low, eight_bit)
    settings = replace(fitting_settings(models), seeds=(0, 1, 2, 3))
    assert settings.tune == tune
    need = predicted_need(models, settings)
    assert need.bytes <= min(gib, most) * GIB
    check_need(models, settings)


def test_it_is_put_into_words(on):
    assert str(predicted_need(on(A10G), PAPER)).endswith("of 22 GB")
    assert str(predicted_need(on(SMALL, low=True), replace(PAPER, tune="lora"))).endswith("GB; low-memory way chosen")


def test_what_cannot_fit_is_refused_with_the_setting_that_would(on):
    with pytest.raises(TooLarge) as error:
        check_need(on(SMALL, low=True), replace(PAPER, tune="full"))
    sentence(error)
    assert "tune to lora" in str(error.value)
    with pytest.raises(TooLarge, match="a smaller model"):
        check_need(on(2, low=True), replace(PAPER, tune="lora"))


def test_two_pictures_in_training_take_more_than_one(on):
    """Of one draw neither is more than Adam takes when it begins."""
    ways = (replace(PAPER, draws=draws, layers=layers) for draws in (1, 8) for layers in ("composite", "separate"))
    one, two, eight, sixteen = (predicted_need(on(A10G), way).bytes for way in ways)
    assert one == two < eight < sixteen


def test_a_cpus_memory_is_nobodys_guess(tiny_models):
    assert predicted_need(tiny_models, tiny_models.defaults) is None
    check_need(tiny_models, tiny_models.defaults)
