"""§3.2.3, Eqs. 6–7."""

from types import SimpleNamespace

import pytest
import torch
from tiny import WIDTH, every_family, stable_diffusion_scheduler
from torch import nn

from layerdiffusion.engine import initial_latents
from layerdiffusion.method import sample
from layerdiffusion.method.sampling import DPMSolver, conditions, ddim_scheduler
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition, ConditionXL

pytestmark = pytest.mark.usefixtures("global_random_state_is_left_alone")


def test_even_countdown_steps_get_the_object_embedding_25_of_50():
    turns = conditions(50)
    assert turns[0] == "object"  # step 50
    assert turns[-1] == "edit"  # step 1
    assert turns[::2] == ["object"] * 25
    assert turns[1::2] == ["edit"] * 25
    assert conditions(3) == ["edit", "object", "edit"]
    assert conditions(3, "object") == ["object"] * 3
    assert conditions(3, "edit") == ["edit"] * 3


def test_alternating_by_timestep_would_never_choose_the_object_embedding():
    timesteps = ddim_scheduler(stable_diffusion_scheduler(), 50).timesteps
    assert timesteps[0] == 981
    assert (timesteps % 2 == 1).all()


class Recorder(nn.Module):
    """A network that predicts nothing and writes down what it is asked; SDXL's vectors must go with the embeddings."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, latents, timestep, encoder_hidden_states, added_cond_kwargs=None):
        if added_cond_kwargs:
            assert torch.equal(added_cond_kwargs["text_embeds"][:, 0], encoder_hidden_states[:, 0, 0])
        self.asked.append((int(timestep), encoder_hidden_states[:, 0, 0].tolist()))
        return SimpleNamespace(sample=torch.zeros_like(latents))


@pytest.fixture(params=["1.x", "XL"])
def embeddings(request):
    both = [
        (torch.full((1, 5, WIDTH), value), torch.full((1, 7), value)) for value in (1.0, 2.0, 0.0)
    ]  # ê_a, e_opt, ""
    return [Condition(words) if request.param == "1.x" else ConditionXL(words, pooled, 8) for words, pooled in both]


@pytest.mark.parametrize(
    ("schedule", "expected"), [("alternate", [1, 2, 1, 2]), ("object", [1] * 4), ("edit", [2] * 4)]
)
def test_the_network_is_asked_with_the_condition_of_each_step_beside_the_empty_one(embeddings, schedule, expected):
    recorder = Recorder()
    sample(
        Denoiser(recorder),
        stable_diffusion_scheduler(),
        initial_latents([0, 1], (4, 8, 8)),
        *embeddings,
        steps=4,
        guidance_scale=7.5,
        schedule=schedule,
    )
    assert [timestep for timestep, _ in recorder.asked] == [751, 501, 251, 1]
    assert [values for _, values in recorder.asked] == [[0, 0, value, value] for value in expected]


def test_without_guidance_the_empty_prompt_is_not_asked(embeddings):
    recorder = Recorder()
    latents = initial_latents([0], (4, 8, 8))
    sample(Denoiser(recorder), stable_diffusion_scheduler(), latents, *embeddings, steps=2, guidance_scale=1.0)
    assert [values for _, values in recorder.asked] == [[1], [2]]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
def test_one_condition_and_no_training_is_diffusers_own_pipeline(either_models, guidance_scale, solver):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    models = either_models
    scheduler = models.scheduler
    if solver == "dpmpp":
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    pipeline = StableDiffusionPipeline(
        vae=models.vae,
        text_encoder=models.family.text_encoder,
        tokenizer=models.family.tokenizer,
        unet=models.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    edit, other, empty = (models.embed([words]) for words in ("a dog jumps", "not this", ""))
    latents = initial_latents([3, 4], models.latent_shape)
    theirs = pipeline(
        prompt_embeds=edit.expand(2).prompt_embeds,
        negative_prompt_embeds=empty.expand(2).prompt_embeds,
        latents=latents,
        num_inference_steps=20,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).images

    ours = sample(
        Denoiser(models.unet),
        models.scheduler,
        latents,
        other,
        edit,
        empty,
        steps=20,
        guidance_scale=guidance_scale,
        schedule="edit",
        solver=solver,
    )

    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4


def test_a_seed_starts_where_diffusers_starts_it_whatever_else_is_in_the_batch():
    from diffusers.utils.torch_utils import randn_tensor

    shape = (4, 8, 8)
    batch = initial_latents([5, 0, 9], shape)
    for index, seed in enumerate([5, 0, 9]):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(batch[index : index + 1], randn_tensor((1, *shape), generator=generator))


@every_family
def test_a_picture_does_not_depend_on_the_others_in_its_batch(either_models):
    models = either_models
    prompts = [models.embed([words]) for words in ("a dog", "on ice", "")]

    def run(seeds):
        latents = initial_latents(seeds, models.latent_shape)
        return sample(Denoiser(models.unet), models.scheduler, latents, *prompts, steps=10, guidance_scale=7.5)

    torch.testing.assert_close(run([1, 2, 3])[1:2], run([2]), atol=1e-4, rtol=0)


@every_family
@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
def test_each_step_reports_the_clean_latents_it_predicts(either_models, solver):
    models, steps = either_models, []
    latents = initial_latents([0], models.latent_shape)
    prompts = [models.embed([words]) for words in ("a dog", "on ice", "")]
    end = sample(
        Denoiser(models.unet),
        models.scheduler,
        latents,
        *prompts,
        steps=8,
        guidance_scale=2.0,
        solver=solver,
        on_step=steps.append,
    )
    assert [step.index for step in steps] == list(range(1, 9))
    assert steps[-1].x0.shape == latents.shape
    # At t = 1 hardly any noise is left to tell the prediction from the result.
    assert (steps[-1].x0 - end).abs().max() < 0.1 < (steps[0].x0 - end).abs().max()


def test_a_thousand_steps_stay_within_the_schedule():
    timesteps = ddim_scheduler(stable_diffusion_scheduler(), 1000).timesteps
    assert timesteps.max() == 999
    assert len(set(DPMSolver(stable_diffusion_scheduler(), 1000).timesteps.tolist())) == 999


def test_with_dpm_solver_the_conditions_alternate_too(embeddings):
    recorder = Recorder()
    latents = initial_latents([0], (4, 8, 8))
    scheduler = stable_diffusion_scheduler()
    sample(Denoiser(recorder), scheduler, latents, *embeddings, steps=4, guidance_scale=1.0, solver="dpmpp")
    assert [values for _, values in recorder.asked] == [[1], [2], [1], [2]]
    timesteps = [timestep for timestep, _ in recorder.asked]
    assert timesteps == sorted(timesteps, reverse=True) and len(timesteps) == 4


@pytest.mark.parametrize("solver", ["ddim", "dpmpp"])
def test_from_a_start_the_last_steps_are_taken_each_under_the_words_it_has_without_one(embeddings, solver):
    scheduler, noise = stable_diffusion_scheduler(), initial_latents([0, 1], (4, 8, 8))
    whole, part, start = Recorder(), Recorder(), torch.full((1, 4, 8, 8), 3.0)
    how = {"steps": 5, "guidance_scale": 1.0, "solver": solver}
    sample(Denoiser(whole), scheduler, noise, *embeddings, **how)
    end = sample(Denoiser(part), scheduler, noise, *embeddings, start=start, strength=0.7, **how)
    assert part.asked == whole.asked[-3:] and end.shape == noise.shape
    assert torch.equal(
        sample(Denoiser(part), scheduler, noise, *embeddings, start=start, strength=0.1, **how),
        start.expand(noise.shape),
    )


def test_the_models_own_scheduler_is_not_stepped(either_models, embeddings):
    before = dict(vars(either_models.scheduler))
    latents = initial_latents([0], (4, 8, 8))
    sample(Denoiser(Recorder()), either_models.scheduler, latents, *embeddings, steps=7, guidance_scale=1.0)
    assert vars(either_models.scheduler)["num_inference_steps"] == before["num_inference_steps"]
    assert len(either_models.scheduler.timesteps) == len(before["timesteps"])
