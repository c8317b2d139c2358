"""Each device computes in what it is good at, and a small card saves memory."""

import pytest
import torch
from refusals import sentence
from torch.torch_version import TorchVersion

from layerdiffusion.errors import ModelError
from layerdiffusion.models.load import load_models
from layerdiffusion.models.profile import GIB, cuda_problem, device_profile


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
    assert profile.memory == 15 * GIB and not profile.attention_slicing


@pytest.mark.parametrize(("gibibytes", "name"), [(80, "vit_h"), (8, "vit_b")])
def test_segment_anything_is_as_large_as_the_card_has_room_for(cuda_card, gibibytes, name):
    cuda_card(gibibytes)
    profile = device_profile("cuda")
    assert profile.segmenter == name and device_profile("cpu").segmenter == "auto"
    assert (profile.segmenter_bytes == 0) == profile.low_memory


def test_the_layout_is_the_one_that_the_version_of_torch_does_not_convert(cuda_card, monkeypatch):
    cuda_card(80)
    for version, channels_last in (("2.13.0", False), ("2.14.1", True)):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        assert device_profile("cuda").channels_last == channels_last
    assert device_profile("cpu").channels_last


def test_the_miniature_comes_with_the_reason_why_a_card_is_not_used(cuda_card, monkeypatch):
    assert cuda_problem() is None  # a build for the CPU alone never promised one
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    models = load_models("auto", size=64)
    assert models.device.type == "cpu" and "driver" in models.notice
    assert load_models("auto", "cpu", size=64).notice is None  # as it was asked for

    cuda_card(12, (5, 2))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90a"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (5, 2))
    assert "5.2" in cuda_problem() and "7.5 and later" in cuda_problem()
    assert device_profile().device.type == "cpu"
