# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The mean of the trained weights over the last steps of training."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .sharding import gathered_weight, like_weight, reshard, whole_tensor


AVERAGED_WEIGHTS = "averaged_weights.safetensors"
_COUNT = "num_averaged"


class WeightAverage:
    """Running mean of a model's trained weights, kept in at least float32.

    What a policy does near the margin between two actions changes from one optimiser step to the next, and now and then
    much of it does at once; its weights of many steps, averaged, do not depend on which of them was the last (Izmailov et
    al., *Averaging Weights Leads to Wider Optima and Better Generalization*, UAI 2018; ours here). As much memory as the
    trained weights take.

    Args:
        model (`torch.nn.Module`):
            The model; its parameters that require gradients are averaged.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._mean: dict[str, torch.Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Count the present weights in."""
        self._count += 1
        for name, weight in self._weights().items():
            with gathered_weight(weight):
                now = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
                if name in self._mean:
                    self._mean[name].lerp_(now, 1 / self._count)
                else:
                    self._mean[name] = now.clone()

    @torch.no_grad()
    def apply(self) -> None:
        """Write the mean into the model, if there is one, and begin anew."""
        weights = self._weights()
        for name, mean in self._mean.items():
            with gathered_weight(weights[name], modify=True):
                weights[name].copy_(mean)
        self._mean, self._count = {}, 0

    def save(self, folder: str | Path, write: bool = True) -> None:
        """
        Write the mean, if there is one, for a run that goes on from `folder`.

        Args:
            folder (`str` or `Path`):
                The checkpoint.
            write (`bool`, *optional*, defaults to `True`):
                Whether this process is the one that writes; all of them call this.
        """
        saved = {_COUNT: torch.tensor(self._count)}
        for name, tensor in self._mean.items():
            tensor = whole_tensor(tensor)
            if write:
                saved[name] = tensor.cpu()
        if len(saved) > 1:
            save_file(saved, Path(folder, AVERAGED_WEIGHTS))

    def load(self, folder: str | Path) -> None:
        """Go on from what [`WeightAverage.save`] wrote; from nothing, if nothing had been averaged yet."""
        path = Path(folder, AVERAGED_WEIGHTS)
        saved = load_file(path) if path.is_file() else {_COUNT: torch.tensor(0)}
        self._count = int(saved.pop(_COUNT))
        weights = self._weights()
        self._mean = {name: like_weight(tensor, weights[name]) for name, tensor in saved.items()}

    def _weights(self) -> dict[str, nn.Parameter]:
        reshard(self._model)
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}
