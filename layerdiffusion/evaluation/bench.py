"""`evaluate toybench`: our method, its rivals and the rows of Table 1 on edits of the toybox whose answer is known.

What a bench does with its edits, whichever they are, is here as well: records, the table, the report.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdiffusion.errors import EditError
from layerdiffusion.settings import MAX_SEEDS, Settings

if TYPE_CHECKING:
    from layerdiffusion.evaluation.claims import Bench
    from layerdiffusion.evaluation.datasets.toybench import BenchEdit
    from layerdiffusion.evaluation.runner import BenchProgress, Failed, Worker
    from layerdiffusion.evaluation.variants import Column

NOT_THE_RUNS = ("command", "measure", "run", "run_measure", "json", "ray", "workers")  # flags that change no number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate toybench`."""
    add_bench_arguments(parser, model="miniature", seeds=4)
    parser.add_argument("--edits", type=int, default=60, metavar="N", help="how many edits, default 60")
    parser.add_argument("--tuning", action="store_true", help="on the edits that dials are chosen on instead")


def add_bench_arguments(parser: argparse.ArgumentParser, model: str, seeds: int) -> None:
    """The flags that every bench has."""
    parser.add_argument(
        "--methods",
        type=_names,
        default=["ours", "sdedit", "imagic", "pnp"],
        metavar="NAME,…",
        help='methods, default ours,sdedit,imagic,pnp; "" for rows alone',
    )
    parser.add_argument(
        "--rows",
        type=_names,
        default=[],
        metavar="NAME,…",
        help="rows of Table 1, as in a-k, and open readings, as in layers-separate",
    )
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"pictures an edit, default {seeds}")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting for the whole run, or METHOD.NAME=VALUE for one method's own dial",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="records, pictures and the report")
    parser.add_argument("--ray", metavar="ADDRESS", help='spread over a Ray cluster: its address, or "local"')
    parser.add_argument("--workers", type=int, metavar="N", help="with --ray: at most so many, one a GPU or a CPU")
    parser.add_argument("--model", default=model, help=f"miniature, a diffusers folder, a hub id; default {model}")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; else the best there is")
    parser.add_argument("--json", action="store_true", help="print the table as JSON instead of a bar and a table")


def run(args: argparse.Namespace) -> int:
    """Edit, measure, print and report; 0 when every record is there, 1 when some edits failed."""
    from layerdiffusion.evaluation.datasets.toybench import toybench, tuning_edits
    from layerdiffusion.evaluation.runner import Worker

    check(args)
    edits = (tuning_edits if args.tuning else toybench)(args.edits)
    load = functools.partial(Worker.load, model_name(args), args.device, 1 if args.ray else None)
    return run_and_report(args, "toybench, tuning edits" if args.tuning else "toybench", edits, load)


def check(args: argparse.Namespace) -> tuple[list[Column], Settings]:
    """The columns and the settings that the flags name. Raises `EditError`, before anything is loaded."""
    from layerdiffusion.evaluation.variants import columns

    if not 1 <= args.seeds <= MAX_SEEDS:
        raise EditError(f"--seeds is {args.seeds}: it must be 1 to {MAX_SEEDS}.")
    if args.workers is not None and (args.workers < 1 or args.ray is None):
        raise EditError("--workers needs --ray, and at least one of them; leave it out, or add --ray local.")
    chosen = columns(args.methods, args.rows)
    if not chosen:
        raise EditError("There is nothing to compare; name --methods or --rows.")
    settings, options = chosen_values(args.set, {column.method for column in chosen})
    chosen = [replace(c, options=c.options | options[c.method]) if c.method in options else c for c in chosen]
    return chosen, Settings(seeds=tuple(range(args.seeds)), **settings)


def chosen_values(texts: Sequence[str], methods: set[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """`--set` as fields of `Settings` and, by method, of its options. Raises `EditError`."""
    from layerdiffusion.evaluation.edits import parse_setting

    settings: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        method, dot, rest = text.partition("=")[0].partition(".")
        if dot and rest:
            if method not in methods:
                raise EditError(f"--set {text} is of a method that isn't compared; leave it out, or add {method!r}.")
            options.setdefault(method, {})[rest] = _value(text.partition("=")[2])
        else:
            name, value = parse_setting(text)
            settings[name] = value
    return settings, options


def run_and_report(
    args: argparse.Namespace, name: str, edits: Sequence[BenchEdit], make_worker: Callable[[], Worker]
) -> int:
    """Do what the folder lacks, print the table, write the report; the exit status."""
    from layerdiffusion.evaluation.records import Records
    from layerdiffusion.evaluation.report.write import write_report
    from layerdiffusion.evaluation.runner import run_bench

    chosen, settings = check(args)
    records, command = Records(args.out), command_line(args)
    about = {"bench": name, "command": command}
    try:
        with _Bar(args) as bar:
            outcome = run_bench(
                edits, chosen, settings, records, make_worker, args.ray, bar, workers=args.workers, about=about
            )
    except KeyboardInterrupt:
        print(f"What is finished is in {args.out}; the same command goes on from there.", file=sys.stderr)
        raise
    found = records.read()
    report = write_report(args.out, command) if found else None
    if args.json:
        failed = [vars(one) for one in outcome.failed]
        print(
            json.dumps(
                {
                    "folder": str(args.out),
                    "report": report and str(report),
                    "found": outcome.found,
                    "written": outcome.written,
                    "failed": failed,
                    "table": table(found),
                },
                ensure_ascii=False,
                allow_nan=False,
            )
        )
    else:
        _print(found, outcome.failed)
        if report is not None:
            print(f"\n{report}")
    return 1 if outcome.failed else 0


def table(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Kind ("all" first) → column → measure → [mean, low, high], of what was measured."""
    from layerdiffusion.evaluation.claims import Bench

    bench = Bench(records)
    kinds = {"all": ()} | {kind: (kind,) for kind in bench.kinds}
    cells: dict[str, dict[str, dict[str, list[float]]]] = {}
    for title, kind in kinds.items():
        for column in bench.columns:
            points = {measure.name: bench.point(column, measure, kind) for measure in bench.measures}
            known = {name: [*point] for name, point in points.items() if point is not None}
            cells.setdefault(title, {})[column] = known
    return cells


def command_line(args: argparse.Namespace) -> str:
    """The command that makes the run's records, as a shell takes it."""
    words = ["python", "-m", "layerdiffusion", "evaluate", args.measure]
    for name, value in vars(args).items():
        if name in NOT_THE_RUNS or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif name == "set":
            words += [word for text in value for word in (flag, text)]
        elif isinstance(value, list):
            words += [flag, ",".join(value)] if value or name == "methods" else []
        else:
            words += [flag, str(value)]
    return shlex.join(words)


class _Bar:
    """A tqdm bar over the records, those that were found already done; what fails is told at once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._bar = args, None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: BenchProgress) -> None:
        from tqdm import tqdm

        from layerdiffusion.evaluation.runner import Failed

        if self._args.json:
            return
        if self._bar is None:
            if progress.found:
                print(f"{progress.found} of {progress.total} records found in {self._args.out}.", file=sys.stderr)
            self._bar = tqdm(total=progress.total, initial=progress.found, unit="record", dynamic_ncols=True)
        if progress.last is not None:
            self._bar.set_description_str(f"{progress.last.edit}, {progress.last.column}", refresh=False)
        if isinstance(progress.last, Failed):
            self._bar.write(f"{progress.last.edit}, {progress.last.column}: {progress.last.reason}", file=sys.stderr)
        self._bar.update(progress.done - self._bar.n)


def _print(records: Sequence[dict[str, Any]], failed: Sequence[Failed]) -> None:
    from layerdiffusion.evaluation.claims import Bench, kind_label

    bench = Bench(records)
    _print_kind(bench, "all edits", ())
    for kind in bench.kinds if len(bench.kinds) > 1 else ():
        _print_kind(bench, kind_label(kind), (kind,))
    if failed:
        print(f"\n{len(failed)} failed, and are tried again by the same command:")
        for one in failed:
            print(f"  {one.edit}, {one.column}: {one.reason}")


def _print_kind(bench: Bench, title: str, kinds: Sequence[str]) -> None:
    from layerdiffusion.evaluation.claims import BACKGROUND, CLIP, LIKENESS, SATISFIED

    edits = [edit for edit in bench.edits if not kinds or bench.kind[edit] in kinds]
    measures = [measure for measure in (SATISFIED, CLIP, LIKENESS, BACKGROUND) if measure in bench.measures]
    width = 2 + max(map(len, [*bench.columns, "pose and background changed, 100"]))
    print(f"\n{f'{title}, {len(edits)}':{width}}" + "".join(f"{measure.label:>24}" for measure in measures))
    for column in bench.columns:
        points = [bench.point(column, measure, kinds) for measure in measures]
        cells = [m.interval(p) if p is not None else "–" for m, p in zip(measures, points, strict=True)]
        print(f"{column:{width}}" + "".join(f"{cell:>24}" for cell in cells))


def model_name(args: argparse.Namespace) -> str:
    """The model's name; of a folder here, its full path, where a worker's own folder may be another."""
    return str(Path(args.model).resolve()) if args.ray and Path(args.model).is_dir() else args.model


def _names(text: str) -> list[str]:
    """`a-c,layers-separate` as a, b, c and layers-separate."""
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        letters = re.fullmatch(r"([a-z])-([a-z])", part)
        names += map(chr, range(ord(letters[1]), ord(letters[2]) + 1)) if letters else [part]
    return names


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
