"""Plug-and-Play: the photo inverted and given back, what is injected at which step and layer, and no trace of it."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler
from PIL import Image
from tiny import WIDTH, stable_diffusion_scheduler, tiny_unet

from layerdiffusion.baselines.pnp import injection_into, inversion_timesteps, invert, mixed, plug_and_play, sites_of
from layerdiffusion.engine import initial_latents
from layerdiffusion.method import sample
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition
from layerdiffusion.models.load import load_models
from layerdiffusion.models.tuning import with_weights

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")

STEPS = 10


@pytest.fixture
def given(either_models, edit):
    latents = either_models.encode(edit.object_image.crop((0, 0, 64, 64)))
    return either_models, latents, either_models.embed(["", "a dog jumps on ice"])


@pytest.fixture
def inverted(given):
    models, latents, words = given
    return invert(
        Denoiser(models.unet), models.scheduler, latents, words[:1], sampling_steps=STEPS, inversion_steps=STEPS
    )


def injected(unet, models, words, source, start, **changes) -> torch.Tensor:
    dials = {"feature_share": 0.8, "attention_share": 0.5, "guidance_scale": 7.5, **changes}
    return plug_and_play(Denoiser(unet), models.scheduler, source, start, words[1:], words[:1], words[:1], **dials)


# Inversion


def test_the_inversion_is_that_of_diffusers_inverse_scheduler(given, inverted):
    models, latents, words = given
    scheduler = DDIMInverseScheduler.from_config(models.scheduler.config)
    scheduler.set_timesteps(STEPS)
    theirs = []
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            prediction = models.unet(latents, timestep, encoder_hidden_states=words[:1].prompt_embeds).sample
            latents = scheduler.step(prediction, timestep, latents).prev_sample
            theirs.append(latents)
    assert inverted.shape == (STEPS, *models.latent_shape)
    assert (inverted - torch.cat(theirs[::-1])).abs().max() < 1e-4


def test_an_inversion_in_more_steps_passes_through_every_sampling_step():
    kept = list(range(981, 0, -20))
    assert inversion_timesteps(kept, 50) == kept[::-1]
    fine = inversion_timesteps(kept, 200)
    assert set(kept) <= set(fine) and fine == sorted(set(fine)) and fine[:6] == [1, 6, 11, 16, 21, 26]
    assert inversion_timesteps(kept, 1000) == list(range(1, 982))
    assert inversion_timesteps([2, 1, 0], 1000) == [0, 1, 2]


def test_with_injection_off_it_is_plain_ddim_sampling_from_the_inverted_photo(given, inverted):
    models, _, words = given
    ours = injected(models.unet, models, words, inverted, inverted[:1], feature_share=0.0, attention_share=0.0)
    plain = sample(
        Denoiser(models.unet),
        models.scheduler,
        inverted[:1],
        words[1:],
        words[1:],
        words[:1],
        steps=STEPS,
        guidance_scale=7.5,
    )
    assert torch.equal(ours, plain)
    on = injected(models.unet, models, words, inverted, inverted[:1])
    assert (on - plain).abs().max() > 1e-3


@pytest.fixture(scope="module")
def inverted_photo():
    """The miniature, a photo's latents, the empty prompt, and the photo inverted."""
    from layerdiffusion.evaluation.datasets.toybench import pose_and_place

    models = load_models("miniature", "cpu", "float32")
    photo = pose_and_place(0).edit.object_image.resize((models.size, models.size))
    latents, empty = models.encode(photo), models.embed([""])
    source = invert(Denoiser(models.unet), models.scheduler, latents, empty, sampling_steps=20, inversion_steps=100)
    return models, latents, empty, source


@pytest.mark.slow
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_with_everything_injected_the_photo_comes_back(inverted_photo, guidance_scale, record_property):
    models, latents, empty, source = inverted_photo
    arguments = models.scheduler, source, source[:1], empty, empty, empty
    back = plug_and_play(
        Denoiser(models.unet), *arguments, feature_share=1.0, attention_share=1.0, guidance_scale=guidance_scale
    )
    decibels = psnr(models.decode(back)[0], models.decode(latents)[0])
    record_property("psnr", decibels)
    print(f"\nPSNR against the autoencoder's own picture: {decibels:.1f} dB")
    assert decibels > 30
    assert psnr(models.decode(source[:1])[0], models.decode(latents)[0]) < 15  # and it came a long way


def psnr(first: Image.Image, second: Image.Image) -> float:
    difference = np.asarray(first, float) - np.asarray(second, float)
    return float(10 * np.log10(255**2 / (difference**2).mean()))


# Where and when


def test_on_stable_diffusion_the_sites_are_the_authors_own():
    sites = sites_of(sd_shaped_unet())
    attention = [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]
    assert sites.features == "up_blocks.1.resnets.1.conv2"
    assert sites.attention == tuple(
        f"up_blocks.{block}.attentions.{layer}.transformer_blocks.0.attn1" for block, layer in attention
    )


def sd_shaped_unet():
    """Stable Diffusion's blocks and layers, very narrow."""
    with torch.random.fork_rng(devices=[]):
        return tiny_unet(
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )


def test_on_a_smaller_unet_they_go_by_depth(tiny_models):
    sites = sites_of(tiny_models.unet)
    assert sites.features == "up_blocks.1.resnets.1.conv2"
    assert sites.attention == ("up_blocks.1.attentions.1.transformer_blocks.0.attn1",)
    with torch.random.fork_rng(devices=[]):
        single = tiny_unet(
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
        )
    assert sites_of(single).features == "up_blocks.0.resnets.1.conv2"
    assert sites_of(single).attention == ("up_blocks.0.attentions.1.transformer_blocks.0.attn1",)


class Spy:
    """Writes down, for each pass of the network, its batch, and what every site made of it.

    "features": whether all pictures left the site with the first one's, though they had come with their own.
    "attention": of how many pictures each site asked q; where it is injected, of the source alone.
    """

    def __init__(self, unet):
        self.unet, self.sites, self.passes = unet, sites_of(unet), []
        unet.register_forward_pre_hook(self.sees_a_pass)

    def sees_a_pass(self, module, args):
        if not self.passes:  # only now, so as to see what the injection's own hook has left
            self.unet.get_submodule(self.sites.features).register_forward_hook(self.sees_features)
            for name in self.sites.attention:
                self.unet.get_submodule(name).to_q.register_forward_hook(self.sees_queries(name))
        self.passes.append({"batch": len(args[0]), "attention": {}})

    def sees_features(self, module, args, output):
        differed = (args[0] - args[0][:1]).abs().max() > 1e-6
        self.passes[-1]["features"] = bool(differed and (output == output[:1]).all())

    def sees_queries(self, name):
        def sees(module, args, output):
            self.passes[-1]["attention"][name] = len(args[0])

        return sees


def test_features_and_attention_are_injected_in_their_share_of_the_steps_at_every_site(seeded):
    unet = sd_shaped_unet().requires_grad_(False).eval()
    spy = Spy(unet)
    words = Condition(torch.randn((2, 5, WIDTH), generator=seeded(0)))
    source = torch.randn((STEPS, 4, 8, 8), generator=seeded(1))
    start = torch.randn((2, 4, 8, 8), generator=seeded(2))
    arguments = stable_diffusion_scheduler(), source, start, words[1:], words[:1], words[:1]
    plug_and_play(Denoiser(unet), *arguments, feature_share=0.8, attention_share=0.5, guidance_scale=7.5)
    # Two pictures, with and without their condition, and the source while something is injected.
    assert [seen["batch"] for seen in spy.passes] == [5] * 8 + [4] * 2
    assert [seen["features"] for seen in spy.passes] == [True] * 8 + [False] * 2
    asked = [{seen["attention"][name] for name in spy.sites.attention} for seen in spy.passes]
    assert asked == [{1}] * 5 + [{5}] * 3 + [{4}] * 2


def test_injected_attention_is_the_sources_map_over_each_pictures_own_values(tiny_models, seeded):
    unet = with_weights(tiny_models.unet, {})
    [name] = sites_of(unet).attention
    attention = unet.get_submodule(name)
    tokens = torch.randn((3, 16, attention.to_q.in_features), generator=seeded(0))
    with torch.no_grad(), injection_into(unet) as injection:
        plain = attention(tokens)
        injection.attention = True
        ours = attention(tokens)
    expected = []
    for one in tokens:  # by hand, a head at a time
        query, key, value = attention.to_q(tokens[0]), attention.to_k(tokens[0]), attention.to_v(one)
        heads = [
            torch.softmax(q @ k.T * q.shape[1] ** -0.5, -1) @ v
            for q, k, v in zip(*(part.chunk(attention.heads, 1) for part in (query, key, value)), strict=True)
        ]
        expected.append(attention.to_out[0](torch.cat(heads, 1)))
    assert (ours - torch.stack(expected)).abs().max() < 1e-5
    assert (ours[0] - plain[0]).abs().max() < 1e-5  # to the source itself nothing happens
    assert (ours[1] - plain[1]).abs().max() > 1e-4


def test_the_source_is_shown_to_the_network_as_it_was_inverted(given, inverted):
    models, _, words = given
    unet, shown = with_weights(models.unet, {}), []
    unet.register_forward_pre_hook(
        lambda module, args, kwargs: shown.append((args[0][:1], kwargs["encoder_hidden_states"][:1])), with_kwargs=True
    )
    injected(unet, models, words, inverted, inverted[:1], feature_share=1.0)
    assert len(shown) == STEPS
    assert all(torch.equal(latents, one[None]) for (latents, _), one in zip(shown, inverted, strict=True))
    assert all(torch.equal(embedding, words.prompt_embeds[:1]) for _, embedding in shown)


# Batches, and no trace


def test_a_picture_is_the_same_alone_and_among_others(given, inverted):
    models, _, words = given
    start = mixed(inverted[:1], initial_latents((0, 7), models.latent_shape), 0.2)
    together = injected(models.unet, models, words, inverted, start)
    alone = injected(models.unet, models, words, inverted, start[1:])
    assert (together[1:] - alone).abs().max() < 1e-4
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_mixing_keeps_the_share_of_noise_and_the_whole_of_the_variance():
    inverted, noise = torch.full((1, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), 4.0)
    assert torch.equal(mixed(inverted, noise, 0.0), inverted.expand(2, -1, -1, -1))
    assert torch.equal(mixed(inverted, noise, 1.0), noise)
    assert torch.allclose(mixed(inverted, noise, 0.36), torch.full((2, 1, 2, 2), 0.8 * 3 + 0.6 * 4))


def traces(unet) -> list:
    """Everything that an injection could leave behind."""
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in unet.named_modules()
    ]
    return [hooks, {name: id(processor) for name, processor in unet.attn_processors.items()}]


class Stop(Exception):
    pass


@pytest.mark.parametrize("ends", ["at the end", "stopped"])
def test_afterwards_the_network_is_as_it_was(given, inverted, ends):
    models, _, words = given
    before, weights = traces(models.unet), copy.deepcopy(models.unet.state_dict())

    def stop(step):
        assert traces(models.unet) != before  # it was there
        if ends == "stopped" and step.index == 3:
            raise Stop

    try:
        injected(models.unet, models, words, inverted, inverted[:1], on_step=stop)
        assert ends == "at the end"
    except Stop:
        assert ends == "stopped"
    assert traces(models.unet) == before
    assert all(torch.equal(value, weights[name]) for name, value in models.unet.state_dict().items())
