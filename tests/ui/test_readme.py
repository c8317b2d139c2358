"""The README's front matter is what a Space is started from: it has to agree with what is installed."""

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from importlib.metadata import requires, version
from pathlib import Path

import gradio as gr
import pytest
import yaml
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement

from layerdiffusion import hub
from layerdiffusion.models.sam import HUB_NAMES

# Spaces configuration reference: what the hub takes.
PARAMETERS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version", "suggested_hardware"),
    *("suggested_storage", "app_file", "app_port", "base_path", "fullWidth", "header", "short_description", "models"),
    *("datasets", "tags", "thumbnail", "pinned", "hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes"),
    *("disable_embedding", "startup_duration_timeout", "custom_headers", "preload_from_hub", "license"),
}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
PRELOADED = re.compile(r"[\w.-]+/[\w.-]+( [^ ,]+(,[^ ,]+)*( [0-9a-f]{40})?)?")  # "repository files revision"
# Spaces ZeroGPU: the versions it runs, with Gradio alone; torchvision's minor version is torch's and 15.
ZERO_GPU_PYTHON = {"3.10.13", "3.12.12"}
ZERO_GPU_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0")

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def front_matter() -> dict:
    start, matter, _ = TEXT.split("---\n", 2)
    assert start == "", "the front matter has to come first"
    return yaml.safe_load(matter)


@pytest.fixture(scope="module")
def required() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line.partition("#")[0].strip() for line in lines]
    return {r.name: r for r in map(Requirement, filter(None, lines))}


def test_the_hub_knows_every_parameter(front_matter):
    assert front_matter.keys() <= PARAMETERS
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert isinstance(front_matter["python_version"], str), "3.10 without quotes is 3.1"
    assert front_matter["suggested_hardware"] in {hardware.value for hardware in SpaceHardware}


def test_zero_gpu_runs_these_versions(front_matter, required):
    assert front_matter["suggested_hardware"] == SpaceHardware.ZERO_A10G.value
    assert front_matter["python_version"] in ZERO_GPU_PYTHON
    for torch in ZERO_GPU_TORCH:
        assert torch in required["torch"].specifier
        assert f"0.{int(torch.split('.')[1]) + 15}.0" in required["torchvision"].specifier
    assert "2.14.0" not in required["torch"].specifier, "no Space with ZeroGPU runs it yet"
    assert front_matter["hf_oauth"] is True, "without it there is no gr.LoginButton"


def test_what_is_preloaded_is_what_the_page_downloads(front_matter):
    """The very files that `hub` asks for, so that a Space that wakes up downloads no model."""
    preloaded = front_matter["preload_from_hub"]
    assert len(preloaded) <= 10 and all(PRELOADED.fullmatch(line) for line in preloaded)
    files = dict(line.split(" ")[:2] for line in preloaded)
    assert files.keys() == {hub.HUB_DEFAULT, HUB_NAMES["vit_b"]} <= set(front_matter["models"])
    assert {line.split(" ")[0]: line.split(" ")[2] for line in preloaded}.items() <= hub.REVISIONS.items()
    weights = (f"{part}/{stem}.safetensors" for part in hub.NETWORKS for stem in hub.WEIGHTS)
    patterns = (*hub.CONFIG_FILES, *weights)
    listed = files[hub.HUB_DEFAULT].split(",")
    assert [name for name in listed if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert {f"{part}/config.json" for part in hub.NETWORKS} < set(listed)
    assert sum(name.endswith(".safetensors") for name in listed) == len(hub.NETWORKS)


def test_nothing_that_is_installed_asks_for_a_torch_that_zero_gpu_may_not_have(required):
    """But torchvision, whose releases each go with one of torch."""
    for name in required.keys() - {"torch", "torchvision"}:
        asked = [Requirement(line) for line in requires(name) or []]
        specifiers = [one.specifier for one in asked if one.name == "torch" and "extra" not in str(one.marker)]
        assert all(ZERO_GPU_TORCH[0] in specifier for specifier in specifiers), name


def test_what_is_preloaded_is_found_in_the_default_cache(front_matter, tmp_path):
    """The build puts it there and nowhere else; offline, so that it can't come from the hub."""
    name, files, revision = front_matter["preload_from_hub"][0].split(" ")
    snapshot = tmp_path / ".cache/huggingface/hub" / f"models--{name.replace('/', '--')}" / "snapshots" / revision
    for file in files.split(","):
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).touch()
    code = f"import app\nfrom layerdiffusion.hub import download_model\nprint(download_model({name!r}))"
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment = plain | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(snapshot), done.stderr


def test_the_space_runs_gradio_from_app_py(front_matter):
    assert front_matter["sdk"] == "gradio"
    assert (ROOT / front_matter["app_file"]).is_file()


def test_the_space_installs_the_gradio_that_is_tested_here(front_matter, required):
    assert front_matter["sdk_version"] in required["gradio"].specifier
    assert gr.__version__ in required["gradio"].specifier
    assert version("gradio").rsplit(".", 1)[0] == front_matter["sdk_version"].rsplit(".", 1)[0]


def test_the_space_says_what_it_is_and_under_which_licence(front_matter):
    assert 0 < len(front_matter["short_description"]) <= 60, "the hub refuses longer ones"
    assert front_matter["license"] == "apache-2.0"
    assert "CompVis/stable-diffusion-v1-4" in front_matter["models"]
