"""A bench from edits to records: each edit in each column, painted and measured, in this process or spread by Ray."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.variants import Column
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.evaluation.datasets.toybench import BenchEdit
    from layerdiffusion.evaluation.metrics import Measures
    from layerdiffusion.models.load import Models

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
MODEL_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "clip", "judge")
TRAINED_BY = ("embedding_steps", "embedding_lr", "embedding_mask", "layers", "object_weight", "background_weight",
              "finetune_steps", "finetune_lr", "tune", "alpha", "noise_offset")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """An edit and the columns it still lacks, in the order in which each finds most in the caches of the last."""

    edit: BenchEdit
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Finished:
    """One edit in one column, ready to be written; pictures are PNG, so that they travel light."""

    record: dict[str, Any]
    pictures: dict[int, bytes]  # by seed
    sources: dict[str, bytes]  # "photo", "reference" and "layers", as the model sees them
    worker: int = field(default_factory=os.getpid)  # the process that painted it

    @property
    def edit(self) -> str:
        return self.record["edit"]

    @property
    def column(self) -> str:
        return self.record["column"]


@dataclass(frozen=True)
class Failed:
    """One edit in one column that can't be done, and the sentence that says why."""

    edit: str
    column: str
    reason: str


@dataclass(frozen=True)
class BenchProgress:
    """How far a run is: `done` of `total` records, `found` of which were there before it began."""

    done: int
    total: int
    found: int
    last: Finished | Failed | None = None  # None: nothing has been done yet


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    found: int  # records that were there
    written: int
    failed: tuple[Failed, ...]


class Worker:
    """The models, loaded once, and what is done with them: `paint` edits and measures, one column at a time."""

    def __init__(self, models: Models, measures: Measures) -> None:
        from layerdiffusion.editor import Editor

        self.models, self.measures, self.editor = models, measures, Editor(models)

    @classmethod
    def load(
        cls,
        model: str | Path = "miniature",
        device: str | None = None,
        threads: int | None = None,
        sam: str | Path | None = None,
    ) -> Worker:
        """A worker with models of its own; `threads` bounds the CPU's.

        Subjects in results are found by the model's judge, if it has one; with `sam`, which is for pictures no judge
        knows, by that. Raises `ModelError`.
        """
        import torch

        from layerdiffusion.evaluation.metrics import Measures
        from layerdiffusion.models.load import load_models

        if threads:
            torch.set_num_threads(threads)
        models = load_models(model, device)
        if sam is not None:
            from layerdiffusion.models.sam import load_sam
            from layerdiffusion.models.segmenter import Segmenter

            return cls(models, Measures(models, segmenter=Segmenter(load_sam(sam, models.device))))
        folder = models.folder / "judge"
        if not folder.is_dir():
            return cls(models, Measures(models))
        from layerdiffusion.miniature.judge import load_judge

        return cls(models, Measures(models, load_judge(folder, models.device)))

    def ready(self, columns: Sequence[Column]) -> dict[str, Any]:
        """What makes two workers' pictures the same: the model's name, content, picture size and defaults.

        Raises an `EditError` for an option of a column that can't be.
        """
        from layerdiffusion.methods.options import options_for

        for column in columns:
            options_for(column.engine, self.models, **column.options)
        models = self.models
        return {
            "name": models.name,
            "digest": model_digest(models.folder),
            "size": models.size,
            "defaults": models.defaults.to_dict(),
        }

    def paint(self, bench_edit: BenchEdit, column: Column, settings: Settings) -> Finished:
        """The edit in this column. Raises an `EditError` for an edit, a setting or an option that can't be."""
        from layerdiffusion.images.io import png_bytes
        from layerdiffusion.methods.options import options_for

        settings = Settings.from_dict({**settings.to_dict(), **column.settings})
        options = options_for(column.engine, self.models, **column.options)
        result = self.editor.run(bench_edit.edit, settings, method=column.engine, options=options)
        record = {
            "edit": bench_edit.id,
            "kind": bench_edit.kind,
            "column": column.name,
            "says": column.says,
            "method": column.method,
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
        return Finished(record, pictures, self._sources(bench_edit))

    def _sources(self, bench_edit: BenchEdit) -> dict[str, bytes]:
        from layerdiffusion.images.geometry import fit_square
        from layerdiffusion.images.io import png_bytes

        edit, layers = bench_edit.edit, self.editor.layers(bench_edit.edit)
        sources = {"photo": fit_square(edit.object_image.size, self.models.size, edit.object_mask)
                   .image(edit.object_image)}  # fmt: skip
        if layers is not None:
            sources["layers"] = layers.composite
            if edit.background != "keep":
                sources["reference"] = layers.background_image
        return {name: png_bytes(image) for name, image in sources.items()}


def run_bench(
    edits: Sequence[BenchEdit],
    columns: Sequence[Column],
    settings: Settings,
    records: Records,
    make_worker: Callable[[], Worker],
    ray: str | None = None,
    on_progress: Callable[[BenchProgress], None] | None = None,
    *,
    workers: int | None = None,
    about: dict[str, Any] | None = None,
) -> Outcome:
    """Do what `records` lacks of each edit in each column; what is there is left as it is.

    `settings` are the whole run's, its seeds among them; a column lays its own over them. `make_worker` loads the
    models; with `ray`, "local" or a cluster's address, it is called in `workers` processes (see `spread`), and must
    travel there. `about` goes to the manifest: "bench" and "command". An edit that fails in a column is skipped, told
    in the outcome, and tried again by the next run.

    Raises an `EditError` when the folder is another run's or can't be written, or the models can't be loaded.
    """
    _twice("edit", [edit.id for edit in edits])
    _twice("column", [column.name for column in columns])
    with records.lock():
        total, failed = len(edits) * len(columns), []
        jobs = [Job(edit, in_order(c for c in columns if not records.has(edit.id, c.name))) for edit in edits]
        jobs = [job for job in jobs if job.columns]
        found = done = total - sum(len(job.columns) for job in jobs)
        report = on_progress or (lambda progress: None)
        report(BenchProgress(done, total, found))

        def begin(model: dict[str, Any]) -> None:
            records.begin(_manifest(edits, columns, settings, model, about or {}))

        with contextlib.ExitStack() as stack:
            if ray is None:
                stream = in_turn(make_worker, jobs, settings, columns, begin)
            else:
                from layerdiffusion.evaluation.ray_backend import spread

                stream = spread(make_worker, jobs, settings, columns, begin, ray, workers)
            for one in stack.enter_context(contextlib.closing(stream)):
                if isinstance(one, Failed):
                    failed.append(one)
                else:
                    records.write(one.record, one.pictures, one.sources)
                    done += 1
                report(BenchProgress(done, total, found, one))
        return Outcome(found, done - found, tuple(failed))


def in_turn(
    make_worker: Callable[[], Worker],
    jobs: Iterable[Job],
    settings: Settings,
    columns: Sequence[Column],
    begin: Callable[[dict[str, Any]], None],
) -> Iterator[Finished | Failed]:
    """The jobs one after the other, here. `begin` gets what the worker is, before the first of them."""
    worker = make_worker()
    begin(worker.ready(columns))
    for job in jobs:
        for column in job.columns:
            try:
                yield worker.paint(job.edit, column, settings)
            except EditError as error:
                yield Failed(job.edit.id, column.name, str(error))


def in_order(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Columns that share their training side by side, each group where its first column was.

    Only a few tuned networks of a large model fit into the editor's cache; embeddings always do.
    """
    groups: dict[str, list[Column]] = {}
    for column in columns:
        training = [(name, column.settings[name]) for name in TRAINED_BY if name in column.settings]
        groups.setdefault(repr((column.method, training, sorted(column.options.items()))), []).append(column)
    return tuple(column for group in groups.values() for column in group)


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


def _manifest(
    edits: Sequence[BenchEdit],
    columns: Sequence[Column],
    settings: Settings,
    model: dict[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    return {
        "bench": "bench",
        "command": "",
        **about,
        "model": model,
        "settings": settings.to_dict(),
        "seeds": list(settings.seeds or model["defaults"]["seeds"]),
        "columns": {c.name: {"method": c.method, "settings": c.settings, "options": c.options} for c in columns},
        "says": {column.name: column.says for column in columns},
        "edits": {edit.id: {"kind": edit.kind, "fingerprint": edit.edit.fingerprint()[:16]} for edit in edits},
        "versions": versions(),
    }


def _twice(what: str, names: list[str]) -> None:
    found = next((name for name in names if names.count(name) > 1), None)
    if found is not None:
        raise EditError(f"The {what} “{found}” is there twice; name it once.")
