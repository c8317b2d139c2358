"""§3.2.1 and Eq. 2."""

import pytest
import torch
from tiny import every_family

from layerdiffusion.method import edit_embedding, optimize_embeddings
from layerdiffusion.method.embeddings import embedding_loss
from layerdiffusion.method.objective import draw_noise_and_timestep
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


@pytest.fixture
def scene(either_models, seeded):
    """The model's f, its scheduler, latents, a mask of the left half, and two embeddings."""
    latents = torch.randn(1, 4, 8, 8, generator=seeded(5))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    return (
        Denoiser(either_models.unet),
        either_models.scheduler,
        latents,
        mask,
        either_models.embed(["a dog", "on ice"]),
    )


def imagic_first_stage(unet, scheduler, latents, embedding, steps, lr, generator):
    """Imagic's optimisation of a text embedding, written plainly: ε-prediction or its v, mean squared error, Adam."""
    embedding = embedding.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([embedding], lr=lr)
    for _ in range(steps):
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (1,), generator=generator)
        signal = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
        spread = (1 - scheduler.alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1, 1)
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = signal * noise - spread * latents
        prediction = unet(signal * latents + spread * noise, timesteps, embedding).sample
        loss = torch.nn.functional.mse_loss(prediction, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return embedding.detach()


def test_with_one_embedding_and_no_mask_it_is_imagics_first_stage(scene, seeded):
    f, scheduler, latents, _, embeddings = scene
    everything = torch.ones(1, 1, 8, 8)
    ours = optimize_embeddings(
        f, scheduler, latents, everything, embeddings[:1], steps=20, lr=1e-3, generator=seeded(1)
    ).prompt_embeds
    start = embeddings.prompt_embeds[:1]
    imagic = imagic_first_stage(f.unet, scheduler, latents, start, 20, 1e-3, seeded(1))
    assert (imagic - start).abs().max() > 5e-3
    assert (ours - imagic).abs().max() <= 1e-5


@every_family
def test_each_of_the_pair_walks_as_it_would_alone_on_the_same_noise(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene

    def walk(start):
        return optimize_embeddings(f, scheduler, latents, mask, start, steps=8, lr=1e-3, generator=seeded(1))

    together, alone = walk(embeddings), walk(embeddings[:1]).join(walk(embeddings[1:]))
    for name, tensor in together.tensors.items():
        torch.testing.assert_close(tensor, alone.tensors[name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_both_are_fitted_better_to_what_the_mask_shows(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene
    fitted = optimize_embeddings(f, scheduler, latents, mask, embeddings, steps=90, lr=3e-2, generator=seeded(1))

    def mean_loss(candidates):
        generator, losses = seeded(2), []
        for _ in range(40):
            noise, timestep = draw_noise_and_timestep(latents.shape, scheduler, generator)
            losses.append(embedding_loss(f, scheduler, latents, mask, candidates, noise, timestep))
        return torch.stack(losses).mean(0)

    with torch.no_grad():
        assert (mean_loss(fitted) < mean_loss(embeddings)).all()


def test_several_draws_a_step_are_the_mean_of_their_losses(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene
    one, two = [], []
    dials = dict(lr=0.0, generator=seeded(1))
    optimize_embeddings(f, scheduler, latents, mask, embeddings, steps=2, **dials, on_step=one.append)
    dials = dict(lr=0.0, generator=seeded(1), draws_a_step=2)
    optimize_embeddings(f, scheduler, latents, mask, embeddings, steps=1, **dials, on_step=two.append)
    assert [step.loss for step in two] == pytest.approx([(one[0].loss + one[1].loss) / 2], rel=1e-5)


@every_family
def test_under_an_empty_mask_nothing_moves(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene
    still = optimize_embeddings(f, scheduler, latents, mask * 0, embeddings, steps=3, lr=1e-1, generator=seeded(1))
    assert all(torch.equal(tensor, embeddings.tensors[name]) for name, tensor in still.tensors.items())


def test_the_model_and_the_embeddings_given_are_left_as_they_were(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene
    weights = {name: value.clone() for name, value in f.unet.state_dict().items()}
    given = embeddings.prompt_embeds.clone()

    moved = optimize_embeddings(f, scheduler, latents, mask, embeddings, steps=2, lr=1e-2, generator=seeded(1))

    assert not torch.equal(moved.prompt_embeds, given)
    assert not moved.prompt_embeds.requires_grad
    assert torch.equal(given, embeddings.prompt_embeds)
    assert all(torch.equal(value, weights[name]) for name, value in f.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in f.unet.parameters())


def test_without_steps_the_embeddings_are_the_text_encoders(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene
    same = optimize_embeddings(f, scheduler, latents, mask, embeddings, steps=0, lr=1e-2, generator=seeded(1))
    assert torch.equal(same.prompt_embeds, embeddings.prompt_embeds)


def test_each_step_is_reported_and_an_exception_from_the_report_stops_it(scene, seeded):
    f, scheduler, latents, mask, embeddings = scene
    steps = []

    def stop_at_three(step):
        steps.append(step)
        if step.index == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize_embeddings(
            f,
            scheduler,
            latents,
            mask,
            embeddings,
            steps=9,
            lr=1e-2,
            generator=seeded(1),
            on_step=stop_at_three,
        )
    assert [(step.index, step.steps) for step in steps] == [(1, 9), (2, 9), (3, 9)]
    assert all(step.loss > 0 for step in steps)
    assert not any(parameter.requires_grad for parameter in f.unet.parameters())


def test_the_edit_embedding_is_alpha_of_the_object_and_the_rest_of_the_background():
    object_embedding, background_embedding = torch.full((1, 3, 2), 10.0), torch.full((1, 3, 2), 20.0)

    def blend(alpha):
        return edit_embedding(Condition(object_embedding), Condition(background_embedding), alpha).prompt_embeds

    torch.testing.assert_close(blend(0.7), torch.full((1, 3, 2), 13.0))
    assert torch.equal(blend(1.0), object_embedding)
    assert torch.equal(blend(0.0), background_embedding)
