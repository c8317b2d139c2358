"""What an edit takes of a card: predicted at Stable Diffusion v1.4's true size, and refused where it can't fit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import sdxl_base
import torch
from refusals import sentence
from sd14 import TEXT_ENCODER, UNET, VAE

from layerdiffusion.errors import EditError
from layerdiffusion.models.load import _for_xl
from layerdiffusion.models.memory import TooLarge, check_need, fitting_preset, fitting_settings, predicted_need
from layerdiffusion.models.profile import GIB, Profile, device_profile
from layerdiffusion.settings import PAPER, preset

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
            networks=networks,
            family=SimpleNamespace(tunes_all=True),
            unet=networks[0],
            latent_shape=(4, 64, 64),
            profile=profile,
            model_defaults=PAPER,
            quick=None,
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


def test_lora_fits_eight_gigabytes_where_nothing_is_saved_on_too(on):
    assert predicted_need(on(A10G), replace(PAPER, tune="lora")).bytes <= 8 * GIB


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


@pytest.fixture(scope="module")
def xl_models(tiny_xl_models):
    """SDXL's true architecture as it is on a CUDA device, without contents."""
    unet, vae, *encoders = sdxl_base.networks()
    family = sdxl_base.family_of(*(encoder.to(torch.float16) for encoder in encoders))
    return replace(tiny_xl_models, unet=unet.to(torch.float16), master=unet, vae=vae, family=family, size=1024)


@pytest.fixture
def xl_on(xl_models, monkeypatch):
    """The same on a card of so many GiB, half a GiB of which is taken."""

    def xl_on(gib: float, **changes):
        total = int(gib * GIB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (total - GIB // 2, total))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        return replace(xl_models, profile=_for_xl(device_profile("cuda", "float16"), 1.0), **changes)

    return xl_on


@pytest.mark.parametrize(("gib", "draws"), [(16, 2), (24, 4), (80, 4)])
def test_sdxls_quick_preset_has_the_draws_that_fit_the_card_in_as_many_more_steps(xl_on, gib, draws):
    models = xl_on(gib)
    quick, as_it_is = fitting_preset(models, "quick"), preset("quick", models.model_defaults)
    assert quick.draws == draws and quick.tune == "lora"
    assert quick.finetune_steps * draws == as_it_is.finetune_steps * as_it_is.draws
    check_need(models, quick)
    check_need(models, models.defaults)
    need = predicted_need(models, models.defaults)
    assert need.fits and str(need) == f"needs about {need.bytes / GIB:.0f} of {gib} GB" + "; low-memory way chosen" * (
        gib < 20
    )


def test_more_draws_than_sdxl_has_room_for_are_refused_with_what_fits(xl_on):
    models = xl_on(16)
    with pytest.raises(TooLarge, match="needs about 18 of 16 GB on the device; set draws to 1") as error:
        check_need(models, replace(models.defaults, draws=4))
    sentence(error)
    with pytest.raises(EditError, match="GB"):
        check_need(models, replace(models.defaults, tune="full"))
