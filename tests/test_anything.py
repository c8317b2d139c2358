"""Whatever people type, and whatever their programs send: a result, or one sentence that says what is wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import SearchStrategy
from PIL import Image
from tiny import noise_picture

from layerdiffusion.__main__ import main
from layerdiffusion.edit import Edit, Placement
from layerdiffusion.editor import Editor
from layerdiffusion.errors import EditError
from layerdiffusion.images.io import open_image
from layerdiffusion.images.layers import lay_out
from layerdiffusion.images.masks import read_mask
from layerdiffusion.recipe import load_recipe, recipe_from_dict, recipe_to_dict
from layerdiffusion.settings import Settings, setting_table
from layerdiffusion.ui.api import editing, segmenter, split_prompt

AMOUNTS = [pytest.param(20, id="few"), pytest.param(400, id="many", marks=pytest.mark.slow)]
TEXTS = strategies.text(max_size=20) | strategies.sampled_from(
    [
        "",
        "nan",
        "inf",
        "-0",
        "1e400",
        "1_0",
        "0x10",
        "٣",
        "1,2",
        "0-3",
        "9" * 400,
        "true",
        "\0",
        "\ufeff1",
        "🦊",
        "a\nb",
    ]
)
NUMBERS = (
    strategies.integers()
    | strategies.floats()
    | strategies.sampled_from([10**400, -(10**400), 2**63, -1, 0, 1, 0.5, 1e308, True])
)
JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | NUMBERS | TEXTS,
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def for_all(values: SearchStrategy, check: Callable[[Any], object], amount: int) -> None:
    """Check that many values, the same ones every time."""

    @hypothesis_settings(
        max_examples=amount, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(values)
    def run(value: Any) -> None:
        check(value)

    run()


def answer(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What the function returns, or None for an error in one sentence."""
    try:
        return function(*args, **options)
    except EditError as error:
        assert one_sentence(str(error)), error
        return None


def one_sentence(text: str) -> bool:
    return 0 < len(text) < 600 and len(text.splitlines()) == 1 and text.isprintable() and text.endswith(".")


@pytest.mark.parametrize("amount", AMOUNTS)
def test_settings_of_any_values_are_settings_or_one_sentence(amount):
    fields = strategies.dictionaries(strategies.sampled_from([*setting_table()]) | TEXTS, JSON, max_size=3)

    def check(values: dict[str, Any]) -> None:
        made = answer(Settings.from_dict, values)
        if made is not None:
            assert Settings.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        if values.keys() <= setting_table().keys():
            assert answer(Settings, **values) == made or made is None

    for_all(fields, check, amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_flags_of_any_text_end_with_one_sentence(amount, tmp_path, monkeypatch, tiny_models, capsys):
    monkeypatch.chdir(tmp_path)
    noise_picture(1).save("dog.png")
    reached = "The flags are good."

    def stop(*_: Any, **__: Any) -> None:
        raise EditError(reached)

    monkeypatch.setattr(Editor, "run", stop)
    monkeypatch.setattr("layerdiffusion.models.load.load_models", lambda *_, **__: tiny_models)
    names = [name for name in setting_table() if name != "seeds"]
    flags = ["--seeds", "--scale", "--dx", "--dy", "--rotate", "--box", "--point", "--train-on", "--background-seed"]
    flags += ["--prompt", "--object-prompt", "--preset", "--background", *(f"--{n.replace('_', '-')}" for n in names)]
    numbers = NUMBERS.map(str)
    pairs = strategies.lists(strategies.tuples(strategies.sampled_from(flags), TEXTS | numbers), max_size=3)

    def check(chosen: list[tuple[str, str]]) -> None:
        words = [word for flag, text in chosen for word in (f"{flag}={text}",)]
        try:
            status = main(
                ["edit", "--image", "dog.png", "--point", "30,30", "--prompt", "a dog jumps", "--json", *words]
            )
        except SystemExit as error:  # of argparse
            status = error.code
        out, err = capsys.readouterr()
        assert status == 2 and "Traceback" not in err
        assert one_sentence(json.loads(out)["error"])

    for_all(pairs, check, amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_calls_over_http_of_any_values_end_with_one_sentence(amount):
    """The endpoints' functions, given what JSON can hold; Gradio turns files into bytes before."""
    file = io.BytesIO()
    noise_picture(1).save(file, "PNG")
    picture, mask = file.getvalue(), io.BytesIO()
    Image.fromarray(np.pad(np.ones((32, 32), bool), 16)).save(mask, "PNG")

    def run(edit: Edit, settings: Settings, _: Any):
        raise EditError(f"It would run with {len(settings.to_dict())} settings.")
        yield

    def candidates(*_: Any) -> list[SimpleNamespace]:
        return [SimpleNamespace(mask=np.ones((64, 64), bool), iou=1.0)]

    backend: Any = SimpleNamespace(run=run, candidates=candidates, find=candidates)
    edit, segment = editing(backend), segmenter(backend)
    files = strategies.sampled_from([picture, mask.getvalue(), b"", b"no picture", picture[:40]])
    good = {"image": picture, "mask": mask.getvalue(), "prompt": "a dog in the snow"}
    others = ["prompt", "object_prompt", "background_prompt", "background", "background_seed", "swap", "placement"]
    others += ["settings", "window", "reference_window"]
    shapes = strategies.fixed_dictionaries({}, optional={f.name: JSON for f in Placement.__dataclass_fields__.values()})
    dials = strategies.fixed_dictionaries({}, optional=dict.fromkeys([*setting_table()], JSON))
    calls = strategies.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(others, JSON), "placement": JSON | shapes, "settings": JSON | dials,
            **dict.fromkeys(("image", "mask", "reference", "reference_mask"), files),
        },
    )  # fmt: skip
    clicks = strategies.fixed_dictionaries({}, optional=dict.fromkeys(("points", "labels", "box", "words"), JSON))

    def check(call: tuple[dict[str, Any], dict[str, Any], Any]) -> None:
        answer(lambda: [*edit(**{**good, **call[0]})])
        answer(lambda: [*segment(picture, **call[1])])
        answer(split_prompt, call[2])

    for_all(strategies.tuples(calls, clicks, JSON), check, amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_recipes_changed_at_random_are_read_or_refused_in_one_sentence(amount, edit, tmp_path):
    whole = json.loads(json.dumps(recipe_to_dict(edit, Settings(seeds=(1, 2)), "miniature")))
    text = json.dumps(whole)
    paths = [(name,) for name in whole] + [(part, name) for part in ("edit", "settings") for name in whole[part]]
    paths += [("edit", "placement", name) for name in whole["edit"]["placement"]] + [("edit", "more"), ("more",)]
    gone = object()
    changes = strategies.lists(
        strategies.tuples(strategies.sampled_from(paths), JSON | strategies.just(gone)), min_size=1, max_size=3
    )
    cuts = strategies.tuples(strategies.integers(0, len(text)), strategies.binary(max_size=3))

    def changed(path: tuple[str, ...], value: Any, data: Any) -> Any:
        if not path or not isinstance(data, dict):
            return value
        rest = {name: old for name, old in data.items() if name != path[0]}
        new = changed(path[1:], value, data.get(path[0]))
        return rest if new is gone else {**rest, path[0]: new}

    def check(drawn: tuple[list[tuple[tuple[str, ...], Any]], tuple[int, bytes]]) -> None:
        data: Any = whole
        for path, value in drawn[0]:
            data = changed(path, value, data)
        answer(recipe_from_dict, data)
        at, put = drawn[1]
        (tmp_path / "edit.json").write_bytes(text[:at].encode() + put + text[at + len(put) :].encode())
        answer(load_recipe, tmp_path)

    for_all(strategies.tuples(changes, cuts), check, amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_pictures_and_masks_of_any_kind_are_laid_out_or_refused_in_one_sentence(amount):
    modes = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"]
    sides = strategies.integers(1, 80)
    pictures = strategies.tuples(strategies.sampled_from(modes), sides, sides, strategies.integers(0, 2**32 - 1))
    formats = strategies.sampled_from(["PNG", "TIFF", "JPEG", "WEBP", "BMP", "GIF"])
    lengths = strategies.none() | strategies.integers(0, 200)

    def written(kind: tuple[str, int, int, int], format: str, length: int | None) -> bytes:
        mode, width, height, seed = kind
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = io.BytesIO()
        try:
            Image.fromarray(pixels).convert("I" if mode == "I;16" else mode).convert(mode).save(file, format)
        except (OSError, ValueError):  # the format has no such mode
            Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()[:length]

    def check(drawn: tuple[Any, ...]) -> None:
        image = answer(open_image, written(*drawn[:3]), "the photo")
        other = Image.fromarray(np.zeros((drawn[0][2], drawn[0][1], 3), np.uint8)) if image is None else image
        mask = answer(read_mask, written(*drawn[3:6]), other.size, "the mask")
        assert image is None or (image.mode, min(image.size) > 0) == ("RGB", True)
        if mask is None:
            mask = drawn[6]
        made = answer(Edit, object_image=other, object_mask=mask, prompt="a dog on ice")
        layers = None if made is None else answer(lay_out, made, (64, 32))
        assert layers is None or layers.composite.size == (64, 32)

    arrays = strategies.sampled_from(
        [np.zeros((0, 0), bool), np.ones((4, 4)), np.ones((4, 4, 3), bool), np.array(1), np.ones(5, bool), None, "mask"]
    )
    for_all(strategies.tuples(pictures, formats, lengths, pictures, formats, lengths, arrays), check, amount)
