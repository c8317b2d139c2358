"""Finished stages by the hash of what they depend on, in a bounded amount of memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor


class StageCache:
    """Values by key, the longest unused dropped when they outgrow `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Any:
        """The value, now the last to be dropped; None if there is none."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: str, value: Any) -> None:
        """Keep the value, unless it alone is over the limit."""
        size = _size(value)
        if size > self.limit or key in self._entries:
            return
        self._entries[key] = value, size
        self.size += size
        while self.size > self.limit:
            self.size -= self._entries.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0


def digest(*parts: Any) -> str:
    """A hash of pictures, arrays and whatever else is the same when it prints the same."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Image.Image):
            part = (part.size, hashlib.sha256(part.tobytes()).hexdigest())
        elif isinstance(part, np.ndarray):
            part = (part.shape, hashlib.sha256(part.tobytes()).hexdigest())
        whole.update(repr(part).encode() + b"\0")
    return whole.hexdigest()


def _size(value: Any) -> int:
    """Bytes of a cached value."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Image.Image):
        return 3 * value.width * value.height
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    return 32
