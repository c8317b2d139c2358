"""What models are called, and their files from the hub: in its cache, or one sentence on why they can't be had."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from layerdiffusion.errors import ModelError

HUB_DEFAULT = "CompVis/stable-diffusion-v1-4"
HUB_XL = "stabilityai/stable-diffusion-xl-base-1.0"
# Stable Diffusion v1.4 distilled: no middle block, one layer a block. The first is the one that "laptop" names.
LAPTOP = ("segmind/tiny-sd", "nota-ai/bk-sdm-tiny")
HUB_CLIP = "openai/clip-vit-base-patch32"  # what CLIPScore is defined with
# The commits that the program is written for: what is pushed to a repository later changes nobody's pictures.
REVISIONS = {
    HUB_DEFAULT: "133a221b8aa7292a167afc5127cb63fb5005638b",
    HUB_XL: "462165984030d82259a11f4367a4eed129e94a7b",
    LAPTOP[0]: "cad0bd7495fa6c4bcca01b19a723dc91627fe84f",
    LAPTOP[1]: "0364108e53b7f7f4d2585e817a0b7a83dc261cfa",
    HUB_CLIP: "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "facebook/sam-vit-base": "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f",
    "facebook/sam-vit-large": "6851e0441005b0fb96f2cc4dfac472f3d1b14af1",
    "facebook/sam-vit-huge": "87aecf0df4ce6b30cd7de76e87673c49644bdf67",
}
CLIP_SAFETENSORS = "refs/pr/15"  # the revision of HUB_CLIP that has them, where its main branch does not

NETWORKS = ("unet", "vae", "text_encoder")
XL_NETWORKS = (*NETWORKS, "text_encoder_2")
CONFIG_FILES = ("model_index.json", "settings.json", "scheduler/*.json", "tokenizer/*", "tokenizer_2/*") + tuple(
    f"{part}/config.json" for part in (*XL_NETWORKS, "transformer")
)
KLEIN = "Flux2KleinPipeline"  # in `model_index.json`
# Of klein's parts, whose weights may be in several files with an index.
KLEIN_FILES = tuple(
    f"{part}/{name}"
    for part in ("transformer", "vae", "text_encoder")
    for name in ("*.safetensors", "*.safetensors.index.json")
)
WEIGHTS = ("model", "diffusion_pytorch_model")  # transformers' name of a weight file, and diffusers'
PICKLED = ["pytorch_model.bin", "diffusion_pytorch_model.bin"]  # the same of older files
OnBytes = Callable[[int, int], None]  # (bytes that have come, bytes that will)
PLUS = " + "  # between a model's name and the LoRA files on top of it
# A file, or LORA_FILE:SCALE, up to the next one.
LORA_FILE = re.compile(r"(.+?\.safetensors(?::[^:]*?)?)(?: \+ |$)", re.IGNORECASE)


def split_name(name: str) -> tuple[str, list[str]]:
    """A model's name as `load_models` takes it: the model's own, and its LoRA files as LORA_FILE or LORA_FILE:SCALE."""
    pieces = name.split(PLUS)
    lengths = range(len(pieces), 0, -1)  # of folders and files whose own names have a plus, the longest that is there
    length = next((n for n in lengths if Path(PLUS.join(pieces[:n])).exists()), 1)
    rest = PLUS.join(pieces[length:])
    return PLUS.join(pieces[:length]), LORA_FILE.findall(rest) or pieces[length:]


def download_model(repository: str, on_bytes: OnBytes | None = None) -> Path:
    """The folder of a diffusers model from the hub: configs, tokenizers, and of each part's safetensors one kind.

    That is full precision where there is any, and fp16 for SDXL, which is 13.9 GB in full, and for `LAPTOP`, whose
    .bin files serve where they have no safetensors. What is in the cache already, of either kind, is not fetched
    again. `on_bytes` is called now and then, from several threads; what it raises ends the download. Raises
    `ModelError`.
    """
    folder = download(repository, CONFIG_FILES, on_bytes=on_bytes)
    if _is_klein(folder):
        return download(repository, (*CONFIG_FILES, *KLEIN_FILES), on_bytes=on_bytes)
    is_xl = (folder / "text_encoder_2").is_dir()
    kinds = [[f"{stem}{variant}.safetensors" for stem in WEIGHTS] for variant in ("", ".fp16")]
    if is_xl or repository in LAPTOP:
        kinds.reverse()
    if repository in LAPTOP:
        kinds.append(PICKLED)
    for kind in kinds:
        lacking = [
            part
            for part in (XL_NETWORKS if is_xl else NETWORKS)
            if not any((folder / part / name).is_file() for names in kinds for name in names)
        ]
        if lacking:
            files = (f"{part}/{name}" for part in lacking for name in kind)
            folder = download(repository, (*CONFIG_FILES, *files), on_bytes=on_bytes)
    return folder


def _is_klein(folder: Path) -> bool:
    """Whether it is a klein to be used; the distilled one's weights are not fetched, only to be refused."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return index["_class_name"] == KLEIN and not index.get("is_distilled")
    except (OSError, ValueError, LookupError, TypeError):
        return False  # what it is instead is said where it is opened


def download_clip() -> tuple[Path, bool]:
    """The folder of `HUB_CLIP`, and whether its weights are safetensors; else they are a .bin of tensors.

    Raises `ModelError`.
    """
    configs = ("*.json", "*.txt")
    folder = download(HUB_CLIP, (*configs, "model.safetensors"))
    if (folder / "model.safetensors").is_file():
        return folder, True
    try:
        folder = download(HUB_CLIP, (*configs, "model.safetensors"), CLIP_SAFETENSORS)
        if (folder / "model.safetensors").is_file():
            return folder, True
    except ModelError:
        pass  # the revision may be gone: the .bin is always there
    return download(HUB_CLIP, (*configs, "pytorch_model.bin")), False


def download(
    repository: str, patterns: Sequence[str], revision: str | None = None, on_bytes: OnBytes | None = None
) -> Path:
    """The local folder of a snapshot with the files that match; what is in the cache is not fetched again.

    `revision` (None: the one of `REVISIONS`, or else the newest) is a commit or a branch. Where a pinned one is neither
    on the hub nor in the cache, it is the newest. `on_bytes` is as in `download_model`. Raises `ModelError`: a gated or
    unknown repository, a full disk, a cache that can't be written, no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    pinned = revision or REVISIONS.get(repository)
    options: dict[str, Any] = {"allow_patterns": list(patterns)}
    if on_bytes is not None:
        options["tqdm_class"] = _reporting(on_bytes)
    try:
        try:
            return Path(snapshot_download(repository, revision=pinned, **options))
        except (LocalEntryNotFoundError, RevisionNotFoundError):
            if pinned is None or revision is not None:
                raise
            return Path(snapshot_download(repository, revision=None, **options))
    except GatedRepoError as error:
        raise ModelError(f"{repository} asks for a login: accept its terms on the hub, and log in.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"There is no folder and no model on the hub called {repository}.") from error
    except OSError as error:  # the hub's and the network's errors, a full disk, a cache that can't be written
        raise ModelError(_unavailable(repository, error)) from error


def _reporting(on_bytes: OnBytes) -> type[Any]:
    """A bar for the hub's library that is not drawn, and calls `on_bytes` whenever it is moved."""
    from tqdm import tqdm

    class Reporting(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            drawn = super().update(n)  # holds tqdm's lock, which an error inside would leave locked
            if self.unit == "B" and self.total:  # others count files
                on_bytes(int(self.n), int(self.total))
            return drawn

    return Reporting


def _unavailable(repository: str, error: BaseException | None) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    numbers = set()
    while error is not None:
        numbers.add(getattr(error, "errno", None))
        error = error.__cause__ or error.__context__
    cache = next(path for path in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if path.exists())
    if errno.ENOSPC in numbers:
        return f"The disk is full: {repository} can't be downloaded; free some space."
    if numbers & {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR} or not (
        cache.is_dir() and os.access(cache, os.W_OK)
    ):
        return (
            f"{repository} can't be saved: the hub's cache folder {HF_HUB_CACHE} can't be written; "
            "allow it, or set HF_HOME to a folder that can."
        )
    return (
        f"{repository} is no folder here, not in the hub's cache, and the hub can't be reached; "
        "check the network, or give a model's folder."
    )
