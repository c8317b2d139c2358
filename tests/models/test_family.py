"""What SDXL's words become, and that the three stages carry every part of it, beside diffusers' own pipeline."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tiny import QUICK, TOKENS, WIDTH, XL_POOLED, XL_WIDTH, save_tiny_xl, tiny_vae

from layerdiffusion import method
from layerdiffusion.editor import Editor
from layerdiffusion.engine import frozen_denoiser, initial_latents
from layerdiffusion.errors import SettingsError
from layerdiffusion.method.embeddings import embedding_loss
from layerdiffusion.method.layerdiffusion import embed_prompts
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.load import _for_xl, _vae_dtype, load_models
from layerdiffusion.models.memory import check_need
from layerdiffusion.models.parts import window_size
from layerdiffusion.progress import Reporter

PARTS = ("prompt_embeds", "pooled_prompt_embeds")


@pytest.fixture(scope="module")
def pipeline(tiny_xl_models):
    models = tiny_xl_models
    pipeline = StableDiffusionXLPipeline(
        unet=models.unet, vae=models.vae, scheduler=models.scheduler, **models.family.parts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("prompt", ["a dog jumps", "a dog " * 30], ids=["short", "longer than the encoders read"])
def test_prompts_are_encoded_as_the_pipeline_encodes_them(tiny_xl_models, pipeline, prompt):
    ours = tiny_xl_models.embed([prompt, None, ""])
    theirs = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=True)
    plain_empty = pipeline.encode_prompt("", device="cpu", do_classifier_free_guidance=False)
    assert ours.prompt_embeds.shape == (3, TOKENS, WIDTH + XL_WIDTH)
    assert ours.pooled_prompt_embeds.shape == (3, XL_POOLED)
    torch.testing.assert_close(ours.prompt_embeds[:2], torch.cat(theirs[:2]))
    torch.testing.assert_close(ours.pooled_prompt_embeds[:2], torch.cat(theirs[2:]))
    assert not ours.prompt_embeds[1].any() and not ours.pooled_prompt_embeds[1].any()  # zeros for no prompt ...
    torch.testing.assert_close(ours.prompt_embeds[2:], plain_empty[0])  # ... and its embedding for an empty one
    assert bool(tiny_xl_models.prompt_warnings([prompt])) == (len(prompt) > TOKENS)


def test_no_prompt_is_the_empty_one_where_the_model_does_not_force_zeros(tmp_path):
    models = load_models(save_tiny_xl(tmp_path, force_zeros_for_empty_prompt=False), "cpu", "float32")
    both = models.embed([None, ""])
    assert both.prompt_embeds.any()
    for part in both.tensors.values():
        torch.testing.assert_close(part[0], part[1])


def test_words_are_checked_while_another_thread_embeds(tiny_models):
    prompts = ["a dog", "a dog jumps over a fence on ice"]
    wanted, warnings = tiny_models.embed(prompts), tiny_models.prompt_warnings(prompts)
    with ThreadPoolExecutor(1) as thread:
        embeds = thread.map(tiny_models.embed, [prompts] * 100)
        assert all(tiny_models.prompt_warnings(prompts) == warnings for _ in range(500))
        assert all(torch.equal(each.prompt_embeds, wanted.prompt_embeds) for each in embeds)


@pytest.mark.parametrize("window", [(8, 8), (8, 12)])
def test_untrained_its_latents_are_those_of_diffusers_pipeline(tiny_xl_models, pipeline, window):
    models = tiny_xl_models
    edit, other, none = (models.embed([words]) for words in ("a dog jumps", "not this", None))
    latents = initial_latents([3, 4], (4, *window))
    theirs = pipeline(
        prompt_embeds=edit.prompt_embeds.expand(2, -1, -1),
        pooled_prompt_embeds=edit.pooled_prompt_embeds.expand(2, -1),
        negative_prompt_embeds=none.prompt_embeds.expand(2, -1, -1),
        negative_pooled_prompt_embeds=none.pooled_prompt_embeds.expand(2, -1),
        latents=latents,
        height=8 * window[0],
        width=8 * window[1],
        num_inference_steps=12,
        guidance_scale=5.0,
        output_type="latent",
    ).images
    dials = {"steps": 12, "guidance_scale": 5.0, "schedule": "edit"}
    ours = method.sample(Denoiser(models.unet), models.scheduler, latents, other, edit, none, **dials)
    assert (ours - theirs).abs().max() <= 1e-4
    alternating = method.sample(
        Denoiser(models.unet), models.scheduler, latents, other, edit, none, **{**dials, "schedule": "alternate"}
    )
    assert (alternating - ours).abs().max() > 1e-3


def test_the_network_is_given_the_size_of_the_window_and_the_pooled_vector(tiny_xl_models):
    condition = tiny_xl_models.embed(["a dog", "on ice"])
    added = condition.arguments(torch.zeros(2, 4, 8, 12))["added_cond_kwargs"]
    assert added["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]] * 2
    assert torch.equal(added["text_embeds"], condition.pooled_prompt_embeds)


def plain_stage_1(models, latents, mask, prompts, steps, lr, generator):
    """§3.2.1 written out for SDXL: Adam on both embeddings and both pooled vectors."""
    start = models.embed(prompts)
    words, pooled = (getattr(start, name).clone().requires_grad_(True) for name in PARTS)
    optimizer = torch.optim.Adam([words, pooled], lr=lr)
    side = 8.0 * latents.shape[-1]
    time_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]] * 2)
    for _ in range(steps):
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(1000, (1,), generator=generator)
        level = models.scheduler.alphas_cumprod[t].view(1, 1, 1, 1)
        noisy = (level.sqrt() * latents + (1 - level).sqrt() * noise).expand(2, -1, -1, -1)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        predicted = models.unet(noisy, t, words, added_cond_kwargs=added).sample
        loss = ((mask * (noise - predicted)) ** 2).mean((1, 2, 3)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return words.detach(), pooled.detach()


def test_stage_1_fits_the_embeddings_and_the_pooled_vectors(tiny_xl_models, edit, seeded):
    models, prompts = tiny_xl_models, ["a dog jumps", "on ice"]
    latents, mask = torch.randn(1, 4, 8, 8, generator=seeded(5)), torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    start = models.embed(prompts)
    ours = method.optimize_embeddings(
        Denoiser(models.unet), models.scheduler, latents, mask, start, steps=10, lr=1e-3, generator=seeded(1)
    )
    saving = dataclasses.replace(models, profile=dataclasses.replace(models.profile, checkpoint_embeddings=True))
    f = frozen_denoiser(saving)
    assert f.unet.is_gradient_checkpointing and not models.unet.is_gradient_checkpointing
    checkpointed = method.optimize_embeddings(
        f, models.scheduler, latents, mask, start, steps=10, lr=1e-3, generator=seeded(1)
    )
    theirs = plain_stage_1(models, latents, mask, prompts, 10, 1e-3, seeded(1))
    for name, plain in zip(PARTS, theirs, strict=True):
        assert torch.equal(getattr(checkpointed, name), getattr(ours, name))
        assert (getattr(ours, name) - plain).abs().max() <= 1e-5
        assert (getattr(ours, name) - getattr(start, name)).abs().max() > 2e-3
    unfit = embed_prompts(models, Reporter({}, {}, None, None), tuple(prompts)).embeddings
    assert all(torch.equal(unfit.tensors[name], start.tensors[name]) for name in PARTS)


def test_no_gradient_comes_from_outside_the_mask(tiny_xl_models, seeded):
    models = tiny_xl_models
    condition = models.embed(["a dog"]).map(lambda tensor: tensor.clone().requires_grad_(True))
    latents, noise = torch.randn(2, 1, 4, 8, 8, generator=seeded(3))
    loss = embedding_loss(
        Denoiser(models.unet), models.scheduler, latents, torch.zeros(1, 1, 8, 8), condition, noise, torch.tensor([300])
    )
    loss.sum().backward()
    assert not any(tensor.grad.any() for tensor in condition.tensors.values())


def test_alpha_mixes_every_part(tiny_xl_models):
    subject, place = (tiny_xl_models.embed([words]) for words in ("a dog jumps", "on ice"))
    for name in PARTS:
        ends, far = (subject.tensors[name], place.tensors[name]), []
        for alpha in (0.0, 0.3, 0.7, 1.0):
            mixed = method.edit_embedding(subject, place, alpha)
            torch.testing.assert_close(mixed.tensors[name], alpha * ends[0] + (1 - alpha) * ends[1])
            assert mixed.vae_factor == 8
            far.append((mixed.tensors[name] - ends[0]).norm())
        assert far == sorted(far, reverse=True) and far[-1] == 0 < far[-2]
        assert torch.equal(method.edit_embedding(subject, place, 0.0).tensors[name], ends[1])


def test_at_1024_its_pictures_have_the_shapes_it_was_trained_on(tiny_xl_models):
    step, most = tiny_xl_models.family.limits(1024, 32)
    photos = {(3, 2): (1216, 832), (4, 3): (1152, 896), (16, 9): (1344, 768), (1, 1): (1024, 1024), (2, 3): (832, 1216)}
    assert {photo: window_size("photo", photo, 1024, step, most) for photo in photos} == photos


def test_full_tuning_is_refused_in_gigabytes_where_it_cannot_fit(tiny_xl_models, monkeypatch):
    network = torch.nn.Module()
    network.weight = torch.nn.Parameter(torch.empty(2_567_463_684, device="meta"))
    profile = dataclasses.replace(tiny_xl_models.profile, device=torch.device("cuda"))
    models = dataclasses.replace(tiny_xl_models, profile=profile, master=network)
    full = dataclasses.replace(models.defaults, tune="full")
    for gigabytes, checkpointing in ((16, True), (24, False), (42.9, False), (51.5, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=int(gigabytes * 1e9): (free, free))
        assert _for_xl(profile, 1.0).checkpointing == checkpointing
        assert _for_xl(profile, 1.0).checkpoint_embeddings == (gigabytes < 40)
        check_need(models, models.defaults)
        if gigabytes < 48:
            with pytest.raises(SettingsError, match=f"takes about 50 GB, and this card has {gigabytes:.0f} GB"):
                check_need(models, full)
        else:
            check_need(models, full)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_autoencoder_is_float32_unless_its_config_rules_overflow_out(tiny_xl_models, device):
    profile, vae = dataclasses.replace(tiny_xl_models.profile, device=torch.device(device)), tiny_vae("AutoencoderKL")
    assert vae.config.force_upcast and _vae_dtype(vae, profile) == torch.float32
    vae.register_to_config(force_upcast=False)
    assert _vae_dtype(vae, profile) == (torch.float16 if device == "cuda" else torch.float32)


def test_its_defaults_are_lora_at_1e_4_and_its_own_guidance(tiny_xl_models, tiny_models):
    from layerdiffusion.models.tuning import LORA_LR_FACTOR, LORA_RANK

    defaults = tiny_xl_models.defaults
    assert (defaults.tune, defaults.guidance_scale) == ("lora", 5.0)
    assert (LORA_RANK, defaults.finetune_lr * LORA_LR_FACTOR) == (16, pytest.approx(1e-4))
    assert dataclasses.replace(defaults, tune="full", guidance_scale=7.5) == tiny_models.defaults


@pytest.mark.parametrize("name", ["layerdiffusion", "sdedit", "imagic", "pnp"])
def test_every_method_edits_with_it(tiny_xl_models, edit, name):
    from layerdiffusion.baselines import options_for

    few = {"imagic": {"embedding_steps": 2, "finetune_steps": 2}, "pnp": {"inversion_steps": 6}}
    editor = Editor(tiny_xl_models)
    options = options_for(name, tiny_xl_models, **few.get(name, {}))
    result = editor.run(edit, QUICK, method=name, options=options)
    assert [image.size for image in result.images] == [(64, 64)] * 2
    assert result.images[0].tobytes() != result.images[1].tobytes()
    if name == "layerdiffusion":
        assert editor.plan(edit, dataclasses.replace(QUICK, object_weight=3)) == {
            "embeddings": "reuse",
            "finetune": "run",
            "sampling": "run",
        }
        other = editor.run(edit, dataclasses.replace(QUICK, object_weight=0.0, alpha=0.0))
        assert other.images[0].tobytes() != result.images[0].tobytes()
