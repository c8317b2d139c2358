"""Each device computes in what it is good at, and a small card saves memory."""

import pytest
import torch
from refusals import sentence

from layerdiffusion.errors import ModelError
from layerdiffusion.models import load as models_module
from layerdiffusion.models.load import load_models
from layerdiffusion.models.profile import device_profile
from layerdiffusion.settings import PAPER, preset


@pytest.mark.parametrize("changes", [{"device": "gpu"}, {"dtype": "int8"}, {"device": "meta"}])
def test_a_device_or_dtype_there_is_not_is_one_sentence(tiny_folder, changes):
    with pytest.raises(ModelError) as error:
        load_models(tiny_folder, **{"device": "cpu", **changes})
    sentence(error)


def test_the_cpu_trains_in_float32_and_samples_in_bfloat16_where_it_has_it(monkeypatch):
    monkeypatch.setattr("layerdiffusion.models.profile._cpu_has_bfloat16", lambda: True)
    profile = device_profile("cpu")
    assert (profile.precision, profile.training_precision) == (torch.bfloat16, torch.float32)
    monkeypatch.setattr("layerdiffusion.models.profile._cpu_has_bfloat16", lambda: False)
    assert device_profile("cpu").precision == torch.float32
    assert device_profile("cpu", "bfloat16").training_precision == torch.bfloat16


@pytest.fixture
def cuda_card(monkeypatch):
    """A CUDA device of a given size and generation, as far as a profile asks about it."""

    def card(gibibytes: int, capability: tuple[int, int] = (8, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gibibytes * 2**30, 80 * 2**30))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: capability >= (8, 0))

    return card


def test_a_large_cuda_card_trains_in_bfloat16_samples_in_float16_and_keeps_everything(cuda_card):
    cuda_card(80)
    profile = device_profile("cuda")
    assert profile.training_precision == torch.bfloat16
    assert profile.precision == profile.weights == torch.float16
    assert device_profile("cuda", "float32").weights == device_profile("cuda", "float32").precision == torch.float32
    assert not profile.low_memory
    assert profile.optimizer().keywords == {"fused": True}


def test_a_small_older_cuda_card_saves_memory_and_computes_in_float16(cuda_card):
    cuda_card(15, (7, 5))
    profile = device_profile("cuda")
    assert profile.precision == torch.float16
    assert profile.checkpointing
    assert profile.batch < device_profile("cuda", low_memory=False).batch
    assert not device_profile("cuda", low_memory=False).checkpointing
    assert models_module._defaults(PAPER, profile) == (PAPER if profile.eight_bit_adam else preset("quick", PAPER))
