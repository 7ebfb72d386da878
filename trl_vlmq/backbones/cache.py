# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Least-recently-used caches with a limit in bytes: one that forgets, one that goes on in a file."""

import os
import tempfile
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
        entry = self._entries[key] = self._remembered(key) or make()
        self.size += _bytes(entry)
        while self.size > self.limit and len(self._entries) > 1:
            oldest, evicted = self._entries.popitem(last=False)
            self.size -= _bytes(evicted)
            self._evict(oldest, evicted)
        return entry

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = 0

    def _remembered(self, key: Hashable) -> dict[str, torch.Tensor] | None:
        """An entry that is not in memory."""
        return None

    def _evict(self, key: Hashable, entry: dict[str, torch.Tensor]) -> None:
        """An entry leaves memory."""


class SpillingLRU(ByteLRU):
    """A [`ByteLRU`] that writes what leaves memory to a temporary file, once, and reads it when it is asked for.

    The system keeps the file's pages in memory as long as there is room, and deletes it with the process. A forked process begins
    a file of its own.

    Args:
        limit (`int`):
            Bytes to keep in memory.
        file_limit (`int`):
            Bytes to keep in the file; what comes then, or once the disk is full, is forgotten.
    """

    def __init__(self, limit: int, file_limit: int):
        super().__init__(limit)
        self.file_limit = file_limit
        self._begin_file()

    def __reduce__(self):
        return type(self), (self.limit, self.file_limit)  # a copy begins empty: no two of them write one file

    def clear(self) -> None:
        super().clear()
        self._begin_file()

    def _begin_file(self) -> None:
        self._file, self._end, self._owner = None, 0, os.getpid()
        self._places: dict[Hashable, dict[str, tuple[int, torch.Tensor]]] = {}  # offset, and a tensor of no storage

    def _remembered(self, key: Hashable) -> dict[str, torch.Tensor] | None:
        if self._owner != os.getpid() or key not in self._places:
            return None
        entry = {}
        for name, (offset, like) in self._places[key].items():
            data = bytearray(os.pread(self._file.fileno(), like.nbytes, offset))
            entry[name] = torch.frombuffer(data, dtype=like.dtype).reshape(like.shape)
        return entry

    def _evict(self, key: Hashable, entry: dict[str, torch.Tensor]) -> None:
        if self._owner != os.getpid():
            self._begin_file()
        if key in self._places or self._end + _bytes(entry) > self.file_limit:
            return
        try:
            self._places[key] = self._write(entry)
        except OSError:
            self.file_limit = 0  # the disk is full

    def _write(self, entry: dict[str, torch.Tensor]) -> dict[str, tuple[int, torch.Tensor]]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)
        places = {}
        for name, tensor in entry.items():
            places[name] = (self._end, torch.empty_like(tensor, device="meta"))
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy()
            written = 0
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
            self._end += len(data)
        return places


def _bytes(entry: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in entry.values())
