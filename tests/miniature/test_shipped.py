"""What is shipped in assets/miniature opens with each library's own loader, and is trained: chance would fail."""

import json

import numpy as np
import pytest
import torch

from layerdiffusion.miniature.data import psnr, scenes, to_tensor
from layerdiffusion.miniature.world import HELD_OUT_SEEDS
from layerdiffusion.models._torchvision import ensure_torchvision
from layerdiffusion.models.load import MINIATURE

ensure_torchvision()  # before diffusers and transformers


def shipped(part: str):
    """Skips a test whose part is not in assets/miniature."""
    there = (MINIATURE / part).exists()
    return pytest.mark.skipif(not there, reason=f"assets/miniature/{part} is not in this checkout")


@pytest.fixture(scope="module")
def unseen():
    """Scenes of seeds no training draws from, of any combination."""
    return scenes(72, HELD_OUT_SEEDS + 500_000, unseen=None)


@pytest.fixture(scope="module")
def judge():
    from layerdiffusion.miniature.judge import load_judge

    return load_judge(MINIATURE / "judge")


@shipped("judge/config.json")
def test_the_judge_names_what_is_drawn(judge, unseen):
    from layerdiffusion.miniature.judge import accuracy

    shares = accuracy(judge, unseen)
    assert min(shares.values()) > 0.9, shares


@shipped("judge/config.json")
def test_the_judge_judges_pictures_of_any_size(judge, unseen):
    from PIL import Image

    large = [Image.fromarray(image).resize((512, 512), Image.Resampling.BICUBIC) for image in unseen.images[:16]]
    found = judge(large)
    drawn = unseen.attributes[:16]
    assert np.mean([f["place"] == d["place"] for f, d in zip(found, drawn, strict=True)]) > 0.9
    assert np.mean([f["pose"] == d["pose"] for f, d in zip(found, drawn, strict=True)]) > 0.8


@shipped("sam/config.json")
def test_a_click_finds_the_subject_and_the_iou_is_predicted(unseen):
    from layerdiffusion.miniature.segmenter import figures
    from layerdiffusion.models.sam import load_sam

    two = scenes(10, HELD_OUT_SEEDS + 600_000, subjects=2, unseen=None)
    one = type(unseen)(unseen.images[:14], unseen.masks[:14], unseen.attributes[:14])
    found = figures(load_sam("miniature"), one, two)
    assert found["one_click"] > 0.8
    assert found["three_clicks"] > 0.85
    assert found["box"] > 0.8
    assert found["right_subject"] > 0.8
    assert found["taken_away"] > 0.7
    assert found["iou_error"] < 0.15


@shipped("clip/config.json")
def test_the_clip_score_prefers_the_right_caption(unseen):
    from transformers import CLIPModel, CLIPProcessor

    from layerdiffusion.miniature.clip import figures

    clip = CLIPModel.from_pretrained(MINIATURE / "clip", dtype=torch.float32).eval()
    found = figures(clip, CLIPProcessor.from_pretrained(MINIATURE / "clip"), unseen)
    assert found["first_of_64"] > 0.7
    assert min(found[key] for key in ("animal", "place", "pose", "paint")) > 0.75, found


@shipped("vae/config.json")
def test_the_autoencoder_gives_pictures_back(unseen):
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(MINIATURE / "vae", torch_dtype=torch.float32).eval()
    wanted = to_tensor(unseen.images[:16])
    with torch.no_grad():
        found = vae.decode(vae.encode(wanted).latents).sample.clamp(-1, 1)
    assert psnr(found, wanted) > 25
    assert psnr(found, wanted, torch.from_numpy(unseen.masks[:16, 0])) > 22


@shipped("model_index.json")
def test_captions_become_the_pictures_they_describe(judge):
    """Chance would have 1 animal in 12, 1 place in 8, 1 pose in 4 right."""
    from diffusers import StableDiffusionPipeline

    from layerdiffusion.miniature.captions import join, phrase
    from layerdiffusion.miniature.measures import random_attributes

    pipeline = StableDiffusionPipeline.from_pretrained(MINIATURE, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    wanted = random_attributes(8, False, 123)
    generator = torch.Generator().manual_seed(0)
    captions = [join(*phrase(attributes)) for attributes in wanted]
    images = pipeline(captions, num_inference_steps=10, guidance_scale=3.0, generator=generator).images
    found = judge(images)
    right = {key: np.mean([f[key] == w[key] for f, w in zip(found, wanted, strict=True)]) for key in wanted[0]}
    assert right["place"] > 0.7, right
    assert right["pose"] > 0.7, right
    assert right["animal"] > 0.6, right
    assert images[0].size == (128, 128)


@shipped("model_index.json")
def test_every_file_is_small_enough_to_be_kept_in_the_repository():
    sizes = {str(file.relative_to(MINIATURE)): file.stat().st_size for file in MINIATURE.rglob("*") if file.is_file()}
    assert max(sizes.values()) < 10e6, max(sizes, key=sizes.get)
    assert sum(sizes.values()) <= 60e6


@shipped("README.md")
def test_the_cards_snippet_runs_as_printed(monkeypatch):
    """But for the number of steps, which it leaves to the pipeline."""
    from diffusers import StableDiffusionPipeline

    card = (MINIATURE / "README.md").read_text(encoding="utf-8")
    snippet = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(MINIATURE.parents[1])
    whole = StableDiffusionPipeline.__call__
    monkeypatch.setattr(
        StableDiffusionPipeline, "__call__", lambda *args, **options: whole(*args, num_inference_steps=2, **options)
    )
    *lines, last = snippet.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines), names)
    assert eval(last, names).size == (128, 128)


@shipped("README.md")
def test_the_model_card_has_the_recorded_figures():
    from layerdiffusion.miniature.measures import recorded

    card = (MINIATURE / "README.md").read_text(encoding="utf-8")
    figures = recorded(MINIATURE)
    assert figures
    for figure in figures:
        assert f"| {figure.name} | {figure.formatted(figure.value)} |" in card


@shipped("unet/training.json")
def test_each_part_says_what_its_training_took():
    for part in ("vae", "unet", "sam", "clip", "judge"):
        facts = json.loads((MINIATURE / part / "training.json").read_text(encoding="utf-8"))
        assert facts["steps"] > 0 and facts["minutes"] > 0 and facts["machine"]
        losses = [loss for *_, loss in facts["losses"]]
        assert losses[-1] < losses[0]
