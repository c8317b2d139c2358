"""The README's front matter is what a Space is started from: it has to agree with what is installed."""

from importlib.metadata import version
from pathlib import Path

import gradio as gr
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def front_matter() -> dict:
    start, matter, _ = TEXT.split("---\n", 2)
    assert start == "", "the front matter has to come first"
    return yaml.safe_load(matter)


def test_the_space_runs_gradio_from_app_py(front_matter):
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()


def test_the_space_installs_the_gradio_that_is_tested_here(front_matter):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    required = {r.name: r for r in map(Requirement, filter(None, lines))}
    assert front_matter["sdk_version"] in required["gradio"].specifier
    assert gr.__version__ in required["gradio"].specifier
    assert version("gradio").rsplit(".", 1)[0] == front_matter["sdk_version"].rsplit(".", 1)[0]


def test_the_space_says_what_it_is_and_under_which_licence(front_matter):
    assert 0 < len(front_matter["short_description"]) <= 60, "the hub refuses longer ones"
    assert front_matter["license"] == "apache-2.0"
    assert "CompVis/stable-diffusion-v1-4" in front_matter["models"]
    assert front_matter["suggested_hardware"]


def test_every_picture_and_file_the_readme_names_is_there():
    import re

    links = re.findall(r"\]\((?!http|#)([^)\s]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
