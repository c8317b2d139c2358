"""Folders of records: one made by no model, of drawn scenes and known differences; and what a run left in one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from layerdiffusion.evaluation.records import Records

METHODS = ("ours", "sdedit", "imagic", "pnp")
COMMAND = "python -m layerdiffusion evaluate toybench --methods ours,sdedit,imagic,pnp --out bench"
GOOD = {"ours": 0.85, "f": 0.85, "sdedit": 0.35, "imagic": 0.5, "pnp": 0.4, "a": 0.3, "b": 0.4, "i": 0.5}
SIDE = 128


def numbers(records: Records) -> dict[tuple[str, str], tuple]:
    """All that a run measures, and its pictures; not how long it took."""
    return {
        (one["edit"], one["variant"]): (
            one["measures"],
            one["settings"],
            [(records.folder / name).read_bytes() for name in one["pictures"]],
        )
        for one in records.read()
    }


def drawn(seed: int, side: int = SIDE) -> bytes:
    """A noisy picture with something in it, which no codec makes small."""
    rng = np.random.default_rng(seed)
    sky, ground = rng.integers(40, 220, (2, 3))
    pixels = np.where(np.arange(side)[:, None, None] < side * 0.6, sky, ground) + rng.normal(0, 9, (side, side, 3))
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    x, y = rng.integers(side // 5, side // 2, 2)
    ImageDraw.Draw(picture).ellipse((x, y, x + side // 3, y + side // 3), fill=tuple(map(int, rng.integers(0, 255, 3))))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def measured(column: str, seed: int, rng: np.random.Generator, judge: bool) -> dict[str, Any]:
    good = GOOD.get(column, 0.6)
    found: dict[str, Any] = {
        "seed": seed,
        "clip_score": 0.2 + 0.1 * good + rng.normal(0, 0.005),
        "subject_likeness": 0.7 + 0.1 * good + rng.normal(0, 0.01),
        "background_psnr": 12 + 10 * good + rng.normal(0, 1),
    }
    if judge:
        right = {name: bool(rng.random() < good) for name in ("animal", "pose", "place", "paint", "size")}
        asked, kept = all(right[n] for n in ("animal", "pose", "place")), right["paint"] and right["size"]
        found |= right | {"satisfied": asked, "kept": kept, "as_wanted": asked and kept}
    return found


def bench_folder(
    folder: Path,
    columns: Sequence[str] = METHODS,
    kinds: Sequence[str] = ("background", "pose", "both"),
    edits: int = 4,
    seeds: Sequence[int] = (0, 1),
    judge: bool = True,
    prompt: str = "a red dog jumping on the beach",
    side: int = SIDE,
) -> Path:
    """`edits` of each kind in each column."""
    records = Records(folder)
    rng = np.random.default_rng(5)
    names = [f"{kind}-{number:02d}" for number in range(edits) for kind in kinds]
    records.begin(
        {
            "bench": "toybench",
            "command": COMMAND,
            "model": {"name": "miniature"},
            "settings": {"seeds": list(seeds)},
            "variants": {column: {} for column in columns},
            "edits": {edit: {} for edit in names},
        }
    )
    for at, edit in enumerate(names):
        kind = edit.rpartition("-")[0]
        sources = {name: drawn(10 * at + i, side) for i, name in enumerate(("photo", "reference", "layers"))}
        for index, column in enumerate(columns):
            method = column if column in METHODS else "ours"
            record = {
                "edit": edit,
                "kind": kind,
                "variant": column,
                "method": method,
                "settings": {"alpha": 0.7, "seeds": list(seeds)},
                "options": {} if method == "ours" else {"source": "photo"},
                "seeds": list(seeds),
                "measures": [measured(column, seed, rng, judge) for seed in seeds],
                "timings": {"embeddings": 1.5, "finetune": 2.5, "sampling": 1.0, "total": 5.0},
                "model": "miniature",
                "versions": {"torch": "2.13.0", "diffusers": "0.38.0"},
                "wanted": {"animal": "dog", "pose": "jumping", "place": "beach", "paint": "red", "size": "big"},
                "prompt": prompt,
            }
            pictures = {seed: drawn(1000 * at + 100 * index + seed, side) for seed in seeds}
            records.write(record, pictures, sources)
    return folder
