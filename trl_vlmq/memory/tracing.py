# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Running a model without its numbers: every tensor is made, kept and freed as in a real step, and none is computed."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from weakref import ref

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


_INDEX_PUT = (torch.ops.aten.index_put_.default, torch.ops.aten._index_put_impl_.default)


class MemoryTrace(TorchDispatchMode):
    """Counts the bytes of every tensor that is alive, by category, while code runs on tensors without storage.

    Weights and all that is computed from them are fake (`torch._subclasses.FakeTensor`): they have a shape, a dtype and a
    life, but no memory. The batch stays real (token ids, masks, pixels), and what is computed from it alone, since shapes
    depend on them.

    Attributes:
        category (`str`):
            What tensors count as that are made from now on.
        peak (`dict[str, int]`):
            Bytes of each category at the moment when most were held, since [`MemoryTrace.reset_peak`].
        highest (`Counter[str]`):
            The most bytes of each category alone, whenever that was.
    """

    def __init__(self):
        super().__init__()
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.category = "other"
        self.peak: dict[str, int] = {}
        self.highest: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._highest = 0
        self._storages: dict[int, tuple[ref, list]] = {}

    # ---- Making tensors without storage ----

    def fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor like another one, without its numbers."""
        with self.fake_mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")

    def fake_weights(self, module: nn.Module) -> None:
        """Replace parameters and buffers, made on the `meta` device, by fake ones that call themselves a CPU's."""
        made: dict[int, torch.Tensor] = {}
        for child in module.modules():
            for name, weight in child._parameters.items():
                if weight is not None:
                    if id(weight) not in made:  # tied weights stay tied
                        made[id(weight)] = nn.Parameter(self.fake(weight), requires_grad=weight.requires_grad)
                    child._parameters[name] = made[id(weight)]
            for name, buffer in child._buffers.items():
                if buffer is not None:
                    child._buffers[name] = self.fake(buffer)

    # ---- Counting ----

    @property
    def held(self) -> dict[str, int]:
        """Bytes of each category that are held now."""
        return {name: size for name, size in self._held.items() if size}

    def reset_peak(self) -> None:
        """Begin anew to look for the highest moment."""
        self._highest = 0
        self._note_peak()

    def count(self, tensor: torch.Tensor, category: str) -> None:
        """Count a tensor, seen before or not, as one of `category` until it is freed."""
        entry = self._storages.get(self._seen(tensor))
        if entry is not None:
            self._held[entry[1][0]] -= entry[1][1]
            self._held[category] += entry[1][1]
            entry[1][0] = category

    @contextmanager
    def counting_as(self, category: str) -> Iterator[None]:
        """Tensors that are made inside belong to `category`."""
        before, self.category = self.category, category
        try:
            yield
        finally:
            self.category = before

    def _seen(self, tensor: torch.Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            record = [self.category, storage.nbytes()]
            self._storages[key] = (ref(storage, partial(self._freed, key)), record)
            self._held[self.category] += record[1]
            self.highest[self.category] = max(self.highest[self.category], self._held[self.category])
            self._note_peak()
        return key

    def _freed(self, key: int, _: ref) -> None:
        _, (category, size) = self._storages.pop(key)
        self._held[category] -= size

    def _note_peak(self) -> None:
        total = self._held.total()
        if total > self._highest:
            self._highest, self.peak = total, self.held

    # ---- Running ----

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:  # more often than all others together
            return args[0].fake_device if isinstance(args[0], FakeTensor) else torch.device("cpu")
        output = self._run(func, args, kwargs or {})
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._seen(tensor)
        return output

    def _run(self, func, args, kwargs):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with self.fake_mode:
                made = func(*args, **kwargs) if not tensors else None
            if isinstance(made, torch.Tensor) and made.is_floating_point() and made.dim():
                return made
            return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            return self._index(*args)
        if func is torch.ops.aten.nonzero.default and args[0].dim() == 1:
            return self.fake(torch.arange(len(args[0]))[:, None])  # as if the filter kept every token
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return False
        if func in _INDEX_PUT:
            return args[0]
        if func is torch.ops.aten.index_put.default:
            return self.fake(args[0])
        if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            args, kwargs = tree_map_only(torch.Tensor, self._without_numbers, (args, kwargs))
        return func(*args, **kwargs)

    def _without_numbers(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake(tensor)

    def _index(self, source: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
        """Indexing: how much a mask selects depends on its values, which are real."""
        if len(indices) == 1 and indices[0].dtype == torch.bool:
            shape = (int(indices[0].sum()), *source.shape[indices[0].dim() :])
            with self.fake_mode:
                return source.new_empty(shape)
        positions = []
        for index in indices:
            masked = index is not None and index.dtype == torch.bool
            positions += index.nonzero(as_tuple=True) if masked else [index]
        positions = [index if index is None else self._without_numbers(index) for index in positions]
        with self.fake_mode:
            return torch.ops.aten.index.Tensor(source, positions)
