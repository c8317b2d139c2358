"""The finished examples in `assets/examples`, and the command that makes them: `python -m layerdiffusion.ui.examples`.

Each is a folder as `Result.save` writes it, with an `about.json` beside: what it shows and what it teaches. All
are drawn from the toybox and edited by the true method with the embedded model.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from layerdiffusion.edit import Edit, Placement
from layerdiffusion.errors import EditError
from layerdiffusion.images.io import open_image
from layerdiffusion.recipe import Recipe, load_recipe
from layerdiffusion.settings import Settings
from layerdiffusion.ui.bundle import PAINTED
from layerdiffusion.ui.widgets.drawing import picture_url

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FOLDER = ASSETS / "examples"
THUMBNAIL = 96


@dataclass(frozen=True)
class Wish:
    """One example to be made: the scenes it is drawn from and the edit that is made of them."""

    name: str
    title: str
    lesson: str
    photo: dict[str, str]  # attributes of the toybox scene
    object_prompt: str
    background_prompt: str
    photo_seed: int = 0
    reference: dict[str, str] | None = None  # of the scene whose background is wanted
    reference_seed: int = 0
    background: str = "keep"
    swap: bool = False
    placement: Placement = Placement()
    settings: dict[str, Any] = field(default_factory=dict)

    def edit(self) -> Edit:
        from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw

        photo = draw(HELD_OUT_SEEDS + self.photo_seed, **self.photo)
        pictures: dict[str, Any] = {"object_image": photo.image, "object_mask": photo.object_mask}
        if self.reference is not None:
            other = draw(HELD_OUT_SEEDS + self.reference_seed, **self.reference)
            pictures |= {"background_image": other.image, "background_mask": other.object_mask}
        edit = Edit(
            **pictures,
            object_prompt=self.object_prompt,
            background_prompt=self.background_prompt,
            background=self.background,
            placement=self.placement,
        )
        return edit.swapped() if self.swap else edit


WISHES = (
    Wish(
        "jump-on-the-beach",
        "New pose, new place",
        "The paint comes from the photo, the beach from the reference, the jump from the words. A seed may miss.",
        {
            "animal": "dog",
            "paint": "blue",
            "pose": "standing",
            "size": "big",
            "place": "meadow",
            "position": "centre",
        },
        "a dog jumping",
        "on the beach",
        photo_seed=39,
        reference={"animal": "snail", "place": "beach", "position": "right", "size": "small"},
        reference_seed=44,
        background="reference",
    ),
    Wish(
        "lie-down",
        "New pose, same place",
        "The photo's own background stays. Thin legs are what this small model draws worst.",
        {"animal": "dog", "paint": "purple", "pose": "standing", "size": "big", "place": "forest"},
        "a dog lying down",
        "in the forest",
        photo_seed=61,
    ),
    Wish(
        "grow-big",
        "New size",
        "The subject is scaled up on the board; the words say the same.",
        {
            "animal": "elephant",
            "paint": "pink",
            "pose": "standing",
            "size": "small",
            "place": "desert",
            "position": "centre",
        },
        "a big elephant standing",
        "in the desert",
        photo_seed=13,
        placement=Placement(scale=1.9, dy=-0.12),
    ),
    Wish(
        "painted-red",
        "New looks",
        "Stage 2 holds what it saw, the yellow too: with a third of its steps the words get their say.",
        {"animal": "car", "paint": "yellow", "pose": "standing", "size": "medium", "place": "city"},
        "a red car standing",
        "in the city",
        photo_seed=14,
        settings={"alpha": 0.9, "finetune_steps": 45},
    ),
    Wish(
        "to-the-snow",
        "Background from a picture",
        "The reference's own subject was clicked away, so only its place is taken over.",
        {"animal": "giraffe", "paint": "green", "pose": "standing", "size": "medium", "place": "meadow"},
        "a giraffe standing",
        "in the snow",
        photo_seed=15,
        reference={"animal": "sheep", "place": "snow", "size": "medium"},
        reference_seed=25,
        background="reference",
    ),
    Wish(
        "painted-background",
        "Background painted",
        "No second picture needed: the model paints the place first, from the words alone.",
        {"animal": "horse", "paint": "red", "pose": "standing", "size": "big", "place": "forest"},
        "a horse jumping",
        "in the snow",
        photo_seed=52,
        background="generate",
    ),
    Wish(
        "roles-swapped",
        "Roles swapped",
        "The reference gives the subject and the photo the background: the same edit, mirrored.",
        {"animal": "duck", "paint": "plain", "pose": "standing", "size": "small", "place": "sea", "position": "left"},
        "a dinosaur standing",
        "in the sea",
        photo_seed=17,
        reference={"animal": "dinosaur", "paint": "purple", "pose": "standing", "place": "desert", "size": "medium"},
        reference_seed=27,
        background="reference",
        swap=True,
    ),
    Wish(
        "small-subject",
        "A small subject",
        "A small subject weighs little in the loss; λ1 = 3 gives it more.",
        {"animal": "giraffe", "paint": "red", "pose": "standing", "size": "small", "place": "beach"},
        "a small giraffe upside down",
        "on the beach",
        photo_seed=73,
        settings={"object_weight": 3.0},
    ),
    Wish(
        "to-the-moon",
        "Day becomes night",
        "All of it changes: the light, the ground, the pose. Only the rabbit stays. One seed of four misses the moon.",
        {"animal": "rabbit", "paint": "red", "pose": "standing", "size": "medium", "place": "meadow"},
        "a rabbit jumping",
        "on the moon",
        photo_seed=16,
        reference={"animal": "sheep", "place": "moon", "size": "small"},
        reference_seed=48,
        background="reference",
    ),
    Wish(
        "where-it-fails",
        "Where it fails",
        "The wanted pose is far from the photo's, and three seeds of four lose the deer and its pink. Try more seeds.",
        {"animal": "deer", "paint": "pink", "pose": "standing", "size": "medium", "place": "meadow"},
        "a deer lying down",
        "in the snow",
        photo_seed=82,
        reference={"animal": "sheep", "place": "snow", "size": "small"},
        reference_seed=25,
        background="reference",
    ),
)


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
        return self.recipe.edit.background_image or self.painted

    @cached_property
    def pictures(self) -> dict[int, Image.Image]:
        """The results by seed, in the recipe's order."""
        seeds = self.recipe.settings.seeds or ()
        return {seed: open_image(self.folder / f"seed-{seed}.png") for seed in seeds}

    @property
    def painted(self) -> Image.Image | None:
        """The background, where it was generated."""
        path = self.folder / PAINTED
        return open_image(path) if path.is_file() else None

    @property
    def best(self) -> Image.Image:
        return self.pictures[self.best_seed]

    def thumbnail(self, image: Image.Image) -> str:
        small = image.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        return picture_url(small)


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


def make(wish: Wish, editor: Any, folder: Path) -> Path:
    """Run the wish's edit and save it, finished, as `folder/<its name>`."""
    from layerdiffusion.models.clip import clip_score

    edit = wish.edit()
    result = editor.run(edit, Settings(**wish.settings))
    scores = clip_score(editor.models, result.images, edit.prompt)
    saved = result.save(folder / wish.name)
    if edit.background == "generate":
        result.layers.background_image.save(saved / PAINTED)
    best = max(range(len(scores)), key=scores.__getitem__)
    about = {
        "title": wish.title,
        "lesson": wish.lesson,
        "order": WISHES.index(wish),
        "best_seed": result.seeds[best],
        "scores": {str(seed): round(score, 4) for seed, score in zip(result.seeds, scores, strict=True)},
    }
    (saved / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return saved


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m layerdiffusion.ui.examples", description="Make the examples.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(wish.name for wish in WISHES)}")
    parser.add_argument("--model", default="miniature", help="miniature, a diffusers folder or a hub id")
    parser.add_argument("--device", help="cpu, cuda, mps; else the best there is")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where to put them")
    args = parser.parse_args(argv)
    known = {wish.name: wish for wish in WISHES}
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"there is no example called {unknown[0]}")

    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models

    try:
        editor = Editor(load_models(args.model, args.device))
        for wish in (known[name] for name in args.names or known):
            saved = make(wish, editor, args.out)
            print(re.sub(r"\s+", " ", f"{wish.name}: {saved}"))
    except EditError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
