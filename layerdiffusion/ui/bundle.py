"""Results as files, and back: PNGs that carry their recipe, a zip of everything, and these opened again."""

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layerdiffusion.baselines import BASELINES
from layerdiffusion.errors import EditError, RecipeError
from layerdiffusion.files import saving, write_files
from layerdiffusion.images.io import MAX_BYTES, open_image, png_bytes
from layerdiffusion.recipe import CARRIED, Recipe, carried_recipe, recipe_from_dict, result_png

MAX_FILES = 200
MAX_UNPACKED = 192 * 2**20
MAX_NETWORK = 160 * 2**20  # of a kept subject; its recipe and embeddings come on top
GENERATED = "generated.png"
GENERATED_BEFORE = "painted.png"  # what it was called in zips of recipe version 1
SUBJECT = "subject.safetensors"  # a trained one, in a zip with its embeddings
ENTRY = re.compile(r"(?:unet/)?[\w.-]+\.(?:png|json|safetensors)", re.ASCII)
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Opened:
    """What a dropped file held."""

    recipe: Recipe
    pictures: dict[int, Image.Image]  # finished results by seed, if it had any
    generated: Image.Image | None = None  # the background, if the model made it
    baselines: dict[str, dict[int, Image.Image]] = field(default_factory=dict)  # pictures by method and seed
    subject: Any = None  # a trained `Subject`


def save_pictures(result: Any, folder: Path) -> list[Path]:
    """The result's pictures in `folder`, each with the whole recipe, pictures and masks, in its metadata."""
    recipe = carried_recipe(result.seen, result.settings, result.model, result.detail)
    pairs = zip(result.seeds, result.images, strict=True)
    files = {folder / f"seed-{seed}.png": result_png(image, seed, recipe) for seed, image in pairs}
    write_files(files)
    return list(files)


def save_compared(result: Any, method: str, folder: Path) -> list[Path]:
    """The pictures of a baseline in `folder`, named by it; each says in its metadata how it was made."""
    files = {}
    for seed, image in zip(result.seeds, result.images, strict=True):
        text = PngInfo()
        text.add_text("method", method)
        text.add_text("seed", str(seed))
        files[folder / f"{method}-seed-{seed}.png"] = png_bytes(image, text)
    write_files(files)
    return list(files)


def save_zip(
    results: Sequence[Any],
    pictures: dict[int, Path],
    path: Path,
    baselines: Sequence[Path] = (),
    cut_outs: Sequence[Image.Image] | None = None,
    recipe: bool = True,
    detail: bool = False,
) -> Path:
    """All results in one zip, and the baselines' pictures.

    With `recipe`, `edit.json` with the photo, the reference and their masks, a contact sheet, and `pictures`, the files
    by seed that carry the recipe themselves; without, the results are pictures and nothing more. With `cut_outs`, the
    layers, and these: the subject of each result. With `detail`, the pictures are those of `Result.detailed`.
    """
    first = results[0]
    whole = _joined(results)
    whole = replace(whole, edit=whole.seen)
    if detail:
        whole, pictures = whole.detailed(), {}
    with (
        saving("The zip", path, "free some space"),
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        if recipe and first.edit.background == "generate":
            first.layers.background_image.save(Path(folder) / GENERATED)
        if recipe:
            whole.save(folder, rescue=False)
        else:
            pictures = {}
            for seed, image in zip(whole.seeds, whole.images, strict=True):
                image.save(Path(folder) / f"seed-{seed}.png")
        if cut_outs is not None:
            whole.save_layers(folder, cut_outs)
        for file in sorted(Path(folder).iterdir()):
            if file.name == "edit.json":  # with its pictures inside, so that it opens without the others
                carried = carried_recipe(whole.edit, whole.settings, whole.model, whole.detail)
                archive.writestr(file.name, json.dumps(carried, ensure_ascii=False))
                continue
            seed = re.fullmatch(r"seed-(\d+)\.png", file.name)
            archive.write(pictures.get(int(seed[1]), file) if seed else file, file.name)
        for file in baselines:
            archive.write(file, file.name)
    return path


def _joined(results: Sequence[Any]) -> Any:
    """An edit's results of several runs as one."""
    seeds = tuple(seed for result in results for seed in result.seeds)
    images = [image for result in results for image in result.images]
    return replace(results[0], images=images, seeds=seeds, settings=replace(results[0].settings, seeds=seeds))


def save_edit(results: Sequence[Any], folder: Path) -> None:
    """Write what `open_folder` needs beside the results' pictures. Raises an `OSError`."""
    whole = _joined(results)
    recipe = carried_recipe(whole.edit, whole.settings, whole.model, whole.detail)
    files: dict[Path, bytes | Path] = {folder / "edit.json": json.dumps(recipe).encode()}
    if whole.edit.background == "generate":
        files[folder / GENERATED] = png_bytes(whole.layers.background_image)
    write_files(files)


def open_folder(folder: Path) -> Opened:
    """Open a folder with an `edit.json` and the pictures beside it. Raises a `RecipeError`, or an `OSError`."""
    recipe = recipe_from_dict(_json((folder / "edit.json").read_bytes()), folder)
    seeds = recipe.settings.seeds or ()
    baselines = {name: found for name in BASELINES if (found := _finished(folder, f"{name}-", seeds))}
    return Opened(recipe, _finished(folder, "", seeds), generated_background(folder), baselines)


def open_bundle(data: bytes) -> Opened:
    """Open an `edit.json`, a result's PNG, a kept subject or a zip of a finished edit; its content says which.

    Raises an `EditError` for anything else, and for archives that would unpack to more than the page takes.
    """
    if len(data) > MAX_BYTES:
        raise RecipeError(f"The file is larger than {MAX_BYTES // 2**20} MB, which no saved edit is.")
    if data.startswith(PNG):
        return _open_png(data)
    if data.startswith(b"PK"):
        return _open_zip(data)
    if data[8:9] == b"{":  # after the length of its header
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / SUBJECT
            path.write_bytes(data)
            return _open_subject(path)
    return Opened(recipe_from_dict(_json(data)), {})


def _open_png(data: bytes) -> Opened:
    image = open_image(data, "the picture")
    with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
        file.load()
        text, method = file.text.get(CARRIED), file.text.get("method")
    if not text and method in BASELINES:
        raise RecipeError(f"This picture is {BASELINES[method]}'s, for comparison; open the zip it came in.")
    if not text:
        raise RecipeError("This picture carries no recipe; open one that was saved here, or use it as a photo.")
    recipe = recipe_from_dict(_json(text))
    seeds = recipe.settings.seeds or ()
    return Opened(recipe, {seeds[0]: image} if len(seeds) == 1 else {})


def _open_zip(data: bytes) -> Opened:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, tempfile.TemporaryDirectory() as folder:
            _unpack(archive, Path(folder))
            if not (Path(folder) / "edit.json").is_file():
                return _open_subject(_subject_in(Path(folder)))
            return open_folder(Path(folder))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise RecipeError("The zip is damaged or locked and can't be opened; download it again.") from error


def save_subject(subject: Any, models: Any, path: Path) -> Path:
    """A zip of the subject's files. Raises an `EditError` where it is a network too large to be opened here again."""
    size = sum(weight.numel() for weight in subject.weights.values()) * 4  # float32
    if subject.tune == "full" and size > MAX_NETWORK:
        raise EditError(
            f"Stage 2 trained the whole model, {size / 2**30:.1f} GB, which is too large to be handed over here; tune "
            "LoRA, or download all, unpack it and keep it with python -m layerdiffusion edit FOLDER --keep NAME."
        )
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as archive:
        saved = subject.save(Path(folder) / (SUBJECT if subject.tune == "lora" else "subject"), models)
        top = saved if saved.is_dir() else Path(folder)
        for file in sorted(file for file in top.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(top))
    return path


def _subject_in(folder: Path) -> Path:
    """The kept subject in an unpacked zip: a file by any name, or the folder of a full one."""
    if (folder / "unet").is_dir():
        return folder
    files = [file for file in folder.glob("*.safetensors") if not file.name.endswith("embeddings.safetensors")]
    if len(files) != 1:
        raise RecipeError("The zip holds no edit.json and no subject; open one that was downloaded here.")
    return files[0]


def _open_subject(path: Path) -> Opened:
    from layerdiffusion.subject import load_subject

    subject = load_subject(path)
    return Opened(subject.recipe, {}, subject=subject)


def generated_background(folder: Path) -> Image.Image | None:
    """The background that the model made for the edit saved in `folder`; None where it made none."""
    files = (folder / name for name in (GENERATED, GENERATED_BEFORE))
    return next((open_image(file) for file in files if file.is_file()), None)


def _finished(folder: Path, prefix: str, seeds: Sequence[int]) -> dict[int, Image.Image]:
    files = {seed: folder / f"{prefix}seed-{seed}.png" for seed in seeds}
    return {seed: open_image(file) for seed, file in files.items() if file.is_file()}


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """The archive's plain PNG, JSON and safetensors files into `folder`; sizes are counted, not believed.

    Whoever unpacked a download and zipped it again has everything in a folder, or "./" before every name: what lies
    beside the topmost recipe or subject is taken.
    """
    entries = archive.infolist()
    if len(entries) > MAX_FILES:
        raise RecipeError(f"The zip has {len(entries)} files; a saved edit has a few dozen at most.")
    named = {PurePosixPath(entry.filename.replace("\\", "/")): entry for entry in entries}
    top = _top(path for path in named if ".." not in path.parts and not path.is_absolute())
    left = MAX_UNPACKED
    for path, entry in named.items():
        name = str(path.relative_to(top)) if path.is_relative_to(top) else ""
        if not ENTRY.fullmatch(name):
            continue
        with archive.open(entry) as packed:
            content = packed.read(min(MAX_BYTES, left) + 1)
        left -= len(content)
        if left < 0 or len(content) > MAX_BYTES:
            raise RecipeError("The zip unpacks to far more than a saved edit; open one that was downloaded here.")
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)


def _top(paths: Iterable[PurePosixPath]) -> PurePosixPath:
    """The topmost folder with a recipe or a subject."""
    folders = [path.parent for path in paths if path.name == "edit.json" or path.suffix == ".safetensors"]
    tops = (folder.parent if folder.name == "unet" else folder for folder in folders)
    return min(tops, key=lambda folder: len(folder.parts), default=PurePosixPath())


def _json(data: bytes | str) -> Any:
    try:
        return json.loads(data.removeprefix("\ufeff") if isinstance(data, str) else data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            "This file is no saved edit; open an edit.json, a downloaded zip, or a picture that was made here."
        ) from error
