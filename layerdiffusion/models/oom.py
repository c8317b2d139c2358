"""What can go wrong while a network works: memory that is used up, numbers that diverge; each as one sentence."""

from __future__ import annotations

import contextlib
import gc
import traceback
from collections.abc import Iterator

import torch

from layerdiffusion.errors import EditError
from layerdiffusion.progress import Cancelled

SMALLER = "close what else uses the device, or choose a smaller model"
MEMORY_REMEDIES = dict.fromkeys(("embeddings", "finetune"), f"lower draws, {SMALLER}")  # by stage: what can help there
OUT_OF_MEMORY = (  # as torch, cuBLAS, cuDNN and the allocators of CPUs say it
    *("out of memory", "can't allocate memory", "not enough memory", "unable to find an engine"),
    *("cublas_status_alloc_failed", "cudnn_status_alloc_failed"),
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that a device's or the machine's memory is used up."""
    words = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(part in words for part in OUT_OF_MEMORY)


def free_memory(error: Exception) -> None:
    """Give back what the work that ended in `error` holds on the device."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class OutOfMemory(EditError):
    """The device's memory doesn't hold the edit."""


@contextlib.contextmanager
def plain_errors(stage: str, remedy: str) -> Iterator[None]:
    """What goes wrong in a stage is raised as an `EditError`; `remedy` is for numbers that are no longer finite."""
    try:
        yield
    except Cancelled as error:
        traceback.clear_frames(error.__traceback__)  # the copy in training goes now, not with the exception
        raise
    except FloatingPointError as error:
        raise EditError(f"The {stage} stage diverged: its numbers are no longer finite; {remedy}.") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        free_memory(error)
        remedy = MEMORY_REMEDIES.get(stage, SMALLER)
        raise OutOfMemory(f"The {stage} stage needs more memory than there is; {remedy}.") from error
