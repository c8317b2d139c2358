"""Every method gives the same kind of result, from the same caches, and leaves the model alone."""

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import QUICK

from layerdiffusion import baselines
from layerdiffusion.baselines import LABELS, OWN, PAPERS, options_for, sdedit
from layerdiffusion.baselines.imagic import ImagicOptions
from layerdiffusion.baselines.pnp import PnPOptions
from layerdiffusion.baselines.sdedit import SDEditOptions
from layerdiffusion.edit import Placement
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError, SettingsError
from layerdiffusion.progress import Cancelled

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")

METHODS = (OWN, *PAPERS)
STAGES = {
    OWN: ["embeddings", "finetune", "sampling"],
    "sdedit": ["sampling"],
    "imagic": ["embeddings", "finetune", "sampling"],
    "pnp": ["inversion", "sampling"],
}
FEW = {
    OWN: {},
    "sdedit": {},
    "imagic": {"embedding_steps": 4, "embedding_lr": 1e-2, "finetune_steps": 3, "finetune_lr": 1e-3},
    "pnp": {"inversion_steps": 6, "noise_share": 0.2},
}


def few(name, models, **changes):
    return options_for(name, models, **FEW[name], **changes)


def pixels(result) -> list:
    return [np.asarray(image).tolist() for image in result.images]


@pytest.fixture
def untouched(either_models):
    """Every bit and every hook of the loaded network, compared after the test."""
    unet = either_models.unet
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    processors = {name: id(processor) for name, processor in unet.attn_processors.items()}
    yield
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert {name: id(processor) for name, processor in unet.attn_processors.items()} == processors
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    assert not unet.training and not any(parameter.requires_grad for parameter in unet.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_result_with_a_picture_a_seed_and_reports_its_stages(either_models, edit, untouched, name):
    events = []
    editor = Editor(either_models)
    result = editor.run(edit, QUICK, method=name, options=few(name, either_models), on_progress=events.append)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.seeds == (0, 1)
    first, second = pixels(result)
    assert first != second
    assert result.stages == dict.fromkeys(STAGES[name], "run")
    assert list(result.timings) == [*STAGES[name], "total"]
    assert list(dict.fromkeys(event.stage for event in events)) == STAGES[name]
    for stage in STAGES[name]:
        steps = [(event.step, event.steps) for event in events if event.stage == stage]
        assert steps == [(step, len(steps)) for step in range(1, len(steps) + 1)]
    assert events[-1].seconds_left == 0
    assert any(event.preview is not None for event in events)
    assert {stage: len(losses) for stage, losses in result.losses.items()} == (
        {"embeddings": 4, "finetune": 3} if "finetune" in STAGES[name] else {}
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_same_again_comes_from_the_cache_and_other_seeds_train_and_invert_nothing(tiny_v_models, edit, name):
    editor, options = Editor(tiny_v_models), few(name, tiny_v_models)
    first = editor.run(edit, QUICK, method=name, options=options)
    again = editor.run(edit, QUICK, method=name, options=options)
    assert set(again.stages.values()) == {"reuse"} and pixels(again) == pixels(first)
    assert again.edit_id == first.edit_id
    other = editor.run(edit, dataclasses.replace(QUICK, seeds=(1, 5)), method=name, options=options)
    assert [stage for stage, status in other.stages.items() if status == "run"] == ["sampling"]
    assert pixels(other)[0] == pixels(first)[1]  # a seed's picture does not depend on its company
    assert pixels(other)[1] not in pixels(first)


def test_another_alpha_of_imagics_or_share_of_plug_and_plays_trains_and_inverts_nothing(tiny_v_models, edit):
    editor = Editor(tiny_v_models)
    for name, dial, value in (("imagic", "alpha", 1.1), ("pnp", "attention_share", 1.0)):
        first = editor.run(edit, QUICK, method=name, options=few(name, tiny_v_models))
        second = editor.run(edit, QUICK, method=name, options=few(name, tiny_v_models, **{dial: value}))
        assert [stage for stage, status in second.stages.items() if status == "run"] == ["sampling"]
        assert pixels(second) != pixels(first)


def test_methods_share_nothing_in_the_caches_but_ours_is_what_the_editor_gives(tiny_v_models, edit):
    editor = Editor(tiny_v_models)
    alone = {
        name: Editor(tiny_v_models).run(edit, QUICK, method=name, options=few(name, tiny_v_models)) for name in METHODS
    }
    together = {name: editor.run(edit, QUICK, method=name, options=few(name, tiny_v_models)) for name in METHODS}
    assert all(pixels(together[name]) == pixels(alone[name]) for name in METHODS)
    assert all(set(result.stages.values()) == {"run"} for result in together.values())
    assert len({result.edit_id for result in together.values()}) == len(METHODS)
    assert pixels(editor.run(edit, QUICK)) == pixels(together[OWN])


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("last", [False, True])
def test_a_cancelled_method_ends_within_a_step_and_leaves_nothing_behind(either_models, edit, untouched, name, last):
    cancel, events = threading.Event(), []
    stop_in = STAGES[name][-1 if last else 0]

    def stop(event):
        events.append(event)
        if event.stage == stop_in and event.step == 2:
            cancel.set()

    editor = Editor(either_models)
    with pytest.raises(Cancelled):
        editor.run(edit, QUICK, method=name, options=few(name, either_models), on_progress=stop, cancel=cancel)
    assert (events[-1].stage, events[-1].step) == (stop_in, 2)
    result = editor.run(edit, QUICK, method=name, options=few(name, either_models))
    assert result.stages["sampling"] == "run" and len(result.images) == 2


@pytest.mark.parametrize("name", PAPERS)
def test_they_see_the_photo_as_it_was_given_or_the_layered_picture(tiny_v_models, edit, name, monkeypatch):
    edit = dataclasses.replace(edit, placement=Placement(scale=0.5, dx=0.1))
    encoded = []
    encode = type(tiny_v_models).encode
    monkeypatch.setattr(
        type(tiny_v_models), "encode", lambda self, image: (encoded.append(image), encode(self, image))[1]
    )
    photo = Editor(tiny_v_models).run(edit, QUICK, method=name, options=few(name, tiny_v_models))
    assert {image.tobytes() for image in encoded} == {edit.object_image.crop((8, 0, 72, 64)).tobytes()}
    encoded.clear()
    layered = Editor(tiny_v_models).run(edit, QUICK, method=name, options=few(name, tiny_v_models, source="composite"))
    assert {image.tobytes() for image in encoded} == {layered.layers.composite.tobytes()}
    assert pixels(layered) != pixels(photo)


def test_the_words_are_the_whole_prompt(tiny_v_models, edit, monkeypatch):
    asked = []
    embed = type(tiny_v_models).embed
    monkeypatch.setattr(
        type(tiny_v_models), "embed", lambda self, prompts: (asked.extend(prompts), embed(self, prompts))[1]
    )
    for name in PAPERS:
        Editor(tiny_v_models).run(edit, QUICK, method=name, options=few(name, tiny_v_models))
    assert set(asked) == {"a dog jumps on ice", None}  # None: no prompt


def test_a_background_to_be_generated_is_generated_once_for_all(tiny_v_models, edit):
    edit = dataclasses.replace(edit, background_image=None, background_mask=None, background="generate")
    editor, events = Editor(tiny_v_models), []
    results = [
        editor.run(edit, QUICK, method=name, options=few(name, tiny_v_models), on_progress=events.append)
        for name in METHODS
    ]
    generated = [event for event in events if event.stage == "background" and not event.reused]
    assert len(generated) == QUICK.sampling_steps
    assert len({result.layers.background_image.tobytes() for result in results}) == 1


def test_without_a_share_of_noise_every_seed_of_plug_and_play_is_one_picture(tiny_v_models, edit):
    options = PnPOptions(inversion_steps=6, noise_share=0.0)
    first, second = pixels(Editor(tiny_v_models).run(edit, QUICK, method="pnp", options=options))
    assert first == second


def test_a_result_saves_as_ours_does(tiny_v_models, edit, tmp_path):
    Editor(tiny_v_models).run(edit, QUICK, method="sdedit").save(tmp_path)
    assert {"seed-0.png", "seed-1.png", "contact.png", "edit.json"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("name", "stage"), [("sdedit", "sampling"), ("imagic", "embeddings"), ("pnp", "inversion")])
def test_numbers_that_are_not_finite_end_in_a_sentence_and_are_not_cached(
    tiny_v_models, edit, name, stage, monkeypatch
):
    editor = Editor(tiny_v_models)
    with monkeypatch.context() as broken:
        shape = (1, *tiny_v_models.latent_shape)
        broken.setattr(type(tiny_v_models), "encode", lambda self, image: torch.full(shape, torch.nan))
        with pytest.raises(EditError, match=f"The {stage} stage diverged"):
            editor.run(edit, QUICK, method=name, options=few(name, tiny_v_models))
    assert editor.run(edit, QUICK, method=name, options=few(name, tiny_v_models)).stages[stage] == "run"


NEW_BASELINE = """
from dataclasses import dataclass

from PIL import Image

from layerdiffusion.baselines import SHARE, BaselineOptions, option
from layerdiffusion.cache import Work, stage
from layerdiffusion.settings import SAMPLING


@dataclass(frozen=True)
class Options(BaselineOptions):
    brightness: float = option(0.5, SHARE)


def edit(task, run):
    picture = task.picture(task.options.source)
    seeds, brightness = task.settings.seeds, task.options.brightness
    return run(SAMPLING, brightened, picture=picture, brightness=brightness, seeds=seeds)


@stage(lambda seeds, **_: Work(1, len(seeds)))
def brightened(models, report, picture, brightness, seeds):
    return [picture.point(lambda level: int(level * brightness))] * len(seeds)
"""


def test_a_new_baseline_is_one_file_and_its_label(tiny_v_models, edit, tmp_path, monkeypatch):
    (tmp_path / "brightness.py").write_text(NEW_BASELINE)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    monkeypatch.setitem(LABELS, "brightness", "Brightness")
    editor = Editor(tiny_v_models)
    with pytest.raises(SettingsError, match="brightness must be a number from 0 to 1"):
        options_for("brightness", tiny_v_models, brightness=2)
    options = options_for("brightness", tiny_v_models, brightness=0.0)
    result = editor.run(edit, QUICK, method="brightness", options=options)
    assert not np.asarray(result.images[0]).any() and result.stages == {"sampling": "run"}
    assert editor.run(edit, QUICK, method="brightness", options=options).stages == {"sampling": "reuse"}


# Options


def test_the_defaults_are_the_published_ones_and_the_models_own_where_those_are_its_own(tiny_models):
    assert options_for("sdedit", tiny_models) == SDEditOptions(strength=0.8, source="photo")
    assert options_for(OWN, tiny_models) is None
    assert options_for("imagic", tiny_models) == ImagicOptions(
        alpha=0.7, embedding_steps=500, embedding_lr=1e-3, finetune_steps=1000, finetune_lr=2e-6
    )
    pnp = options_for("pnp", tiny_models)
    assert (pnp.feature_share, pnp.attention_share, pnp.source) == (0.8, 0.5, "photo")


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("p2p", {}, "method is 'p2p': it must be layerdiffusion, imagic, klein_picture, pnp or sdedit."),
        ("sdedit", {"alpha": 0.5}, "sdedit has no option alpha; it has source, strength."),
        (OWN, {"alpha": 0.5}, "layerdiffusion has no option alpha; its dials are settings of the edit."),
        ("sdedit", {"strength": 1.5}, "strength must be a number from 0 to 1, not 1.5."),
        ("sdedit", {"strength": None}, "strength must be a number from 0 to 1, not None."),
        ("imagic", {"finetune_steps": 2.5}, "finetune_steps must be a whole number from 0 to 2000, not 2.5."),
        ("pnp", {"feature_share": "all"}, "feature_share must be a number from 0 to 1, not 'all'."),
        ("pnp", {"source": "sketch"}, "source is 'sketch': it must be photo or composite."),
    ],
)
def test_what_is_not_an_option_is_refused_in_a_sentence(tiny_models, name, changes, sentence):
    with pytest.raises(SettingsError) as refused:
        options_for(name, tiny_models, **changes)
    assert str(refused.value) == sentence


def test_another_methods_options_are_refused(tiny_models, edit):
    for name in METHODS:
        with pytest.raises(SettingsError, match=f"The options of {name} are not"):
            Editor(tiny_models).run(
                edit, QUICK, method=name, options=PnPOptions() if name != "pnp" else SDEditOptions()
            )
    with pytest.raises(SettingsError, match="method is 'magic'"):
        Editor(tiny_models).run(edit, QUICK, method="magic")


def test_a_new_baseline_is_one_file(tmp_path, tiny_v_models, edit, monkeypatch):
    """A copy of SDEdit under another name runs by it, and is called what its docstring begins with."""
    text = Path(sdedit.__file__).read_text("utf-8").replace('"""SDEdit (', '"""Half the Noise (', 1)
    (tmp_path / "half.py").write_text(text.replace("option(0.8, SHARE)", "option(0.5, SHARE)"))
    assert baselines._labels(tmp_path) == {"half": "Half the Noise"}
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    monkeypatch.setitem(baselines.LABELS, "half", "Half the Noise")
    half = Editor(tiny_v_models).run(edit, QUICK, method="half", options=options_for("half", tiny_v_models))
    same = Editor(tiny_v_models).run(
        edit, QUICK, method="sdedit", options=options_for("sdedit", tiny_v_models, strength=0.5)
    )
    assert pixels(half) == pixels(same)
