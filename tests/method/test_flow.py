"""The three stages on a flow, FLUX.2 klein's: what each minimises, trains and samples by."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from tiny_klein import klein_scheduler

from layerdiffusion.method import composite_layers, edit_embedding, finetune, optimize_embeddings, sample
from layerdiffusion.method.embeddings import embedding_loss
from layerdiffusion.method.finetune import total_loss
from layerdiffusion.method.objective import draw_noise_and_timestep, prediction_target
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.tuning import LORA_LR_FACTOR, LORA_RANK, TunedNetwork

CPU = torch.device("cpu")


@pytest.fixture
def latents(seeded) -> torch.Tensor:
    return torch.randn(1, 16, 4, 4, generator=seeded(5))


@pytest.fixture
def mask() -> torch.Tensor:
    """The left half."""
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    return mask


@pytest.fixture
def lora(tiny_klein_models):
    return lambda **options: TunedNetwork(
        tiny_klein_models.unet, CPU, lora=True, targets=tiny_klein_models.family.lora_targets, **options
    )


def loss_of_diffusers_script(transformer, latents, noise, timestep, prompt_embeds):
    """The flow matching loss of `train_dreambooth_lora_flux2_klein.py`, by diffusers' own functions for it."""
    schedule = klein_scheduler()
    index = 1000 - timestep  # from 1000 down to 1
    sigma = schedule.sigmas[index].view(-1, 1, 1, 1)
    noisy = (1.0 - sigma) * latents + sigma * noise
    ids = Flux2KleinPipeline._prepare_latent_ids(latents)
    prediction = transformer(
        hidden_states=Flux2KleinPipeline._pack_latents(noisy),
        timestep=schedule.timesteps[index] / 1000,
        guidance=None,
        encoder_hidden_states=prompt_embeds,
        txt_ids=Flux2KleinPipeline._prepare_text_ids(prompt_embeds),
        img_ids=ids,
        return_dict=False,
    )[0]
    prediction = Flux2KleinPipeline._unpack_latents_with_ids(prediction, ids)
    target = noise - latents
    return ((prediction.float() - target.float()) ** 2).reshape(1, -1).mean(1).mean()


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_the_loss_of_stage_2_is_that_of_diffusers_script_on_the_same_draw(tiny_klein_models, latents, seeded, seed):
    models = tiny_klein_models
    noise, timestep = draw_noise_and_timestep(latents.shape, models.scheduler, seeded(seed))
    condition = models.embed(["a dog"])
    prediction = Denoiser(models.unet)(models.scheduler.add_noise(latents, noise, timestep), timestep, condition)
    target = prediction_target(models.scheduler, latents, noise, timestep)
    ours = total_loss(prediction, target, composite_layers(latents, torch.ones(1, 1, 4, 4)), 1.0, 0.0)
    theirs = loss_of_diffusers_script(models.unet, latents, noise, timestep, condition.prompt_embeds)
    assert abs(float(ours) - float(theirs)) <= 1e-6


def test_timesteps_are_drawn_uniformly_from_those_of_its_own_training(tiny_klein_models, seeded):
    generator = seeded(0)
    drawn = [draw_noise_and_timestep((1, 1, 1, 1), tiny_klein_models.scheduler, generator)[1] for _ in range(6000)]
    timesteps = torch.cat(drawn)
    assert timesteps.min() == 1 and timesteps.max() == 1000  # σ is never 0, as in diffusers' scheduler
    assert set(timesteps.tolist()) <= {round(t, 3) for t in klein_scheduler().timesteps.tolist()}
    counts = np.histogram(timesteps, bins=10, range=(1, 1001))[0]
    assert abs(counts - 600).max() < 120


def test_the_loss_has_no_gradient_outside_the_masks(tiny_klein_models, latents, mask, seeded):
    models, seen = tiny_klein_models, []
    handle = models.unet.proj_out.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    parameters, fitted = models.embed(["a dog", "on ice"]).unfrozen()
    noise, timestep = draw_noise_and_timestep(latents.shape, models.scheduler, seeded(1))
    losses = embedding_loss(Denoiser(models.unet), models.scheduler, latents, mask, fitted(), noise, timestep)
    losses.sum().backward()
    handle.remove()
    looked_at = seen[0][:, -16:].abs().sum(-1).view(2, 4, 4) > 0
    assert torch.equal(looked_at, mask[:, 0].bool().expand(2, -1, -1))
    assert parameters[0].grad.any()


def test_stage_1_fits_the_words_to_what_the_mask_shows_and_nothing_else(tiny_klein_models, latents, mask, seeded):
    models = tiny_klein_models
    before = {name: weight.clone() for name, weight in models.unet.state_dict().items()}
    words = models.embed(["a dog", "on ice"])
    f, losses = Denoiser(models.unet), []

    def mean_loss(condition):
        generator = seeded(9)
        with torch.no_grad():
            for _ in range(40):
                noise, t = draw_noise_and_timestep(latents.shape, models.scheduler, generator)
                yield embedding_loss(f, models.scheduler, latents, mask, condition, noise, t)

    fitted = optimize_embeddings(
        f, models.scheduler, latents, mask, words, steps=30, lr=3e-2, generator=seeded(1),
        on_step=lambda step: losses.append(step.loss),
    )  # fmt: skip
    was, now = (torch.stack(list(mean_loss(condition))).mean(0) for condition in (words, fitted))
    assert (now < was).all() and len(losses) == 30
    padding = words.is_word == 0
    assert torch.equal(fitted.prompt_embeds[padding], words.prompt_embeds[padding])
    assert not torch.equal(fitted.prompt_embeds, words.prompt_embeds)
    assert torch.equal(fitted.is_word, words.is_word) and fitted.prompt_embeds.dtype == torch.float32
    assert all(torch.equal(weight, before[name]) for name, weight in models.unet.state_dict().items())


def test_a_first_step_of_adam_goes_the_rate_in_units_of_the_tokens_size(tiny_klein_models, latents, mask, seeded):
    models = tiny_klein_models
    words = models.embed(["a dog"])
    fitted = optimize_embeddings(
        Denoiser(models.unet), models.scheduler, latents, mask, words, steps=1, lr=1e-3, generator=seeded(1)
    )
    moved = (fitted.prompt_embeds - words.prompt_embeds).unflatten(-1, (3, -1)).abs().amax(-1)
    size = words.prompt_embeds.unflatten(-1, (3, -1)).square().mean(-1).sqrt()
    there = words.is_word.bool()
    torch.testing.assert_close(moved[there], 1e-3 * size[there], rtol=2e-2, atol=0)


def test_adapters_go_beside_the_named_layers_alone(tiny_klein_models, lora):
    network = lora()
    named = {name.split(".lora_")[0] for name in network.weights}
    double = [f"transformer_blocks.0.attn.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    single = [f"single_transformer_blocks.{i}.attn.{layer}" for i in (0, 1) for layer in ("to_qkv_mlp_proj", "to_out")]
    assert named == {*double, *single}
    ranks = {weight.shape[0] for name, weight in network.weights.items() if ".lora_A." in name}
    assert ranks == {LORA_RANK} == {16}
    optimizer = network.optimizer_step(2e-6, 1).optimizer
    assert LORA_LR_FACTOR * 2e-6 == pytest.approx(1e-4) == optimizer.param_groups[0]["lr"]
    assert {weight.dtype for weight in network.weights.values()} == {torch.float32}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stage_2_follows_a_plain_training_loop(tiny_klein_models, latents, mask, lora, seeded, checkpointing):
    models, condition = tiny_klein_models, tiny_klein_models.embed(["a dog"])
    ours = finetune(
        lora(seed=3, checkpointing=checkpointing), models.scheduler, composite_layers(latents, mask), condition,
        object_weight=2.0, background_weight=1.0, steps=3, lr=2e-5, generator=seeded(7),
    )  # fmt: skip
    plain, generator = lora(seed=3), seeded(7)
    named = {name: weight for name, weight in plain.unet.named_parameters() if weight.requires_grad}
    start = {name: weight.detach().clone() for name, weight in named.items()}
    optimizer = torch.optim.Adam(named.values(), lr=1e-3)
    for _ in range(3):
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(1, 1001, (1,), generator=generator)
        predicted = plain((1 - t / 1000) * latents + t / 1000 * noise, t, condition)
        error = (noise - latents - predicted) ** 2
        optimizer.zero_grad()
        (2 * (mask * error).mean() + ((1 - mask) * error).mean()).backward()
        optimizer.step()
    assert ours.keys() == named.keys()
    for name, weight in named.items():
        torch.testing.assert_close(ours[name], weight.detach(), atol=2e-4, rtol=0)
    assert any(not torch.equal(ours[name], start[name]) for name in ours)


@pytest.mark.parametrize(("schedule", "steps"), [("alternate", 4), ("alternate", 5), ("object", 3), ("edit", 3)])
def test_steps_alternate_between_the_words_by_parity(tiny_klein_models, schedule, steps):
    models, asked = tiny_klein_models, []
    own, mixed, none = (models.embed([words]) for words in ("a dog jumps", "on ice", ""))

    class Recording(Denoiser):
        def __call__(self, latents, timesteps, condition):
            asked.append((condition, float(timesteps), len(latents)))
            return super().__call__(latents, timesteps, condition)

    noise = torch.randn(2, 16, 4, 4)
    sample(Recording(models.unet), models.scheduler, noise, own, mixed, none, steps=steps, guidance_scale=4.0,
           schedule=schedule)  # fmt: skip
    by_parity = ["edit" if index % 2 else "object" for index in range(steps, 0, -1)]
    expected = by_parity if schedule == "alternate" else [schedule] * steps
    for (condition, _, count), name in zip(asked, expected, strict=True):
        assert count == 4  # both pictures, without words and with them
        assert torch.equal(condition.prompt_embeds[:1], none.prompt_embeds)
        chosen = {"object": own, "edit": mixed}[name]
        assert torch.equal(condition.prompt_embeds[2:3], chosen.prompt_embeds)
    times = [time for _, time, _ in asked]
    assert times[0] == 1000 and times == sorted(times, reverse=True)


def test_alpha_mixes_the_whole_condition(tiny_klein_models):
    words = tiny_klein_models.embed(["a dog jumps", "on ice"])
    for alpha in (0.0, 0.7, 1.0):
        mixed = edit_embedding(words[:1], words[1:], alpha)
        expected = alpha * words.prompt_embeds[:1] + (1 - alpha) * words.prompt_embeds[1:]
        assert torch.equal(mixed.prompt_embeds, expected) and len(mixed) == 1


def test_sdedit_starts_from_the_picture_under_the_noise_of_its_first_step(tiny_klein_models, latents):
    models, first = tiny_klein_models, []
    words = models.embed(["a dog"])

    class Recording(Denoiser):
        def __call__(self, given, timesteps, condition):
            first.append((given.clone(), float(timesteps)))
            return super().__call__(given, timesteps, condition)

    noise = torch.randn(1, 16, 4, 4)
    sample(Recording(models.unet), models.scheduler, noise, words, words, words, steps=8, guidance_scale=1.0,
           start=latents, strength=0.5)  # fmt: skip
    sigma = first[0][1] / 1000
    assert len(first) == 4 and 0 < sigma < 1
    torch.testing.assert_close(first[0][0], (1 - sigma) * latents + sigma * noise)
    untouched = sample(Denoiser(models.unet), models.scheduler, noise, words, words, words, steps=8,
                       guidance_scale=1.0, start=latents, strength=0.0)  # fmt: skip
    assert torch.equal(untouched, latents)
