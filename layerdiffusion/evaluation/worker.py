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

from layerdiffusion.editor import Editor
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.evaluation.metrics import Measures
from layerdiffusion.evaluation.variants import Variant
from layerdiffusion.images.io import png_bytes
from layerdiffusion.images.layers import object_fit
from layerdiffusion.methods.options import options_for
from layerdiffusion.miniature.judge import load_judge
from layerdiffusion.miniature.shape import ShapeMeasure
from layerdiffusion.models.load import Models, load_models
from layerdiffusion.models.sam import load_sam
from layerdiffusion.models.segmenter import Segmenter
from layerdiffusion.result import Result
from layerdiffusion.settings import Settings

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
MODEL_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "clip", "judge")


@dataclass(frozen=True)
class Job:
    """An edit and the variants it still lacks, in the order in which each finds most in the caches of the last."""

    edit: BenchEdit
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Finished:
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
        shape: bool = True,
    ) -> Worker:
        """A worker with models of its own; `threads` bounds the CPU's.

        Subjects in results are found by the model's judge, if it has one; with `sam`, which is for pictures no judge
        knows, by that. `shape`: measure outlines as well, where the model has judge and SAM. Raises `ModelError`.
        """
        if threads:
            torch.set_num_threads(threads)
        models = load_models(model, device)
        if sam is not None:
            return cls(models, Measures(models, segmenter=Segmenter(load_sam(sam, models.device))))
        folder = models.folder
        if not (folder / "judge").is_dir():
            return cls(models, Measures(models))
        judge = load_judge(folder / "judge", models.device)
        outlines = shape and (folder / "sam").is_dir()
        shapes = ShapeMeasure(judge, load_sam(folder / "sam", models.device)) if outlines else None
        return cls(models, Measures(models, judge, shapes=shapes))

    def ready(self, variants: Sequence[Variant]) -> dict[str, Any]:
        """What makes two workers' pictures the same: the model's name, content, picture size and defaults.

        Raises an `EditError` for an option of a variant that can't be.
        """
        for variant in variants:
            options_for(variant.engine, self.models, **variant.options)
        models = self.models
        return {
            "name": models.name,
            "digest": model_digest(models.folder),
            "size": models.size,
            "defaults": models.defaults.to_dict(),
        }

    def run(self, bench_edit: BenchEdit, variant: Variant, settings: Settings) -> Finished:
        """The edit as this variant. Raises an `EditError` for an edit, a setting or an option that can't be."""
        settings = Settings.from_dict({**settings.to_dict(), **variant.settings})
        options = options_for(variant.engine, self.models, **variant.options)
        result = self.editor.run(bench_edit.edit, settings, method=variant.engine, options=options)
        record = {
            "edit": bench_edit.id,
            "kind": bench_edit.kind,
            "variant": variant.name,
            "description": variant.description,
            "method": variant.method,
            "settings": result.settings.to_dict(),
            "options": options.to_dict() if options is not None else {},
            "seeds": list(result.seeds),
            "measures": self.measures(bench_edit, result.images, result.seeds),
            "timings": result.timings,
            "stages": result.stages,
            "model": self.models.name,
            "device": str(self.models.device),
            "versions": versions(),
            "wanted": bench_edit.wanted,
            "prompt": bench_edit.edit.prompt,
        }
        pictures = {seed: png_bytes(image) for seed, image in zip(result.seeds, result.images, strict=True)}
        return Finished(record, pictures, self._sources(result))

    def _sources(self, result: Result) -> dict[str, bytes]:
        edit, layers = result.edit, result.layers
        photo = object_fit(edit, layers.object_image.size).image(edit.object_image)
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
    """A hash of a model folder's weights, configs and settings: 16 hexadecimal digits."""
    folder, whole = Path(folder), hashlib.sha256()
    files = [path for part in MODEL_PARTS for path in (folder / part).glob("*") if path.name != "training.json"]
    for path in sorted([*files, folder / "settings.json"]):
        if path.suffix in (".json", ".safetensors", ".txt") and path.is_file():
            whole.update(str(path.relative_to(folder)).encode() + b"\0")
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    whole.update(chunk)
    return whole.hexdigest()[:16]
