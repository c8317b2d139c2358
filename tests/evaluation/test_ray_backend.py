"""A bench on a real Ray cluster of this machine: whatever dies, no edit is lost, none doubled, no number changed."""

import functools
import os
import signal

import pytest
import torch
from bench_folder import numbers

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation import ray_backend
from layerdiffusion.evaluation.datasets.toybench import toybench
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.runner import run_bench
from layerdiffusion.evaluation.variants import Variant, variants
from layerdiffusion.evaluation.worker import Failed, Measured, Worker

pytest.importorskip("ray")

EDITS = toybench(3)
VARIANTS = variants(["ours", "sdedit"], ["i"])


@pytest.fixture(autouse=True)
def one_thread():
    """As the workers have it: sums in another order differ in their last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def address():
    """A running cluster with two CPUs, started by others."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_changes_no_number(tmp_path, measured_folder, worker, quick, address):
    plain = Records(tmp_path / "plain")
    run_bench(EDITS, VARIANTS, quick, plain, lambda: worker)

    records, finished = Records(tmp_path / "ray"), []

    def kill_the_first(progress):
        if isinstance(progress.last, Measured):
            finished.append(progress.last)
            if len(finished) == 1:  # it is at the next variant of its edit by now
                os.kill(progress.last.worker, signal.SIGKILL)

    load = functools.partial(Worker.load, str(measured_folder), "cpu", 1)
    outcome = run_bench(EDITS, VARIANTS, quick, records, load, address, kill_the_first, workers=2)

    done = [(one.edit, one.variant) for one in finished]
    assert sorted(done) == sorted((edit.id, variant.name) for edit in EDITS for variant in VARIANTS)
    assert (outcome.written, outcome.failed) == (9, ())
    killed = finished[0]
    assert os.getpid() not in {one.worker for one in finished}
    rest = {one.worker for one in finished[1:] if one.edit == killed.edit}
    assert rest and killed.worker not in rest, "the killed worker's edit is finished by another"
    assert numbers(records) == numbers(plain)


@pytest.mark.slow
def test_an_edit_that_kills_its_workers_ends_the_run_and_costs_no_record(
    tmp_path, measured_folder, worker, quick, address, monkeypatch
):
    records, seen = Records(tmp_path), []
    monkeypatch.setattr(ray_backend, "MOST_DEATHS", 1)
    run_bench(EDITS[:1], VARIANTS, quick, records, lambda: worker)

    class Deadly(Worker):
        def run(self, edit, variant, settings):
            if variant.name == "i":
                os.kill(os.getpid(), signal.SIGKILL)
            return super().run(edit, variant, settings)

    def deadly(folder=str(measured_folder), make=Deadly):
        return make.load(folder, "cpu", 1)

    chosen = [Variant("broken", "ours", {"alpha": 7}), *VARIANTS]
    with pytest.raises(EditError, match=f"workers died one after the other at {EDITS[1].id}, i;"):
        run_bench(EDITS[:2], chosen, quick, records, deadly, address, lambda one: seen.append(one.last), workers=1)
    done = [(one.edit, one.variant) for one in seen if isinstance(one, Measured)]
    assert done == [(EDITS[1].id, "ours"), (EDITS[1].id, "sdedit")], "what was there is not done again"
    failed = [(one.edit, one.variant) for one in seen if isinstance(one, Failed)]
    assert failed == [(EDITS[0].id, "broken"), (EDITS[1].id, "broken")]
    assert "alpha must be" in next(one for one in seen if isinstance(one, Failed)).reason
    assert len(records.read()) == 5


def test_on_this_machine_a_cluster_is_started_with_as_many_cpus_as_workers(tmp_path, quick, worker, monkeypatch):
    """Not started here: the tests above have one."""
    asked = {}

    def init(**options):
        asked.update(options)
        raise ConnectionError("seen")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(EditError, match="no Ray cluster at local"):
        run_bench(EDITS[:1], VARIANTS, quick, Records(tmp_path), lambda: worker, "local", workers=3)
    assert (asked["address"], asked["num_cpus"], asked["include_dashboard"]) == ("local", 3, False)
    assert str(ray_backend.ROOT) in asked["runtime_env"]["env_vars"]["PYTHONPATH"]


def test_a_cluster_that_is_not_there_is_told_in_one_sentence(tmp_path, quick, worker):
    with pytest.raises(EditError, match="There is no Ray cluster at 127.0.0.1:1 "):
        run_bench(EDITS[:1], VARIANTS, quick, Records(tmp_path), lambda: worker, "127.0.0.1:1")
