"""Every command and every piece of Python that the documents print does what it is printed for.

What takes a moment runs as printed, in a folder that looks like the project's, with the miniature at a few steps. What
takes minutes or a GPU, or starts a server, is read by the program's own parser. The page's start is in
`ui/test_launch.py`, the card's pipeline in `miniature/test_shipped.py`.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import served

from layerdiffusion import __main__ as program
from layerdiffusion.models import load
from layerdiffusion.settings import setting_table
from layerdiffusion.ui.options import parse_options

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    *("assets/miniature/README.md", "assets/toybench/README.md"),
    *(f"layerdiffusion/{part}/README.md" for part in ("models", "ui", "evaluation")),
)
FEW_STEPS = {"embedding_steps": 2, "finetune_steps": 2, "sampling_steps": 3}


def snippets(language: str) -> list[str]:
    """The pages' fenced blocks of this language, in their order."""
    texts = ((ROOT / page).read_text("utf-8") for page in PAGES)
    blocks = (block for text in texts for block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S))
    return [block for its_language, block in blocks if its_language == language]


def commands() -> list[str]:
    """Each command of the blocks and, between backticks, of the text: on one line, without its comment."""
    texts = [(ROOT / page).read_text("utf-8") for page in PAGES]
    inline = [found for text in texts for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    blocks = [line for block in snippets("bash") + snippets("") for line in block.replace("\\\n", " ").splitlines()]
    parts = (part for line in blocks + inline for part in " ".join(line.split()).split(" && "))
    return [part.partition(" #")[0].strip() for part in parts if part.startswith(("python ", "pip ", "pytest"))]


def arguments(start: str) -> list[list[str]]:
    found = [shlex.split(command)[len(start.split()) :] for command in commands() if command.startswith(start)]
    return [words for words in found if words]


def snippet(word: str) -> str:
    (found,) = (text for text in snippets("python") if word in text)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder laid out as the project's, whose miniature has few steps by default."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "assets/miniature").mkdir(parents=True)
    for path in (ROOT / "assets").iterdir():
        if path.name != "miniature":
            (folder / "assets" / path.name).symlink_to(path)
    for path in (ROOT / "assets/miniature").iterdir():
        (folder / "assets/miniature" / path.name).symlink_to(path)
    settings = folder / "assets/miniature/settings.json"
    changed = json.loads(settings.read_text()) | FEW_STEPS
    settings.unlink()
    settings.write_text(json.dumps(changed))
    return folder


@pytest.fixture
def inside(project, monkeypatch) -> Path:
    monkeypatch.chdir(project)
    monkeypatch.setattr(load, "MINIATURE", project / "assets/miniature")
    return project


def test_there_is_something_to_try():
    assert len(commands()) > 15
    assert len(snippets("python")) == 3


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("pip ")])
def test_what_is_to_be_installed_is_in_this_project_or_pinned_as_here(command):
    words = shlex.split(command)[2:]
    files = [words[n + 1] for n, word in enumerate(words) if word == "-r"]
    assert all((ROOT / file).is_file() for file in files)
    packages = [word for word in words if word != "-r" and word not in files]
    pinned = [line for name in ("", "tests/") for line in (ROOT / f"{name}requirements.txt").read_text("utf-8").split()]
    assert all(re.sub(r"\[\w+\]", "", package) in pinned for package in packages)


def test_the_tests_are_run_as_the_readme_says():
    install, run = commands()[2:4]
    assert (install, run) == ("pip install -r requirements.txt -r tests/requirements.txt", "pytest")
    ci = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    assert f"{install} && {run}" in ci
    assert "pytest -m slow" in commands() and "pytest -m slow" in ci


@pytest.mark.parametrize("page", (*PAGES, ".github/CONTRIBUTING.md", ".github/CHANGELOG.md"))
def test_every_file_that_a_document_names_is_there(page):
    links = re.findall(r"\]\((?!http|#)([^)#\s]+)[^)]*\)", (ROOT / page).read_text("utf-8"))
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_settings_in_the_readme_have_their_defaults_and_limits():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| ([^|]+) \|", (ROOT / "README.md").read_text("utf-8"), re.M)
    assert len(rows) > 10
    for name, default, allowed in rows:
        entry = setting_table()[name]
        number = entry.limit is not None
        value = [float(part) for part in default.split(",")] if number else default
        assert entry.check(value if name == "seeds" or not number else value[0]) == entry.default, name
        if entry.limit is not None and name != "seeds":
            assert allowed == str(entry.limit), name
        elif entry.choices is not None and entry.check_text is None:
            assert allowed == ", ".join(entry.choices), name


@pytest.mark.parametrize("words", arguments("python -m layerdiffusion"), ids=" ".join)
def test_the_program_knows_every_command_that_is_printed(words, inside, monkeypatch):
    monkeypatch.setattr("sys.argv", ["layerdiffusion", *words])
    assert program._parse([word for word in words if word != "…"]).command == words[0]


@pytest.mark.parametrize("words", arguments("python app.py"), ids=" ".join)
def test_the_page_knows_every_option_that_is_printed(words, inside):
    options = vars(parse_options(words))
    assert all(options[flag.removeprefix("--")] == value for flag, value in zip(words[::2], words[1::2], strict=True))


def test_the_printed_edit_writes_what_is_said_and_replays_to_the_same_pixels(inside, capsys):
    edit, replay = [words for words in arguments("python -m layerdiffusion") if words[0] == "edit"]
    assert program.main(edit) == 0
    folder = inside / edit[edit.index("--out") + 1]
    assert (folder / "contact.png").is_file()
    first = [np.asarray(Image.open(path)) for path in sorted(folder.glob("seed-*.png"))]
    assert first
    assert program.main([*replay, "--out", "outputs/again"]) == 0
    again = [np.asarray(Image.open(path)) for path in sorted((inside / "outputs/again").glob("seed-*.png"))]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_edit_in_python_saves_its_pictures(inside):
    example = inside / "assets/examples/jump-on-the-beach"
    names = {
        "photo": Image.open(example / "object.png"),
        "mask": np.asarray(Image.open(example / "object_mask.png").convert("L")) > 127,
        "beach": Image.open(example / "background.png"),
        "beach_subject": np.asarray(Image.open(example / "background_mask.png").convert("L")) > 127,
    }
    exec(snippet("editor.run("), names)
    assert len(names["result"].images) == 4
    assert (inside / "outputs/dog/edit.json").is_file()


def test_the_request_over_http_gets_pictures(inside):
    code = snippet("gradio_client")
    with served(inside / "assets/miniature") as page:
        assert "http://127.0.0.1:7860" in code
        names: dict = {}
        exec(code.replace("http://127.0.0.1:7860", page.url.rstrip("/")), names)
    assert len(names["pictures"]) == 2
