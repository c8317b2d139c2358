"""A guard for machines on which pip paired a CPU build of torch with a CUDA build of torchvision.

`import torchvision` then dies with "operator torchvision::nms does not exist" and takes transformers,
diffusers and segment-anything with it, though nothing here needs torchvision's compiled operators.
"""

import importlib.machinery
import importlib.util
import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # the definitions live as long as this object


def ensure_torchvision() -> None:
    """Make `import torchvision` safe; call before the first import of anything that imports it.

    Does nothing where torchvision is missing, already imported, or where its compiled extension loads.
    """
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return
    found = importlib.util.find_spec("torchvision")
    if found is None or found.submodule_search_locations is None:
        return
    import torch

    if _extension_loads(found.submodule_search_locations[0]):
        return
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)


def _extension_loads(folder: str) -> bool:
    import torch

    finder = importlib.machinery.FileFinder(
        folder, (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    )
    extension = finder.find_spec("_C")
    if extension is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True
