"""Twenty edits of two people in turns: the server's memory and its temporary files stay where they are."""

import ctypes
import gc
import os
import tempfile
from pathlib import Path

import pytest
from gradio.route_utils import delete_files_created_by_app
from PIL import Image
from serving import save_page_model, served
from tab import Tab

EDITS, WARM_UP = 20, 8
SIDE = 1200  # of each edit's photo: 4.1 MiB in memory, and of one colour, which is soon compressed
GROWTH = 24  # MiB between the least of the 6 edits after the warm-up and of the last 6; one photo kept of each is 25
CACHE = 0.001  # GiB of finished stages: full before the warm-up ends
COPIES = 12  # of pictures that Gradio may serve for one edit, until it deletes them (`--keep-minutes`)


def resident() -> float:
    """MiB of main memory that this process, which is the server's as well, holds."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's: what is freed but not yet handed back
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from Linux's /proc")
def test_twenty_edits_leave_nothing_behind(chromium, tmp_path, monkeypatch):
    temporary, copies = tmp_path / "temporary", tmp_path / "gradio"
    temporary.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(copies))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with served(save_page_model(tmp_path / "model"), cache_gb=CACHE) as page:
        contexts = [chromium.new_context() for _ in range(2)]
        tabs = [Tab(context, page.url) for context in contexts]
        for tab in tabs:
            tab.say("a dog jumping on ice")
        memory, served_files = [], []
        for number in range(EDITS):
            tab = tabs[number % 2]
            Image.new("RGB", (SIDE, SIDE), (40 + 9 * number, 120, 90)).save(tmp_path / f"{number}.png")
            tab.upload("photo-upload", tmp_path / f"{number}.png")
            tab.page.wait_for_selector("#photo-board .ld-has-picture")
            tab.wait("photo-board", "Number(data.area) == 0")
            tab.missing("No subject is marked")
            tab.brush("photo-board", (0.35, 0.45), (0.65, 0.55))
            tab.ready("about")  # that is, nothing is taken from the edit before
            tab.page.click("#run")
            tab.page.wait_for_selector("#cancel:visible")
            tab.done()
            memory.append(resident())
            served_files.append(files(copies))
            assert len(list(temporary.glob("layerdiffusion-*"))) == min(number + 1, 2)  # one folder a person
            assert files(temporary) <= 2 * len(tabs)  # with the last edit's two pictures in it
        for context in contexts:
            context.close()
        early, late = min(memory[WARM_UP : WARM_UP + 6]), min(memory[-6:])
        print(f"MiB after each edit: {[round(value) for value in memory]}; Gradio's copies: {served_files}")
        assert late - early < GROWTH, memory
        assert max(b - a for a, b in zip(served_files, served_files[1:], strict=False)) <= COPIES
        delete_files_created_by_app(page.blocks, None)
        assert files(copies) == 0
