"""`python -m layerdiffusion compare`: one edit by several methods, on the same model and the same seeds."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiffusion.commands.terminal import Bars, Seeds, add_lora, assignments, interruptible, with_changes, writable
from layerdiffusion.errors import EditError
from layerdiffusion.methods.options import LABELS, METHODS, OWN, options_for
from layerdiffusion.recipe import load_recipe
from layerdiffusion.result import Result, captioned

if TYPE_CHECKING:
    from PIL import Image


STAGE_NAMES = {
    "background": "Background",
    "inversion": "Inversion",
    "embeddings": "Words",
    "finetune": "Network",
    "sampling": "Sampling",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `compare` command."""
    parser.add_argument("recipe", help="an edit.json, or the folder of one")
    parser.add_argument("--methods", default=",".join(METHODS), metavar="M,M", help="which, and in which order")
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder: one for each method in it, and a sheet")
    parser.add_argument("--seeds", action=Seeds, help="one picture for each; else the recipe's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="METHOD.NAME=VALUE",
        help="an option of one method, as in sdedit.strength=0.7, or with layerdiffusion. a setting; may be repeated",
    )
    parser.add_argument("--model", help="miniature, a diffusers folder, a hub id, or auto; else the recipe's")
    add_lora(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of bars")


def run(args: argparse.Namespace) -> int:
    """Run the methods one after the other, save each one's result and the sheet of all, and say where."""
    names, changes = _methods(args.methods), assignments(args.set)
    for name, value in changes.get("", {}).items():
        raise EditError(f"--set {name}={value} is not of the form METHOD.NAME=VALUE, as in sdedit.strength=0.7.")
    idle = next((name for name in changes if name not in names), None)
    if idle is not None:
        raise EditError(f"--set speaks of {idle}, which is not among --methods {','.join(names)}; name it there too.")
    recipe = load_recipe(args.recipe)
    settings = recipe.settings
    if args.seeds:
        settings = replace(settings, seeds=tuple(args.seeds))
    own_settings = with_changes(settings, changes.get(OWN, {}))
    out = writable(Path(args.out))

    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models
    from layerdiffusion.progress import Cancelled

    models = load_models(args.model or recipe.model or "auto", args.device, loras=args.lora or ())
    options = {name: options_for(name, models, **({} if name == OWN else changes.get(name, {}))) for name in names}
    editor, results = Editor(models), {}
    try:
        with interruptible() as cancel:
            for name in names:
                if not args.json:
                    print(LABELS[name], file=sys.stderr)
                with Bars(args.json, STAGE_NAMES) as bars:
                    used = own_settings if name == OWN else settings
                    results[name] = editor.run(recipe.edit, used, bars, cancel, method=name, options=options[name])
                results[name].save(out / name)
    except Cancelled:
        raise KeyboardInterrupt from None
    _print(args, _save_all(out, results, options), results)
    return 0


def _save_all(out: Path, results: dict[str, Result], options: dict[str, Any]) -> dict[str, Any]:
    """Write the sheet and `compare.json`, and return what is in the latter."""

    first = next(iter(results.values()))
    sheet = captioned([_given(first), *(_row(LABELS[name], result) for name, result in results.items())])
    report = {
        "folder": str(out),
        "contact_sheet": str(out / "compare.png"),
        "model": first.model,
        "prompt": first.edit.prompt,
        "seeds": list(first.seeds),
        "methods": {name: _description(result, options[name], out / name) for name, result in results.items()},
    }
    try:
        sheet.save(out / "compare.png")
        (out / "compare.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise EditError(f"The sheet can't be saved to {out} ({error.strerror or error}); free some space.") from error
    return report


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = next((name for name in names if name not in METHODS), None)
    if wrong is not None or not names:
        raise EditError(f"--methods is {text!r}: it must be some of {', '.join(METHODS)}, with commas.")
    return list(dict.fromkeys(names))


def _given(result: Result) -> list[tuple[str, Image.Image]]:
    layers = result.layers
    return [("subject", layers.object_image), ("background", layers.background_image), ("layers", layers.composite)]


def _row(label: str, result: Result) -> list[tuple[str, Image.Image]]:
    return [(f"{label}, seed {seed}", image) for seed, image in zip(result.seeds, result.images, strict=True)]


def _description(result: Result, options: Any, folder: Path) -> dict[str, Any]:
    return {
        "images": [str(folder / f"seed-{seed}.png") for seed in result.seeds],
        "options": {} if options is None else asdict(options),
        "settings": result.settings.to_dict(),
        "stages": result.stages,
        "timings": result.timings,
        "edit_id": result.edit_id,
    }


def _print(args: argparse.Namespace, report: dict[str, Any], results: dict[str, Result]) -> None:
    if args.json:
        print(json.dumps(report, ensure_ascii=False, allow_nan=False))
        return
    for warning in dict.fromkeys(warning for result in results.values() for warning in result.warnings):
        print(warning, file=sys.stderr)
    print(report["contact_sheet"])
    for name, result in results.items():
        print(f"{Path(report['folder']) / name}  {result.timings['total']:.1f} s")
