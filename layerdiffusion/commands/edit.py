"""`python -m layerdiffusion edit`: a photo, a click and a sentence, or a recipe, become a folder of pictures."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from layerdiffusion.commands.bars import Bars
from layerdiffusion.commands.edit_outputs import PROMPTS, check_places, save_everything, say
from layerdiffusion.commands.terminal import (
    Seeds,
    add_lora,
    add_setting,
    interruptible,
    number,
    writable,
)
from layerdiffusion.edit import BACKGROUNDS, PLACEMENT, Edit, Placement, check_prompts
from layerdiffusion.errors import EditError, MaskError
from layerdiffusion.images.io import open_image, points_in_opened
from layerdiffusion.images.masks import read_mask
from layerdiffusion.recipe import Recipe, load_recipe
from layerdiffusion.settings import PRESET_FLAGS, Settings, setting_table

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from layerdiffusion.subject import Subject

PLACEMENT_HELP = {
    "scale": "the subject's size, 1 as it is",
    "dx": "move it right by this share of the picture's width",
    "dy": "move it down by this share of the picture's height",
    "rotation": "turn it counter-clockwise by so many degrees",
}
UNMARKED = "No subject is marked: give --point X,Y on it, a --box around it, words to --find it, or its --mask."
WINDOWS = {"window": "object_window", "reference_window": "background_window"}
CLICKS = ("point", "not_point", "box", "find")
PICTURE_FLAGS = ("image", "mask", *CLICKS, "reference", "reference_mask", *(f"reference_{click}" for click in CLICKS),
                 "background", "background_seed", "swap")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `edit` command; flags that are not given are absent from the parsed namespace."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("recipe", nargs="?", default=None, help="an edit.json, or the folder of one, to replay")
    photo = parser.add_argument_group("the photo", "points are pixels of the upright picture, from its top left")
    photo.add_argument("--image", metavar="FILE", help="the photo whose subject is kept")
    _add_clicks(photo, "", "the subject")
    background = parser.add_argument_group("the background")
    background.add_argument("--background", choices=BACKGROUNDS, help="where it comes from; else what the flags say")
    background.add_argument("--reference", metavar="FILE", help="the picture whose background is wanted")
    _add_clicks(background, "reference-", "the reference's own subject, to leave out")
    background.add_argument("--background-seed", type=number, metavar="N", help="which background to generate")
    background.add_argument("--swap", action="store_true", help="subject from the reference, background from the photo")
    again = parser.add_argument_group("a kept subject", "new words and seeds for it cost no training")
    again.add_argument(
        "--keep", metavar="FILE", help="save what was trained: FILE.safetensors, of a full edit a folder"
    )
    again.add_argument("--subject", metavar="FILE", help="a subject that was kept, in place of --image or a recipe")
    again.add_argument("--train-on", type=number, metavar="N", help="train it N steps further first")
    words = parser.add_argument_group("the words")
    words.add_argument("--prompt", help="what the picture should show, as in “a dog jumping in the forest”")
    words.add_argument("--object-prompt", metavar="TEXT", help="its part about the subject, if the split is wrong")
    words.add_argument("--background-prompt", metavar="TEXT", help="its part about the background")
    placement = parser.add_argument_group("where the subject goes")
    for name, text in PLACEMENT_HELP.items():
        flag = "--rotate" if name == "rotation" else f"--{name}"
        placement.add_argument(flag, dest=name, type=number, metavar="X", help=f"{text}; {PLACEMENT[name]}")
    placement.add_argument("--flip", action="store_true", help="mirror it left to right")
    dials = parser.add_argument_group("settings", "left out: the preset's, else the model's own defaults")
    dials.add_argument("--preset", choices=PRESET_FLAGS, help="several at once")
    dials.add_argument("--seeds", action=Seeds, help="one picture for each: 0 1 2 or 0-3")
    for name, entry in setting_table().items():
        if name != "seeds":
            add_setting(dials, entry)
    machine = parser.add_argument_group("models and output")
    machine.add_argument("--model", help="miniature, laptop, a diffusers folder, a hub id, or auto")
    add_lora(machine)
    machine.add_argument("--sam", help="miniature, vit_b, vit_l, vit_h, a file, a folder, or a hub id")
    machine.add_argument("--detector", help="a SAM 3, Grounding DINO or OWLv2 for --find: a folder or hub id")
    machine.add_argument("--device", default=None, help="cpu, cuda, cuda:1, mps; else the best there is")
    machine.add_argument("--out", metavar="DIR", help="folder for the results; else a new one named by the edit")
    machine.add_argument("--overwrite", action="store_true", help="replace files that no earlier edit wrote, too")
    machine.add_argument("--detail", action="store_true", help="save results with the background picture's own pixels")
    machine.add_argument("--save-layers", action="store_true", help="save the layers and each result's subject too")
    machine.add_argument("--json", action="store_true", default=False, help="one JSON object instead of a bar")


def run(args: argparse.Namespace) -> int:
    """Run the edit the flags describe, save it, and say where; the exit status."""
    given = vars(args)
    subject = _opened_subject(given, args.recipe)
    recipe = _from_recipe(given) if args.recipe else None if subject is None else subject.recipe
    if recipe is None:
        _check_sources(given)
    settings = Settings(**_chosen(given, Settings))
    placement = _chosen(given, Placement)
    out = Path(given["out"]) if "out" in given else None
    writable(out or Path())
    if recipe is None:
        photo = open_image(given["image"], "the photo")
        reference = open_image(given["reference"], "the reference") if "reference" in given else None
        check_prompts(*(given.get(name) for name in PROMPTS))
    else:
        edit = _changed(recipe.edit, given, placement)

    # What can be refused without a model has been; from here on it takes time.
    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models
    from layerdiffusion.models.memory import fitting_preset
    from layerdiffusion.progress import Cancelled

    name = given.get("model") or (recipe and recipe.model) or "auto"
    models = load_models(name, args.device, loras=given.get("lora", ()))
    several = fitting_preset(models, PRESET_FLAGS[given["preset"]]).to_dict() if "preset" in given else {}
    several.pop("seeds", None)
    settings = Settings.from_dict({**(recipe.settings.to_dict() if recipe else {}), **several, **settings.to_dict()})
    if recipe is None:
        segmenter = _Segmenters(models, given.get("sam"), given.get("detector"))
        edit = _edit(given, photo, reference, Placement(**placement), segmenter)
    check_places(given, edit, settings.resolve(models.defaults))
    editor = Editor(models, sam=given.get("sam"))
    before = [*filter(None, [models.notice]), *(recipe.notes if recipe else ()), *editor.warnings(edit, settings)]
    if need := editor.need(settings):
        before.append(f"This edit {need}.")
    for sentence in before:
        say(args, sentence)
    try:
        with interruptible() as cancel, Bars(quiet=args.json) as bars:
            result = editor.run(edit, settings, on_progress=bars, cancel=cancel, subject=subject)
    except Cancelled:
        raise KeyboardInterrupt from None
    if given.get("detail") or (recipe and recipe.detail):
        result = result.detailed()
    for warning in result.warnings:
        if warning not in before:
            say(args, warning)
    subject_of = partial(editor.subject, edit, settings, subject)
    return save_everything(args, result, subject_of, editor)


def _edit(
    given: dict[str, Any],
    photo: Image.Image,
    reference: Image.Image | None,
    placement: Placement,
    segmenter: _Segmenters,
) -> Edit:
    """The edit that the flags describe; clicks become masks here."""
    mask = _mask(given, "", photo, segmenter)
    if mask is None:
        raise MaskError(UNMARKED)
    edit = Edit(
        object_image=photo,
        object_mask=mask,
        background_image=reference,
        background_mask=None if reference is None else _mask(given, "reference_", reference, segmenter),
        prompt=given.get("prompt"),  # type: ignore[arg-type]
        object_prompt=given.get("object_prompt"),  # type: ignore[arg-type]
        background_prompt=given.get("background_prompt"),  # type: ignore[arg-type]
        background=given.get("background"),  # type: ignore[arg-type]
        background_seed=given.get("background_seed", 0),
        placement=placement,
        **_windows(given),
    )
    return edit.swapped() if given.get("swap") else edit


class _Segmenters:
    """The segmenter, loaded when the first click needs it."""

    def __init__(self, models: Any, name: str | None, detector: str | None) -> None:
        self._models, self._name, self._detector = models, name, detector

    def mask(self, image: Image.Image, points: list, labels: list, box: Any) -> np.ndarray:
        return self._segmenter().mask(points, labels, box, image=image)

    def find(self, image: Image.Image, words: str) -> np.ndarray:
        from layerdiffusion.models.find import find, load_detector

        detector = None if self._detector is None else load_detector(self._detector, self._models.device)
        return find(self._models, image, words, segmenter=self._segmenter(), detector=detector)[0].mask

    def _segmenter(self) -> Any:
        return self._models.segmenter(self._name)


def _mask(given: dict[str, Any], prefix: str, image: Image.Image, segmenter: _Segmenters) -> Any:
    """True on what is clicked, boxed, named or masked in the picture, or None if nothing is."""
    if f"{prefix}find" in given:
        return segmenter.find(image, given[f"{prefix}find"])
    on, off = given.get(f"{prefix}point", []), given.get(f"{prefix}not_point", [])
    box, file = given.get(f"{prefix}box"), given.get(f"{prefix}mask")
    if file is not None:
        return read_mask(file, image.size, f"the {prefix.replace('_', ' ')}mask")
    if not (on or off or box):
        return None
    box = box if box is None else points_in_opened([box], image)[0]
    return segmenter.mask(image, points_in_opened(on + off, image), [1] * len(on) + [0] * len(off), box)


def _check_sources(given: dict[str, Any]) -> None:
    """Refuse flags that contradict each other or speak of a picture that is not there."""
    if "image" not in given:
        raise EditError("There is no photo: give --image FILE, or a recipe to replay.")
    for prefix in ("", "reference_"):
        clicked = any(f"{prefix}{name}" in given for name in CLICKS)
        for name, several in (("mask", clicked), ("find", any(f"{prefix}{name}" in given for name in CLICKS[:-1]))):
            if f"{prefix}{name}" in given and several:
                flag = f"--{prefix}{name}".replace("_", "-")
                raise EditError(f"{flag} and clicks on the same picture contradict each other; give one or the other.")
    if "reference" not in given:
        for name in ("reference_mask", "reference_window", *(f"reference_{click}" for click in CLICKS), "swap"):
            if name in given:
                raise EditError(f"--{name.replace('_', '-')} needs a reference picture; give --reference FILE.")
    if not any(name in given for name in ("mask", *CLICKS)):
        raise MaskError(UNMARKED)


def _opened_subject(given: dict[str, Any], recipe: str | None) -> Subject | None:
    """The kept subject that the flags name, if they do."""
    if "subject" not in given:
        if "train_on" in given:
            raise EditError("--train-on needs a kept subject; give --subject FILE.")
        return None
    wrong = (
        "a recipe"
        if recipe
        else next((f"--{name.replace('_', '-')}" for name in (*PICTURE_FLAGS, *WINDOWS) if name in given), None)
    )
    if wrong:
        raise EditError(f"{wrong} can't be combined with --subject, which has its own pictures; leave one of them out.")
    from layerdiffusion.subject import load_subject

    steps = replace(setting_table()["finetune_steps"], name="train_on").check(given.get("train_on", 0))
    return replace(load_subject(given["subject"]), train_on=cast(int, steps))


def _from_recipe(given: dict[str, Any]) -> Recipe:
    wrong = next((name for name in PICTURE_FLAGS if name in given), None)
    if wrong:
        flag = f"--{wrong.replace('_', '-')}"
        raise EditError(f"{flag} can't be combined with a recipe, which has its own pictures; leave one of them out.")
    return load_recipe(given["recipe"])


def _changed(edit: Edit, given: dict[str, Any], placement: dict[str, Any]) -> Edit:
    """The recipe's edit with the words, the windows and the placement that the flags give."""
    words = {name: given[name] for name in PROMPTS if name in given}
    if "prompt" in words:
        words = {"object_prompt": None, "background_prompt": None, **words}
    elif words:
        words["prompt"] = None
    if "reference_window" in given and edit.background != "reference":
        raise EditError("--reference-window needs a reference picture, and the recipe has none; leave it out.")
    return replace(edit, placement=replace(edit.placement, **placement), **words, **_windows(given))


def _windows(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of an edit that the window flags give."""
    return {field: given[name] for name, field in WINDOWS.items() if name in given}


def _chosen(given: dict[str, Any], cls: type) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(cls) if field.name in given}


def _add_clicks(group: Any, prefix: str, what: str) -> None:
    def add(name: str, **options: Any) -> None:
        group.add_argument(f"--{prefix}{name}", **options)

    add("point", type=_point, action="append", metavar="X,Y", help=f"a click on {what}; may be repeated")
    add("not-point", type=_point, action="append", metavar="X,Y", help=f"a click beside {what}; may be repeated")
    add("box", type=_box, metavar="X,Y,X,Y", help=f"a box around {what}: left, top, right, bottom")
    add("find", metavar="WORDS", help=f"words that name {what}, as in “the dog”, instead of clicks")
    add("mask", metavar="FILE", help=f"a picture that is white on {what}, instead of clicks")
    where = "where the part lies that the model sees: shares from 0, left and top, to 1, right and bottom"
    add("window", type=_shares, metavar="X,Y", help=where)


def _point(text: str, parts: int = 2) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != parts:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be {parts} numbers with commas, as in {'120,200,' * (parts // 2)}"[:-1]
        )
    return values


def _box(text: str) -> tuple[float, ...]:
    return _point(text, parts=4)


def _shares(text: str) -> tuple[float, ...]:
    values = _point(text)
    if not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} must be 2 shares from 0 to 1, as in 0.5,0.25")
    return values
