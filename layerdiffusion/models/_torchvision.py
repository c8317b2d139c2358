"""A guard for machines on which pip paired a CPU build of torch with a CUDA build of torchvision.

`import torchvision` then dies with "operator torchvision::nms does not exist" and takes transformers,
diffusers and segment-anything with it, though nothing here needs torchvision's compiled operators.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: Any = None  # the definitions live as long as this object


def ensure_torchvision() -> None:
    """Make `import torchvision` safe; called before the first import of anything that imports it.

    Does nothing where torchvision is missing, already imported, or where its compiled operators load. An operator
    must not be defined twice, which ends the process: what is registered already is left alone.
    """
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return
    if _operators_load(Path(found.submodule_search_locations[0])):
        return
    import torch

    missing = [schema for name, schema in _SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in missing:
            _library.define(schema)


def _operators_load(folder: Path) -> bool:
    """Whether the compiled operators load, by whichever name a release has them: `_C`, since 0.29 `_C_stable`."""
    import torch

    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    for path in sorted(folder.glob("_C*")):
        if path.name.endswith(suffixes):
            try:
                torch.ops.load_library(str(path))
                return True
            except OSError:  # built for another torch
                continue
    return False
