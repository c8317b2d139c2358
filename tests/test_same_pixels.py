"""The same recipe gives the same pixels as in every release before: pictures of one small run of each method.

`same_pixels.npz` holds the pictures, and for which torch and kind of CPU. There they must be the same to the bit; on
another one, whose sums are rounded in another order, to within two levels of 255. A change that means to alter pixels
makes the file again: `PYTHONPATH=. python tests/test_same_pixels.py`.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import QUICK, noise_picture, save_tiny_model

from layerdiffusion.baselines import OWN, options_for
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.models.load import load_models

FILE = Path(__file__).with_name("same_pixels.npz")
FEW_STEPS = {
    "imagic": {"embedding_steps": 4, "embedding_lr": 1e-2, "finetune_steps": 3, "finetune_lr": 1e-3},
    "pnp": {"inversion_steps": 6, "noise_share": 0.2},
}
# Name of the run: the kind of prediction, the method, changes of `QUICK`, changes of the edit.
RUNS = {
    "composite": ("epsilon", OWN, {}, {}),
    "composite, v-prediction, noise offset": ("v_prediction", OWN, {"noise_offset": 0.3}, {}),
    "separate": ("epsilon", OWN, {"layers": "separate"}, {}),
    "object schedule": ("epsilon", OWN, {"schedule": "object"}, {}),
    "LoRA": ("epsilon", OWN, {"tune": "lora"}, {}),
    "placed": ("v_prediction", OWN, {}, {"placement": Placement(0.8, 0.1, 0.05, 20.0, True)}),
    "keep": ("epsilon", OWN, {}, {"background": "keep"}),
    "generate": ("v_prediction", OWN, {}, {"background": "generate"}),
    "SDEdit": ("epsilon", "sdedit", {}, {}),
    "Imagic": ("epsilon", "imagic", {}, {}),
    "Plug-and-Play": ("v_prediction", "pnp", {}, {}),
}


def picture_edit(background: str = "reference", placement: Placement | None = None) -> Edit:
    subject, background_mask = np.zeros((64, 80), bool), np.zeros((64, 80), bool)
    subject[16:48, 24:56] = True
    background_mask[:24, :40] = True
    words = {"object_prompt": "a dog jumps", "background_prompt": "on ice", "placement": placement or Placement()}
    if background == "reference":
        words |= {"background_image": noise_picture(1), "background_mask": background_mask}
    return Edit(noise_picture(0), subject, background=background, **words)


def run(name: str, folders: dict[str, Path]) -> np.ndarray:
    """The run's pictures, uint8 (seeds, 64, 64, 3), on one thread: sums of several are added in no fixed order."""
    kind, method, changes, pictures = RUNS[name]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        models = load_models(folders[kind], "cpu", "float32")
        settings = dataclasses.replace(QUICK, **changes)
        options = options_for(method, models, **FEW_STEPS[method]) if method in FEW_STEPS else None
        result = Editor(models).run(picture_edit(**pictures), settings, method=method, options=options)
    finally:
        torch.set_num_threads(threads)
    return np.stack([np.asarray(image) for image in result.images])


def machine() -> str:
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.mark.parametrize("name", RUNS)
def test_a_small_run_has_the_pixels_it_always_had(name, tiny_folder, tiny_v_folder):
    found = run(name, {"epsilon": tiny_folder, "v_prediction": tiny_v_folder})
    with np.load(FILE) as saved:
        wanted, same_machine = saved[name], str(saved["machine"]) == machine()
    most = np.abs(found.astype(int) - wanted.astype(int)).max()
    assert most <= (0 if same_machine else 2)


def test_the_runs_differ_from_each_other():
    with np.load(FILE) as saved:
        pictures = {saved[name].tobytes() for name in RUNS}
    assert len(pictures) == len(RUNS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        folders = {
            "epsilon": save_tiny_model(Path(folder) / "tiny"),
            "v_prediction": save_tiny_model(Path(folder) / "tiny-v", "v_prediction", "AutoencoderTiny"),
        }
        np.savez_compressed(FILE, machine=machine(), **{name: run(name, folders) for name in RUNS})
    sys.stdout.write(f"{FILE}: {FILE.stat().st_size // 1024} KB, {machine()}\n")
