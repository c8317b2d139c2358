"""`python -m layerdiffusion compare`: one edit by several methods, on the same model and the same seeds."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from layerdiffusion.baselines import LABELS, OWN, options_for, suited
from layerdiffusion.commands.bars import Bars
from layerdiffusion.commands.terminal import Seeds, add_lora, assignments, interruptible, with_changes, writable
from layerdiffusion.errors import EditError
from layerdiffusion.files import saving, write_files
from layerdiffusion.images.io import png_bytes
from layerdiffusion.recipe import load_recipe
from layerdiffusion.result import Result, captioned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the `compare` command."""
    add = parser.add_argument
    add("recipe", help="an edit.json, or the folder of one")
    add("--methods", metavar="M,M", help="which, and in which order; else all that apply to the model")
    add("--out", required=True, metavar="DIR", help="a folder: one for each method in it, and a sheet")
    add("--seeds", action=Seeds, help="one picture for each; else the recipe's")
    words = "an option of one method, as in sdedit.strength=0.7, or with layerdiffusion. a setting; may be repeated"
    add("--set", action="append", default=[], metavar="METHOD.NAME=VALUE", help=words)
    add("--model", help="miniature, a diffusers folder, a hub id, or auto; else the recipe's")
    add_lora(parser)
    add("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    add("--json", action="store_true", help="one JSON object instead of bars")


def run(args: argparse.Namespace) -> int:
    """Run the methods one after the other, save each one's result and the sheet of all, and say where."""
    names, changes = list(LABELS) if args.methods is None else _methods(args.methods), assignments(args.set)
    wrong = next((name for name in changes if name not in names), None)
    if wrong is not None:
        raise EditError(
            f"--set must name one of --methods {','.join(names)}, as in sdedit.strength=0.7, not {wrong!r}."
        )
    recipe = load_recipe(args.recipe)
    settings = replace(recipe.settings, seeds=tuple(args.seeds)) if args.seeds else recipe.settings
    own_settings = with_changes(settings, changes.get(OWN, {}))
    out = writable(Path(args.out))

    from layerdiffusion.editor import Editor
    from layerdiffusion.models.load import load_models
    from layerdiffusion.progress import Cancelled

    models = load_models(args.model or recipe.model or "auto", args.device, loras=args.lora or ())
    if args.methods is None:
        names = [name for name in names if name in (OWN, *suited(models))]
    options = {name: options_for(name, models, **({} if name == OWN else changes.get(name, {}))) for name in names}
    editor, results = Editor(models), {}
    try:
        with interruptible() as cancel:
            for name in names:
                if not args.json:
                    print(LABELS[name], file=sys.stderr)
                with Bars(args.json) as bars:
                    used = own_settings if name == OWN else settings
                    results[name] = editor.run(recipe.edit, used, bars, cancel, method=name, options=options[name])
                results[name].save(out / name)
    except Cancelled:
        raise KeyboardInterrupt from None
    report = _save(out, results, options)
    if args.json:
        print(json.dumps(report, allow_nan=False))
        return 0
    for warning in dict.fromkeys(warning for result in results.values() for warning in result.warnings):
        print(warning, file=sys.stderr)
    print(
        out / "compare.png", *(f"{out / name}  {one.timings['total']:.1f} s" for name, one in results.items()), sep="\n"
    )
    return 0


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not set(names) <= set(LABELS):
        raise EditError(f"--methods is {text!r}: it must be some of {', '.join(LABELS)}, with commas.")
    return list(dict.fromkeys(names))


def _save(out: Path, results: dict[str, Result], options: dict[str, Any]) -> dict[str, Any]:
    """Write the sheet, the edit above and a row a method, and `compare.json`; return what is in the latter."""
    first = next(iter(results.values()))
    layers = first.layers
    given = [("subject", layers.object_image), ("background", layers.background_image), ("layers", layers.composite)]
    rows = [
        [(f"{LABELS[name]}, seed {seed}", image) for seed, image in zip(one.seeds, one.images, strict=True)]
        for name, one in results.items()
    ]
    methods = {
        name: {
            "images": [str(out / name / f"seed-{seed}.png") for seed in one.seeds],
            "options": {} if options[name] is None else asdict(options[name]),
            "settings": one.settings.to_dict(),
            "stages": one.stages,
            "timings": one.timings,
            "edit_id": one.edit_id,
        }
        for name, one in results.items()
    }
    report = {"folder": str(out), "contact_sheet": str(out / "compare.png"), "model": first.model,
              "prompt": first.edit.prompt, "seeds": list(first.seeds), "methods": methods}  # fmt: skip
    with saving("The sheet", out):
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        write_files({out / "compare.png": png_bytes(captioned([given, *rows])), out / "compare.json": text.encode()})
    return report
