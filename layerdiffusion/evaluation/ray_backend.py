"""A bench spread over a Ray cluster: one worker a GPU, or a CPU where there is none, each with its own models.

Workers only edit and measure; the one process that started the run writes the records. So a worker that is killed
takes nothing with it but the variant it was at, which is done again, and nothing is ever written by two.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.variants import Variant
from layerdiffusion.evaluation.worker import Failed, Job, Measured, Worker
from layerdiffusion.process import available_cores, thread_variables
from layerdiffusion.settings import Settings

LOCAL = "local"
ROOT = Path(__file__).resolve().parents[2]
MOST_DEATHS = 3  # of workers at one variant of an edit, before it is taken to be the cause
OBJECT_STORE = 256 << 20  # bytes: photos go out and pictures come back one edit at a time
# What a cluster's other machines need of the project; the rest of its folder stays here.
LEFT_BEHIND = [".git", ".venv", "tests", "assets/examples", "outputs"]


@dataclass
class _Seat:
    """One worker of the cluster, and the edit it is at, with the variants that are left of it."""

    actor: Any
    loaded: bool = False
    edit_id: str = ""
    edit: Any = None  # in the cluster's memory
    left: deque[Variant] = field(default_factory=deque)


def spread(
    make_worker: Callable[[], Worker],
    jobs: Sequence[Job],
    settings: Settings,
    all_variants: Sequence[Variant],
    begin: Callable[[dict[str, Any]], None],
    address: str = LOCAL,
    workers: int | None = None,
) -> Generator[Measured | Failed, None, None]:
    """What comes of the jobs, as it comes; all variants of an edit on one worker, for its caches.

    `address` is "local", which starts a cluster on this machine and ends it afterwards, or that of a running one;
    `workers` are as many as its GPUs, or its CPUs where it has none. When a worker dies, Ray starts another one, which
    goes on with the variant it was at. `begin` gets what each worker is, and may refuse it.

    Raises an `EditError` where there is no Ray, no cluster and no room in it, and for a variant of an edit at which
    three workers died; whatever a worker raises but an `EditError` of its edit is raised here.
    """
    with _cluster(address, workers) as (ray, seats, gpus):
        tries = {"max_restarts": -1, "max_task_retries": MOST_DEATHS - 1}
        Actor = ray.remote(num_cpus=1, num_gpus=gpus, **tries)(_Actor)
        queue, left = deque(jobs), sum(len(job.variants) for job in jobs)
        actors = [Actor.remote(make_worker) for _ in range(min(seats, len(jobs)))]
        pending = {actor.ready.remote(all_variants): _Seat(actor) for actor in actors}
        while left:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            seat = pending.pop(ready)
            one = _answer(ray, seat, ready, begin)
            if not seat.left and queue:
                job = queue.popleft()
                seat.edit_id, seat.edit, seat.left = job.edit.id, ray.put(job.edit), deque(job.variants)
            if seat.left:  # before what is done is written, so that nobody waits for the disk
                pending[seat.actor.run.remote(seat.edit, seat.left[0], settings)] = seat
            if one is not None:
                left -= 1
                yield one


def _answer(ray: Any, seat: _Seat, ready: Any, begin: Callable[[dict[str, Any]], None]) -> Measured | Failed | None:
    """What the worker at `seat` has come to; None where that is its models."""
    try:
        value = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if not isinstance(error.cause, EditError):
            raise
        if not seat.loaded:  # models that can't be loaded, or a variant's options
            raise error.cause from None
        return Failed(seat.edit_id, seat.left.popleft().name, str(error.cause))
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
        if not seat.loaded:
            raise EditError("Ray's workers die while they load the models; is there memory for them?") from error
        at = f"{seat.edit_id}, {seat.left[0].name}"
        raise EditError(f"{MOST_DEATHS} workers died one after the other at {at}; is there memory for it?") from error
    if seat.loaded:
        seat.left.popleft()
        return value
    begin(value)
    seat.loaded = True
    return None


class _Actor:
    """A worker's process. The models are loaded by its first call, whose errors Ray passes on as they are."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._worker = functools.cache(make_worker)

    def ready(self, variants: Sequence[Variant]) -> dict[str, Any]:
        return self._worker().ready(variants)

    def run(self, edit: Any, variant: Variant, settings: Settings) -> Measured:
        return self._worker().run(edit, variant, settings)


@contextlib.contextmanager
def _cluster(address: str, workers: int | None) -> Iterator[tuple[Any, int, int]]:
    """Ray, connected; how many workers there are to be, and how many GPUs each of them gets (0 or 1)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves them beside anything else that runs
    try:
        import ray
    except ImportError as error:
        raise EditError('--ray needs Ray, which is not installed; run pip install "ray>=2.40".') from error
    if ray.is_initialized():
        raise EditError("This process is connected to a Ray cluster already; disconnect from it first.")
    environment: dict[str, Any] = {"env_vars": thread_variables(1)}
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    _reach(address)
    if address == LOCAL:
        options |= {
            "num_cpus": workers or available_cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }
        environment["env_vars"]["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    else:
        environment |= {"working_dir": str(ROOT), "excludes": LEFT_BEHIND}
    try:
        ray.init(**options, runtime_env=environment)
    except (ConnectionError, ValueError, RuntimeError, OSError, SystemExit) as error:
        raise _nothing_at(address, error) from error
    try:
        held = ray.cluster_resources()
        gpus = int(held.get("GPU", 0))
        room = gpus or int(held.get("CPU", 0))
        if not room:
            raise EditError(f"The Ray cluster at {address} has neither a GPU nor a CPU for a worker; add a machine.")
        yield ray, min(workers or room, room), min(gpus, 1)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuse, at once, a host where nobody listens: Ray itself tries for minutes, and then ends the process."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise _nothing_at(address, error) from error


def _nothing_at(address: str, error: BaseException) -> EditError:
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return EditError(f"There is no Ray cluster at {address} ({reason}); give another --ray ADDRESS.")
