"""`python -m layerdiffusion benchmark --accept OUT`: what a machine's first minutes have to show, as JSON and Markdown.

The models have Stable Diffusion v1.4's and SAM ViT-H's architecture and random weights, so that nothing is downloaded.
With `--tiny` they are of a few thousand parameters, and every section that a CPU can run is run. A section that the
machine can't run is reported with its reason, never as passed.
"""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from layerdiffusion.commands.stepping import stepping
from layerdiffusion.commands.terminal import writable
from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.method import graph
from layerdiffusion.methods.layerdiffusion import stages as stages_of
from layerdiffusion.methods.stages import Task
from layerdiffusion.models.load import MINIATURE, Models, assemble
from layerdiffusion.models.memory import TooLarge, predicted_need
from layerdiffusion.models.parts import Parts
from layerdiffusion.models.profile import GIB, PRECISIONS, device_profile
from layerdiffusion.models.sam import place_sam
from layerdiffusion.models.segmenter import Segmenter
from layerdiffusion.models.untrained import untrained_parts, untrained_sam
from layerdiffusion.progress import Progress
from layerdiffusion.runtime import OutOfMemory
from layerdiffusion.settings import FINETUNE, PAPER, Settings, preset

CARDS = (24, 16, 8)  # GiB
NO_CUDA = "needs a CUDA device"
FEW: dict[str, Any] = {
    "embedding_steps": 20,
    "finetune_steps": 20,
    "sampling_steps": 10,
}  # of what is run to be compared, not timed
TINY: dict[str, Any] = {"embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 2}


class NotRunError(Exception):
    """Why a section can't run here."""


@dataclass
class Bench:
    """What the sections share."""

    parts: Parts
    device: str
    tiny: bool
    few: Settings = field(init=False)
    paper: Settings = field(init=False)

    def __post_init__(self) -> None:
        steps = TINY if self.tiny else FEW
        self.paper = replace(PAPER, seeds=(0, 1, 2, 3), **(TINY if self.tiny else {}))
        self.few = replace(PAPER, seeds=(0, 1), **steps)

    def models(self, low_memory: bool | None = None, memory: int | None = None, compile: bool = False) -> Models:
        profile = device_profile(self.device, None, low_memory, compile, memory)
        return assemble("untrained", self.parts, Path("untrained"), profile)

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def needs_cuda(self) -> None:
        if not self.cuda:
            raise NotRunError(NO_CUDA)


def accept(out: str, device: str | None, tiny: bool) -> int:
    """Run every section, and write `acceptance.json` and `acceptance.md` to the folder; 1 where one failed."""
    from transformers import CLIPTokenizer

    folder = writable(Path(out))
    chosen = device_profile("cpu" if tiny and device is None else device).device
    tokenizer = CLIPTokenizer.from_pretrained(MINIATURE / "tokenizer", model_max_length=24 if tiny else 77)
    bench = Bench(untrained_parts(tokenizer, tiny), str(chosen), tiny)
    began, sections = time.perf_counter(), {}
    for name, section in SECTIONS.items():
        print(f"{name} …", flush=True)
        sections[name] = _run(section, bench)
    report = {
        "device": torch.cuda.get_device_name(chosen) if bench.cuda else platform.processor() or "cpu",
        "torch": torch.__version__,
        "tiny": tiny,
        "seconds": time.perf_counter() - began,
        "sections": sections,
    }
    (folder / "acceptance.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "acceptance.md").write_text(_page(report), encoding="utf-8")
    print(folder / "acceptance.md")
    return int(any(section["status"] == "failed" for section in sections.values()))


def _run(section: Callable[[Bench], dict[str, Any]], bench: Bench) -> dict[str, Any]:
    try:
        found = section(bench)
        return {"status": "failed" if found.get("right") is False else "ran", **found}
    except NotRunError as error:
        return {"status": "not run", "reason": str(error)}
    except Exception as error:  # a section that breaks is what is looked for; the next ones run all the same
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}".partition("\n")[0]}
    finally:
        gc.collect()
        if bench.cuda:
            torch.cuda.empty_cache()


def edits(bench: Bench) -> dict[str, Any]:
    """The paper's way, the quick preset, LoRA, and the low-memory way."""
    few: dict[str, Any] = {} if bench.tiny else FEW
    ways = {
        "paper": bench.paper,
        "quick": replace(preset("quick", bench.paper), **(TINY if bench.tiny else {})),
        "LoRA": replace(bench.paper, tune="lora", **few),
    }
    models = bench.models()
    found = {name: _timed(models, settings) for name, settings in ways.items()}
    del models  # its networks would lie beside the next one's
    return {**found, "low memory": _timed(bench.models(low_memory=True), replace(bench.paper, **few))}


def _card(gib: int) -> Callable[[Bench], dict[str, Any]]:
    def card(bench: Bench) -> dict[str, Any]:
        """An edit by the way that the profile picks, with SAM loaded, on a card that has no more than this."""
        bench.needs_cuda()
        with limited(bench, gib * GIB) as free:
            models = bench.models(memory=free)
            sam = place_sam(untrained_sam(bench.tiny), "cpu" if models.profile.low_memory else bench.device)
            found = _timed(models, replace(models.defaults, seeds=(0, 1, 2, 3), **FEW))
            return {**found, "sam_on_card": sam.device.type == "cuda"}

    return card


def _timed(models: Models, settings: Settings) -> dict[str, Any]:
    """Seconds and, on a GPU, the peak of memory of each stage of an edit."""
    device = models.device
    peaks: dict[str, float] = {}

    def watch(event: Progress) -> None:
        if device.type == "cuda":
            peaks[event.stage] = max(peaks.get(event.stage, 0), torch.cuda.max_memory_allocated(device) / GIB)
            torch.cuda.reset_peak_memory_stats(device)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        result = Editor(models).run(edit_for(models), settings, watch)
    except TooLarge as error:
        return {"not run": str(error)}
    need = predicted_need(models, settings)
    return {
        "tune": settings.tune,
        "steps": [settings.embedding_steps, settings.finetune_steps, settings.sampling_steps],
        "seconds": result.timings,
        "peak_gib": peaks or f"not run: {NO_CUDA}",
        "predicted_gib": need and need.bytes / GIB,
        "notes": list(result.warnings),
    }


def twice(bench: Bench) -> dict[str, Any]:
    """The same edit twice: the largest difference of a pixel."""
    models = bench.models()
    one, two = (_pixels(models, bench.few) for _ in range(2))
    difference = int(np.abs(one - two).max())
    return {"largest_difference_of_255": difference, "right": difference == 0}


def beside_imagic(bench: Bench) -> dict[str, Any]:
    """Ours and Imagic's plain stepping in the same precision, milliseconds a step."""
    models = bench.models()
    try:
        return {"milliseconds_ours_plain": stepping(models, edit_for(models), bench.few)}
    except OutOfMemory as error:
        raise NotRunError(str(error)) from error


def graph_and_compiled(bench: Bench) -> dict[str, Any]:
    """A step of stage 1 eager and as a CUDA graph, and of stages 2 and 3 eager and compiled, in milliseconds."""
    bench.needs_cuda()

    def milliseconds(models: Models, stage: str) -> float:
        settings = replace(bench.few, embedding_steps=100, finetune_steps=30, sampling_steps=50)
        steps = {"embeddings": 100, "finetune": 30, "sampling": 50}[stage]
        edit, few = edit_for(models), replace(settings, embedding_steps=3, finetune_steps=3, sampling_steps=3)
        Editor(models).run(edit, few)  # what is set up once
        if models.compiler is not None:
            models.compiler.wait()
        return 1000 * Editor(models).run(edit, settings).timings[stage] / steps

    models = bench.models()
    found = {"stage 1 graph": milliseconds(models, "embeddings")}
    with mock.patch.object(graph, "cuda_graph", side_effect=RuntimeError("not wanted")):
        found["stage 1 eager"] = milliseconds(models, "embeddings")
    for way, its in (("eager", models), ("compiled", bench.models(compile=True))):
        found |= {f"stage 2 {way}": milliseconds(its, "finetune"), f"stage 3 {way}": milliseconds(its, "sampling")}
    return found


def rounding(bench: Bench) -> dict[str, Any]:
    """How much of stage 2's change is lost, and how many weights keep their value, in each type of weights."""
    models = bench.models()
    exact = replace(models, profile=replace(models.profile, weights=torch.float32))
    edit, runtime = edit_for(models), Editor(exact).runtime
    layers = Editor(models).layers(edit)
    staged = stages_of(Task(exact, edit, replace(bench.few, tune="full", embedding_steps=0), None, layers))[:2]
    with runtime.turn():
        weights = runtime.run_stages(staged, runtime.reporter(staged, None, None))[staged[1]].weights  # type: ignore[attr-defined]
    before = dict(models.master.named_parameters())
    found = {}
    for name in ("bfloat16", "float16"):
        lost = total = same = count = 0.0
        for key, tuned in weights.items():
            old, new = before[key].float(), tuned.cpu().float()
            rounded = new.to(PRECISIONS[name]).float()
            lost += float((rounded - new).square().sum())
            total += float((new - old).square().sum())
            same += int((rounded == old.to(PRECISIONS[name]).float()).sum())
            count += new.numel()
        found[name] = {"error_of_change": (lost / total) ** 0.5, "rounded_back": same / count}
    return {"of": f"{bench.few.finetune_steps} steps", **found}


def clicks(bench: Bench) -> dict[str, Any]:
    """SAM's encoding of a picture, and a click on it, in seconds."""
    sam = place_sam(untrained_sam(bench.tiny), bench.device)
    segmenter = Segmenter(sam, resident=not bench.models().profile.low_memory)
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats(bench.device)
    side = 64 if bench.tiny else 1024
    seconds = {}
    for name, seed in (("first picture", 0), ("encode", 1), ("click", 1)):
        picture = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        began = time.perf_counter()
        segmenter.mask([(side // 2, side // 2)], image=picture)
        seconds[name] = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(bench.device) / GIB if bench.cuda else f"not run: {NO_CUDA}"
    return {"seconds": seconds, "peak_gib": peak}


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """Stage 2 runs out of memory, by an error that is raised in its first step; the next edit is as it was before."""
    models = bench.models()
    expected = _pixels(models, bench.few)
    editor, raised = Editor(models), list[int]()

    def fail_once(event: Progress) -> None:
        if event.stage == FINETUNE and not raised:
            raised.append(event.step)
            raise torch.OutOfMemoryError("CUDA out of memory, provoked")

    result = editor.run(edit_for(models), bench.few, fail_once)
    same = np.array_equal(_pixels(models, bench.few), expected)
    return {"notes": list(result.warnings), "right": bool(raised) and bool(result.images) and same}


def too_small(bench: Bench) -> dict[str, Any]:
    """A real limit below what stage 2 needs: the edit ends well or in one sentence, and the next one is right."""
    bench.needs_cuda()
    models = bench.models(low_memory=False)
    expected = _pixels(models, bench.few)
    with limited(bench, 5 * GIB):
        try:
            notes = list(Editor(models).run(edit_for(models), bench.few).warnings)
        except EditError as error:
            notes = [str(error)]
    same = np.array_equal(_pixels(models, bench.few), expected)
    return {"notes": notes, "right": same}


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "edits": edits,
    **{f"a card of {gib} GiB": _card(gib) for gib in CARDS},
    "the same edit twice": twice,
    "beside Imagic's plain stepping": beside_imagic,
    "eager, graph and compiled": graph_and_compiled,
    "rounding of tuned weights": rounding,
    "Segment Anything": clicks,
    "out of memory, provoked": out_of_memory,
    "out of memory, a real limit": too_small,
}


@contextmanager
def limited(bench: Bench, size: int) -> Iterator[int]:
    """Let torch have so many bytes of the device; raises `NotRunError` where it has fewer."""
    free, total = torch.cuda.mem_get_info(bench.device)
    if free < size:
        raise NotRunError(f"the card has {free / GIB:.0f} GiB free")
    torch.cuda.set_per_process_memory_fraction(size / total, bench.device)
    try:
        yield size
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)


def edit_for(models: Models) -> Edit:
    """An edit of two pictures of noise, at the model's size."""
    side = models.size
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    photo, reference = map(Image.fromarray, noise)
    corner = np.roll(mask, side // 4, 0)
    return Edit(photo, mask, reference, corner, object_prompt="a dog jumping", background_prompt="on the beach")


def _pixels(models: Models, settings: Settings) -> np.ndarray:
    images = Editor(models).run(edit_for(models), settings).images
    return np.stack([np.asarray(image, int) for image in images])


def _page(report: dict[str, Any]) -> str:
    """The report for people: a table of the sections, then the figures of each."""
    lines = [
        "# Acceptance",
        "",
        f"{report['device']}, torch {report['torch']}, {report['seconds']:.0f} s"
        + (", tiny models: no speeds to go by." if report["tiny"] else "."),
        "",
        "| section | |",
        "|---|---|",
    ]
    for name, section in report["sections"].items():
        reason = f": {section['reason']}" if "reason" in section else ""
        lines.append(f"| {name} | {section['status']}{reason} |")
    for name, section in report["sections"].items():
        figures = {key: value for key, value in section.items() if key not in ("status", "reason")}
        if figures:
            lines += ["", f"## {name[0].upper()}{name[1:]}", "", *_figures(figures)]
    return "\n".join(lines) + "\n"


def _figures(figures: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield f"{indent}- {name}:"
            yield from _figures(value, indent + "  ")
        else:
            yield f"{indent}- {name}: {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return str(value)
