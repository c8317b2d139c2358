"""A bench from edits to records: each edit as each variant, edited and measured, in this process or spread by Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.evaluation.ray_backend import spread
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.variants import Variant
from layerdiffusion.evaluation.worker import Failed, Job, Measured, Worker, versions
from layerdiffusion.settings import Settings

SAMPLED_BY = ("sampling_steps", "guidance_scale", "schedule", "solver", "seeds")  # a new value needs no new training


@dataclass(frozen=True)
class BenchProgress:
    """How far a run is: `done` of `total` records, `found` of which were there before it began."""

    done: int
    total: int
    found: int
    last: Measured | Failed | None = None  # None: nothing has been done yet


@dataclass(frozen=True)
class Outcome:
    """The end of a run."""

    found: int  # records that were there
    written: int
    failed: tuple[Failed, ...]


def run_bench(
    edits: Sequence[BenchEdit],
    variants: Sequence[Variant],
    settings: Settings,
    records: Records,
    make_worker: Callable[[], Worker],
    ray: str | None = None,
    on_progress: Callable[[BenchProgress], None] | None = None,
    *,
    workers: int | None = None,
    about: dict[str, Any] | None = None,
) -> Outcome:
    """Do what `records` lacks of each edit as each variant; what is there is left as it is.

    `settings` are the whole run's, its seeds among them; a variant lays its own over them. `make_worker` loads the
    models; with `ray`, "local" or a cluster's address, it is called in `workers` processes (see `spread`), and must
    travel there. `about` goes to the manifest: "bench" and "command". An edit that fails as a variant is skipped,
    listed in the outcome, and tried again by the next run.

    Raises an `EditError` when the folder is another run's or can't be written, or the models can't be loaded.
    """
    _refuse_twice("edit", [edit.id for edit in edits])
    _refuse_twice("variant", [variant.name for variant in variants])
    with records.lock():
        total, failed = len(edits) * len(variants), []
        jobs = [Job(edit, in_order(v for v in variants if not records.has(edit.id, v.name))) for edit in edits]
        jobs = [job for job in jobs if job.variants]
        found = done = total - sum(len(job.variants) for job in jobs)
        report = on_progress or (lambda progress: None)
        report(BenchProgress(done, total, found))

        def begin(model: dict[str, Any]) -> None:
            records.begin(_manifest(edits, variants, settings, model, about or {}))

        if ray is None or not jobs:  # where all is there, no cluster is needed to look whether it is the same run
            stream = in_turn(make_worker, jobs, settings, variants, begin)
        else:
            stream = spread(make_worker, jobs, settings, variants, begin, ray, workers)
        with contextlib.closing(stream):
            for one in stream:
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
    variants: Sequence[Variant],
    begin: Callable[[dict[str, Any]], None],
) -> Generator[Measured | Failed, None, None]:
    """The jobs one after the other, here. `begin` gets what the worker is, before the first of them."""
    worker = make_worker()
    begin(worker.ready(variants))
    for job in jobs:
        for variant in job.variants:
            try:
                yield worker.run(job.edit, variant, settings)
            except EditError as error:
                yield Failed(job.edit.id, variant.name, str(error))


def in_order(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """Variants that share their training side by side, each group where its first one was.

    Only a few tuned networks of a large model fit into the editor's cache; embeddings always do.
    """
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        training = sorted(item for item in variant.settings.items() if item[0] not in SAMPLED_BY)
        groups.setdefault(repr((variant.method, training, sorted(variant.options.items()))), []).append(variant)
    return tuple(variant for group in groups.values() for variant in group)


def _manifest(
    edits: Sequence[BenchEdit],
    variants: Sequence[Variant],
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
        "variants": {v.name: {"method": v.method, "settings": v.settings, "options": v.options} for v in variants},
        "descriptions": {variant.name: variant.description for variant in variants},
        "edits": {edit.id: {"kind": edit.kind, "fingerprint": edit.edit.fingerprint()[:16]} for edit in edits},
        "versions": versions(),
    }


def _refuse_twice(kind: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EditError(f"The {kind} “{twice}” is there twice; name it once.")
