"""Compiled in the background, used once it is done and right, and for every network of the same structure."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import QUICK
from torch import nn

from layerdiffusion.editor import Editor
from layerdiffusion.models import compiled
from layerdiffusion.models.compiled import Compiler


class Network(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        nn.init.constant_(self.layer.weight, weight)

    def forward(self, sample, timestep, encoder_hidden_states):
        return SimpleNamespace(sample=self.layer(sample) * timestep + encoder_hidden_states.sum())


class Backend:
    """Runs what is compiled as it is, or times `factor`, and counts."""

    def __init__(self, factor: float = 1) -> None:
        self.factor, self.compiled, self.calls = factor, 0, 0

    def __call__(self, graph, inputs):
        self.compiled += 1

        def run(*inputs):
            self.calls += 1
            return [self.factor * each for each in graph.forward(*inputs)]

        return run


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()


def inputs(batch: int = 2) -> dict[str, torch.Tensor]:
    return {"timestep": torch.tensor(3), "encoder_hidden_states": torch.ones(batch, 2)}


def trained(network: nn.Module, batch: int = 2) -> list[torch.Tensor]:
    """What it comes to, and the gradients of its parameters."""
    parameters = list(network.parameters())
    sample = network(torch.ones(batch, 4), **inputs(batch)).sample
    return [sample.detach(), *torch.autograd.grad(sample.square().sum(), parameters)]


@torch.no_grad()
def called(network: nn.Module, batch: int = 2) -> torch.Tensor:
    return network(torch.ones(batch, 4), **inputs(batch)).sample


def test_it_runs_as_it_is_until_it_is_compiled_and_then_networks_tuned_later_do_too(monkeypatch):
    backend = Backend()
    compiler, first, later = Compiler(backend), Network(0.5), Network(-2.0)
    begun = []
    monkeypatch.setattr(compiler, "_compile", lambda *given: begun.append(given))
    attached = compiler.attach(first)
    assert torch.equal(called(attached), called(first)) and not backend.compiled
    monkeypatch.undo()
    compiler.wait()
    compiler._compile(*begun[0])
    assert backend.compiled == 1 and backend.calls == 1
    for network in (first, later):
        torch.testing.assert_close(called(compiler.attach(network)), called(network))
    assert backend.compiled == 1 and backend.calls == 3


def test_each_shape_is_compiled_once_in_the_background():
    backend = Backend()
    compiler = Compiler(backend)
    attached = compiler.attach(Network(1.0))
    for batch in (2, 3, 2, 3):
        called(attached, batch)
        compiler.wait()
    assert backend.compiled == 2 and backend.calls == 4  # one call of each by the compiler, one by us


@pytest.mark.parametrize("backend", [Backend(factor=2), "no such backend"], ids=["wrong", "fails"])
def test_what_cannot_be_compiled_or_is_not_the_same_goes_on_as_it_is(backend, caplog, monkeypatch):
    if backend == "no such backend":

        def backend(graph, inputs):
            raise RuntimeError("no compiler is installed\nand a long story")

    compiler, network = Compiler(backend), Network(1.0)
    attached = compiler.attach(network)
    for batch in (2, 2, 3):
        assert torch.equal(called(attached, batch), called(network, batch))
        compiler.wait()
    (line,) = [record.getMessage() for record in caplog.records if record.name == compiled.__name__]
    assert "runs as it is" in line and "\n" not in line and compiler.failed
    assert ("something else" if isinstance(backend, Backend) else "no compiler is installed") in line


def test_a_network_is_trained_compiled_once_a_copy_of_it_has_been(monkeypatch):
    compiler, first, later = Compiler("aot_eager"), Network(0.5), Network(-2.0)
    attached = compiler.attach(first, training=True)
    assert torch.equal(trained(attached)[0], trained(first)[0])
    compiler.wait()
    assert all(parameter.grad is None for parameter in first.parameters()), "that was a copy's"
    torch._dynamo.utils.counters.clear()
    for network in (first, later):
        for ours, plain in zip(trained(compiler.attach(network, training=True)), trained(network), strict=True):
            torch.testing.assert_close(ours, plain)
    assert not torch._dynamo.utils.counters["stats"], "nothing is compiled while an edit waits"
    called(compiler.attach(first))  # to sample with is another matter
    compiler.wait()
    assert len(compiler._ready) == 2 and not compiler.failed


def test_under_autocast_it_runs_as_it_is():
    compiler = Compiler("aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        called(compiler.attach(Network(1.0)))
    assert not compiler._asked


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["full", "lora"])
def test_stage_2_is_compiled_too(tiny_models, edit, tune):
    models = replace(tiny_models, compiler=Compiler("aot_eager"))
    settings = [replace(QUICK, tune=tune, finetune_steps=3, training_seed=seed) for seed in (1, 2)]
    Editor(models).run(edit, settings[0])
    models.compiler.wait()
    assert not models.compiler.failed and len(models.compiler._ready) == 2
    torch._dynamo.utils.counters.clear()
    ours, plain = (Editor(each).run(edit, settings[1]) for each in (models, tiny_models))
    assert not torch._dynamo.utils.counters["stats"], "nothing is compiled while an edit waits"
    assert len(models.compiler._ready) == 2
    np.testing.assert_allclose(ours.losses["finetune"], plain.losses["finetune"], rtol=1e-3)
    for one, other in zip(ours.images, plain.images, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 2


@pytest.mark.slow
def test_edits_sample_with_the_compiled_network_once_it_is_there(tiny_models, edit):
    backend = Backend()
    models = replace(tiny_models, compiler=Compiler(backend))
    first, other = replace(QUICK, training_seed=1), replace(QUICK, training_seed=2)
    for settings, compiled_too in ((first, 0), (other, 1)):
        before = backend.calls
        results = (Editor(each).run(edit, settings).images for each in (models, tiny_models))
        for ours, plain in zip(*results, strict=True):
            assert np.abs(np.asarray(ours, int) - np.asarray(plain, int)).max() <= 1
        assert not compiled_too or backend.calls - before >= QUICK.sampling_steps
        models.compiler.wait()
    assert not models.compiler.failed and backend.compiled == 2, "stage 2 and stage 3, once each"
