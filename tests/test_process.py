"""Torch's threads: counted from what this process may use, never spinning, set before torch is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from layerdiffusion import process
from layerdiffusion.models.load import load_models

ROOT = Path(__file__).resolve().parents[1]
OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def machine(root: Path, files: dict[str, str], siblings: tuple[str, ...] = ("0", "1", "2", "3")) -> Path:
    """A folder that stands for `/`, with these files and four CPUs of those siblings."""
    for cpu, list_ in enumerate(siblings):
        files = {**files, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": list_}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.fixture(autouse=True)
def four_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, float("inf")),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, float("inf")),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "200000 100000"}, 2.0),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
            },
            0.5,
        ),
        (
            {  # a container whose group is mounted at the top, under a name that only its host knows
                "proc/self/cgroup": "0::/docker/0123",
                "sys/fs/cgroup/cpu.max": "100000 50000",
            },
            2.0,
        ),
    ],
)
def test_the_quota_is_the_least_of_the_groups_around_the_process(tmp_path, files, quota):
    assert process.cpu_quota(machine(tmp_path, files)) == quota


@pytest.mark.parametrize(("limit", "cores"), [("max", 4), ("350000", 3), ("100000", 1), ("20000", 1)])
def test_a_quota_is_rounded_down_to_whole_cores_but_leaves_one(tmp_path, limit, cores):
    files = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{limit} 100000"}
    assert process.available_cores(machine(tmp_path, files)) == cores


def test_cores_outside_the_affinity_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3})
    assert process.available_cores(machine(tmp_path, {})) == 2


def test_two_threads_of_one_core_count_once(tmp_path):
    assert process.available_cores(machine(tmp_path, {}, ("0-1", "0-1", "2-3", "2-3"))) == 2


def test_a_system_without_affinity_counts_its_cpus(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert process.available_cores(tmp_path) == 6


@pytest.mark.parametrize(
    ("own", "set_"),
    [
        ({}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "7"}, {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"MKL_NUM_THREADS": "3"}, {"MKL_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "5"}, {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "5"}),
    ],
)
def test_what_the_user_has_set_wins(own, set_):
    assert process.thread_variables(2, own) == set_


def test_what_this_module_has_set_is_not_taken_for_the_users(monkeypatch):
    monkeypatch.setattr(process, "_chosen", {})
    environment = {"PATH": "/bin"}
    process.share_cores(environment)
    assert environment.keys() == {"PATH", *OURS}
    assert process.thread_variables(1, environment) == {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def test_the_tests_themselves_run_on_one_thread_each():
    assert os.environ["OMP_NUM_THREADS"] != "1" or torch.get_num_threads() == 1
    assert os.environ["OMP_WAIT_POLICY"]


@pytest.mark.parametrize("start", ["app.py", "-m layerdiffusion"])
def test_the_variables_are_set_before_torch_is_imported(start, tmp_path):
    """Whoever imports torch first, a stand-in here, finds them in the environment."""
    (tmp_path / "torch.py").write_text(
        f"import os, sys\nprint(*(os.environ.get(name) for name in {OURS}))\nsys.stdout.flush()\nos._exit(7)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "GOMP_"))}
    arguments = start.split() + ([] if start == "app.py" else ["benchmark"])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    count, policy = done.stdout.split()[-2:]
    assert int(count) >= 1
    assert policy == "PASSIVE"


def test_a_small_network_gets_half_of_our_threads_and_all_of_the_users_own(monkeypatch):
    monkeypatch.setattr(process, "_chosen", {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"})
    assert process.threads_for(29_000_000) == 2 and process.threads_for(860_000_000) is None
    monkeypatch.setattr(process, "_chosen", {"OMP_NUM_THREADS": "1"})
    assert process.threads_for(29_000_000) == 1
    monkeypatch.setattr(process, "_chosen", {})
    assert process.threads_for(29_000_000) is None


def test_loading_a_small_model_sets_them(tiny_folder, monkeypatch):
    chosen = []
    monkeypatch.setattr(process, "_chosen", {"OMP_NUM_THREADS": "6"})
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    load_models(tiny_folder, "cpu")
    assert chosen == [3]
