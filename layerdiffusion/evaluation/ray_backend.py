"""A bench spread over a Ray cluster: one worker a GPU, or a CPU where there is none, each with its own models.

Workers only paint and measure; the one process that started the run writes the records. So a worker that is killed
takes nothing with it but the column it was at, which is done again, and nothing is ever written by two.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiffusion.errors import EditError
from layerdiffusion.settings import Settings
from layerdiffusion.threads import available_cores, thread_variables

if TYPE_CHECKING:
    from layerdiffusion.evaluation.runner import Failed, Finished, Job, Worker
    from layerdiffusion.evaluation.variants import Column

LOCAL = "local"
ROOT = Path(__file__).resolve().parents[2]
MOST_DEATHS = 3  # of workers at one column of an edit, before it is taken to be the cause
OBJECT_STORE = 256 << 20  # bytes: photos go out and pictures come back one edit at a time
# What a cluster's other machines need of the project; the rest of its folder stays here.
LEFT_BEHIND = [".git", ".venv", "tests", "assets/examples", "outputs"]


@dataclass
class _Task:
    """An edit's columns that have yet to be done, and how many workers it has lost."""

    job: Job
    columns: deque[Column]
    deaths: int = 0  # at the first of the columns


@dataclass
class _Seat:
    """One worker of the cluster, and what it is doing."""

    actor: Any
    loaded: bool = False
    task: _Task | None = None
    edit: Any = field(default=None, repr=False)  # the task's edit, in the cluster's memory


def spread(
    make_worker: Callable[[], Worker],
    jobs: Sequence[Job],
    settings: Settings,
    all_columns: Sequence[Column],
    begin: Callable[[dict[str, Any]], None],
    address: str = LOCAL,
    workers: int | None = None,
) -> Iterator[Finished | Failed]:
    """What the jobs come to, as it comes; all columns of an edit on one worker, for its caches.

    `address` is "local", which starts a cluster on this machine and ends it afterwards, or that of a running one;
    `workers` are as many as its GPUs, or its CPUs where it has none. When a worker dies, another one goes on with its
    edit from the column it was at. `begin` gets what each worker is, and may refuse it.

    Raises an `EditError` where there is no Ray, no cluster and no room in it, and for a column of an edit at which
    three workers died; whatever a worker raises but an `EditError` of its edit is raised here.
    """
    with _cluster(address, workers) as (ray, seats, gpus):
        from layerdiffusion.evaluation.runner import Failed

        Actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Actor)
        queue = deque(_Task(job, deque(job.columns)) for job in jobs)
        idle: list[_Seat] = []
        pending: dict[Any, _Seat] = {}
        lost_loading = 0

        def sit() -> None:
            actor = Actor.remote(make_worker)
            pending[actor.ready.remote(all_columns)] = _Seat(actor)

        def next_column(seat: _Seat) -> None:
            """Give the worker the next column of its edit, or another edit, or rest."""
            if seat.task is None or not seat.task.columns:
                seat.task = queue.popleft() if queue else None
                seat.edit = ray.put(seat.task.job.edit) if seat.task else None
            if seat.task is None:
                idle.append(seat)
            else:
                pending[seat.actor.paint.remote(seat.edit, seat.task.columns[0], settings)] = seat

        for _ in range(min(seats, len(queue))):
            sit()
        while queue or any(seat.task for seat in pending.values()):
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            seat = pending.pop(ready)
            one: Finished | Failed | None = None
            try:
                value = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                if not isinstance(cause, EditError):
                    raise
                if seat.task is None:  # models that can't be loaded, or a column's options
                    raise cause from None
                one = Failed(seat.task.job.edit.id, seat.task.columns.popleft().name, str(cause))
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                ray.kill(seat.actor)
                lost_loading += seat.task is None
                if seat.task is not None:
                    seat.task.deaths += 1
                    queue.appendleft(seat.task)
                if lost_loading > seats * MOST_DEATHS:
                    raise EditError(
                        "Ray's workers die while they load the models; is there memory for them?"
                    ) from error
                if seat.task is not None and seat.task.deaths >= MOST_DEATHS:
                    name = f"{seat.task.job.edit.id}, {seat.task.columns[0].name}"
                    raise EditError(
                        f"{MOST_DEATHS} workers died one after the other at {name}; is there memory for it?"
                    ) from error
                if idle:
                    next_column(idle.pop())
                else:
                    sit()
                continue
            else:
                if seat.loaded:
                    seat.task.columns.popleft()
                    seat.task.deaths, one = 0, value
                else:
                    begin(value)
                    seat.loaded = True
            next_column(seat)  # before what is done is written, so that nobody waits for the disk
            if one is not None:
                yield one


class _Actor:
    """A worker's process. The models are loaded by the first call, whose errors Ray passes on as they are."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make, self._worker = make_worker, None

    def ready(self, columns: Sequence[Column]) -> dict[str, Any]:
        self._worker = self._make()
        return self._worker.ready(columns)

    def paint(self, edit: Any, column: Column, settings: Settings) -> Finished:
        return self._worker.paint(edit, column, settings)


@contextlib.contextmanager
def _cluster(address: str, workers: int | None) -> Iterator[tuple[Any, int, int]]:
    """Ray, connected; how many workers there are to be, and how many GPUs each of them gets (0 or 1)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves them beside anything else that runs
    try:
        import ray
    except ImportError as error:
        raise EditError("--ray needs Ray, which is not installed; run pip install ray.") from error
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
