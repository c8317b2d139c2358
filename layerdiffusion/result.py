"""What an edit gives back: its pictures, how they came about, and a folder that holds both."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from layerdiffusion.edit import Edit, Settings, save_recipe
from layerdiffusion.errors import EditError
from layerdiffusion.layering import Layers


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
    warnings: tuple[str, ...] = ()  # prompts that the model reads only in part

    @property
    def reused(self) -> tuple[str, ...]:
        """The stages that came from the cache."""
        return tuple(stage for stage, fate in self.stages.items() if fate == "reuse")

    def contact_sheet(self, columns: int = 4) -> Image.Image:
        """Photo, background and their layering above, the results below, each with its name."""
        above = [
            ("subject", self.layers.object_image),
            ("background", self.layers.background_image),
            ("layers", self.layers.composite),
        ]
        results = [(f"seed {seed}", image) for seed, image in zip(self.seeds, self.images, strict=True)]
        rows = [above, *(results[start : start + columns] for start in range(0, len(results), columns))]
        side, caption, gap = self.images[0].width, 16, 4
        width = max(len(row) for row in rows) * (side + gap) + gap
        sheet = Image.new("RGB", (width, len(rows) * (side + caption + gap) + gap), "white")
        draw = ImageDraw.Draw(sheet)
        for row, pictures in enumerate(rows):
            for column, (name, image) in enumerate(pictures):
                x, y = gap + column * (side + gap), gap + row * (side + caption + gap)
                sheet.paste(image, (x, y + caption))
                draw.text((x, y + 2), name, fill="black")
        return sheet

    def save(self, folder: str | Path) -> Path:
        """Write `seed-….png`, `contact.png` and the recipe, `edit.json` with its pictures, and return the folder.

        Every result carries the recipe, without the pictures, and its seed as PNG text. Raises an `EditError`
        when the folder can't be written.
        """
        folder = Path(folder)
        recipe = save_recipe(self.edit, self.settings, folder, self.model).read_text(encoding="utf-8")
        try:
            for seed, image in zip(self.seeds, self.images, strict=True):
                text = PngInfo()
                text.add_itxt("layerdiffusion", json.dumps(json.loads(recipe), ensure_ascii=False))
                text.add_text("seed", str(seed))
                image.save(folder / f"seed-{seed}.png", pnginfo=text)
            self.contact_sheet().save(folder / "contact.png")
        except OSError as error:
            raise EditError(
                f"The pictures can't be saved to {folder} ({error.strerror or error}); "
                "free some space or choose another folder."
            ) from error
        return folder

    def mean_loss(self, stage: str, last: int = 50) -> float:
        """The mean of a stage's `last` losses; NaN if it had no step. Single losses depend on their timestep."""
        losses = self.losses.get(stage, [])[-last:]
        return sum(losses) / len(losses) if losses else math.nan
