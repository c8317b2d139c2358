"""What the benches' commands share: flags, the run with its bar, the table, the report."""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerdiffusion.baselines import PAPERS
from layerdiffusion.commands.bars import progress_bar
from layerdiffusion.commands.terminal import Seeds, assignments, with_changes
from layerdiffusion.errors import EditError
from layerdiffusion.evaluation.claims import BACKGROUND, CLIP, LIKENESS, OUTLINED, SATISFIED, BenchResults, kind_label
from layerdiffusion.evaluation.datasets.toybench import BenchEdit
from layerdiffusion.evaluation.records import Records
from layerdiffusion.evaluation.report import write_report
from layerdiffusion.evaluation.variants import Variant, variants
from layerdiffusion.settings import Settings

if TYPE_CHECKING:
    from layerdiffusion.evaluation.runner import BenchProgress, Outcome
    from layerdiffusion.evaluation.worker import Worker

DINO, LPIPS_NETS = "facebook/dinov2-base", ("alex", "vgg", "squeeze")


def add_bench_arguments(parser: argparse.ArgumentParser, model: str, seeds: int) -> None:
    """The flags that every bench has; `seeds` is how many it takes unless told otherwise."""
    add = parser.add_argument
    methods = ["ours", *PAPERS]
    words = f'methods, default {",".join(methods)}; "" for rows alone'
    add("--methods", type=names, default=methods, metavar="NAME,…", help=words)
    words = "rows of Table 1, as in a-k, and ablations, as in layers-separate"
    add("--rows", type=names, default=[], metavar="NAME,…", help=words)
    words = f"one picture an edit for each: 0 1 2 or 0-3; default 0-{seeds - 1}"
    add("--seeds", action=Seeds, default=[*range(seeds)], help=words)
    words = "a setting for the whole run, or METHOD.NAME=VALUE for one method's own dial"
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=words)
    add("--out", type=Path, required=True, metavar="DIR", help="records, pictures and the report")
    add("--ray", metavar="ADDRESS", help='spread over a Ray cluster: its address, or "local"')
    add("--workers", type=int, metavar="N", help="with --ray: at most so many, one a GPU or a CPU")
    add("--model", default=model, help=f"miniature, a diffusers folder, a hub id; default {model}")
    add("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    words = f"measure subjects by a DINOv2 as well: a folder or an id on the hub; alone, {DINO}"
    add("--dino", nargs="?", const=DINO, metavar="MODEL", help=words)
    words = "measure backgrounds by LPIPS as well (torchmetrics); alone, alex"
    add("--lpips", nargs="?", const="alex", choices=LPIPS_NETS, help=words)
    add("--json", action="store_true", help="print the table as JSON instead of a bar and a table")


def check(args: argparse.Namespace) -> tuple[list[Variant], Settings]:
    """The variants and the settings that the flags name. Raises `EditError`, before anything is loaded."""
    if args.workers is not None and (args.workers < 1 or args.ray is None):
        raise EditError("--workers needs --ray, and at least one of them; leave it out, or add --ray local.")
    chosen = variants(args.methods, args.rows)
    if not chosen:
        raise EditError("There is nothing to compare; name --methods or --rows.")
    changes = assignments(args.set)
    settings = with_changes(Settings(seeds=args.seeds), changes.pop("", {}))
    idle = next((name for name in changes if name not in {variant.method for variant in chosen}), None)
    if idle is not None:
        raise EditError(f"--set is of {idle}, a method that isn't compared; leave it out, or add it to --methods.")
    return [replace(v, options=v.options | changes.get(v.method, {})) for v in chosen], settings


def worker_loader(args: argparse.Namespace, sam: str | None = None, shape: bool = False) -> Callable[[], Worker]:
    """What loads a worker, here or in a process of a cluster, where the current folder may be another.

    `sam` finds subjects where no judge does; `shape`: measure outlines.
    """
    from layerdiffusion.evaluation.worker import Extra, Worker

    def absolute(source: str | None) -> str | None:
        return str(Path(source).resolve()) if source is not None and Path(source).is_dir() else source

    extra = Extra(shape, absolute(args.dino), args.lpips)
    model = str(Path(args.model).resolve()) if args.ray and Path(args.model).is_dir() else args.model
    return functools.partial(Worker.load, model, args.device, 1 if args.ray else None, sam, extra)


def run_variants(
    args: argparse.Namespace,
    name: str,
    edits: Sequence[BenchEdit],
    chosen: Sequence[Variant],
    settings: Settings,
    load: Callable[[], Worker],
) -> Outcome:
    """Do what the folder `--out` lacks, with a bar."""
    from layerdiffusion.evaluation.runner import run_bench

    about = {"bench": name, "command": command_line(args)}
    records = Records(args.out)
    try:
        with _bar(args) as bar:
            return run_bench(edits, chosen, settings, records, load, args.ray, bar, workers=args.workers, about=about)
    except KeyboardInterrupt:
        print(f"What is finished is in {args.out}; the same command goes on from there.", file=sys.stderr)
        raise


def run_and_report(args: argparse.Namespace, name: str, edits: Sequence[BenchEdit], load: Callable[[], Worker]) -> int:
    """Do what the folder lacks, print the table, write the report; 0 when every record is there, 1 otherwise."""
    outcome = run_variants(args, name, edits, *check(args), load)
    found = Records(args.out).read()
    report = str(write_report(args.out, command_line(args))) if found else None
    bench = BenchResults(found)
    if args.json:
        counts = {"found": outcome.found, "written": outcome.written, "failed": [vars(one) for one in outcome.failed]}
        answer = {"folder": str(args.out), "report": report, **counts, "table": table(bench)}
        print(json.dumps(answer, allow_nan=False))
        return 1 if outcome.failed else 0
    _print_kind(bench, "all edits", ())
    for kind in bench.kinds if len(bench.kinds) > 1 else ():
        _print_kind(bench, kind_label(kind), (kind,))
    if outcome.failed:
        print(f"\n{len(outcome.failed)} failed, and are tried again by the same command:")
        for one in outcome.failed:
            print(f"  {one.edit}, {one.variant}: {one.reason}")
    if report is not None:
        print(f"\n{report}")
    return 1 if outcome.failed else 0


def table(bench: BenchResults) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Kind ("all" first) → variant → measure → [mean, low, high], of what was measured."""

    def row(variant: str, kinds: Sequence[str]) -> dict[str, list[float]]:
        intervals = {measure.name: bench.interval(variant, measure, kinds) for measure in bench.measures}
        return {name: [*interval] for name, interval in intervals.items() if interval is not None}

    kinds: dict[str, tuple[str, ...]] = {"all": ()} | {kind: (kind,) for kind in bench.kinds}
    return {title: {variant: row(variant, kind) for variant in bench.variants} for title, kind in kinds.items()}


def command_line(args: argparse.Namespace) -> str:
    """The command that makes the run's records, as a shell takes it."""
    return shlex.join(["python", "-m", "layerdiffusion", *args.argv])


@contextmanager
def _bar(args: argparse.Namespace) -> Iterator[Callable[[BenchProgress], None] | None]:
    """A bar over the records, those that were found already done; a failure is printed when it happens."""
    if args.json:
        yield None
        return
    bar = None

    def advance(progress: BenchProgress) -> None:
        nonlocal bar
        if bar is None:
            if progress.found:
                print(f"{progress.found} of {progress.total} records found in {args.out}.", file=sys.stderr)
            bar = progress_bar(total=progress.total, unit="record", initial=progress.found)
        if progress.last is not None:
            name = f"{progress.last.edit}, {progress.last.variant}"
            bar.set_description_str(name, refresh=False)
            if reason := getattr(progress.last, "reason", None):
                bar.write(f"{name}: {reason}", file=sys.stderr)
        bar.update(progress.done - bar.n)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


def _print_kind(bench: BenchResults, title: str, kinds: Sequence[str]) -> None:
    edits = [edit for edit in bench.kind if not kinds or bench.kind[edit] in kinds]
    measures = [measure for measure in (SATISFIED, OUTLINED, CLIP, LIKENESS, BACKGROUND) if measure in bench.measures]
    width = 2 + max(map(len, [*bench.variants, "pose and background changed, 100"]))
    print(f"\n{f'{title}, {len(edits)}':{width}}" + "".join(f"{measure.label:>24}" for measure in measures))
    for variant in bench.variants:
        found = [(measure, bench.interval(variant, measure, kinds)) for measure in measures]
        cells = [measure.format_interval(interval) if interval is not None else "–" for measure, interval in found]
        print(f"{variant:{width}}" + "".join(f"{cell:>24}" for cell in cells))


def names(text: str) -> list[str]:
    """`a-c,layers-separate` as a, b, c and layers-separate."""
    found: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        letters = re.fullmatch(r"([a-z])-([a-z])", part)
        found += map(chr, range(ord(letters[1]), ord(letters[2]) + 1)) if letters else [part]
    return found
