"""Eq. 1: what is compared with what, and where it counts."""

import pytest
import torch
from tiny import WIDTH, stable_diffusion_scheduler, tiny_unet

from layerdiffusion.method import objective
from layerdiffusion.method.objective import (
    MOST_OVERFLOWS,
    MOST_WAITING,
    OptimizerStep,
    draw_noise_and_timestep,
    draws,
    frozen,
    masked_loss,
    predict,
    prediction_target,
    train_mode,
)
from layerdiffusion.models.family import Condition


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


def test_lower_precision_predicts_nearly_the_same_and_still_gives_float32(seeded):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet()
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0))
    embeddings = Condition(torch.randn(1, 5, WIDTH, generator=seeded(1)))
    with torch.no_grad():
        full = predict(unet, latents, torch.tensor(500), embeddings, torch.float32)
        half = predict(unet, latents, torch.tensor(500), embeddings, torch.bfloat16)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.05, rtol=0.05)


def test_a_float16_step_scales_the_gradient_up_and_back_down():
    start = torch.full((3,), 0.5)
    parameter = start.clone().requires_grad_(True)
    seen = []
    parameter.register_hook(lambda gradient: seen.append(gradient.clone()))

    seen_losses = []
    step = OptimizerStep([parameter], 1e-3, torch.float16, on_step=seen_losses.append)
    step((parameter * 1e-6).sum())
    (state,) = step.optimizer.state.values()

    assert seen[0][0] > 1e-3  # in the backward pass: far above what float16 would round to nothing
    torch.testing.assert_close(state["exp_avg"], torch.full((3,), 1e-7))  # a tenth of the gradient
    torch.testing.assert_close(start - parameter.detach(), torch.full((3,), 1e-3), rtol=0.02, atol=0)
    assert [one.loss for one in seen_losses] == pytest.approx([1.5e-6])


def test_a_float16_step_that_overflows_is_left_out():
    parameter = torch.ones(3, requires_grad=True)
    OptimizerStep([parameter], 1e-3, torch.float16)((parameter * float("inf")).sum())
    assert torch.equal(parameter.detach(), torch.ones(3))


def test_a_loss_that_is_no_number_is_an_error():
    parameter = torch.ones(3, requires_grad=True)
    with pytest.raises(FloatingPointError):
        OptimizerStep([parameter], 1e-3)((parameter * float("nan")).sum())


def test_the_context_managers_restore_what_they_changed_even_after_an_error():
    unet = tiny_unet_in_a_mixed_state()
    before = state_of(unet)
    with pytest.raises(KeyError), frozen(unet):
        assert not any(parameter.requires_grad for parameter in unet.parameters())
        assert not any(part.training for part in unet.modules())
        raise KeyError
    assert state_of(unet) == before
    with train_mode(unet):
        assert all(part.training for part in unet.modules())
    assert state_of(unet) == before


def tiny_unet_in_a_mixed_state():
    with torch.random.fork_rng(devices=[]):
        unet = tiny_unet()
    unet.train().mid_block.eval()
    unet.conv_in.requires_grad_(False)
    return unet


def state_of(unet):
    return [part.training for part in unet.modules()], [p.requires_grad for p in unet.parameters()]


def test_gradients_are_freed_right_after_the_step():
    parameter = torch.ones(3, requires_grad=True)
    OptimizerStep([parameter], 1e-3)((parameter * 2).sum())
    assert parameter.grad is None and (parameter < 1).all()


def test_endless_overflow_in_float16_is_an_error_and_a_few_are_not():
    parameter = torch.ones(3, requires_grad=True)
    step = OptimizerStep([parameter], 1e-3, torch.float16)
    for _ in range(MOST_OVERFLOWS - 1):
        step((parameter * float("inf")).sum())
    step((parameter * 1e-6).sum())
    assert step.overflows == 0
    with pytest.raises(FloatingPointError, match="overflows at every step"):
        for _ in range(MOST_OVERFLOWS):
            step((parameter * float("inf")).sum())


def test_losses_wait_to_be_fetched_together_and_none_is_lost(monkeypatch):
    """As on a GPU, where a CPU's fetches at once would each wait for all that is queued."""
    clock = [0.0]
    monkeypatch.setattr(objective.time, "perf_counter", lambda: clock[0])
    parameter, reported = torch.zeros(1, requires_grad=True), []
    step = OptimizerStep([parameter], 0.0, steps=60, on_step=lambda one: reported.append((one.index, one.loss)))
    step.most_waiting = MOST_WAITING
    fetches = []
    for index in range(1, 61):
        clock[0] += 0.11 if index > 50 else 0.001
        step((parameter + index).sum())
        fetches.append(len(reported))
    assert reported == [(index, index) for index in range(1, 61)]
    assert sorted(set(fetches)) == [0, 25, 50, 55, 60]


def test_a_loss_that_is_no_number_is_an_error_also_when_it_is_fetched_later():
    parameter = torch.ones(1, requires_grad=True)
    step = OptimizerStep([parameter], 1e-3, steps=100)
    step.most_waiting = MOST_WAITING
    for _ in range(MOST_WAITING - 1):
        step((parameter * float("nan")).sum())
    with pytest.raises(FloatingPointError, match="no longer a finite number"):
        step((parameter * 1.0).sum())


def test_rounded_copies_follow_a_master_that_keeps_every_step(seeded):
    start = torch.randn(1000, generator=seeded(0))
    wanted = torch.randn(1000, generator=seeded(1)) * 1e-3
    master, half = start.clone(), start.bfloat16().requires_grad_(True)
    plain = start.clone().requires_grad_(True)
    ours, theirs = OptimizerStep([master], 1e-5, half=[half]), torch.optim.Adam([plain], lr=1e-5)
    for _ in range(5):
        ours((half.float() * wanted).sum())
        theirs.zero_grad()
        (plain * wanted.bfloat16().float()).sum().backward()
        theirs.step()
    torch.testing.assert_close(master, plain.detach(), atol=1e-9, rtol=0)
    assert torch.equal(half.detach(), master.bfloat16()) and half.grad is None and master.grad is None
    assert (half.detach().float() == start.bfloat16().float()).float().mean() > 0.9  # too small to see in bfloat16


def test_gradients_become_float32_in_parts_that_change_nothing(monkeypatch, seeded):
    def trained():
        masters = [torch.randn(50, generator=seeded(index)) for index in range(6)]
        half = [master.half().requires_grad_(True) for master in masters]
        step = OptimizerStep(masters, 1e-3, half=half)
        for _ in range(3):
            step(sum((one.float() ** 2).sum() for one in half))
        return step, torch.cat(masters)

    whole, expected = trained()
    monkeypatch.setattr(objective, "PART", 60)
    parts, found = trained()
    assert (len(whole._parts), len(parts._parts)) == (1, 3)
    assert torch.equal(found, expected)


def test_draws_are_those_of_one_step_after_the_other_and_go_up_together(seeded, monkeypatch):
    monkeypatch.setattr(objective, "UPLOADED", 3)
    shape, scheduler, generator = (1, 4, 8, 8), stable_diffusion_scheduler(), seeded(2)
    dials = dict(steps=4, each=2, noise_offset=0.3)
    for noise, timesteps in draws(shape, scheduler, seeded(2), torch.device("cpu"), **dials):
        expected = [draw_noise_and_timestep(shape, scheduler, generator, 0.3) for _ in range(2)]
        assert torch.equal(noise, torch.cat([one for one, _ in expected]))
        assert torch.equal(timesteps, torch.cat([one for _, one in expected]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_predicts_by_itself_nearly_what_autocast_does(seeded, dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet()
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0))
    embeddings = Condition(torch.randn(1, 5, WIDTH, generator=seeded(1)).requires_grad_(True))
    full = predict(unet, latents, torch.tensor(500), embeddings, torch.float32)
    half = predict(unet.to(dtype), latents, torch.tensor(500), embeddings, dtype)
    assert half.dtype == torch.float32
    torch.testing.assert_close(full, half, atol=0.05, rtol=0.05)
    (gradient,) = torch.autograd.grad(half.square().sum(), embeddings.prompt_embeds)
    assert gradient.dtype == torch.float32 and gradient.abs().max() > 0
