"""Every stage and method at SDXL's true size, 1024 × 1024, on a card of 16 GB that isn't there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_cuda import GIB, Card, fake_card
from sdxl_base import PARAMETERS, stable_diffusion_xl
from stage_log import Log, one_thread
from tiny import edit_of_noise

from layerdiffusion.baselines import options_for
from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.models.memory import CLIP, CONTEXT
from layerdiffusion.models.models import Models
from layerdiffusion.models.profile import device_profile
from layerdiffusion.settings import Settings

pytestmark = pytest.mark.slow

# GiB of live tensors at a stage's peak, its pictures' encoding included; the networks' 6.6 stay on the card.
PEAKS = {"embeddings": 9.2, "finetune": 9.2, "sampling": 11.6}
SETTINGS = Settings(embedding_steps=1, finetune_steps=1, sampling_steps=1, seeds=(0, 1))
FEW = {
    "sdedit": {},
    "imagic": {"embedding_steps": 1, "finetune_steps": 1},
    "pnp": {"inversion_steps": 1},
}


@pytest.fixture(scope="module")
def card() -> Iterator[Card]:
    with fake_card(16) as card, one_thread():
        yield card


@pytest.fixture(scope="module")
def models(card: Card) -> Models:
    return stable_diffusion_xl(device_profile("cuda"))


@pytest.fixture(scope="module")
def edit() -> Edit:
    return edit_of_noise(1024)


def test_an_edit_by_lora_fits_a_card_of_16_gb(card: Card, models: Models, edit: Edit):
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in models.networks]
    assert tuple(counts) == PARAMETERS and models.size == 1024
    assert models.profile.checkpointing and models.checkpoints(1) and models.defaults.tune == "lora"
    with Log(card).running() as log:
        result = Editor(models).run(edit, SETTINGS, log)
    assert set(result.stages.values()) == {"run"} and not result.warnings
    assert [image.size for image in result.images] == [(1024, 1024)] * 2
    for stage, most in PEAKS.items():
        assert 0.8 * most < log.peaks[stage] <= most, stage
    need, most = Editor(models).need(SETTINGS), max(log.peaks.values())
    assert most <= (need.bytes - CONTEXT - CLIP - models.profile.segmenter_bytes) / GIB <= 1.15 * most


@pytest.mark.parametrize("method", FEW)
def test_the_baselines_mix_no_devices_or_types(card: Card, models: Models, edit: Edit, method: str):
    options = options_for(method, models, **FEW[method])
    with Log(card).running() as log:
        result = Editor(models).run(edit, SETTINGS, log, method=method, options=options)
    assert len(result.images) == 2 and max(log.peaks.values()) <= max(PEAKS.values())
