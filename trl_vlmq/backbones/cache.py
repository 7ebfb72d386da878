# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A least-recently-used cache with a limit in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import torch


class ByteLRU:
    """Keeps the most recently used dictionaries of tensors, up to a limit of bytes.

    Args:
        limit (`int`):
            Bytes of tensor data to keep.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[Hashable, dict[str, torch.Tensor]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The entry of `key`, made and remembered if it is not there."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        entry = self._entries[key] = make()
        self.size += self._bytes(entry)
        while self.size > self.limit and len(self._entries) > 1:
            self.size -= self._bytes(self._entries.popitem(last=False)[1])
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    @staticmethod
    def _bytes(entry: dict[str, torch.Tensor]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in entry.values())
