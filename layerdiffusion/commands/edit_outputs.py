"""What an edit on the command line writes: places checked before it runs, everything saved and reported after it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiffusion.commands.terminal import finite_or_none
from layerdiffusion.edit import Edit
from layerdiffusion.errors import EditError, ModelError, SavedElsewhere
from layerdiffusion.recipe import files_to_write, recipe_files
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.editor import Editor
    from layerdiffusion.result import Result
    from layerdiffusion.subject import Subject

PROMPTS = ("prompt", "object_prompt", "background_prompt")
PICTURES = ("image", "mask", "reference", "reference_mask")  # flags that name a file


def check_places(given: dict[str, Any], edit: Edit, settings: Settings) -> None:
    """Refuse to write over what the edit is made of or over somebody else's files, before anything is trained."""
    overwrite = "overwrite" in given
    if "keep" in given:
        from layerdiffusion.subject import check_place, subject_path

        place = check_place(given["keep"], settings.tune, overwrite)
        if "subject" in given and place.exists() and place.samefile(subject_path(given["subject"])):
            raise EditError(f"{place} is the subject that this edit is made of; keep the new one by another name.")
    if "out" not in given or not any(Path(given["out"]).iterdir()):
        return
    names = [*(f"seed-{seed}.png" for seed in settings.seeds), "contact.png"]
    if "save_layers" in given:
        names += [f"layer-{name}.png" for name in ("subject", "background", "composite")]
        names += [f"cutout-seed-{seed}.png" for seed in settings.seeds]
    inputs = [Path(given[name]) for name in PICTURES if name in given]
    files_to_write(Path(given["out"]), {**recipe_files(edit, settings), **dict.fromkeys(names)}, overwrite, inputs)


class Failures(list[str]):
    """A sentence for each thing that could not be saved where it was wanted; the rest is saved all the same."""

    def saved(self, save: Callable[[], Path]) -> Path | None:
        """Where `save` put it, which may be elsewhere; None where it could not."""
        try:
            return save()
        except EditError as error:
            self.append(str(error))
            return error.folder if isinstance(error, SavedElsewhere) else None


def save_everything(args: argparse.Namespace, result: Result, subject: Callable[[], Subject], editor: Editor) -> int:
    """Save and report the pictures, then what else is wanted; the exit status."""
    given, failures = vars(args), Failures()
    overwrite = "overwrite" in given
    out = Path(given.get("out", f"edit-{result.edit_id}"))
    folder = failures.saved(lambda: result.save(out, overwrite=overwrite))
    if not args.json and folder is not None:
        names = ("contact.png", *(f"seed-{seed}.png" for seed in result.seeds))
        print(*(folder / name for name in names), sep="\n", flush=True)
    subject_file = None
    if "keep" in given:
        subject_file = failures.saved(lambda: subject().save(given["keep"], editor.models, overwrite))
        if subject_file is not None:
            say(args, f"The subject is kept in {subject_file}.")
    if "save_layers" in given and folder is not None and failures.saved(lambda: result.save_layers(folder)):
        try:
            cut_outs = editor.cut_out(result)
            failures.saved(lambda: result.save_layers(folder, cut_outs))
        except ModelError as error:
            say(args, f"The layers are saved, but no result's subject is cut out. {error}")
    if args.json:
        report = _report(result, folder, subject_file)
        print(json.dumps({**report, "error": " ".join(failures)} if failures else report, allow_nan=False))
    for sentence in failures:
        say(args, f"layerdiffusion: {sentence}")
    return 2 if failures else 0


def _report(result: Result, folder: Path | None, subject_file: Path | None) -> dict[str, Any]:
    def place(name: str) -> str | None:
        return None if folder is None else str(folder / name)

    return {
        "edit_id": result.edit_id,
        "folder": place(""),
        "images": [place(f"seed-{seed}.png") for seed in result.seeds],
        "contact_sheet": place("contact.png"),
        "recipe": place("edit.json"),
        "subject": None if subject_file is None else str(subject_file),
        "seeds": list(result.seeds),
        "model": result.model,
        "prompts": {name: getattr(result.edit, name) for name in PROMPTS},
        "settings": result.settings.to_dict(),
        "stages": result.stages,
        "timings": result.timings,
        "losses": {stage: [finite_or_none(loss) for loss in losses] for stage, losses in result.losses.items()},
        "warnings": list(result.warnings),
    }


def say(args: argparse.Namespace, sentence: str) -> None:
    """Print a sentence on stderr, unless a machine asks."""
    if not args.json:
        print(sentence, file=sys.stderr)
