"""Where the page may run: behind a proxy with a path, with a password, in a container, on a read-only file system."""

import http.client
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from serving import photo, served

from layerdiffusion.ui.launch import launch_arguments
from layerdiffusion.ui.options import PageOptions, parse_options
from layerdiffusion.ui.page import header

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "layerdiffusion/ui/README.md").read_text(encoding="utf-8")
PREFIX = "/edits"


class Proxy(BaseHTTPRequestHandler):
    """Serves what is behind it under `PREFIX`, and nothing else."""

    target = ""
    protocol_version = "HTTP/1.0"

    def forward(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        upstream = http.client.HTTPConnection(self.target, timeout=60)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream.request(self.command, self.path.removeprefix(PREFIX), body, dict(self.headers))
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        while chunk := answer.read1(65536):
            self.wfile.write(chunk)
            self.wfile.flush()

    do_GET = do_POST = forward  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def proxied(page_model) -> Iterator[str]:
    with served(page_model, root_path=PREFIX, auth=("me", "secret")) as page:
        Proxy.target = page.url.removeprefix("http://").split("/")[0]
        server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}/"
        server.shutdown()
        server.server_close()


def test_it_is_served_under_a_proxys_path_to_those_with_the_password(proxied, tmp_path):
    photo(48, 48).save(tmp_path / "photo.png")
    with pytest.raises(Exception, match=r"(?i)credential|auth|login|401"):
        Client(proxied, auth=("me", "wrong"), verbose=False)
    client = Client(proxied, auth=("me", "secret"), verbose=False)
    mask = client.predict(handle_file(tmp_path / "photo.png"), [[24, 24]], api_name="/segment")
    assert Image.open(mask).size == (48, 48), "a queue's events and a file come through"


def test_nothing_of_a_visitors_stays_on_disk_longer_than_asked(page):
    every, age = page.blocks.delete_cache
    assert every + age == 60 * page.backend.options.keep_minutes == 3600 and every == 360
    arguments = launch_arguments(PageOptions(keep_minutes=5, root_path="/edits"))
    assert arguments["run_history"] is False and arguments["root_path"] == "/edits"
    assert parse_options(["--keep-minutes", "5"]).keep_minutes == 5


def test_the_page_says_how_long_pictures_stay(page):
    texts = [str(block.value) for block in page.blocks.blocks.values() if getattr(block, "elem_id", "") == "privacy"]
    assert len(texts) == 1 and "until 60 minutes after you close this tab" in texts[0]


def test_there_is_a_login_where_the_space_has_one(monkeypatch):
    buttons = []
    monkeypatch.setattr(gr, "LoginButton", lambda **looks: buttons.append(looks))
    monkeypatch.setenv("SPACE_ID", "someone/layerdiffusion")
    for found in (0, 1):
        with gr.Blocks():
            header()
        assert len(buttons) == found
        monkeypatch.setenv("OAUTH_CLIENT_ID", "an id")


def test_the_printed_dockerfile_builds_on_what_is_there():
    lines = re.search(r"```dockerfile\n(.*?)```", PAGE, re.S).group(1).replace("\\\n", " ").strip().splitlines()
    steps = [line.split(maxsplit=1) for line in lines]
    named = {word: [rest for first, rest in steps if first == word] for word, _ in steps}
    assert len(lines) <= 10 and named["FROM"][0].startswith("python:3.1")
    for copied in named["COPY"]:
        *sources, _ = [word for word in copied.split() if not word.startswith("--")]
        assert all((ROOT / source).exists() for source in sources)
    assert named["USER"] == ["user"], "it does not run as root"
    command = eval(named["CMD"][0])
    assert command[:2] == ["python", "app.py"]
    options = parse_options(command[2:])
    assert options.host == "0.0.0.0" and named["EXPOSE"] == [str(options.port)]
    variables = shlex.split(" ".join(named["ENV"]))
    assert {variable.partition("=")[0] for variable in variables} >= {"HF_HOME"}


def test_the_command_line_runs_from_another_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "layerdiffusion", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "edit" in done.stdout
    assert "PYTHONPATH=/path/to/LayerDiffusion python -m layerdiffusion" in PAGE
