"""`python -m layerdiffusion benchmark`: what each stage of an edit costs here, beside Imagic's plain way of stepping.

The plain way is that of diffusers' community pipeline `imagic_stable_diffusion`, written out: a batch of one and a
loop of its own for every embedding, every picture, and Adam without fusing. Both take the same steps on the same model
and device, in one run, in turns.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from layerdiffusion.commands.terminal import add_lora
from layerdiffusion.evaluation.datasets.toybench import pose_and_place
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.edit import Edit
    from layerdiffusion.models.load import Models

SEEDS = (0, 1, 2, 3)
MORE_SEEDS = (4, 5, 6, 7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `benchmark` command."""
    parser.add_argument("--model", default="auto", help="miniature, a diffusers folder, a hub id, or auto")
    add_lora(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of each stage beside the plain way")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Time a default edit of four seeds, new seeds for it, and both ways of stepping; print them."""
    import torch

    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models

    models = load_models(args.model, args.device, loras=args.lora or ())
    settings = replace(models.defaults, **_few(args.steps), seeds=SEEDS)  # refused here, if it is to be refused
    edit = _edit(models)
    if models.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    editor = Editor(models)
    cold = editor.run(edit, Settings(seeds=SEEDS)).timings
    again = editor.run(edit, Settings(seeds=MORE_SEEDS)).timings
    stepping = _stepping(models, edit, settings)
    device = torch.cuda.get_device_name() if models.device.type == "cuda" else platform.processor() or "cpu"
    figures = {"model": models.name, "device": device, "threads": torch.get_num_threads(), "seconds": cold,
               "seconds_for_new_seeds": again, "milliseconds_a_step": stepping}  # fmt: skip
    if models.device.type == "cuda":
        figures["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    if args.json:
        print(json.dumps(figures))
        return 0
    print(f"{models.name} on {device}, {figures['threads']} threads")
    for title, timings in ((f"an edit, {len(SEEDS)} seeds", cold), (f"{len(MORE_SEEDS)} new seeds for it", again)):
        print(title.ljust(24) + "  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in timings.items()))
    if "peak_memory_gib" in figures:
        print(f"peak memory {figures['peak_memory_gib']:.1f} GiB")
    print("milliseconds a step".ljust(40) + "ours".rjust(8) + "plain".rjust(8) + "ratio".rjust(8))
    for stage, (ours, plain) in stepping.items():
        print(stage.ljust(40) + f"{ours:8.1f}{plain:8.1f}{plain / ours:8.2f}")
    return 0


def _edit(models: Models) -> Edit:
    """An edit of the toybox, at the model's size."""
    edit = pose_and_place(0).edit
    if models.size == edit.object_image.width or edit.background_image is None:
        return edit
    size = (models.size, models.size)
    return replace(
        edit,
        object_image=edit.object_image.resize(size),
        object_mask=_resized(edit.object_mask, size),
        background_image=edit.background_image.resize(size),
        background_mask=_resized(edit.background_mask, size),
    )


def _resized(mask: Any, size: tuple[int, int]) -> Any:
    return np.asarray(Image.fromarray(mask).resize(size))


def _stepping(models: Models, edit: Edit, settings: Settings) -> dict[str, tuple[float, float]]:
    """Ours and the plain way, milliseconds a step: for an embedding, for the network, and for a picture."""
    from layerdiffusion.editor import Editor

    def ours() -> dict[str, float]:
        return Editor(models).run(edit, settings).timings

    def milliseconds(run: Callable[[], dict[str, float]]) -> dict[str, float]:
        return {stage: 1000 * seconds for stage, seconds in run().items()}

    plain = PlainImagic(models, edit, settings)
    milliseconds(lambda: Editor(models).run(edit, replace(settings, **_few(2))).timings)  # warms up
    rounds = [(milliseconds(ours), milliseconds(plain.run)) for _ in range(3)]
    steps = {
        "embeddings": ("stage 1, for each embedding", 2 * settings.embedding_steps, settings.embedding_steps),
        "finetune": ("stage 2", settings.finetune_steps, settings.finetune_steps),
        "sampling": (
            f"stage 3, for each of {len(settings.seeds)} pictures",
            settings.sampling_steps * len(settings.seeds),
            settings.sampling_steps,
        ),
    }
    return {
        name: (min(o[stage] for o, _ in rounds) / our_steps, min(p[stage] for _, p in rounds) / plain_steps)
        for stage, (name, our_steps, plain_steps) in steps.items()
    }


def _few(steps: int) -> dict[str, Any]:
    return {"embedding_steps": steps, "finetune_steps": steps, "sampling_steps": steps}


class PlainImagic:
    """Imagic (Kawar et al. 2023, https://arxiv.org/abs/2210.09276) as diffusers' pipeline steps: one embedding,
    one picture, one seed. Only its stepping is of interest here; its pictures are thrown away.
    """

    def __init__(self, models: Models, edit: Edit, settings: Settings):
        self.models, self.settings = models, settings
        self.latents = models.encode(edit.object_image)
        self.embedding = models.embed([edit.prompt])

    def run(self) -> dict[str, float]:
        """Seconds that each stage took."""
        import torch

        timings = {}
        for stage, work in (("embeddings", self._embedding), ("finetune", self._finetune), ("sampling", self._sample)):
            started = time.perf_counter()
            work()
            if self.models.device.type == "cuda":
                torch.cuda.synchronize()
            timings[stage] = time.perf_counter() - started
        return timings

    def _loss(self, unet: Any, embedding: Any) -> Any:
        import torch
        import torch.nn.functional as F

        from layerdiffusion.method.objective import prediction_target

        scheduler = self.models.scheduler
        noise = torch.randn_like(self.latents)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (1,), device=self.latents.device)
        noisy = scheduler.add_noise(self.latents, noise, timesteps)
        predicted = unet(noisy, timesteps, **embedding.arguments(noisy)).sample
        return F.mse_loss(predicted, prediction_target(scheduler, self.latents, noise, timesteps))

    def _embedding(self) -> None:
        import torch

        embedding = self.embedding.map(lambda tensor: tensor.clone().requires_grad_(True))
        optimizer = torch.optim.Adam(embedding.tensors.values(), lr=1e-3)
        unet = self._network()
        for _ in range(self.settings.embedding_steps):
            self._loss(unet, embedding).backward()
            optimizer.step()
            optimizer.zero_grad()

    def _finetune(self) -> None:
        import torch

        unet = self._network().requires_grad_(True).train()
        optimizer = torch.optim.Adam(unet.parameters(), lr=self.settings.finetune_lr)
        for _ in range(self.settings.finetune_steps):
            self._loss(unet, self.embedding).backward()
            optimizer.step()
            optimizer.zero_grad()

    def _network(self) -> Any:
        """A float32 copy on the device: `to` would move the one that every edit starts from."""
        return copy.deepcopy(self.models.master).to(self.latents.device)

    def _sample(self) -> None:
        import torch

        from layerdiffusion.method.sampling import ddim_scheduler

        scheduler = ddim_scheduler(self.models.scheduler, self.settings.sampling_steps)
        latents = torch.randn_like(self.latents)
        words = self.models.embed([None]).join(self.embedding).map(lambda tensor: tensor.to(self.models.unet.dtype))
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                both = torch.cat([latents] * 2).to(self.models.unet.dtype)
                without, with_words = self.models.unet(both, timestep, **words.arguments(both)).sample.float().chunk(2)
                predicted = without + self.settings.guidance_scale * (with_words - without)
                latents = scheduler.step(predicted, timestep, latents, eta=0.0).prev_sample
            self.models.decode(latents)
