"""What a process sets up before it does anything: torch's threads, and a console that takes every character.

There are as many threads as cores to use, and none spins while it waits for the others. The OpenMP library reads its
environment once, when torch is imported: `share_cores` has to come before that, so this module imports nothing heavy.
What the user has set in the environment wins.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")
WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SMALL = 100_000_000  # parameters of a network whose operations are over before sleeping threads have woken
_chosen: dict[str, str] = {}  # what `share_cores` has set, which is not the user's


def replace_what_cannot_be_shown() -> None:
    """From now on a character outside stdout's encoding is printed as "?", where Python would raise an error.

    stderr escapes such characters by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the number of threads and how they wait, for this process and those that it starts."""
    chosen = thread_variables(available_cores(), environment)
    environment.update(chosen)
    _chosen.update(chosen)


def thread_variables(threads: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process with this many threads: the user's own variables, and ours where there are none.

    A thread that waits at the end of a parallel loop sleeps (`OMP_WAIT_POLICY=PASSIVE`). The default spins, which is
    a little faster on an idle machine, and takes several times as long beside one other busy process.
    """
    own = {name: value for name, value in environment.items() if _chosen.get(name) != value}
    found = {name: own[name] for name in COUNTS + WAITS if name in own}
    if not any(name in own for name in COUNTS):
        found["OMP_NUM_THREADS"] = str(threads)
    if not any(name in own for name in WAITS):
        found["OMP_WAIT_POLICY"] = "PASSIVE"
    return found


def threads_for(parameters: int) -> int | None:
    """How many of the threads that `share_cores` set suit a network of that size; None: all, or the user's own number.

    For the embedded model half of them: with all, threads that sleep between its small operations cost more than they
    compute.
    """
    chosen = _chosen.get("OMP_NUM_THREADS")
    return None if chosen is None or parameters > SMALL else max(1, int(chosen) // 2)


def available_cores(root: Path = Path("/")) -> int:
    """The cores that this process may use: the physical ones of its affinity, up to the quota of its control group.

    `root`: where `proc` and `sys` are mounted. Systems without affinity count what the machine has. At least 1.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, math.floor(min(_physical(cpus, root), cpu_quota(root))))


def cpu_quota(root: Path = Path("/")) -> float:
    """The cores' worth of time that this process's control groups (version 2) allow, inf where there is no limit."""
    mount = root / "sys/fs/cgroup"
    group = mount / _read(root / "proc/self/cgroup").rpartition("::")[2].strip("/")
    # In a container the group's own folder is the mount, under a name that only its host knows.
    folders = {group, mount, *(folder for folder in group.parents if mount in folder.parents)}
    limits = (_read(folder / "cpu.max").split() for folder in folders)
    return min((int(limit[0]) / int(limit[1]) for limit in limits if limit and limit[0] != "max"), default=math.inf)


def _physical(cpus: Iterable[int], root: Path) -> int:
    """How many cores these logical CPUs belong to: two threads of one core have one set of arithmetic units."""
    folder = root / "sys/devices/system/cpu"
    siblings = (_read(folder / f"cpu{cpu}/topology/thread_siblings_list") or f"{cpu}" for cpu in cpus)
    return len(set(siblings))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
