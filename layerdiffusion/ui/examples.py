"""The finished examples in `assets/examples`.

Each is a folder as `Result.save` writes it, with an `about.json` beside: what it shows and what it teaches. All are
drawn from the toybox and edited by the true method with the embedded model, by `layerdiffusion.ui.make_examples`.
"""

import json
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from layerdiffusion.errors import EditError
from layerdiffusion.images.io import open_image
from layerdiffusion.recipe import Recipe, load_recipe
from layerdiffusion.ui.bundle import generated_background

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FOLDER = ASSETS / "examples"


@dataclass(frozen=True)
class Example:
    """A finished example: its recipe and its pictures."""

    folder: Path
    title: str
    lesson: str
    order: int
    best_seed: int
    scores: dict[str, float]

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def recipe(self) -> Recipe:
        return load_recipe(self.folder)

    @property
    def prompt(self) -> str:
        return self.recipe.edit.prompt

    @property
    def photo(self) -> Image.Image:
        return self.recipe.edit.object_image

    @property
    def background(self) -> Image.Image | None:
        return self.recipe.edit.background_image or self.generated

    @cached_property
    def pictures(self) -> dict[int, Image.Image]:
        """The results by seed, in the recipe's order."""
        seeds = self.recipe.settings.seeds or ()
        return {seed: open_image(self.folder / f"seed-{seed}.png") for seed in seeds}

    @property
    def generated(self) -> Image.Image | None:
        """The background, where it was generated."""
        return generated_background(self.folder)

    @property
    def best(self) -> Image.Image:
        return self.pictures[self.best_seed]


def examples() -> tuple[Example, ...]:
    """The examples that are there and whole, in their order."""
    return _examples(FOLDER)


@cache
def _examples(folder: Path) -> tuple[Example, ...]:
    found = []
    for path in sorted(folder.glob("*/about.json")):
        try:
            example = Example(path.parent, **json.loads(path.read_text(encoding="utf-8")))
            _ = example.best
        except (EditError, TypeError, ValueError, KeyError) as error:
            print(f"The example {path.parent.name} can't be read ({error}); make it again.", file=sys.stderr)
            continue
        found.append(example)
    return tuple(sorted(found, key=lambda example: example.order))


def example_named(name: Any) -> Example:
    """The example of that name, looked up among those listed; the name is never used as a path."""
    for example in examples():
        if example.name == name:
            return example
    raise EditError("There is no such example; choose one of those shown.")
