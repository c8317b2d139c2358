"""Imagic's steps against the published algorithm, written out plainly."""

import copy

import pytest
import torch
import torch.nn.functional as F

from layerdiffusion.baselines.imagic import fit_embedding, interpolated, tune_network
from layerdiffusion.engine import FittedEmbeddings, training_generator
from layerdiffusion.models.family import Condition
from layerdiffusion.progress import Reporter

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")

STEPS = 5
PROMPT = "a dog jumps on ice"


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
    optimizer = torch.optim.Adam([embedding], lr=lr)
    for _ in range(STEPS):
        optimizer.zero_grad()
        plain_loss(models, models.unet, latents, embedding, generator).backward()
        optimizer.step()
    return embedding.detach()


def plain_network(models, latents, embedding, lr, generator):
    unet = copy.deepcopy(models.unet).requires_grad_(True).train()
    optimizer = torch.optim.Adam(unet.parameters(), lr=lr)
    for _ in range(STEPS):
        optimizer.zero_grad()
        plain_loss(models, unet, latents, embedding, generator).backward()
        optimizer.step()
    return dict(unet.named_parameters())


@pytest.fixture
def given(either_models, edit):
    picture = edit.object_image.crop((0, 0, 64, 64))
    return either_models, picture, either_models.encode(picture), either_models.embed([PROMPT]).prompt_embeds


@pytest.fixture
def report():
    return Reporter({}, {}, None, None)


def test_the_optimized_embedding_is_the_published_ones(given, report):
    models, picture, latents, embedding = given
    report.begin("embeddings")
    ours = fit_embedding(models, report, PROMPT, picture, STEPS, 1e-2, 3).embeddings.prompt_embeds
    theirs = plain_embedding(models, latents, embedding, 1e-2, training_generator("embeddings", 3))
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - embedding).abs().max() > 1e-2


def test_the_tuned_network_is_the_published_ones_and_the_models_own_is_left_alone(given, report):
    models, picture, latents, embedding = given
    before = {name: value.clone() for name, value in models.unet.state_dict().items()}
    # Adam's first steps divide by the gradient's size: below 1e-4 rounding alone could not be told from a difference.
    fit = FittedEmbeddings(Condition(embedding), [])
    report.begin("finetune")
    ours = tune_network(models, report, picture, fit, STEPS, 1e-4, "full", 3).weights
    theirs = plain_network(models, latents, embedding, 1e-4, training_generator("finetune", 3))
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-5
    assert max((ours[name] - before[name]).abs().max() for name in ours) > 2e-4
    assert all(torch.equal(value, before[name]) for name, value in models.unet.state_dict().items())


def test_alpha_is_the_share_of_the_prompts_own_embedding(given):
    target, optimized = torch.ones(1, 3, 2), torch.zeros(1, 3, 2)
    assert (interpolated(Condition(target), Condition(optimized), 0.7).prompt_embeds == 0.7).all()
    assert (interpolated(Condition(target), Condition(optimized), 1.2).prompt_embeds == torch.tensor(1.2)).all()
