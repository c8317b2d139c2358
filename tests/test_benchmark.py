"""`python -m layerdiffusion benchmark`: both ways of stepping are taken, and what is printed is what was timed."""

import json

import pytest
import torch
from serving import save_page_model

from layerdiffusion.__main__ import main
from layerdiffusion.commands.stepping import PlainImagic
from layerdiffusion.editor import Editor

STEPS, ROUNDS = 3, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_page_model(tmp_path_factory.mktemp("model"))  # whose own settings are a few steps


@pytest.fixture
def run(folder, capfd):
    def run(*flags) -> tuple[int, str]:
        status = main(["benchmark", "--model", str(folder), "--device", "cpu", *flags])
        return status, capfd.readouterr().out

    return run


@pytest.fixture
def taken(monkeypatch):
    """What is really run: our edits' settings, and the plain way's steps."""
    seen = {"ours": [], "losses": [], "painted": 0}
    ours, loss, sample = Editor.run, PlainImagic._loss, PlainImagic._sample

    def edit(self, edit, settings=None, *rest):
        result = ours(self, edit, settings, *rest)
        seen["ours"].append(result)
        return result

    def plain(self, unet, embedding):
        value = loss(self, unet, embedding)
        seen["losses"].append((float(value.detach()), unet is self.models.master, len(embedding)))
        return value

    def paint(self):
        seen["painted"] += 1
        return sample(self)

    monkeypatch.setattr(Editor, "run", edit)
    monkeypatch.setattr(PlainImagic, "_loss", plain)
    monkeypatch.setattr(PlainImagic, "_sample", paint)
    return seen


def test_both_ways_are_really_taken_and_timed(run, taken):
    status, out = run("--steps", str(STEPS), "--json")
    figures = json.loads(out)
    assert status == 0
    assert set(figures) == {"model", "device", "threads", "seconds", "seconds_for_new_seeds", "milliseconds_a_step"}

    cold, again, _, *rounds = taken["ours"]
    assert cold.stages == {"embeddings": "run", "finetune": "run", "sampling": "run"} and len(cold.images) == 4
    assert again.stages == {"embeddings": "reuse", "finetune": "reuse", "sampling": "run"}
    assert not set(cold.seeds) & set(again.seeds)
    assert figures["seconds"] == cold.timings and figures["seconds_for_new_seeds"] == again.timings

    assert len(rounds) == ROUNDS == taken["painted"]
    for result in rounds:
        assert set(result.stages.values()) == {"run"}  # nothing of an earlier round is taken over
        assert len(result.losses["embeddings"]) == len(result.losses["finetune"]) == STEPS
    assert len(taken["losses"]) == 2 * STEPS * ROUNDS
    assert not any(shared for _, shared, _ in taken["losses"]), "every edit starts from the master network"
    assert all(torch.isfinite(torch.tensor(value)) and batch == 1 for value, _, batch in taken["losses"])

    pairs = figures["milliseconds_a_step"]
    assert [name.split(",")[0] for name in pairs] == ["stage 1", "stage 2", "stage 3"]
    steps = {
        "embeddings": 2 * STEPS,
        "finetune": STEPS,
        "sampling": 4 * STEPS,
    }  # two embeddings and four pictures at once
    for (ours, plain), (stage, count) in zip(pairs.values(), steps.items(), strict=True):
        assert ours == pytest.approx(1000 * min(result.timings[stage] for result in rounds) / count)
        assert plain > 0


def test_people_get_a_table(run):
    status, out = run("--steps", "1")
    assert status == 0 and "an edit, 4 seeds" in out and "plain" in out and out.count("stage ") == 3


@pytest.mark.parametrize("steps", ["0", "-1", "100000"])
def test_impossible_steps_are_refused_before_anything_is_timed(folder, taken, capfd, steps):
    assert main(["benchmark", "--model", str(folder), "--device", "cpu", "--steps", steps]) == 2
    assert "steps must be a whole number" in capfd.readouterr().err and not taken["ours"]
