"""A step as a graph: the same numbers as without one, and none of it where it can't be had or isn't right."""

import pytest
import torch

from layerdiffusion.method.graph import replayed


def compute(noise, timestep):
    return noise.square().sum(), noise * timestep


@pytest.fixture
def inputs(seeded):
    return [(torch.randn(2, 3, generator=seeded(index)), torch.tensor(float(index))) for index in range(1, 6)]


class Capture:
    """A graph as far as a CPU can have one: inputs copied into buffers of its own, outputs overwritten each time."""

    def __init__(self, spoil=0.0):
        self.spoil, self.captured, self.replays = spoil, 0, 0

    def __call__(self, compute, *inputs):
        self.captured += 1
        held = [one.clone() for one in inputs]
        outputs = [one.clone() for one in compute(*held)]

        def replay(*new):
            self.replays += 1
            for own, one in zip(held, new, strict=True):
                own.copy_(one)
            for output, one in zip(outputs, compute(*held), strict=True):
                output.copy_(one + self.spoil)
            return tuple(outputs)

        return replay


def results(inputs, capture):
    return [tuple(one.clone() for one in found) for found in replayed(compute, iter(inputs), capture)]


def same(found, inputs):
    expected = [compute(*one) for one in inputs]
    return len(found) == len(expected) and all(
        torch.equal(a, b) for a, b in zip(sum(found, ()), sum(expected, ()), strict=True)
    )


def test_a_graph_takes_over_after_two_inputs_and_gives_the_same(inputs):
    capture = Capture()
    assert same(results(inputs, capture), inputs)
    assert (capture.captured, capture.replays) == (1, 1 + 3)  # once to be checked


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_inputs_are_computed_as_they_are(inputs, count):
    capture = Capture()
    assert same(results(inputs[:count], capture), inputs[:count])
    assert capture.captured == (count > 1)


def test_a_graph_that_comes_to_other_numbers_is_not_used_and_the_log_has_a_line(inputs, caplog):
    capture = Capture(spoil=100.0)
    assert same(results(inputs, capture), inputs)
    assert capture.replays == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Stage 1 runs without a CUDA graph: a replay comes to other numbers."
    ]


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted\nwhen capturing"), torch.OutOfMemoryError("no")]
)
def test_what_cannot_be_captured_is_computed_plainly_and_the_log_has_a_line(inputs, caplog, error):
    def capture(*_):
        raise error

    assert same(results(inputs, capture), inputs)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["Stage 1 runs without a CUDA graph"]
    assert "\n" not in caplog.text.strip()


def test_without_a_gpu_nothing_is_captured(inputs):
    assert same(results(inputs, None), inputs)
