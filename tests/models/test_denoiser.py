"""f(x_t, t, e) in the precision that was asked for, and compiled where torch can do that."""

from types import SimpleNamespace

import pytest
import torch
from tiny import WIDTH, tiny_unet
from torch import nn

from layerdiffusion.models import denoiser
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition


def test_lower_precision_predicts_nearly_the_same_and_still_gives_float32(seeded):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet()
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0))
    embeddings = Condition(torch.randn(1, 5, WIDTH, generator=seeded(1)))
    with torch.no_grad():
        full = Denoiser(unet, torch.float32)(latents, torch.tensor(500), embeddings)
        half = Denoiser(unet, torch.bfloat16)(latents, torch.tensor(500), embeddings)
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_predicts_by_itself_nearly_what_autocast_does(seeded, dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = tiny_unet()
    latents = torch.randn(1, 4, 8, 8, generator=seeded(0))
    embeddings = Condition(torch.randn(1, 5, WIDTH, generator=seeded(1)).requires_grad_(True))
    full = Denoiser(unet, torch.float32)(latents, torch.tensor(500), embeddings)
    half = Denoiser(unet.to(dtype), dtype)(latents, torch.tensor(500), embeddings)
    assert half.dtype == torch.float32
    torch.testing.assert_close(full, half, atol=0.05, rtol=0.05)
    (gradient,) = torch.autograd.grad(half.square().sum(), embeddings.prompt_embeds)
    assert gradient.dtype == torch.float32 and gradient.abs().max() > 0


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, sample, timestep, encoder_hidden_states):
        return SimpleNamespace(sample=self.layer(sample) * timestep + encoder_hidden_states.sum())


def asked(network: nn.Module, compile: bool) -> list[torch.Tensor]:
    """Its prediction twice, and the gradient of its weights."""
    f, words = Denoiser(network, compile=compile), Condition(torch.ones(1, 2))
    first, second = (f(torch.ones(2, 4) * factor, torch.tensor(3), words) for factor in (1, 2))
    return [first.detach(), second.detach(), *torch.autograd.grad(second.sum(), [*network.parameters()])]


def test_a_compiled_network_predicts_and_trains_as_an_eager_one(monkeypatch):
    ways, compile = [], torch.compile

    def by_eager_backend(network, mode, dynamic):
        ways.append((mode, dynamic))
        return compile(network, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", by_eager_backend)
    network = Network()
    for found, expected in zip(asked(network, True), asked(network, False), strict=True):
        torch.testing.assert_close(found, expected)
    assert ways == [("reduce-overhead", False)]


def test_what_cannot_be_compiled_runs_eager_from_then_on_and_the_log_has_a_line(monkeypatch, caplog):
    calls = []

    def fails(network, mode, dynamic):
        def call(*inputs, **arguments):
            calls.append(inputs)
            raise RuntimeError("no compiler\nat all")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    network = Network()
    for found, expected in zip(asked(network, True), asked(network, False), strict=True):
        assert torch.equal(found, expected)
    (line,) = [record.getMessage() for record in caplog.records if record.name == denoiser.__name__]
    assert len(calls) == 1 and "no compiler" in line and "\n" not in line


def test_memory_that_is_used_up_is_no_failure_to_compile(monkeypatch):
    def fails(network, mode, dynamic):
        def call(*inputs, **arguments):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(torch.OutOfMemoryError):
        asked(Network(), True)
