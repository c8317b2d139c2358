"""A cache that drops what was unused longest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

from layerdiffusion.models.family import Condition

_MISSING = object()


@runtime_checkable
class OnDevice(Protocol):
    """A value that may occupy the device for a while."""

    on_device: bool

    def off_device(self) -> object:
        """The same, of the same size, in main memory."""
        ...


class LRU:
    """Values by key, the longest unused dropped when they outgrow `limit` bytes; safe to share between threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.on_device: set[str] = set()  # keys of values that `settle` is to move
        self._entries: OrderedDict[str, tuple[object, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, default: object = None) -> object:
        """The value, now the last to be dropped; `default` if there is none."""
        with self._lock:
            if key not in self._entries:
                return default
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: str, value: object) -> None:
        """Keep the value, unless it alone is over the limit."""
        size = size_of(value)
        with self._lock:
            if size > self.limit or key in self._entries:
                return
            self._entries[key] = value, size
            if isinstance(value, OnDevice) and value.on_device:
                self.on_device.add(key)
            self.size += size
            while self.size > self.limit:
                self.size -= self._entries.popitem(last=False)[1][1]

    def settle(self) -> None:
        """Move what occupies the device into main memory; meanwhile others may read it where it was."""
        while True:
            with self._lock:
                if not self.on_device:
                    return
                key = self.on_device.pop()
                value = self._entries.get(key, (_MISSING,))[0]
            if isinstance(value, OnDevice):
                moved = value.off_device()
                with self._lock:
                    if key in self._entries:
                        self._entries[key] = moved, self._entries[key][1]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.size = 0


def size_of(value: object) -> int:
    """Bytes of a cached value."""
    if isinstance(value, Tensor | Condition):
        return value.nbytes
    if isinstance(value, Image.Image):
        return 3 * value.width * value.height
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return 32
