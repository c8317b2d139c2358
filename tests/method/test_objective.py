"""Eq. 1: what is compared with what, and where it counts."""

import pytest
import torch
from tiny import stable_diffusion_scheduler

from layerdiffusion.method import objective
from layerdiffusion.method.objective import draw_noise_and_timestep, draws, masked_loss, prediction_target


def test_no_gradient_leaves_the_mask(seeded):
    generator = seeded(0)
    prediction = torch.randn(2, 4, 8, 8, generator=generator, requires_grad=True)
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()

    masked_loss(prediction, torch.zeros(2, 4, 8, 8), mask).sum().backward()

    inside = mask.bool().expand_as(prediction)
    assert (prediction.grad[~inside] == 0).all()
    assert (prediction.grad[inside] != 0).all()


def test_the_mean_runs_over_all_latent_pixels_so_a_smaller_mask_weighs_less():
    prediction, target = torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), 3.0)
    quarter = torch.zeros(1, 1, 8, 8)
    quarter[..., :4, :4] = 1

    assert masked_loss(prediction, target, torch.ones(1, 1, 8, 8)).tolist() == [9.0]
    assert masked_loss(prediction, target, quarter).tolist() == [9.0 / 4]


def test_the_loss_is_float32_whatever_was_predicted():
    half = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)  # its square is beyond float16
    loss = masked_loss(half, torch.zeros(1, 1, 2, 2, dtype=torch.float16), torch.ones(1, 1, 2, 2))
    assert loss.dtype == torch.float32
    assert loss.item() == 90000


def test_an_epsilon_model_is_compared_with_the_noise_and_a_v_model_with_its_velocity(seeded):
    generator = seeded(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    timesteps = torch.tensor([10, 900])
    # SD's schedule by hand.
    kept = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)[timesteps]
    kept = kept.view(2, 1, 1, 1)
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents

    epsilon_target = prediction_target(stable_diffusion_scheduler("epsilon"), latents, noise, timesteps)
    velocity_target = prediction_target(stable_diffusion_scheduler("v_prediction"), latents, noise, timesteps)

    assert torch.equal(epsilon_target, noise)
    torch.testing.assert_close(velocity_target.double(), velocity, atol=1e-5, rtol=0)
    assert torch.equal(prediction_target(stable_diffusion_scheduler("sample"), latents, noise, timesteps), latents)


def test_timesteps_cover_the_whole_schedule_evenly(seeded):
    generator, scheduler = seeded(0), stable_diffusion_scheduler()
    draws = torch.cat([draw_noise_and_timestep((1, 1, 1, 1), scheduler, generator)[1] for _ in range(4000)])
    assert draws.min() < 5
    assert draws.max() > 994
    tenths = torch.histc(draws.float(), 10, 0, 1000)
    assert ((tenths > 320) & (tenths < 480)).all()


def test_a_noise_offset_moves_whole_channels_and_nothing_else(seeded):
    shape, scheduler = (1, 4, 8, 8), stable_diffusion_scheduler()
    plain, timestep = draw_noise_and_timestep(shape, scheduler, seeded(0))
    moved, same_timestep = draw_noise_and_timestep(shape, scheduler, seeded(0), 0.3)
    shift = moved - plain
    assert torch.equal(timestep, same_timestep)
    torch.testing.assert_close(shift, shift[..., :1, :1].expand(shape), atol=1e-6, rtol=0)
    assert len(shift[0, :, 0, 0].unique()) == 4

    generator = seeded(1)
    draws = [draw_noise_and_timestep(shape, scheduler, generator, 0.3)[0].mean((2, 3)) for _ in range(1000)]
    # The mean of 64 plain draws has a variance of 1/64 of its own.
    assert torch.cat(draws).std().item() == pytest.approx((0.3**2 + 1 / 64) ** 0.5, rel=0.05)


def test_draws_are_those_of_one_step_after_the_other_and_go_up_together(seeded, monkeypatch):
    monkeypatch.setattr(objective, "UPLOADED", 3)
    shape, scheduler, generator = (1, 4, 8, 8), stable_diffusion_scheduler(), seeded(2)
    dials = dict(steps=4, each=2, noise_offset=0.3)
    for noise, timesteps in draws(shape, scheduler, seeded(2), torch.device("cpu"), **dials):
        expected = [draw_noise_and_timestep(shape, scheduler, generator, 0.3) for _ in range(2)]
        assert torch.equal(noise, torch.cat([one for one, _ in expected]))
        assert torch.equal(timesteps, torch.cat([one for _, one in expected]))
