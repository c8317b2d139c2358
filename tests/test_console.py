"""Consoles that can't show every character: help, an edit and its JSON, with a "?" where one is missing."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layerdiffusion.__main__ import COMMANDS, main

ENCODINGS = ["cp437", "ascii", "cp1252", "latin-1"]
QUICK = ["--embedding-steps", "1", "--finetune-steps", "1", "--sampling-steps", "2", "--seeds", "0"]


pytestmark = pytest.mark.parametrize("encoding", ENCODINGS)


def run(encoding: str, flags: list[str]) -> tuple[object, str]:
    """The exit status, and what stdout got, opened as PYTHONIOENCODING has it opened."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding, "strict", write_through=True)
    with contextlib.redirect_stdout(stream):
        try:
            status: object = main(flags)
        except SystemExit as end:
            status = end.code
    return status, stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_is_shown_on_every_console(encoding, command):
    status, out = run(encoding, [*command, "--help"])
    assert status == 0 and "--help" in out


@pytest.fixture
def emoji_edit(tmp_path, tiny_folder) -> tuple[list[str], Path]:
    """The flags of an edit whose words and folder no old console can show, and its folder."""
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "Собака"
    flags = ["--image", str(tmp_path / "photo.png"), "--mask", str(tmp_path / "mask.png")]
    flags += ["--prompt", "a dog 🐕 jumps on ice", "--out", str(out), "--model", str(tiny_folder), "--device", "cpu"]
    return ["edit", *flags, *QUICK], out


def test_an_edit_with_an_emoji_ends_well_on_every_console(encoding, emoji_edit):
    flags, out = emoji_edit
    status, shown = run(encoding, flags)
    assert status == 0 and "??????" in shown
    assert (out / "seed-0.png").is_file()


def test_its_json_is_ascii_and_names_the_files_exactly(encoding, emoji_edit):
    flags, out = emoji_edit
    status, shown = run(encoding, [*flags, "--json"])
    answer = json.loads(shown)
    assert status == 0 and shown.isascii()
    assert answer["folder"] == str(out) and "🐕" in answer["prompts"]["prompt"]


def test_an_error_in_json_is_ascii(encoding):
    status, shown = run(encoding, ["edit", "--json", "--prompt", "🐕", "--image", "нет.png", "--mask", "нет.png"])
    assert status == 2 and "нет.png" in json.loads(shown)["error"]
