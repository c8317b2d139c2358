"""Adam in mixed precision: scaled gradients, overflows, rounded copies, and losses that are fetched together."""

import pytest
import torch

from layerdiffusion.models import optimizer
from layerdiffusion.models.optimizer import MOST_OVERFLOWS, MOST_WAITING, OptimizerStep


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
    monkeypatch.setattr(optimizer.time, "perf_counter", lambda: clock[0])
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
    monkeypatch.setattr(optimizer, "PART", 60)
    parts, found = trained()
    assert (len(whole._parts), len(parts._parts)) == (1, 3)
    assert torch.equal(found, expected)
