"""The compared methods on FLUX.2 klein: which apply, which say that they don't, and klein's own editing."""

import numpy as np
import pytest
from diffusers import Flux2KleinPipeline
from tiny import QUICK

from layerdiffusion.baselines import BASELINES, OWN, PAPERS, options_for, suited
from layerdiffusion.editor import Editor
from layerdiffusion.engine import initial_latents
from layerdiffusion.errors import SettingsError
from layerdiffusion.settings import Settings

FEW = Settings(seeds=(0, 1), sampling_steps=4, shape="square")
IMAGIC = {"embedding_steps": 2, "finetune_steps": 2}


def pixels(result) -> np.ndarray:
    return np.stack([np.asarray(image, float) for image in result.images])


def test_each_family_has_the_methods_that_apply_to_it(tiny_models, tiny_klein_models):
    assert suited(tiny_models) == list(PAPERS)
    assert suited(tiny_klein_models) == ["imagic", "klein_picture", "sdedit"]
    assert BASELINES["klein_picture"] == "FLUX.2 klein's own editing"


@pytest.mark.parametrize(("method", "why"), [("pnp", "its features are those of a UNet's decoder")])
def test_plug_and_play_says_that_it_doesnt_apply(tiny_klein_models, edit, method, why):
    for call in (
        lambda: options_for(method, tiny_klein_models),
        lambda: Editor(tiny_klein_models).run(edit, FEW, method=method),
    ):
        with pytest.raises(SettingsError, match=f"Plug-and-Play doesn't apply: {why}.* choose another method"):
            call()


def test_kleins_own_editing_says_that_it_doesnt_apply_to_stable_diffusion(tiny_models, edit):
    with pytest.raises(SettingsError, match="Stable Diffusion 1.x takes no picture beside the noisy one"):
        Editor(tiny_models).run(edit, QUICK, method="klein_picture")


@pytest.mark.parametrize("method", ["sdedit", "imagic"])
def test_the_others_carry_over(tiny_klein_models, edit, method):
    editor = Editor(tiny_klein_models)
    options = options_for(method, tiny_klein_models, **(IMAGIC if method == "imagic" else {}))
    result = editor.run(edit, FEW, method=method, options=options)
    assert len({image.tobytes() for image in result.images}) == 2
    assert set(editor.run(edit, FEW, method=method, options=options).stages.values()) == {"reuse"}


def test_sdedit_without_strength_is_the_photo(tiny_klein_models, edit):
    editor = Editor(tiny_klein_models)
    options = options_for("sdedit", tiny_klein_models, strength=0.0)
    result = editor.run(edit, FEW, method="sdedit", options=options)
    photo = tiny_klein_models.decode(tiny_klein_models.encode(result.layers.object_image))[0]
    assert np.abs(pixels(result)[0] - np.asarray(photo, float)).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_kleins_own_editing_is_the_pipelines_with_an_image(tiny_klein_models, tiny_klein_folder, edit, guidance):
    result = Editor(tiny_klein_models).run(
        edit, Settings(seeds=(3,), sampling_steps=4, shape="square", guidance_scale=guidance), method="klein_picture"
    )
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein_folder)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=result.layers.object_image,
        prompt=edit.prompt,
        latents=initial_latents([3], (16, 4, 4)),
        num_inference_steps=4,
        guidance_scale=guidance,
    ).images[0]
    assert np.abs(pixels(result)[0] - np.asarray(expected, float)).max() <= 2
    plain = pipeline(
        prompt=edit.prompt, latents=initial_latents([3], (16, 4, 4)), height=64, width=64, num_inference_steps=4,
        guidance_scale=guidance,
    ).images[0]  # fmt: skip
    assert np.abs(pixels(result)[0] - np.asarray(plain, float)).max() > 4


def test_a_comparison_shares_nothing_with_ours(tiny_klein_models, edit):
    editor = Editor(tiny_klein_models)
    few = Settings(**{**FEW.to_dict(), "embedding_steps": 2, "finetune_steps": 2})
    made = {name: editor.run(edit, few, method=name) for name in (OWN, "klein_picture", "sdedit")}
    assert len({result.edit_id for result in made.values()}) == 3
