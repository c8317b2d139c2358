"""Precisions, batches, and stages without memory: stage 2 takes ways that need less, every other one gives advice."""

import copy
import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import Steps, pixels, quick, same_pictures
from tiny import QUICK

from layerdiffusion import engine
from layerdiffusion.editor import Editor
from layerdiffusion.engine import tuned_weights
from layerdiffusion.models.load import load_models
from layerdiffusion.models.oom import OutOfMemory, free_memory
from layerdiffusion.models.tuning import TunedNetwork
from layerdiffusion.progress import Reporter

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


@pytest.mark.parametrize(
    ("how", "failures", "ways", "note"),
    [
        ("full", 1, [("full", False), ("full", True)], "gradient checkpointing"),
        ("full", 2, [("full", False), ("full", True), ("lora", False)], "as LoRA"),
        ("lora", 1, [("lora", False), ("lora", True)], "gradient checkpointing"),
    ],
)
def test_a_stage_2_without_memory_runs_again_with_less_and_tells(
    tiny_v_models, edit, monkeypatch, how, failures, ways, note
):
    tried, left, freed = [], [failures], []

    class Short(TunedNetwork):
        """Out of memory at the second step, as often as is left."""

        def __init__(self, *args, **how):
            tried.append(("lora" if how["lora"] else "full", how["checkpointing"]))
            super().__init__(*args, **how)

        def optimizer_step(self, lr, steps, on_step=None):
            def out_of_memory_at_the_second_step(step):
                on_step(step)
                if step.index == 2 and left[0]:
                    left[0] -= 1
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

            return super().optimizer_step(lr, steps, out_of_memory_at_the_second_step)

    monkeypatch.setattr(engine, "TunedNetwork", Short)
    monkeypatch.setattr(engine, "free_memory", lambda error: freed.append(free_memory(error)))
    editor, events = Editor(tiny_v_models), []
    result = editor.run(edit, replace(QUICK, tune=how), on_progress=events.append)

    assert tried == ways and len(freed) == failures
    assert events[-1].note == ""
    events = [event for event in events if event.stage == "finetune"]
    assert [event.step for event in events] == [1, 2] * failures + [1, 2, 3]
    assert events[0].note == "" and note in events[-1].note
    assert result.warnings == (events[-1].note,) and len(result.losses["finetune"]) == 3
    assert (
        editor.run(edit, replace(QUICK, tune=how, seeds=(7,))).warnings == result.warnings
    )  # the weights come from the cache
    plain = Editor(tiny_v_models).run(edit, replace(QUICK, tune=ways[-1][0]))
    for ours, expected in zip(result.images, plain.images, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(expected)).max() <= 1


def test_training_that_goes_on_from_tuned_weights_does_not_become_lora(tiny_v_models):
    tried = []

    def train(network):
        tried.append(network.checkpointing)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    start = {"conv_in.weight": tiny_v_models.unet.conv_in.weight}
    with pytest.raises(torch.OutOfMemoryError):
        tuned_weights(tiny_v_models, Reporter({}, {}, None, None), train, tune="full", seed=0, start=start)
    assert tried == [False, True]


@pytest.mark.parametrize("stage", ["embeddings", "sampling"])
def test_the_advice_of_a_stage_without_memory_is_its_own(tiny_v_models, edit, stage):
    def fail(event):
        if event.stage == stage:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(OutOfMemory, match=f"The {stage} stage needs more memory than there is; ") as error:
        Editor(tiny_v_models).run(edit, replace(QUICK), on_progress=fail)
    assert ("lower draws" in str(error.value)) == (stage == "embeddings") and "lora" not in str(error.value)


def test_a_batch_of_seeds_without_memory_is_halved(tiny_v_models, edit):
    settings, failed = replace(QUICK, seeds=(0, 1, 2), embedding_steps=0, finetune_steps=0), []

    def fail(event):
        if event.step == 2 and not failed:
            failed.append(event)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    plain = Editor(tiny_v_models).run(edit, settings)
    halved = Editor(tiny_v_models).run(edit, settings, on_progress=fail)
    assert failed and len(halved.images) == 3
    for ours, expected in zip(halved.images, plain.images, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(expected)).max() <= 1


def test_seeds_beyond_what_a_device_holds_are_sampled_in_parts_and_are_the_same(tiny_v_models, edit):
    few = dataclasses.replace(tiny_v_models, profile=dataclasses.replace(tiny_v_models.profile, batch=2))
    settings, steps = quick(seeds=(0, 1, 2, 3, 4)), Steps()
    whole = Editor(tiny_v_models).run(edit, settings)
    parts = Editor(few).run(edit, settings, on_progress=steps)
    sampling = [event for event in steps.events if event.stage == "sampling"]
    assert [event.step for event in sampling] == list(range(1, 19))
    for ours, expected in zip(pixels(parts), pixels(whole), strict=True):
        assert abs(ours.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_lower_precision_gives_nearly_the_same_losses_and_whole_pictures(tiny_v_folder, edit, dtype, how):
    settings = quick(tune=how, draws=1)  # where memory is short the default is more
    full = Editor(load_models(tiny_v_folder, "cpu", "float32")).run(edit, settings)
    half = Editor(load_models(tiny_v_folder, "cpu", dtype, low_memory=True)).run(edit, settings)
    assert half.losses != full.losses
    for stage in ("embeddings", "finetune"):
        assert half.losses[stage] == pytest.approx(full.losses[stage], rel=0.05)
    difference = np.abs(np.stack(pixels(half)).astype(int) - np.stack(pixels(full)).astype(int))
    assert difference.mean() < 12


@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_device_that_keeps_weights_in_half_precision_trains_from_the_float32_ones(tiny_v_models, edit, how):
    """As on a CUDA device: the network that runs is float16, the one that stage 2 starts from is float32."""
    half = torch.float16
    profile = dataclasses.replace(
        tiny_v_models.profile, precision=half, training_precision=torch.bfloat16, weights=half
    )
    unet = copy.deepcopy(tiny_v_models.master).to(half)
    before = copy.deepcopy(unet.state_dict())
    models = dataclasses.replace(tiny_v_models, unet=unet, profile=profile)

    editor, settings = Editor(models), quick(tune=how, finetune_steps=8)
    result = editor.run(edit, settings)

    full = Editor(tiny_v_models).run(edit, settings)
    assert result.losses["finetune"][:3] == pytest.approx(full.losses["finetune"][:3], rel=0.05)
    assert not same_pictures(result, editor.run(edit, quick(finetune_steps=0)))
    assert same_pictures(result, Editor(models).run(edit, settings))
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
