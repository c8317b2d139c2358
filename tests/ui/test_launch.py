"""`app.py` as a laptop and a Space start it: a page soon, and an answer once the model is there."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from serving import free_port, photo

ROOT = Path(__file__).parents[2]
PATIENCE = 120


READ_ONLY = """
import errno, os, pwd, sys

def no_user(*names):
    raise KeyError("uid not found")

def watch(event, arguments):
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or event == "os.mkdir":
        path = os.path.abspath(os.fsdecode(arguments[0])) if not isinstance(arguments[0], int) else WRITABLE
        if not path.startswith((WRITABLE, "/dev/", "/proc/")):
            raise OSError(errno.EROFS, "Read-only file system", path)

pwd.getpwuid = no_user
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_the_app_starts_under_a_spaces_environment(page_model, tmp_path):
    """As a user without name or home, on a file system that is read-only but for the folder of TMPDIR and HF_HOME."""
    writable, code = tmp_path / "writable", tmp_path / "code"
    (writable / "tmp").mkdir(parents=True)
    code.mkdir()
    (code / "sitecustomize.py").write_text(f"WRITABLE = {str(writable)!r}\n{READ_ONLY}")
    port = free_port()
    environment = os.environ | {
        "LAYERDIFFUSION_MODEL": str(page_model),
        "LAYERDIFFUSION_OFFLINE": "1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "SYSTEM": "spaces",
        "SPACE_ID": "someone/layerdiffusion",
        "TMPDIR": str(writable / "tmp"),
        "HF_HOME": str(writable / "hub"),
        "HOME": "/nonexistent",
        "PYTHONPATH": str(code),
    }
    environment = {name: value for name, value in environment.items() if name not in ("USER", "LOGNAME", "USERNAME")}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py"], env=environment, stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        began = time.perf_counter()
        while True:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read().decode()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.perf_counter() - began < PATIENCE
                time.sleep(0.2)
        assert "photo-board" in page and "LayerDiffusion" in page
        client = Client(f"http://127.0.0.1:{port}/", verbose=False)
        assert client.predict("a dog on ice", api_name="/split_prompt") == ("a dog", "on ice")
        photo(48, 48).save(tmp_path / "photo.png")
        mask = client.predict(handle_file(tmp_path / "photo.png"), [[24, 24]], api_name="/segment")
        assert Image.open(mask).size == (48, 48)
        assert list((writable / "tmp").iterdir()), "what it writes goes there"
        # Gradio's own reloader complains where the `spaces` package of a Space is missing; nothing of ours may.
        assert f"{ROOT.name}/layerdiffusion" not in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(20)


def test_a_port_in_use_is_one_line_with_the_way_on(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, ROOT / "app.py", "--port", port, "--model", "miniature"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if not name.startswith("GRADIO_SERVER")},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert port in line and "in use" in line and "--port" in line and "Traceback" not in done.stdout


def test_the_page_imports_neither_torch_nor_diffusers():
    heavy = ("torch", "diffusers", "transformers")
    code = f"import sys, layerdiffusion.ui.launch; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gradio_is_pinned_to_what_is_installed():
    import gradio

    pin = re.search(r"^gradio==([\d.]+)\*$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert gradio.__version__.startswith(pin[1])
