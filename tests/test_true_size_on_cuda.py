"""Every stage and method at Stable Diffusion v1.4's true size on a card that isn't there: what mixes devices or types
raises, and launches, waits of the host and the peak of live memory stay within bounds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from fake_cuda import GIB, Card, fake_card
from sd14 import stable_diffusion
from stage_log import Log, one_thread
from tiny import edit_of_noise

from layerdiffusion.baselines import options_for
from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.models.memory import CLIP, CONTEXT, predicted_need
from layerdiffusion.models.models import Models
from layerdiffusion.models.profile import device_profile
from layerdiffusion.settings import Settings

# What a step may make the host wait for: the losses, fetched several at a time, and a preview at the end.
WAITS = {"optimizer._report", "preview.linear_preview"}
# A step's launches, each of which costs the host about 5 µs; in stage 2 the second step's, which has Adam's state.
LAUNCHES = {"embeddings": 1_500, "full": 2_000, "lora": 2_700, "sampling": 800}
# GiB of live tensors at a stage's peak, everything that stays on the card included.
PEAKS = {"embeddings": 5.5, "full": 15.8, "checkpointed, 8-bit": 11.0, "lora": 4.9, "sampling": 4.8}
STAGES = {"embeddings": "embeddings", "finetune": "full", "sampling": "sampling"}
SETTINGS = Settings(embedding_steps=1, finetune_steps=2, sampling_steps=1, seeds=(0, 1, 2, 3))


@pytest.fixture(scope="module")
def card() -> Iterator[Card]:
    with fake_card() as card, one_thread():
        yield card


@pytest.fixture(scope="module")
def models(card: Card) -> Models:
    return stable_diffusion(device_profile("cuda"))


@pytest.fixture(scope="module")
def edit() -> Edit:
    return edit_of_noise(512)


def tuned(card: Card, models: Models, edit: Edit, **changes) -> Log:
    """Stage 2 by itself."""
    with Log(card).running() as log:
        Editor(models).run(edit, replace(SETTINGS, embedding_steps=0, seeds=(0,), **changes), log)
    return log


def predicted(models: Models, settings: Settings) -> float:
    """GiB of live tensors of an edit, as they are predicted."""
    need = predicted_need(models, settings.resolve(models.defaults))
    return (need.bytes - CONTEXT - CLIP - models.profile.segmenter_bytes) / GIB


def held(models: Models) -> int:
    """Bytes of the networks' parameters on the card."""
    return sum(parameter.nbytes for network in models.networks for parameter in network.parameters())


@pytest.mark.slow
def test_an_edit_at_true_size_stays_within_its_bounds(card: Card, models: Models, edit: Edit):
    assert held(models) == 2 * 859_520_964 + 4 * (83_653_863 + 123_060_480)
    assert {each.device.type for each in models.master.parameters()} == {"cpu"}
    assert card.meter.now == pytest.approx(held(models), rel=2e-3)

    with Log(card).running() as log:
        result = Editor(models).run(edit, SETTINGS, log)
    assert set(result.stages.values()) == {"run"} and len(result.images) == 4 and not result.warnings
    for stage, way in STAGES.items():
        assert 0.5 * LAUNCHES[way] < log.launches[stage] <= LAUNCHES[way], stage
        assert set(log.waits[stage]) <= WAITS, stage
        assert 0.8 * PEAKS[way] < log.peaks[stage] <= PEAKS[way], stage
    assert max(log.peaks.values()) <= predicted(models, SETTINGS) <= 1.15 * max(log.peaks.values())
    assert card.meter.now <= held(models) + 1.01 * 2 * 859_520_964  # at most half-precision weights once more


@pytest.mark.slow
def test_lora_takes_a_third_of_the_memory(card: Card, models: Models, edit: Edit):
    log = tuned(card, models, edit, tune="lora")
    assert 0.8 * PEAKS["lora"] < log.peaks["finetune"] <= PEAKS["lora"]
    assert 0.5 * LAUNCHES["lora"] < log.launches["finetune"] <= LAUNCHES["lora"]
    assert set(log.waits["finetune"]) <= WAITS
    assert log.peaks["finetune"] <= predicted(models, replace(SETTINGS, tune="lora")) <= 1.15 * log.peaks["finetune"]


class Adam8bit(torch.optim.Optimizer):
    """What bitsandbytes' has in memory: two bytes of state a parameter, in place of Adam's eight."""

    def __init__(self, parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            if not self.state[parameter]:
                moments = (torch.zeros_like(parameter, dtype=torch.uint8) for _ in range(2))
                scales = (torch.zeros(-(-parameter.numel() // 256), device=parameter.device) for _ in range(2))
                self.state[parameter] = {"moments": [*moments], "scales": [*scales]}
            parameter.add_(parameter.grad, alpha=-self.param_groups[0]["lr"])


@pytest.mark.slow
def test_checkpointing_and_8_bit_adam_take_a_third_less(card, models, edit, monkeypatch):
    module = ModuleType("bitsandbytes.optim")
    module.Adam8bit = Adam8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    saving = replace(models, profile=replace(models.profile, checkpointing=True, eight_bit_adam=True))
    log = tuned(card, saving, edit)
    assert 0.8 * PEAKS["checkpointed, 8-bit"] < log.peaks["finetune"] <= PEAKS["checkpointed, 8-bit"]
    assert log.peaks["finetune"] <= predicted(saving, SETTINGS) <= 1.15 * log.peaks["finetune"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sdedit", "imagic", "pnp"])
def test_the_baselines_mix_no_devices_or_types(card, models, edit, method):
    few = {
        "sdedit": {},
        "imagic": {"embedding_steps": 1, "finetune_steps": 1},
        "pnp": {"inversion_steps": 4},
    }[method]
    options = options_for(method, models, **few)
    settings = replace(SETTINGS, sampling_steps=2, seeds=(0,))
    with Log(card).running() as log:
        result = Editor(models).run(edit, settings, log, method=method, options=options)
    assert len(result.images) == 1
    assert set(log.waits["sampling"]) <= WAITS
