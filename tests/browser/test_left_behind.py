"""Edits of two people in turns: what the server holds and its temporary files stay as many as they are."""

import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio.route_utils import delete_files_created_by_app
from PIL import Image
from serving import save_page_model, served
from tab import Tab

EDITS, WARM_UP = 6, 2
SIDE = 400  # of each edit's photo
BIG = 10_000  # bytes: smaller things are not counted
GROWTH = 1.0  # MiB that may be held more after the last edit than after the warm-up; one photo kept of each is 1.8
CACHE = 0.001  # GiB of finished stages
COPIES = 12  # of pictures that Gradio may serve for one edit, until it deletes them (`--keep-minutes`)


def held() -> float:
    """MiB in all big pictures, arrays, tensors, bytes and texts that this process, which is the server's, holds."""
    gc.collect()
    found = {}
    for one in gc.get_referents(*gc.get_objects()):
        kind, size = type(one), 0
        if kind in (bytes, bytearray, str):
            size = len(one)
        elif kind is np.ndarray and one.base is None or kind is torch.Tensor:
            size = one.nbytes
        elif issubclass(kind, Image.Image):
            size = one.width * one.height * len(one.getbands())
        if size >= BIG:
            found[id(one)] = size
    return sum(found.values()) / 2**20


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.slow
def test_edits_leave_nothing_behind(window, tmp_path, monkeypatch):
    temporary, copies = tmp_path / "temporary", tmp_path / "gradio"
    temporary.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(copies))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with served(save_page_model(tmp_path / "model"), cache_gb=CACHE) as page:
        tabs = [Tab(window, page.url) for _ in range(2)]
        for tab in tabs:
            tab.say("a dog jumping on ice")
        early, served_files = 0.0, []
        for number in range(EDITS):
            tab = tabs[number % 2]
            Image.new("RGB", (SIDE, SIDE), (40 + 20 * number, 120, 90)).save(tmp_path / f"{number}.png")
            tab.upload("photo-upload", tmp_path / f"{number}.png")
            tab.page.wait_for_selector("#photo-board .ld-has-picture")
            tab.wait("photo-board", "Number(data.area) == 0")
            tab.missing("No subject is marked")
            tab.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
            tab.ready("about")  # that is, nothing is taken from the edit before
            tab.page.click("#run")
            tab.page.wait_for_selector("#cancel:visible")
            tab.done()
            served_files.append(files(copies))
            assert len(list(temporary.glob("layerdiffusion-*"))) == number + 1  # a folder an edit, which opens again
            assert files(temporary) <= 3 * (number + 1)  # with two pictures and the recipe in it
            if number == WARM_UP - 1:
                early = held()
        for _ in range(20):  # what the last requests hold is let go of soon
            growth = held() - early
            if growth < GROWTH:
                break
            time.sleep(0.5)
        for tab in tabs:
            tab.page.close()
        assert growth < GROWTH
        assert max(b - a for a, b in zip(served_files, served_files[1:], strict=False)) <= COPIES
        delete_files_created_by_app(page.blocks, None)
        assert files(copies) == 0
