"""An edit over HTTP whose client cancels or is gone leaves the device to the next within a step."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from serving import photo, served

from layerdiffusion.ui import launch

LONG = {"embedding_steps": 2000, "finetune_steps": 2000, "sampling_steps": 1000, "seeds": [7]}
SHORT = {"embedding_steps": 1, "finetune_steps": 1, "sampling_steps": 2, "seeds": [3]}
WORDS = {"prompt": "a dog in the snow", "api_name": "/edit"}
SOON = 5  # seconds; the long edit takes minutes
VISITORS = """
import sys, time
from gradio_client import Client, handle_file
url, folder, count = sys.argv[1:]
jobs = []
for number in range(int(count)):
    files = {name: handle_file(f"{folder}/{name}.png") for name in ("image", "mask")}
    settings = {"embedding_steps": 2000, "finetune_steps": 2000, "seeds": [number]}
    jobs.append(Client(url, verbose=False).submit(**files, prompt="a cat", settings=settings, api_name="/edit"))
while not any(job.outputs() for job in jobs):
    time.sleep(0.1)
print("running", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    photo(64, 64).save(tmp_path / "image.png")
    Image.fromarray(np.pad(np.full((32, 32), 255, np.uint8), 16)).save(tmp_path / "mask.png")
    return tmp_path


def submit(client: Client, files: Path, settings: dict):
    pictures = {name: handle_file(files / f"{name}.png") for name in ("image", "mask")}
    return client.submit(**pictures, **WORDS, settings=settings)


def seconds_of_the_next(url: str, files: Path) -> float:
    client = Client(url, verbose=False)
    began = time.monotonic()
    _, report = submit(client, files, SHORT).result(timeout=200)
    assert report["seeds"] == SHORT["seeds"] and report["settings"]["finetune_steps"] == 1
    return time.monotonic() - began


def test_a_call_says_how_far_it_is_and_a_cancelled_one_ends(page, files):
    job = submit(Client(page.url, verbose=False), files, LONG)
    while not job.outputs():
        time.sleep(0.1)
    pictures, progress = job.outputs()[0]
    assert pictures is None and progress["stage"] == "embeddings" and progress["steps"] == 2000
    job.cancel()
    assert seconds_of_the_next(page.url, files) < SOON


def vanished_visitors(url: str, files: Path, count: int) -> None:
    with subprocess.Popen([sys.executable, "-c", VISITORS, url, files, str(count)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"running\n"
        process.kill()


def test_a_client_that_is_killed_leaves_the_device_to_the_next(page, files):
    vanished_visitors(page.url, files, 1)
    assert seconds_of_the_next(page.url, files) < SOON


def test_a_call_that_nobody_listens_to_leaves_the_device_to_the_next(page, files, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", {"/queue/join": 1.0, "/call/": 2.0})
    with httpx.Client(base_url=f"{page.url}gradio_api/") as http:
        sent = [("files", (files / f"{name}.png").read_bytes()) for name in ("image", "mask")]
        paths = http.post("upload", files=sent).json()
        pictures = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
        data = [*pictures, "a cat", *[None] * 8, LONG, None, None]
        (edit,) = [fn._id for fn in page.blocks.fns.values() if fn.api_name == "edit"]
        joined = {"data": data, "fn_index": edit, "session_hash": "gone"}
        for call, body in (("queue/join", joined), ("call/edit", {"data": data})):
            assert http.post(call, json=body).json()["event_id"]
    assert seconds_of_the_next(page.url, files) < SOON


@pytest.mark.slow
def test_twenty_clients_that_vanish_leave_the_device_to_the_next(page_model, files):
    with served(page_model, max_users=30) as page:
        vanished_visitors(page.url, files, 20)
        assert seconds_of_the_next(page.url, files) < SOON
