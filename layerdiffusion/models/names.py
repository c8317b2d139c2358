"""A model's name with LoRA files on top of it: "stabilityai/sdxl + style.safetensors:0.8"."""

import re
from pathlib import Path

PLUS = " + "  # between a model's name and the LoRA files on top of it
LORA_FILE = re.compile(
    r"(.+?\.safetensors(?::[^:]*?)?)(?: \+ |$)", re.IGNORECASE
)  # a file, or LORA_FILE:SCALE, up to the next one


def split_name(name: str) -> tuple[str, list[str]]:
    """A model's name as `load_models` takes it: the model's own, and its LoRA files as LORA_FILE or LORA_FILE:SCALE."""
    pieces = name.split(PLUS)
    lengths = range(len(pieces), 0, -1)  # of folders and files whose own names have a plus, the longest that is there
    length = next((n for n in lengths if Path(PLUS.join(pieces[:n])).exists()), 1)
    rest = PLUS.join(pieces[length:])
    return PLUS.join(pieces[:length]), LORA_FILE.findall(rest) or pieces[length:]
