"""The package's own order: who may import whom, what is imported late, and how much of it there may be."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "layerdiffusion"

# What each part may import: those named, and what these may import in turn. The miniature is made of models and
# pictures alone, so that it can be trained without the method; those who judge or show toybox pictures import it.
BELOW = {
    "__main__": ("commands", "process"),
    "commands": ("evaluation", "editor", "miniature"),
    "ui": ("scoring", "editor", "miniature"),
    "evaluation": ("scoring", "editor", "miniature", "process"),
    "scoring": ("miniature", "images.layers"),
    "editor": ("baselines", "result"),
    "baselines": ("method",),
    "method": ("engine",),
    "engine": ("cache", "images.layers", "subject"),
    "cache": ("models",),
    "subject": ("recipe", "cache"),
    "miniature": ("models", "progress"),
    "result": ("images.layers", "recipe", "progress"),
    "images.layers": ("edit",),  # of all pictures these alone are made from an edit, and an edit opens pictures
    "models": ("hub", "settings", "prompts", "images", "process", "progress"),
    "hub": ("errors",),
    "recipe": ("edit", "files"),
    "edit": ("images", "settings", "prompts"),
    "images": (),
    "settings": ("errors",),
    "prompts": ("errors",),
    "progress": ("errors",),
    "process": (),
    "files": (),
    "errors": (),
}
# Libraries that take long to import, or that not every system has: these may be imported where they are used.
LATE = {
    *("torch", "torchvision", "diffusers", "transformers", "tokenizers", "huggingface_hub", "segment_anything"),
    *("peft", "bitsandbytes", "accelerate", "gradio", "gradio_client", "spaces", "ray", "matplotlib", "scipy"),
    *("torchmetrics", "tqdm", "fcntl"),
}
# Which package on the index a library comes in, where it is called otherwise; those that come with another one; and
# those without which everything but one thing works, which says in a sentence what to install.
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless"}
COMES_WITH = {
    "packaging": "gradio",
    "tokenizers": "transformers",
    "gradio_client": "gradio",
    "starlette": "gradio",
}
OPTIONAL = {"ray", "bitsandbytes", "spaces", "torchmetrics"}
MOST_LINES = 21_600


class Import(NamedTuple):
    module: str  # what is imported: one of our modules, or a library
    late: bool  # inside a function
    typing: bool = False  # for type checkers alone


@cache
def sources() -> dict[str, ast.Module]:
    """The parsed modules of the package by name; a package's own name is that of its `__init__`."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return found


@cache
def imports(name: str) -> frozenset[Import]:
    """What the module imports."""
    return frozenset(_imports(sources()[name], late=False, typing=False))


def _imports(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, late, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            inner = (f"{child.module}.{alias.name}" for alias in child.names)
            yield from (Import(each if each in sources() else child.module or "", late, typing) for each in inner)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            checked = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports(child, late or inside, typing or checked)


def ours(name: str) -> Iterable[str]:
    return {each.module for each in imports(name) if each.module in sources()}


def part(module: str) -> str:
    """The part of `BELOW` that the module belongs to: its package, or itself where it stands apart from that."""
    if short(module) in BELOW:
        return short(module)
    return (module.split(".") + [""])[1]


def short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


@cache
def allowed(of: str) -> frozenset[str]:
    return frozenset({of}.union(*(allowed(below) for below in BELOW[of]), {"errors"}))


@cache
def libraries(name: str) -> frozenset[str]:
    """The late libraries that importing the module imports, by way of whatever it imports."""
    seen, todo, found = set(), [name], set()
    while todo:
        module = todo.pop()
        seen.add(module)
        packages = (module.rsplit(".", n)[0] for n in range(1, module.count(".") + 1))
        now = {each.module for each in imports(module) if not each.late and not each.typing}
        found |= {each.split(".")[0] for each in now} & LATE
        todo += [each for each in {*now, *packages} if each in sources() and each not in seen]
    return frozenset(found)


def circles() -> set[str]:
    """The modules that import themselves by way of others."""
    reach: dict[str, set[str]] = {}
    for name in sources():
        seen: set[str] = set()
        todo = list(ours(name))
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += ours(module)
        reach[name] = seen
    return {short(name) for name, seen in reach.items() if name in seen}


def against_the_direction() -> set[tuple[str, str]]:
    pairs = ((name, target) for name in sources() if part(name) for target in ours(name))
    return {(short(a), short(b)) for a, b in pairs if part(b) and part(b) not in allowed(part(a))}


def imported_late() -> set[tuple[str, str]]:
    """Imports inside functions that spare nobody a wait: of light libraries, and of modules that bring nothing new."""
    found = set()
    for name in sources():
        for module in (each.module for each in imports(name) if each.late):
            heavy = libraries(module) - libraries(name) if module in sources() else {module.split(".")[0]} & LATE
            if not heavy:
                found.add((short(name), short(module)))
    return found


@pytest.mark.parametrize("offenders", [against_the_direction, circles, imported_late])
def test_imports_follow_the_rules(offenders):
    assert not offenders()


def test_every_part_of_the_package_has_its_place():
    assert {part(name) for name in sources()} - {""} <= BELOW.keys()


def test_the_package_stays_small():
    lines = sum(path.read_text("utf-8").count("\n") for path in (ROOT / PACKAGE).rglob("*.py"))
    assert lines <= MOST_LINES


def test_types_are_left_unchecked_in_modules_that_are_there_only():
    ignored = re.findall(r"^\[mypy-([\w.]+)\]\nignore_errors = True$", (ROOT / ".mypy.ini").read_text("utf-8"), re.M)
    assert set(ignored) <= sources().keys(), "take the others out of .mypy.ini"


def required(path: Path) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return {canonicalize_name(Requirement(line).name) for line in lines if line}


def test_the_requirements_name_every_library_that_is_imported_and_no_other():
    known = required(ROOT / "requirements.txt")
    used = {each.module.split(".")[0] for name in sources() for each in imports(name)}
    used -= {PACKAGE, *OPTIONAL, *sys.stdlib_module_names}
    dists = {canonicalize_name(PACKAGES.get(name, COMES_WITH.get(name, name))) for name in used}
    assert dists <= known
    # torch's loaders and diffusers use these three where they are installed
    assert known - dists <= {"accelerate", "torchvision", "peft"}


def test_the_tests_requirements_hold_no_version_that_is_not_installed():
    lines = (ROOT / "tests/requirements.txt").read_text("utf-8").splitlines()
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        assert metadata.version(requirement.name) in requirement.specifier
