"""A training step replayed as one CUDA graph: a step of small kernels takes longer to launch than to compute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Inputs = tuple[Tensor, Tensor]
Computation = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # changes nothing, and always does the same
Capture = Callable[[Computation, Tensor, Tensor], Computation]
WARM_UP = 3  # times that a computation runs before it is captured: cuBLAS and cuDNN set themselves up
TOLERANCE = 0.05  # between a replay and the computation, of the largest number: they may choose other kernels


def replayed(
    compute: Computation, inputs: Iterator[Inputs], capture: Capture | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """`compute(*one)` for each of `inputs`, tensors of the same shapes, on a GPU as one graph.

    What it gives is overwritten by the next. The first two of the inputs are computed plainly, and the graph has to
    give the same for the second; where it doesn't, or can't be captured, the log has a line and all goes on plainly.
    `capture` is `cuda_graph`, on anything but a GPU None.
    """
    first = next(inputs, None)
    if first is None:
        return
    capture = capture or (cuda_graph if first[0].is_cuda else None)
    yield compute(*first)
    second = next(inputs, None)
    if second is None:
        return
    expected = compute(*second)
    if capture is not None:
        compute = _checked(capture, compute, first, second, expected)
    yield expected
    for one in inputs:
        yield compute(*one)


def cuda_graph(compute: Computation, *inputs: Tensor) -> Computation:
    """`compute`, captured on copies of both `inputs`, which each call fills anew."""
    held = inputs[0].clone(), inputs[1].clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            compute(*held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread may copy or score meanwhile
        outputs = compute(*held)

    def replay(*inputs: Tensor) -> tuple[Tensor, ...]:
        for own, new in zip(held, inputs, strict=True):
            own.copy_(new)
        graph.replay()
        return outputs

    return replay


def _checked(
    capture: Capture, compute: Computation, first: Inputs, second: Inputs, expected: tuple[Tensor, ...]
) -> Computation:
    """The captured computation; `compute` itself where that fails or comes to something else than `expected`."""
    try:
        graph = capture(compute, *first)
        found = graph(*second)
    except RuntimeError as error:  # no memory for it is one, too
        log.warning("Stage 1 runs without a CUDA graph: it can't be captured (%s).", str(error).partition("\n")[0])
        return compute
    if all(map(_alike, found, expected)):
        return graph
    log.warning("Stage 1 runs without a CUDA graph: a replay comes to other numbers.")
    return compute


def _alike(found: Tensor, expected: Tensor) -> bool:
    """Also where both overflow, as a float16 step may."""
    return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * expected.abs().max().item(), equal_nan=True)
