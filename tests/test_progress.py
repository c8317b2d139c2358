"""An edit is seen at every step, stopped within one, and never left half done."""

import dataclasses
import threading
from types import SimpleNamespace

import pytest
from runs import EVERYTHING, Steps, quick, same_pictures

from layerdiffusion import progress
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.models.oom import OutOfMemory
from layerdiffusion.models.tuning import TunedNetwork
from layerdiffusion.progress import Cancelled

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


def test_every_step_is_reported_with_its_loss_and_the_time_left(editor, edit):
    steps = Steps()
    result = editor.run(edit, quick(), on_progress=steps)
    assert [(event.stage, event.step, event.steps) for event in steps.events] == [
        *(("embeddings", step, 4) for step in range(1, 5)),
        *(("finetune", step, 3) for step in range(1, 4)),
        *(("sampling", step, 6) for step in range(1, 7)),
    ]
    losses = [event.loss for event in steps.events]
    assert losses == [*result.losses["embeddings"], *result.losses["finetune"], *[None] * 6]
    assert all(event.seconds_left > 0 for event in steps.events[:-1])
    assert steps.events[-1].seconds_left == 0
    previews = [event.preview for event in steps.events if event.preview]
    assert 3 <= len(previews) <= 6
    assert previews[0].size == (64, 64)


def test_the_time_left_counts_the_stages_to_come(fast_editor, edit, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    steps = Steps(lambda event: clock.append(clock.pop() + 1))  # a second each
    settings = quick(embedding_steps=10, finetune_steps=10, sampling_steps=10)
    fast_editor.run(edit, settings, on_progress=steps)
    steps.events.clear()
    fast_editor.run(edit, dataclasses.replace(settings, training_seed=1), on_progress=steps)
    assert steps.events[4].seconds_left == pytest.approx(25, rel=0.25)


@pytest.mark.parametrize("stage", ["embeddings", "finetune", "sampling"])
def test_cancel_stops_within_a_step_and_keeps_the_finished_stages(editor, edit, weights_before, stage):
    cancel = threading.Event()
    steps = Steps(lambda event: cancel.set() if (event.stage, event.step) == (stage, 2) else None)
    with pytest.raises(Cancelled) as error:
        editor.run(edit, quick(), on_progress=steps, cancel=cancel)
    assert isinstance(error.value, EditError)
    assert steps.events[-1].stage == stage
    assert steps.events[-1].step == 2

    finished = list(EVERYTHING)[: list(EVERYTHING).index(stage)]
    assert editor.plan(edit, quick()) == EVERYTHING | dict.fromkeys(finished, "reuse")
    cancel.clear()
    resumed = editor.run(edit, quick(), cancel=cancel)
    assert same_pictures(resumed, Editor(editor.models).run(edit, quick()))


def test_an_edit_cancelled_beforehand_takes_no_step(fast_editor, edit):
    cancel, steps = threading.Event(), Steps()
    cancel.set()
    with pytest.raises(Cancelled):
        fast_editor.run(edit, quick(), on_progress=steps, cancel=cancel)
    assert steps.events == []


@pytest.mark.parametrize("how", ["full", "lora"])
def test_the_pristine_model_survives_success_exceptions_and_no_memory(editor, edit, weights_before, how):
    class Interrupted(Exception):
        pass

    def fail(error):
        def on_progress(event):
            if (event.stage, event.step) == ("finetune", 2):
                raise error

        return on_progress

    settings = quick(tune=how)
    with pytest.raises(Interrupted):
        editor.run(edit, settings, on_progress=fail(Interrupted()))
    with pytest.raises(OutOfMemory, match="memory") as error:
        editor.run(edit, settings, on_progress=fail(MemoryError()))
    assert isinstance(error.value, EditError) and "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="shapes"):
        editor.run(edit, settings, on_progress=fail(RuntimeError("shapes differ")))
    assert editor.plan(edit, settings) == EVERYTHING | {"embeddings": "reuse"}
    assert same_pictures(editor.run(edit, settings), Editor(editor.models).run(edit, settings))


@pytest.mark.parametrize("step", [1, 3])
def test_a_learning_rate_that_leads_nowhere_is_one_sentence(fast_editor, edit, weights_before_v, step):
    with pytest.raises(EditError, match="lower finetune_lr") as error:
        fast_editor.run(edit, quick(), on_progress=poison_the_copy_in_training("finetune", step))
    assert "\n" not in str(error.value)


def poison_the_copy_in_training(stage, step):
    """Turn the network in training into NaN, as a far too high learning rate would, by way of the frames above."""
    import sys

    def on_progress(event):
        if event.stage == stage and event.step == step:
            frame = sys._getframe()
            while not isinstance(frame.f_locals.get("network"), TunedNetwork):
                frame = frame.f_back
            next(frame.f_locals["network"].unet.parameters()).data.fill_(float("nan"))

    return on_progress


def test_two_threads_take_turns_and_get_what_each_would_get_alone(tiny_v_models, edit):
    shared, edits = Editor(tiny_v_models), [edit, edit.swapped()]
    seen, results = [], {}

    def run(index):
        results[index] = shared.run(edits[index], quick(), on_progress=lambda event: seen.append(index))

    threads = [threading.Thread(target=run, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    changes = sum(first != second for first, second in zip(seen, seen[1:], strict=False))
    assert changes == 1  # one after the other, never mixed
    for index in (0, 1):
        assert same_pictures(results[index], Editor(tiny_v_models).run(edits[index], quick()))


def test_whoever_waits_for_a_turn_can_cancel(fast_editor, edit):
    cancel = threading.Event()
    cancel.set()
    caught = []

    def impatient(event):
        if not caught:
            with pytest.raises(Cancelled, match="waited") as error:
                fast_editor.run(edit, quick(), cancel=cancel)
            caught.append(error)

    fast_editor.run(edit, quick(), on_progress=impatient)
    assert caught
