"""The named endpoints through gradio_client, as somebody else's program calls them."""

import asyncio
import tempfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from jsonschema import Draft202012Validator
from PIL import Image
from serving import photo

from layerdiffusion import Edit, Editor, Settings
from layerdiffusion.ui.bundle import open_bundle

SETTINGS = {"embedding_steps": 3, "finetune_steps": 2, "sampling_steps": 4, "seeds": [3, 1]}


@pytest.fixture(scope="module")
def client(page) -> Client:
    return Client(page.url, verbose=False)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 20:60] = 255
    pictures = {"image": photo(80, 60), "mask": Image.fromarray(mask), "reference": photo(64, 64, seed=1)}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    return {name: tmp_path / f"{name}.png" for name in pictures}


def edit(client: Client, files: dict[str, Path], **changes):
    sent = {name: handle_file(files[name]) for name in ("image", "mask")}
    return client.predict(**{**sent, "prompt": "a dog in the snow", "settings": SETTINGS, **changes}, api_name="/edit")


def test_only_three_endpoints_are_public(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(endpoints) == ["/edit", "/segment", "/split_prompt"]


def test_split_prompt(client):
    assert client.predict("a dog jumping in the forest", api_name="/split_prompt") == ("a dog jumping", "in the forest")


def test_what_every_endpoint_takes_is_a_json_schema(client):
    """Gradio's MCP server refuses a call to a tool whose schema is none."""
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    schemas = [parameter["type"] for endpoint in endpoints.values() for parameter in endpoint["parameters"]]
    assert len(schemas) == 20
    for schema in schemas:
        Draft202012Validator.check_schema(schema)


def test_mcp_offers_the_same_three(page, files):
    pytest.importorskip("mcp", reason="Gradio's MCP extra is not installed")
    asyncio.run(called_over_mcp(f"{page.url}gradio_api/mcp/", files))


async def called_over_mcp(url: str, files: dict[str, Path]) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {"segment", "split_prompt", "edit"}
        assert all(tool.description for tool in tools.values())
        parts = await session.call_tool("split_prompt", {"prompt": "a dog in the snow"})
        assert [part.text for part in parts.content] == ["a dog", "in the snow"]
        image = f"data:image/png;base64,{b64encode(files['image'].read_bytes()).decode()}"
        click = {"image": image, "points": [[40, 30]], "labels": None, "box": None}
        marked = await session.call_tool("segment", click)
        assert not marked.isError, marked


def test_segment_is_the_segmenters_own_mask(client, page, files):
    path = client.predict(handle_file(files["image"]), [[40, 30], [2, 2]], [1, 0], api_name="/segment")
    expected = page.backend.segmenter().mask([[40, 30], [2, 2]], [1, 0], image=np.asarray(photo(80, 60)))
    assert np.array_equal(np.asarray(Image.open(path)) > 127, expected)


def test_edit_gives_the_pictures_that_the_editor_gives(client, page, files):
    paths, report = edit(client, files)
    assert report["seeds"] == [3, 1] and report["prompts"] == {"object": "a dog", "background": "in the snow"}
    mask = np.asarray(Image.open(files["mask"])) > 127
    wanted = Edit(photo(80, 60), mask, prompt="a dog in the snow")
    result = Editor(page.backend.editor.models).run(wanted, Settings.from_dict(SETTINGS))
    for path, image in zip(paths, result.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))
        assert open_bundle(Path(path).read_bytes()).recipe.edit == result.seen


def test_edit_with_a_reference_a_placement_and_swapped_roles(client, files):
    _, report = edit(
        client,
        files,
        reference=handle_file(files["reference"]),
        background="reference",
        placement={"scale": 0.8, "dx": 0.1},
    )
    assert set(report["stages"].values()) == {"run"}


def test_edit_with_windows_sees_those_parts_of_the_pictures(client, files):
    photo(64, 96, seed=1).save(files["reference"])
    square = {"settings": {**SETTINGS, "shape": "square"}}
    paths, _ = edit(client, files, **square, reference=handle_file(files["reference"]), window=[1, 0],
                    reference_window=[0, 0.25])  # fmt: skip
    seen = open_bundle(Path(paths[0]).read_bytes()).recipe.edit
    assert seen.object_image.tobytes() == photo(80, 60).crop((20, 0, 80, 60)).tobytes()
    assert seen.background_image.tobytes() == photo(64, 96, seed=1).crop((0, 8, 64, 72)).tobytes()


def test_a_swap_needs_a_subject_on_the_reference(client, files):
    with pytest.raises(AppError, match="No subject is marked on the reference"):
        edit(client, files, reference=handle_file(files["reference"]), background="reference", swap=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": {"alpha": 7}}, "alpha must be a number from 0 to 1"),
        ({"settings": {"seeds": list(range(200))}}, "200 numbers"),
        ({"settings": {"os": "rm"}}, "any of alpha"),
        ({"settings": "{"}, "no JSON object"),
        ({"placement": [1, 2]}, "placement must be an object"),
        ({"placement": {"scale": 99}}, "scale must be"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 20_000}, "shorten it"),
        ({"background": "steal"}, "background is 'steal'"),
        ({"background": "reference"}, "background_image is missing"),
        ({"mask": None}, "mask is missing"),
        ({"window": [2, 0]}, "window must be a number from 0 to 1, not 2"),
        ({"window": [0.5]}, r"window is \[0.5\]: it must be two shares from 0 to 1"),
        ({"window": {"x": 1}}, "it must be two shares"),
        ({"reference_window": [0, 1]}, "reference_window needs a reference"),
        ({"prompt": 5}, "prompt is 5: it must be text"),
        ({"object_prompt": ["a dog"]}, "object_prompt is .*: it must be text"),
        ({"background": False}, "background is False: it must be text"),
        ({"background_seed": 1.7}, "background_seed must be a whole number from 0 to 4294967295, not 1.7"),
        ({"background_seed": "1"}, "background_seed must be a whole number"),
        ({"background_seed": 10**400}, "background_seed must be a whole number"),
        ({"settings": {"alpha": 10**400}}, "alpha must be a number from 0 to 1, not 1000"),
        ({"settings": {"seeds": [10**400]}}, "seeds must be a whole number"),
        ({"settings": "[" * 100_000}, "no JSON object"),
        ({"placement": {"scale": -(10**400)}}, "scale must be"),
        ({"window": [10**400, 0]}, "window must be a number from 0 to 1"),
        ({"swap": "false"}, "swap is 'false': it must be true or false"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(client, files, changes, sentence):
    with pytest.raises(AppError, match=sentence) as error:
        edit(client, files, **changes)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([[999, 1]], "not on the picture"),
        ([[1, 1]] * 10_000, "at most 64"),
        ("<script>", "list of at most"),
        ([["a", 1]], "not on the picture"),
        ([[10**400, 1]], "not on the picture"),
        ([1, 2], "pair"),
        ([], "No subject is clicked"),
        (None, "No subject is clicked"),
    ],
)
def test_points_that_are_none_are_refused_in_a_sentence(client, files, points, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(handle_file(files["image"]), points, None, None, api_name="/segment")


def test_a_reference_mask_without_a_reference_is_refused(client, files):
    with pytest.raises(AppError, match="reference_mask needs a reference picture"):
        edit(client, files, reference_mask=handle_file(files["mask"]))


def test_what_is_no_text_is_refused_by_the_other_endpoints_too(client, files):
    with pytest.raises(AppError, match="words is 5: it must be text"):
        client.predict(handle_file(files["image"]), words=5, api_name="/segment")
    with pytest.raises(AppError, match="prompt is 5: it must be text"):
        client.predict(5, api_name="/split_prompt")


def test_words_mark_a_subject_instead_of_points(client, page, files):
    mask = client.predict(handle_file(files["image"]), words="the dog", api_name="/segment")
    found = page.backend.find(np.asarray(photo(80, 60)), "the dog")[0].mask
    assert np.array_equal(np.asarray(Image.open(mask)) > 127, found)
    with pytest.raises(AppError, match="contradict"):
        client.predict(handle_file(files["image"]), [[40, 30]], words="the dog", api_name="/segment")


def test_html_in_what_is_refused_comes_back_escaped(client, files):
    with pytest.raises(AppError) as error:
        edit(client, files, background="<img src=x onerror=alert(1)>")
    assert "<img" not in str(error.value) and "&lt;img" in str(error.value)


def test_a_picture_that_is_none_is_refused_and_the_next_edit_works(client, files, tmp_path):
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"GIF89a no")
    with pytest.raises(AppError, match="can't be read|no picture"):
        edit(client, files, image=handle_file(fake))
    assert len(edit(client, files)[0]) == 2


def test_edits_leave_nothing_of_ours_behind(client, files, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"  # no other test's files are in it
    temporary.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / "gradio"))  # where it was
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    edit(client, files)
    before = set(temporary.iterdir())
    for seed in range(20, 23):
        edit(client, files, settings={**SETTINGS, "seeds": [seed]})
        client.predict(handle_file(files["image"]), [[40, 30]], None, None, api_name="/segment")
    new = {path.name for path in temporary.iterdir()} - {path.name for path in before}
    assert not {name for name in new if name.startswith(("tmp", "layerdiffusion"))}


def test_no_file_of_the_servers_is_given_away(page):
    import urllib.error
    import urllib.request

    for path in ("/etc/passwd", str(Path(__file__).resolve()), "../../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{page.url}gradio_api/file={path}")
