"""Every stage and method of FLUX.2 klein at its true size, 512 × 512 and 1024 × 1024, on cards that aren't there."""

from __future__ import annotations

import pytest
from fake_cuda import GIB, fake_card
from klein_base import flux2_klein
from stage_log import Log, one_thread
from tiny import edit_of_noise

from layerdiffusion.baselines import options_for
from layerdiffusion.editor import Editor
from layerdiffusion.errors import SettingsError
from layerdiffusion.models.memory import CLIP, CONTEXT
from layerdiffusion.models.profile import device_profile
from layerdiffusion.settings import Settings

pytestmark = pytest.mark.slow

# By card in GiB and side: GiB of live tensors at a stage's peak, of which the network and the autoencoder are 7.5.
PEAKS = {
    (16, 512): {"embeddings": 8.8, "finetune": 8.3, "sampling": 8.9},
    (16, 1024): {"embeddings": 11.1, "finetune": 10.1, "sampling": 10.9},
    (24, 1024): {"embeddings": 15.9, "finetune": 10.1, "sampling": 16.0},  # the text encoder beside them
    (48, 1024): {"embeddings": 15.9, "finetune": 10.1, "sampling": 16.0},
}
SETTINGS = Settings(embedding_steps=1, finetune_steps=1, sampling_steps=1, seeds=(0, 1))


@pytest.mark.parametrize(("gib", "side"), PEAKS)
def test_an_edit_takes_what_is_predicted(gib: int, side: int):
    with fake_card(gib) as card, one_thread():
        models = flux2_klein(device_profile("cuda"), side)
        assert models.profile.checkpointing and models.checkpoints(1) and models.defaults.tune == "lora"
        assert (models.family.encoder_device is None) == (gib > 16)
        with Log(card).running() as log:
            result = Editor(models).run(edit_of_noise(side), SETTINGS, log)
        assert set(result.stages.values()) == {"run"} and not result.warnings
        assert [image.size for image in result.images] == [(side, side)] * 2
        for stage, most in PEAKS[gib, side].items():
            assert 0.8 * most < log.peaks[stage] <= most, stage
        need, most = Editor(models).need(SETTINGS), max(log.peaks.values())
        assert most <= (need.bytes - CONTEXT - CLIP - models.profile.segmenter_bytes) / GIB <= 1.15 * most
        assert need.fits


def test_all_weights_are_refused_and_the_compared_methods_mix_no_devices_or_types():
    with fake_card(16) as card, one_thread():
        models = flux2_klein(device_profile("cuda"), 512)
        editor, edit = Editor(models), edit_of_noise(512)
        with pytest.raises(SettingsError, match="3.9 billion weights of FLUX.2 klein base that takes about 74 GB"):
            editor.run(edit, Settings(tune="full"))
        few = {"sdedit": {}, "imagic": {"embedding_steps": 1, "finetune_steps": 1}, "klein_picture": {}}
        for method, changes in few.items():
            options = options_for(method, models, **changes)
            with Log(card).running() as log:
                result = editor.run(edit, SETTINGS, log, method=method, options=options)
            assert len(result.images) == 2 and max(log.peaks.values()) < 11
