"""`benchmark --accept OUT --tiny`: all that a CPU can run is run, and the rest is named with its reason."""

import json

import pytest
import torch

from layerdiffusion.__main__ import main
from layerdiffusion.commands import acceptance
from layerdiffusion.models.untrained import untrained_sam

ON_A_GPU = {"eager, graph and compiled", "out of memory, a real limit"} | {f"a card of {n} GiB" for n in (24, 16, 8)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accept")
    assert main(["benchmark", "--accept", str(folder), "--tiny", "--device", "cpu"]) == 0
    return folder


@pytest.mark.slow
def test_each_section_ran_or_says_why_not(folder):
    report = json.loads((folder / "acceptance.json").read_text(encoding="utf-8"))
    sections = report["sections"]
    assert {name for name, section in sections.items() if section["status"] == "not run"} == ON_A_GPU
    assert all(sections[name]["reason"] == acceptance.NO_CUDA for name in ON_A_GPU)
    assert {section["status"] for name, section in sections.items() if name not in ON_A_GPU} == {"ran"}

    ways = sections["edits"]
    assert all(ways[way]["seconds"]["total"] > 0 for way in ("paper", "quick", "LoRA", "low memory"))
    assert "checkpointing" in sections["out of memory, provoked"]["notes"][0]
    coarse, fine = (sections["rounding of tuned weights"][name] for name in ("bfloat16", "float16"))
    assert coarse["error_of_change"] > 4 * fine["error_of_change"] > 0  # three bits fewer
    page = (folder / "acceptance.md").read_text(encoding="utf-8")
    assert all(f"| {name} | not run: needs a CUDA device |" in page for name in ON_A_GPU)


def test_what_a_cpu_can_run_is_run_and_the_rest_says_why_not(tmp_path, monkeypatch):
    some = ("a card of 24 GiB", "rounding of tuned weights", "Segment Anything")
    monkeypatch.setattr(acceptance, "SECTIONS", {name: acceptance.SECTIONS[name] for name in some})
    assert main(["benchmark", "--accept", str(tmp_path), "--tiny", "--device", "cpu"]) == 0
    sections = json.loads((tmp_path / "acceptance.json").read_text(encoding="utf-8"))["sections"]
    assert [sections[name]["status"] for name in some] == ["not run", "ran", "ran"]
    assert sections["Segment Anything"]["seconds"]["click"] > 0
    coarse, fine = (sections["rounding of tuned weights"][name] for name in ("bfloat16", "float16"))
    assert coarse["error_of_change"] > 4 * fine["error_of_change"] > 0


def test_a_section_that_is_wrong_or_breaks_fails_the_run(tmp_path, monkeypatch):
    def breaks(bench):
        raise ZeroDivisionError("at 0")

    monkeypatch.setattr(acceptance, "SECTIONS", {"wrong": lambda bench: {"right": False}, "broken": breaks})
    assert main(["benchmark", "--accept", str(tmp_path), "--tiny"]) == 1
    sections = json.loads((tmp_path / "acceptance.json").read_text(encoding="utf-8"))["sections"]
    assert sections["wrong"]["status"] == sections["broken"]["status"] == "failed"
    assert sections["broken"]["reason"] == "ZeroDivisionError: at 0"


def test_the_untrained_networks_are_the_same_every_time_and_finite():
    one, two = (untrained_sam(tiny=True).image_encoder(torch.ones(1, 3, 64, 64)) for _ in range(2))
    assert torch.equal(one, two) and one.isfinite().all() and one.std() > 0
