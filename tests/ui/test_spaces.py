"""ZeroGPU, with a stand-in that forks and pickles: what a GPU call gets, what comes back, and where it is cached."""

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from serving import photo
from zero_gpu import FACTOR, Spaces

from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.engine import FittedEmbeddings, TunedWeights
from layerdiffusion.errors import EditError, MaskError, SettingsError
from layerdiffusion.progress import Cancelled
from layerdiffusion.settings import PAPER, Settings, preset
from layerdiffusion.ui.backend import Backend
from layerdiffusion.ui.options import PageOptions
from layerdiffusion.ui.spaces import LEAST, MOST, SETUP, SLACK, UNIT, VISITOR, booked, quota_sentence, split

ROOT = Path(__file__).resolve().parents[2]
LONG = Settings(embedding_steps=400)  # some seconds of stage 1


@pytest.fixture(scope="module")
def lent(page_model) -> Iterator[tuple[Spaces, Backend]]:
    with pytest.MonkeyPatch.context() as patch:
        spaces = Spaces().install(patch)
        backend = Backend(PageOptions(model=str(page_model), offline=True, compile=True))
        backend.start()
        assert backend.ready, "on ZeroGPU it is loaded before the first request"
        yield spaces, backend
        spaces.kill()


@pytest.fixture
def spaces(lent) -> Spaces:
    """As it is after the start."""
    spaces, backend = lent
    spaces.kill()
    spaces.forks, spaces.calls, spaces.workers, spaces.left = 0, [], {}, float("inf")
    backend.editor.clear_cache()
    backend.editor.cache.assume(UNIT)
    return spaces


@pytest.fixture
def backend(lent, spaces) -> Backend:
    return lent[1]


def visit(seed: int) -> Edit:
    mask = np.zeros((48, 48), bool)
    mask[12:36, 12:36] = True
    return Edit(object_image=photo(48, 48, seed), object_mask=mask, prompt="a dog in the snow", background="keep")


def run(backend: Backend, edit: Edit, settings: Settings | None = None):
    *_, (kind, result) = backend.run(edit, settings or Settings(), threading.Event())
    assert kind == "done"
    return result


def dry_run(backend: Backend, name: str, pass_seconds: float) -> list[int]:
    """What a first edit by a preset with Stable Diffusion's own numbers of steps would book."""
    stages = backend.editor.missing(visit(1), preset(name, replace(PAPER, tune="lora")))
    return [booked(each, {"embeddings": pass_seconds}) for each in split(stages)]


def test_a_strangers_first_edit_fits_the_quota_of_a_day_with_what_it_is_charged(backend):
    bookings = dry_run(backend, "quick", UNIT)
    assert min(bookings) >= LEAST and max(bookings) <= 60 and sum(bookings) <= 75
    charges = [FACTOR * seconds for seconds in bookings]
    print(*(f"{booked} s booked, {cost} s charged" for booked, cost in zip(bookings, charges, strict=True)), sep="\n")
    assert sum(charges) <= 115 < VISITOR == 120
    page = (ROOT / "layerdiffusion/ui/README.md").read_text(encoding="utf-8")
    rows = dict(zip(("stages 1 and 2", "stage 3"), zip(bookings, charges, strict=True), strict=True))
    rows["a first edit"] = sum(bookings), sum(charges)
    for row, (seconds, cost) in rows.items():
        assert f"| {row} | {seconds} s | {cost:.0f} s |" in page


def test_more_steps_and_slower_passes_book_more_up_to_the_longest_call(backend):
    assert dry_run(backend, "paper", UNIT)[0] > dry_run(backend, "quick", UNIT)[0]
    assert dry_run(backend, "paper", 10 * UNIT) == [MOST, round(SETUP + SLACK * 50 * 2 * 4 * 10 * UNIT)]
    assert dry_run(backend, "quick", 1e-6) == [LEAST, LEAST]


def test_nothing_is_compiled_where_torch_compile_is_not_available(backend):
    assert backend.options.compile and not backend.editor.models.profile.compile


def test_what_an_edit_costs_is_said_beside_what_a_visitor_has():
    assert quota_sentence([]) == ""
    sentence = quota_sentence([43, 10])
    assert "53 seconds of GPU time (43 + 10), which count as 79; without an account you have 120 a day" in sentence
    assert "which count as 121, more than the 120 a day" in quota_sentence([59, 22])
    assert "log in" in quota_sentence([59, 22]) and "300" not in quota_sentence([59, 22])
    assert "choose Quick" in quota_sentence([190, 22]) and "2400" in quota_sentence([190, 22])


def test_the_dials_open_with_the_quick_settings_and_no_gpu_is_booked_for_it(backend, spaces):
    assert backend.opening() == preset("quick", backend.model_defaults()) and backend.opening().tune == "lora"
    backend.check(preset("paper", backend.model_defaults()))  # can be run: it trains LoRA as well
    assert not spaces.calls and not spaces.forks


def test_visitors_share_a_worker_and_the_cache_is_here(backend, spaces):
    first, second = visit(1), visit(2)
    assert len(backend.bookings(first, Settings())) == 2 and not spaces.calls
    result = run(backend, first)
    ((inherited, _),) = spaces.ask(what_the_worker_holds)
    training, sampling = spaces.calls
    assert len(training.given) == 2 and len(sampling.given) == 1
    given = {type(value) for value in sampling.given[0].inputs.values()}
    assert given == {FittedEmbeddings, TunedWeights, tuple, int, float, str}, "it got what it needs"
    alone = Editor(backend.editor.models).run(first, backend.opening())
    assert [np.array_equal(a, b) for a, b in zip(result.images, alone.images, strict=True)] == [True, True]
    assert result.losses == alone.losses

    again = run(backend, first, Settings(seeds=(7,)))
    assert again.stages == {"embeddings": "reuse", "finetune": "reuse", "sampling": "run"} and len(spaces.calls) == 3
    assert run(backend, first).stages["sampling"] == "reuse" and len(spaces.calls) == 3
    before, late = spaces.forks, visit(3)
    run(backend, late)
    run(backend, second)
    assert spaces.forks == before == 1, "the same worker"
    ((cached, pictures),) = spaces.ask(what_the_worker_holds)
    assert cached == inherited and late.object_image.tobytes() not in pictures


def what_the_worker_holds() -> Iterator[tuple[int, list[bytes]]]:
    """Bytes in the caches of editors, and every picture."""
    gc.collect()
    everything = gc.get_objects()
    editors = [each for each in everything if type(each) is Editor]  # no isinstance: lazy modules would load
    yield sum(each.cache_size for each in editors), [p.tobytes() for p in everything if type(p) is Image.Image]


def test_clicks_book_nothing(backend, spaces):
    backend.candidates(np.array(photo(48, 48, 9)), [(20, 20)], None, None)
    assert not spaces.calls


def test_bookings_follow_the_speed_that_was_seen(backend, spaces):
    settings = Settings(embedding_steps=20, finetune_steps=0, seeds=(0,))
    backend.editor.cache.assume(10.0)
    assert backend.bookings(visit(1), settings)[0] == MOST
    run(backend, visit(2), settings)
    assert spaces.calls[0].seconds == MOST > backend.bookings(visit(1), settings)[0]


def test_an_edit_beyond_the_quota_is_refused_in_the_hubs_words_and_what_is_done_stays(backend, spaces):
    training, sampling = backend.bookings(visit(1), Settings())
    spaces.left = FACTOR * (training + sampling) - 1
    with pytest.raises(gr.Error, match="exceeded your GPU quota"):
        run(backend, visit(1))
    spaces.left = FACTOR * sampling
    assert run(backend, visit(1)).stages["finetune"] == "reuse" and spaces.left == 0


def test_cancel_ends_the_call_and_the_worker_serves_on(backend, spaces):
    cancel = threading.Event()
    events = backend.run(visit(1), LONG, cancel)
    next(events)
    cancel.set()
    with pytest.raises(Cancelled):
        list(events)
    run(backend, visit(1))
    assert spaces.forks == 1


def test_what_is_wrong_comes_back_in_its_own_words(backend, spaces):
    tiny = Edit(
        object_image=photo(48, 48), object_mask=np.eye(48, dtype=bool) & (np.arange(48) == 3), prompt="a dog on ice"
    )
    with pytest.raises(MaskError, match="too small"):
        run(backend, tiny)
    with pytest.raises(EditError, match="no words"):
        list(backend.generate(" ", (0,), Settings(), (48, 48), None))
    with pytest.raises(SettingsError, match="LoRA"):
        run(backend, visit(1), Settings(tune="full"))
    assert not spaces.calls, "all of it is known beforehand"


def test_a_worker_that_dies_costs_its_call_and_nothing_else(backend, spaces):
    edit = visit(1)
    events = backend.run(edit, Settings(finetune_steps=2000), threading.Event())
    for kind, steps in events:
        if kind == "progress" and any(step.stage == "finetune" for step in steps):
            spaces.kill()
            break
    with pytest.raises(EditError, match="press Run again"):
        list(events)
    result = run(backend, edit)
    assert result.stages["embeddings"] == "reuse" and spaces.forks == 2
