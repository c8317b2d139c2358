"""What an edit gives back: its pictures, how they came about, and a folder that holds both."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from layerdiffusion.edit import Edit
from layerdiffusion.errors import ModelError, SegmentError
from layerdiffusion.files import save_or_rescue, saving, write_files
from layerdiffusion.images.detail import bring_detail
from layerdiffusion.images.io import png_bytes
from layerdiffusion.images.layered import LayerGroup, NamedLayer, ora_bytes, psd_bytes
from layerdiffusion.images.layers import Layers, background_window, lay_out, seen
from layerdiffusion.images.masks import Mask, cut_out, resize_mask
from layerdiffusion.recipe import carried_recipe, files_to_write, is_result, recipe_files, result_png
from layerdiffusion.settings import Settings

FindSubjects = Callable[[Sequence[Image.Image]], list[Mask]]  # the subject's mask, bool (H, W), in each of the pictures


@dataclass(frozen=True, eq=False)
class Result:
    """One finished edit; `images[i]` is the picture of `seeds[i]`."""

    images: list[Image.Image]
    seeds: tuple[int, ...]
    timings: dict[str, float]  # seconds in each stage of this run, and in "total"
    losses: dict[str, list[float]]  # of each step of "embeddings" and "finetune", also where they were reused
    edit_id: str  # equal for equal recipes on equal models
    stages: dict[str, str]  # each stage: "run", "reuse" (from the cache) or "skip" (no steps)
    edit: Edit
    settings: Settings  # every field set
    model: str
    layers: Layers  # the pictures the stages looked at
    # Masks that were scaled or are soft, prompts read only in part, a stage 2 that was changed for want of memory.
    warnings: tuple[str, ...] = ()
    find_subjects: FindSubjects | None = None  # None: no model is at hand
    detail: bool = False  # whether the pictures have their background's own pixels; see `detailed`

    @property
    def reused(self) -> tuple[str, ...]:
        """The stages that came from the cache."""
        return tuple(stage for stage, status in self.stages.items() if status == "reuse")

    @property
    def seen(self) -> Edit:
        """The edit with no more of its pictures than was used: what the results' own recipes carry."""
        return seen(self.edit, self.layers.composite.size)

    def detailed(self) -> Result:
        """The same with the background picture's own pixels, in their full resolution, where a result still shows it.

        The subject is looked for in each result; where that can't be done, a warning says so, and the pixels come
        back by comparison alone. A generated background has no other pixels.
        """
        source = background_window(self.edit, self.layers.composite.size)
        if source is None or self.detail:
            return self
        found: list[Mask | None] = [None] * len(self.images)
        warnings = self.warnings
        try:
            if self.find_subjects is not None:
                found = [*self.find_subjects(self.images)]
        except (ModelError, SegmentError) as error:
            note = f"Detail comes back by comparison alone, since the subject can't be looked for: {error}"
            warnings = (*warnings, note)
        pairs = zip(self.images, found, strict=True)
        images = [bring_detail(image, source, self.layers.subjects, mask) for image, mask in pairs]
        return replace(self, images=images, warnings=warnings, detail=True)

    def contact_sheet(self, columns: int = 4) -> Image.Image:
        """Photo, background and their layering above, the results below, each with its name."""
        above = [
            ("subject", self.layers.object_image),
            ("background", self.layers.background_image),
            ("layers", self.layers.composite),
        ]
        size = self.layers.object_image.size
        small = (image.resize(size, Image.Resampling.LANCZOS) if image.size != size else image for image in self.images)
        results = [(f"seed {seed}", image) for seed, image in zip(self.seeds, small, strict=True)]
        rows = [above, *(results[start : start + columns] for start in range(0, len(results), columns))]
        return captioned(rows)

    def layer_pictures(self) -> dict[str, Image.Image]:
        """By name what the edit was made of, at the results' size.

        "subject": RGBA, as it was laid down; "background": alone, its own subject inpainted; "composite": the layered
        picture that stage 2 learnt from, unless it learnt from each by itself.
        """
        layers = self.layers
        pictures = {
            "subject": cut_out(layers.object_image, layers.object_mask),
            "background": layers.inpainted_background,
        }
        if self.settings.layers == "composite":
            pictures["composite"] = layers.composite
        return pictures

    def save_layers(self, folder: str | Path, cut_outs: Sequence[Image.Image] = ()) -> Path:
        """Write `layer-….png` of `layer_pictures`, `cutout-seed-….png` of `Editor.cut_out`, and all of them as one
        `layers.psd` and one `layers.ora`, at the results' size; return the folder."""
        folder = Path(folder)
        files = {f"layer-{name}.png": image for name, image in self.layer_pictures().items()}
        files |= {f"cutout-seed-{seed}.png": image for seed, image in zip(self.seeds, cut_outs, strict=False)}
        contents = {name: png_bytes(image) for name, image in files.items()}
        groups = self._groups(cut_outs)
        contents["layers.psd"] = psd_bytes(groups, self.images[0])
        contents["layers.ora"] = ora_bytes(groups, self.images[0])
        with saving("The layers", folder):
            write_files({folder / name: content for name, content in contents.items()})
        return folder

    def _groups(self, cut_outs: Sequence[Image.Image]) -> list[LayerGroup]:
        """The layers of the edit, and over them each result's place and subject; of the results the first is seen."""
        size, layers = self.images[0].size, self.layers
        if layers.composite.size != size:  # after `detailed`: the pictures' own pixels
            layers = lay_out(self.edit, size)
        whole = np.ones(size[::-1], bool)
        background = NamedLayer("background", layers.inpainted_background, whole)
        groups = [LayerGroup("layers", (background, NamedLayer("subject", layers.object_image, layers.object_mask)))]
        for index, (seed, image) in enumerate(zip(self.seeds, self.images, strict=True)):
            mask = ~whole
            if index < len(cut_outs):
                mask = resize_mask(np.asarray(cut_outs[index].getchannel("A")) > 127, size)
            both = NamedLayer("place", image, ~mask), NamedLayer("subject", image, mask)
            groups.append(LayerGroup(f"seed {seed}", both[: 1 + mask.any()], visible=index == 0))
        return groups

    def save(self, folder: str | Path, rescue: bool = True, detail: bool = False, overwrite: bool = False) -> Path:
        """Write `seed-….png`, `contact.png` and the recipe, `edit.json` with its pictures, and return the folder.

        With `detail`, the pictures are those of `detailed`, and the recipe says so.

        Every result carries its seed and the whole recipe as PNG text, what was used of pictures and masks included,
        so that it alone opens on the page. Results of other seeds that an earlier save left there are removed. When
        the folder can't be written, its disk is full, or, without `overwrite`, a file is in the way that no earlier
        edit wrote, the pictures go to a new temporary folder and a `SavedElsewhere` says which; without `rescue`, or
        when that fails too, an `EditError` says why.
        """
        if detail and not self.detail:
            return self.detailed().save(folder, rescue, overwrite=overwrite)
        write = partial(self._write, overwrite=overwrite)
        if not rescue:
            return write(Path(folder))
        return save_or_rescue(write, "The pictures", Path(folder), f"layerdiffusion-{self.edit_id}-")

    def _write(self, folder: Path, overwrite: bool = False) -> Path:
        recipe = carried_recipe(self.seen, self.settings, self.model, self.detail)
        files = recipe_files(self.edit, self.settings, self.model, self.detail)
        for seed, image in zip(self.seeds, self.images, strict=True):
            files[f"seed-{seed}.png"] = result_png(image, seed, recipe)
        files["contact.png"] = png_bytes(self.contact_sheet())
        needed = files_to_write(folder, files, overwrite)
        with saving("The pictures", folder):
            write_files(needed)
            for path in folder.glob("seed-*.png"):
                named = re.fullmatch(r"seed-(\d+)\.png", path.name)
                if named and int(named[1]) not in self.seeds and is_result(path):
                    path.unlink()
        return folder


def captioned(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of pictures, all of one size, on one sheet, each below its name."""
    (wide, high), caption, gap = rows[0][0][1].size, 16, 4
    width = max(len(row) for row in rows) * (wide + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (high + caption + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for row, pictures in enumerate(rows):
        for column, (name, image) in enumerate(pictures):
            x, y = gap + column * (wide + gap), gap + row * (high + caption + gap)
            sheet.paste(image, (x, y + caption))
            draw.text((x, y + 2), name, fill="black")
    return sheet
