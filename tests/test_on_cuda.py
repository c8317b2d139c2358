"""What only a GPU can show: `pytest -m cuda`, skipped where there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sams import random_sam
from tiny import QUICK, edit_of_noise, noise_picture

from layerdiffusion.__main__ import main
from layerdiffusion.commands.benchmark import measure, settings_of, untrained_models
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.models.load import load_models
from layerdiffusion.models.profile import GIB
from layerdiffusion.models.sam import place_sam
from layerdiffusion.models.segmenter import Segmenter

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def pixels(models, settings=QUICK) -> np.ndarray:
    images = Editor(models).run(edit_of_noise(models.size), settings).images
    return np.stack([np.asarray(image, int) for image in images])


@pytest.fixture(scope="module")
def models(tiny_folder):
    return load_models(tiny_folder, "cuda")


def test_the_same_edit_twice_gives_the_same_pixels(models):
    assert np.array_equal(pixels(models), pixels(models))


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_in_float32_its_losses_are_those_of_a_cpu(tiny_folder, tiny_models, tune):
    """Noise and timesteps are drawn on the CPU, so every step of both stages computes the same thing."""
    settings = replace(QUICK, embedding_steps=20, tune=tune)  # enough for a captured step to be replayed
    edit = edit_of_noise(tiny_models.size)
    found = Editor(load_models(tiny_folder, "cuda", "float32")).run(edit, settings).losses
    expected = Editor(tiny_models).run(edit, settings).losses
    for stage, losses in expected.items():
        assert found[stage] == pytest.approx(losses, rel=0.02), stage


def test_half_precision_trains_with_finite_losses(models):
    losses = Editor(models).run(edit_of_noise(models.size), QUICK).losses
    assert all(np.isfinite(one).all() for one in losses.values())


def test_segment_anything_marks_the_same_as_on_a_cpu():
    picture = np.asarray(noise_picture(0))
    here, there = (
        Segmenter(place_sam(random_sam(), device)).mask([(40, 32)], image=picture) for device in ("cpu", "cuda")
    )
    assert (here & there).sum() >= 0.95 * (here | there).sum()


@pytest.mark.slow
def test_at_true_size_no_stage_takes_more_than_predicted():
    models = untrained_models("cuda")
    for preset in ("paper", "quick", "lora"):
        found = measure(models, settings_of(models, preset, 3))
        assert max(found["peak_gib"].values()) <= found["predicted_gib"], preset


@pytest.mark.slow
def test_too_little_memory_ends_in_a_saving_or_a_sentence_and_the_next_edit_is_right():
    models = untrained_models("cuda")
    settings = settings_of(models, "paper", 2)
    expected = pixels(models, settings)
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(5 * GIB / total)
    try:
        words = Editor(models).run(edit_of_noise(models.size), settings).warnings
    except EditError as error:
        words = (str(error),)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert words and np.array_equal(pixels(models, settings), expected)


@pytest.mark.slow
def test_the_benchmark_reports_a_peak_for_every_stage(capfd):
    assert main(["benchmark", "--model", "untrained", "--device", "cuda", "--steps", "3", "--json"]) == 0
    for found in json.loads(capfd.readouterr().out)["presets"].values():
        assert found["peak_gib"].keys() == found["seconds"].keys() - {"total"}
