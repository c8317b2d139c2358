"""Imagic's steps against the published algorithm, written out plainly."""

import copy

import pytest
import torch
import torch.nn.functional as F

from layerdiffusion.methods.imagic import fit_embedding, fit_network, interpolated

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")

STEPS = 5


def plain_loss(models, unet, latents, embedding, generator):
    """‖ε − f(x_t, t, e)‖², or its like for v, on one draw of ε and t."""
    noise = torch.randn(latents.shape, generator=generator)
    timestep = torch.randint(0, 1000, (1,), generator=generator)
    level = models.scheduler.alphas_cumprod[timestep].view(1, 1, 1, 1)
    noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
    velocity = level.sqrt() * noise - (1 - level).sqrt() * latents
    target = noise if models.scheduler.config.prediction_type == "epsilon" else velocity
    return F.mse_loss(unet(noisy, timestep, encoder_hidden_states=embedding).sample, target)


def plain_embedding(models, latents, embedding, lr, generator):
    embedding = embedding.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([embedding], lr=lr)
    for _ in range(STEPS):
        optimiser.zero_grad()
        plain_loss(models, models.unet, latents, embedding, generator).backward()
        optimiser.step()
    return embedding.detach()


def plain_network(models, latents, embedding, lr, generator):
    unet = copy.deepcopy(models.unet).requires_grad_(True).train()
    optimiser = torch.optim.Adam(unet.parameters(), lr=lr)
    for _ in range(STEPS):
        optimiser.zero_grad()
        plain_loss(models, unet, latents, embedding, generator).backward()
        optimiser.step()
    return dict(unet.named_parameters())


@pytest.fixture
def given(either_models, edit):
    latents = either_models.encode(edit.object_image.crop((0, 0, 64, 64)))
    return either_models, latents, either_models.embed(["a dog jumps on ice"])


def test_the_optimised_embedding_is_the_published_ones(given, seeded):
    models, latents, embedding = given
    ours = fit_embedding(models.unet, models.scheduler, latents, embedding, steps=STEPS, lr=1e-2, generator=seeded(3))
    theirs = plain_embedding(models, latents, embedding, 1e-2, seeded(3))
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - embedding).abs().max() > 1e-2


def test_the_tuned_network_is_the_published_ones_and_the_models_own_is_left_alone(given, seeded):
    models, latents, embedding = given
    before = {name: value.clone() for name, value in models.unet.state_dict().items()}
    # Adam's first steps divide by the gradient's size: below 1e-4 rounding alone could not be told from a difference.
    ours = fit_network(models.unet, models.scheduler, latents, embedding, steps=STEPS, lr=1e-4, generator=seeded(3))
    theirs = plain_network(models, latents, embedding, 1e-4, seeded(3))
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-5
    assert max((ours[name] - before[name]).abs().max() for name in ours) > 2e-4
    assert all(torch.equal(value, before[name]) for name, value in models.unet.state_dict().items())


def test_alpha_is_the_share_of_the_prompts_own_embedding(given):
    target, optimised = torch.ones(1, 3, 2), torch.zeros(1, 3, 2)
    assert (interpolated(target, optimised, 0.7) == 0.7).all()
    assert (interpolated(target, optimised, 1.2) == torch.tensor(1.2)).all()
