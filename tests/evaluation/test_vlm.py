"""The optional judge, asked over HTTP as any OpenAI-compatible server is."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.datasets.toybench import toybench
from layerdiffusion.evaluation.metrics import Measures
from layerdiffusion.evaluation.variants import variants
from layerdiffusion.evaluation.vlm import KEY, VlmJudge
from layerdiffusion.evaluation.worker import Worker

ANSWER = 'Here it is:\n```json\n{"action": 4, "subject": 2, "background": 5}\n```'


@pytest.fixture
def server():
    """A judge that always says the same; `server.asked` are the requests it got."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.asked.append((self.path, self.headers.get("Authorization"), body))
            answer = self.server.answers.pop(0) if self.server.answers else ANSWER
            status, text = (200, answer) if isinstance(answer, str) else (answer, "")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.answers = [], []
        server.url = f"http://127.0.0.1:{server.server_port}/v1/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_ratings_question_and_answers_are_in_the_record(server, worker, quick, monkeypatch):
    monkeypatch.setenv(KEY, "a-secret")
    edit = toybench(1)[0]
    asker = Worker(worker.models, Measures(worker.models, worker.measures.judge), VlmJudge(server.url, "judge-1"))
    record = asker.run(edit, variants(["sdedit"])[0], quick).record
    assert [{n: one[n] for n in one if n.startswith("vlm")} for one in record["measures"]] == [
        {"vlm_action": 4, "vlm_subject": 2, "vlm_background": 5}
    ] * 2
    asked = record["vlm"]
    assert asked["answers"] == [ANSWER] * 2 and asked["model"] == "judge-1"
    assert edit.edit.prompt in asked["prompt"] and "second one the background" in asked["prompt"]
    assert "a-secret" not in json.dumps(record) and asker.ready(())["vlm"] == "judge-1"

    path, key, body = server.asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer a-secret", "judge-1")
    text, *pictures = body["messages"][0]["content"]
    assert text["text"] == asked["prompt"] and len(pictures) == 3
    sent = base64.b64decode(pictures[0]["image_url"]["url"].partition("base64,")[2])
    assert Image.open(io.BytesIO(sent)).size == (64, 64)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (500, "didn't answer .status 500.; check --judge-url"),
        ("I can't see pictures.", 'answered "I can\'t see pictures.", not a rating from 1 to 5'),
        ('{"action": 9, "subject": 2, "background": 5}', "not a rating from 1 to 5"),
        ('{"action": 3}', "not a rating"),
    ],
)
def test_what_is_no_rating_is_one_sentence(server, answer, words):
    server.answers = [answer]
    edit = toybench({"kept": 1})[0].edit
    with pytest.raises(EditError, match=words):
        VlmJudge(server.url, "judge-1")(edit, edit.object_image, None, [edit.object_image])
    assert "that of the photo" in server.asked[0][2]["messages"][0]["content"][0]["text"]


def test_an_address_where_nobody_is_is_one_sentence():
    edit = toybench(1)[0].edit
    with pytest.raises(EditError, match="The judge at http://127.0.0.1:1 didn't answer"):
        VlmJudge("http://127.0.0.1:1", "judge-1")(edit, edit.object_image, None, [edit.object_image])
