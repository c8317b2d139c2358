"""Many visitors at once over HTTP: everybody gets their own pictures, or is asked to try again."""

import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image
from serving import photo, served

from layerdiffusion.edit import Edit
from layerdiffusion.editor import Editor
from layerdiffusion.settings import Settings

SIDE, PROMPT = 48, "a dog jumping on ice"
PATIENCE = 300  # seconds until a visitor gives up


@dataclass
class Visit:
    pictures: list[list[np.ndarray]] = field(default_factory=list)  # of each edit
    clicks: list[float] = field(default_factory=list)  # seconds of each
    refused: int = 0


def settings(edit: int) -> dict[str, object]:
    return {"seeds": [edit], "embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 3}


def visit(url: str, number: int, folder: Path, pace: float = 0) -> Visit:
    """Two edits of a photo of one's own; while they wait and run clicks on it, `pace` seconds between one and another.

    Visitors come in the order of their numbers, half a `pace` after each other.
    """
    time.sleep(number * pace / 2)
    got = str(folder / f"got-{number}")
    client = Client(url, verbose=False, ssl_verify=False, download_files=got, httpx_kwargs={"timeout": PATIENCE})
    found = Visit()
    picture, mask = (handle_file(folder / f"{number}-{name}.png") for name in ("photo", "mask"))
    for edit in range(2):
        given_up, clicks = time.monotonic() + PATIENCE, 3 - edit  # five in all
        while True:
            try:
                job = client.submit(image=picture, mask=mask, prompt=PROMPT, settings=settings(edit), api_name="/edit")
                while clicks:
                    clicks -= 1
                    time.sleep(pace)
                    began = time.perf_counter()
                    client.predict(picture, [[SIDE // 2, SIDE // 2]], api_name="/segment")
                    found.clicks.append(time.perf_counter() - began)
                paths, _ = job.result(PATIENCE)
                break
            except QueueError as error:
                assert "try again" in str(error) and time.monotonic() < given_up
                found.refused += 1
                time.sleep(5)
        found.pictures.append([np.asarray(Image.open(path)) for path in paths])
    return found


def crowd(url: str, visitors: range, folder: Path, pace: float = 0) -> list[Visit]:
    for number in visitors:
        photo(SIDE, SIDE, number).save(folder / f"{number}-photo.png")
        Image.fromarray(np.pad(np.full((24, 24), 255, np.uint8), 12)).save(folder / f"{number}-mask.png")
    with ThreadPoolExecutor(len(visitors)) as pool:
        return list(pool.map(lambda number: visit(url, number, folder, pace), visitors))


def test_two_visitors_at_once_get_their_own_pixels(page_model, tmp_path):
    with served(page_model, max_users=1, cache_gb=0.01) as page:
        visits = crowd(page.url, range(2), tmp_path)
        alone, mask = Editor(page.backend.editor.models), np.pad(np.ones((24, 24), bool), 12)
    for number, found in enumerate(visits):
        assert len(found.pictures) == 2 and len(found.clicks) == 5
        for edit, (picture,) in enumerate(found.pictures):
            wanted = Edit(photo(SIDE, SIDE, number), mask, prompt=PROMPT)
            (expected,) = alone.run(wanted, Settings.from_dict(settings(edit))).images
            assert np.array_equal(picture, expected), f"visitor {number} got somebody else's picture"


def main(url: str, pid: str, visitors: str = "20", pace: str = "1") -> None:
    """Visitors of a page that runs in process `pid` with `--max-users 8`; then each again, alone, for the same pixels.

    `PYTHONPATH=.:tests python tests/ui/test_many_visitors.py URL PID`: twenty of them, a click a second each, the
    figures in one line. Memory is compared with what it was after as many visitors had come before.
    """

    def resident() -> float:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crowd(url, range(int(visitors)), folder)
        before = resident()
        visits = crowd(url, range(int(visitors)), folder, float(pace))
        after = resident()
        for number, found in enumerate(visits):
            again = visit(url, number, folder)
            assert all(map(np.array_equal, found.pictures, again.pictures)), f"visitor {number}'s pixels"
    clicks = sorted(second for found in visits for second in found.clicks)
    sys.stdout.write(
        f"{len(visits)} visitors, {sum(len(found.pictures) for found in visits)} edits, "
        f"{sum(found.refused for found in visits)} asked to try again; {len(clicks)} clicks, median "
        f"{statistics.median(clicks):.2f} s, slowest {clicks[-1]:.2f}; memory {before:.0f} → {after:.0f} MiB\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
