"""The finished examples in `assets/examples`.

Each is a folder as `Result.save` writes it, with an `about.json` beside: what it shows and what it teaches. All are
drawn from the toybox and edited by the true method with the embedded model, by `python -m layerdiffusion.ui.examples`.
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
from layerdiffusion.miniature.world import HELD_OUT_SEEDS, draw
from layerdiffusion.recipe import Recipe, load_recipe
from layerdiffusion.settings import Settings
from layerdiffusion.ui.bundle import GENERATED, generated_background

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


@dataclass(frozen=True)
class Wish:
    """One example to be made: the scenes it is drawn from and the edit that is made of them."""

    name: str
    title: str
    lesson: str
    photo: dict[str, Any]  # attributes of the toybox scene
    object_prompt: str
    background_prompt: str
    photo_seed: int = 0
    reference: dict[str, Any] | None = None  # of the scene whose background is wanted
    reference_seed: int = 0
    background: str = "keep"
    swap: bool = False
    placement: Placement = Placement()
    settings: dict[str, Any] = field(default_factory=dict)

    def edit(self) -> Edit:
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


@cache
def wishes() -> tuple[Wish, ...]:
    """The examples that there should be, in their order."""
    listed = json.loads((ASSETS / "examples" / "wishes.json").read_text(encoding="utf-8"))
    return tuple(Wish(**wish | {"placement": Placement(**wish.get("placement", {}))}) for wish in listed)


def make(wish: Wish, editor: Any, folder: Path) -> Path:
    """Run the wish's edit and save it, finished, as `folder/<its name>`."""

    edit = wish.edit()
    result = editor.run(edit, Settings(**wish.settings))
    scores = editor.models.clip().scores(result.images, edit.prompt or "")
    saved = result.save(folder / wish.name)
    if edit.background == "generate":
        result.layers.background_image.save(saved / GENERATED)
    best = max(range(len(scores)), key=scores.__getitem__)
    about = {
        "title": wish.title,
        "lesson": wish.lesson,
        "order": wishes().index(wish),
        "best_seed": result.seeds[best],
        "scores": {str(seed): round(score, 4) for seed, score in zip(result.seeds, scores, strict=True)},
    }
    (saved / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return saved


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m layerdiffusion.ui.examples", description="Make the examples.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(wish.name for wish in wishes())}")
    parser.add_argument("--model", default="miniature", help="miniature, a diffusers folder or a hub id")
    parser.add_argument("--device", help="cpu, cuda, mps; else the best there is")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where to put them")
    args = parser.parse_args(argv)
    known = {wish.name: wish for wish in wishes()}
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
