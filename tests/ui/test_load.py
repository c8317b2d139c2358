"""Many visitors at once over HTTP: everybody gets their own pictures, or is asked to try again."""

import ctypes
import gc
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image
from serving import photo, served

from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.settings import Settings

SIDE, PROMPT = 48, "a dog jumping on ice"
PATIENCE = 300  # seconds until a visitor gives up
MEMORY = 48  # MiB: a photo, a result and its stages are 0.1 each


@dataclass
class Visit:
    pictures: list[list[np.ndarray]] = field(default_factory=list)  # of each edit
    clicks: list[float] = field(default_factory=list)  # seconds of each
    beside: int = 0  # those that were answered before the edit was done
    refused: int = 0


def settings(edit: int) -> dict[str, object]:
    return {"seeds": [edit], "embedding_steps": 3, "finetune_steps": 3, "sampling_steps": 4, "tune": "lora"}


def visit(url: str, number: int, folder: Path) -> Visit:
    """Two edits of a photo of one's own; clicks on it while they wait and run."""
    got = str(folder / f"got-{number}")
    client = Client(url, verbose=False, download_files=got, httpx_kwargs={"timeout": PATIENCE})
    found = Visit()
    picture, mask = (handle_file(folder / f"{number}-{name}.png") for name in ("photo", "mask"))
    for edit in range(2):
        given_up = time.monotonic() + PATIENCE
        while True:
            try:
                job = client.submit(image=picture, mask=mask, prompt=PROMPT, settings=settings(edit), api_name="/edit")
                for _ in range(3 - edit):  # five in all
                    began = time.perf_counter()
                    client.predict(picture, [[SIDE // 2, SIDE // 2]], api_name="/segment")
                    found.clicks.append(time.perf_counter() - began)
                    found.beside += not job.done()
                paths, _ = job.result(PATIENCE)
                break
            except QueueError as error:
                assert "try again" in str(error) and time.monotonic() < given_up
                found.refused += 1
                time.sleep(0.5)
        found.pictures.append([np.asarray(Image.open(path)) for path in paths])
    return found


def resident() -> float:
    """MiB of main memory of this process, the server's as well."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def crowd(page, visitors: range, folder: Path) -> list[Visit]:
    for number in visitors:
        photo(SIDE, SIDE, number).save(folder / f"{number}-photo.png")
        Image.fromarray(np.pad(np.full((24, 24), 255, np.uint8), 12)).save(folder / f"{number}-mask.png")
    with ThreadPoolExecutor(len(visitors)) as pool:
        return list(pool.map(lambda number: visit(page.url, number, folder), visitors))


def check(page, visitors: range, visits: list[Visit]) -> None:
    alone = Editor(page.backend.editor.models)
    seen = set()
    for number, found in zip(visitors, visits, strict=True):
        assert len(found.pictures) == 2 and len(found.clicks) >= 5
        mask = np.pad(np.ones((24, 24), bool), 12)
        for edit, (picture,) in enumerate(found.pictures):
            wanted = Edit(photo(SIDE, SIDE, number), mask, prompt=PROMPT)
            (expected,) = alone.run(wanted, Settings.from_dict(settings(edit))).images
            assert np.array_equal(picture, expected), f"visitor {number} got somebody else's picture"
            seen.add(picture.tobytes())
    assert len(seen) == 2 * len(visitors)
    assert sum(found.beside for found in visits) > len(visits)


def test_three_visitors_where_one_may_wait(page_model, tmp_path):
    with served(page_model, max_users=1, cache_gb=0.01) as page:
        visits = crowd(page, range(3), tmp_path)
        check(page, range(3), visits)
        assert sum(found.refused for found in visits), "three are more than run and wait"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from Linux's /proc")
def test_twenty_visitors_where_eight_may_wait(page_model, tmp_path):
    with served(page_model, max_users=8, cache_gb=0.001) as page:
        crowd(page, range(100, 108), tmp_path)
        before = resident()
        visits = crowd(page, range(20), tmp_path)
        after = resident()
        check(page, range(20), visits)
    clicks = sorted(second for found in visits for second in found.clicks)
    print(
        f"{sum(found.refused for found in visits)} refused, clicks {statistics.median(clicks):.3f} s "
        f"(slowest {clicks[-1]:.3f}), memory {before:.0f} → {after:.0f} MiB"
    )
    assert after - before < MEMORY and statistics.median(clicks) < 1
