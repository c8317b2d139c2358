"""How many operations a step asks the device for: what launches them is what a fast GPU waits for."""

import pytest
import torch
from tiny import WIDTH, stable_diffusion_scheduler, tiny_unet
from torch.utils._python_dispatch import TorchDispatchMode

from layerdiffusion.method import composite_layers, finetune, optimize_embeddings, sample
from layerdiffusion.models.denoiser import Denoiser
from layerdiffusion.models.family import Condition
from layerdiffusion.models.tuning import TunedNetwork, in_precision, with_weights

# Operations of a step of the tiny network, less those that only reserve memory or look at it in another way.
MOST = {"stage 1": 470, "stage 2": 590, "stage 2, LoRA": 760, "stage 3": 270}


FREE = {torch.ops.aten._unsafe_view.default, torch.ops.aten.empty_like.default, torch.ops.aten.empty.memory_format}


class Operations(TorchDispatchMode):
    """Counts them by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view and func not in FREE:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def unet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_unet().eval().requires_grad_(False)


def step(run) -> list[str]:
    """The operations of one step more: those of three steps less those of two."""
    counted = []
    for steps in (2, 3):
        with Operations() as operations:
            run(steps)
        counted.append(operations.names)
    names = sorted(set(counted[1]))
    return [name for name in names for _ in range(counted[1].count(name) - counted[0].count(name))]


def stages(unet, seeded, dtype, half):
    """One step of each stage at its cheapest, in `dtype`; with `half`, by weights of that type and without autocast."""
    scheduler, latents = stable_diffusion_scheduler(), torch.randn(1, 4, 8, 8, generator=seeded(0))
    words, mask = Condition(torch.randn(2, 5, WIDTH, generator=seeded(1))), torch.ones(1, 1, 8, 8)
    network = in_precision(unet, dtype) if half else unet

    def fit(steps):
        optimize_embeddings(
            Denoiser(network, dtype), scheduler, latents, mask, words, steps=steps, lr=1e-3, generator=seeded(2)
        )

    def tune(how):
        def run(steps):
            tuned = TunedNetwork(
                network if how == "lora" else unet, latents.device, dtype, lora=how == "lora", rounded=half,
                optimizer=lambda tensors, lr: torch.optim.Adam(tensors, lr, fused=True),
            )  # fmt: skip
            dials = dict(object_weight=2.0, background_weight=1.0, steps=steps, lr=1e-4, generator=seeded(3))
            return finetune(tuned, scheduler, composite_layers(latents, mask), words[:1], **dials)

        return run

    tuned = Denoiser(with_weights(network, tune("lora")(1)), dtype)

    def draw(steps):
        sample(tuned, scheduler, latents, words[:1], words[1:], words[:1], steps=steps, guidance_scale=5.0)

    runs = {"stage 1": fit, "stage 2": tune("full"), "stage 2, LoRA": tune("lora"), "stage 3": draw}
    return {name: step(run) for name, run in runs.items()}


@pytest.mark.slow
def test_half_precision_weights_save_operations_and_the_steps_grow_no_larger(unet, seeded):
    plain, half = (stages(unet, seeded, torch.bfloat16, half) for half in (False, True))
    for name, most in MOST.items():
        assert len(half[name]) <= most, f"{name}: {len(half[name])} operations"
        assert len(half[name]) < 0.8 * len(plain[name]), name
        # What autocast converts at every step: each weight, and around each norm.
        assert half[name].count("_to_copy") < 0.25 * plain[name].count("_to_copy"), name


def test_a_step_in_float32_grows_no_larger(unet, seeded):
    for name, found in stages(unet, seeded, torch.float32, half=False).items():
        assert len(found) <= MOST[name], f"{name}: {len(found)} operations"
