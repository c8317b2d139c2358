"""One edit as one variant: what a worker is asked for, does with its models, and answers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from layerdiffusion.baselines import options_for
from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.evaluation.metrics import Dino, Lpips, Measures
from layerdiffusion.evaluation.variants import Variant
from layerdiffusion.images.io import png_bytes
from layerdiffusion.images.layers import Layers, object_fit
from layerdiffusion.miniature.judge import load_judge
from layerdiffusion.miniature.measures import ShapeMeasure
from layerdiffusion.models.load import load_models
from layerdiffusion.models.models import Models
from layerdiffusion.models.sam import load_sam
from layerdiffusion.settings import Settings

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
MODEL_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "clip", "judge")


@dataclass(frozen=True)
class Job:
    """An edit and the variants it still lacks, in the order in which each finds most in the caches of the last."""

    edit: BenchEdit
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Measured:
    """One edit as one variant, ready to be written; pictures are PNG, so that they travel light."""

    record: dict[str, Any]
    pictures: dict[int, bytes]  # by seed
    sources: dict[str, bytes]  # "photo", "reference" and "layers", as the model sees them
    worker: int = field(default_factory=os.getpid)  # the process that generated it

    @property
    def edit(self) -> str:
        return self.record["edit"]

    @property
    def variant(self) -> str:
        return self.record["variant"]


@dataclass(frozen=True)
class Failed:
    """One edit as one variant that can't be done, and the sentence that says why."""

    edit: str
    variant: str
    reason: str


@dataclass(frozen=True)
class Extra:
    """What is measured beside CLIP, the judge's word and the background's pixels; None: not."""

    shape: bool = True  # outlines, where the model has judge and SAM
    dino: str | None = None  # a folder or an id on the hub
    lpips: str | None = None  # "alex", "vgg" or "squeeze"


class Worker:
    """The models, loaded once, and what is done with them: `run` edits and measures, one variant at a time."""

    def __init__(self, models: Models, measures: Measures) -> None:
        self.models, self.measures, self.editor = models, measures, Editor(models)

    @classmethod
    def load(
        cls,
        model: str | Path = "miniature",
        device: str | None = None,
        threads: int | None = None,
        sam: str | Path | None = None,
        extra: Extra = Extra(),
    ) -> Worker:
        """A worker with models of its own; `threads` bounds the CPU's.

        Subjects in results are found by the model's judge, if it has one; with `sam`, which is for pictures no judge
        knows, by that. Raises `ModelError`.
        """
        if threads:
            torch.set_num_threads(threads)
        models = load_models(model, device)
        folder, at = models.folder, models.device
        judge = load_judge(folder / "judge", at) if sam is None and (folder / "judge").is_dir() else None
        outlines = judge is not None and extra.shape and (folder / "sam").is_dir()
        measures = Measures(
            models,
            judge,
            None if sam is None else models.segmenter(None if sam == "auto" else sam),
            ShapeMeasure(judge, load_sam(folder / "sam", at)) if judge is not None and outlines else None,
            None if extra.dino is None else Dino(extra.dino, at),
            None if extra.lpips is None else Lpips(extra.lpips, at),
        )
        return cls(models, measures)

    def ready(self, variants: Sequence[Variant]) -> dict[str, Any]:
        """What makes two workers' pictures the same: the model's name, content, picture size and defaults.

        Raises an `EditError` for an option of a variant that can't be.
        """
        for variant in variants:
            options_for(variant.engine, self.models, **variant.options)
        models = self.models
        measured_by = {
            "dino": self.measures.dino and self.measures.dino.name,
            "lpips": self.measures.lpips and self.measures.lpips.name,
        }
        return {
            "name": models.name,
            "digest": model_digest(models.folder),
            "size": models.size,
            "defaults": models.defaults.to_dict(),
        } | {name: value for name, value in measured_by.items() if value is not None}

    def run(self, bench_edit: BenchEdit, variant: Variant, settings: Settings) -> Measured:
        """The edit as this variant. Raises an `EditError` for an edit, a setting or an option that can't be."""
        settings = Settings.from_dict({**settings.to_dict(), **variant.settings})
        options = options_for(variant.engine, self.models, **variant.options)
        result = self.editor.run(bench_edit.edit, settings, method=variant.engine, options=options)
        images, seeds = result.images, result.seeds
        record = {
            "edit": bench_edit.id,
            "kind": bench_edit.kind,
            "variant": variant.name,
            "description": variant.description,
            "method": variant.method,
            "settings": result.settings.to_dict(),
            "options": options.to_dict() if options is not None else {},
            "timings": result.timings,
            "stages": result.stages,
            "seeds": list(seeds),
            "measures": self.measures(bench_edit, images, seeds),
            "model": self.models.name,
            "device": str(self.models.device),
            "versions": versions(),
            "wanted": bench_edit.wanted,
            "prompt": bench_edit.edit.prompt,
        }
        pictures = {seed: png_bytes(image) for seed, image in zip(seeds, images, strict=True)}
        return Measured(record, pictures, self._sources(bench_edit.edit, result.layers))

    def _sources(self, edit: Edit, layers: Layers) -> dict[str, bytes]:
        photo = object_fit(edit, layers.composite.size).image(edit.object_image)
        sources = {"photo": photo, "layers": layers.composite}
        if edit.background != "keep":
            sources["reference"] = layers.background_image
        return {name: png_bytes(image) for name, image in sources.items()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that pictures and measures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def model_digest(folder: str | Path) -> str:
    """A hash of a model folder's weights and configs, 16 hexadecimal digits; its settings are compared by value."""
    folder, whole = Path(folder), hashlib.sha256()
    for path in sorted(path for part in MODEL_PARTS for path in (folder / part).glob("*") if path.is_file()):
        if path.suffix in (".json", ".safetensors", ".txt") and path.name != "training.json":
            whole.update(str(path.relative_to(folder)).encode() + b"\0")
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    whole.update(chunk)
    return whole.hexdigest()[:16]
