# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How an image of any resolution is cut into crops, and what the resampler gets to see of them."""

import torch
from transformers.image_processing_utils import select_best_resolution


def choose_grid(size: tuple[int, int], grids: list[list[int]], crop_size: int) -> tuple[int, int]:
    """The grid of crops that keeps most of an image, and among equals wastes least; else the first.

    Args:
        size (`tuple[int, int]`):
            Height and width of the image.
        grids (`list[list[int]]`):
            Rows and columns of each grid to choose from. Without any, the image is only seen as a whole: (0, 0).
        crop_size (`int`):
            Pixels per side of a crop.
    """
    if not grids:
        return 0, 0
    height, width = select_best_resolution(size, [(rows * crop_size, columns * crop_size) for rows, columns in grids])
    return height // crop_size, width // crop_size


def image_regions(
    features: torch.Tensor, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the resampler reads of one image: the whole of it, then as many regions as it has crops.

    As in the original, a region is not a crop: the features of all crops are laid out as one map, which is then read
    line by line and divided into equal parts. Where two crops lie side by side, a region is half as high as a crop and
    twice as wide. The weights were trained on this.

    Args:
        features (`torch.Tensor`):
            [1 + rows * columns, side * side, hidden], of the whole image and then of the crops, row by row.
        size (`tuple[int, int]`):
            Height and width of the image before it was resized.
        grid (`tuple[int, int]`):
            Rows and columns of its crops.

    Returns:
        The regions, shaped like `features`, and a mask of them, bool [1 + rows * columns, side * side], that is False
        on the bars that padded the image to the shape of its grid.
    """
    whole, crops = features[:1], features[1:]
    seen = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    if len(crops) == 0:
        return whole, seen
    rows, columns = grid
    side = round(features.shape[1] ** 0.5)
    crops = crops.view(rows, columns, side, side, -1)
    regions = crops.permute(0, 2, 1, 3, 4).reshape(rows * columns, side * side, -1)
    bars = _inside(size, rows * side, columns * side).to(features.device)
    seen[1:] = bars.view(rows * columns, side * side)
    return torch.cat([whole, regions]), seen


def _inside(size: tuple[int, int], rows: int, columns: int) -> torch.Tensor:
    """Which places of a map [rows, columns] an image of this height and width covers, centred; bool."""
    height, width = size
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    if width / height > columns / rows:
        bar = (rows - int(height * (columns / width))) // 2
        mask[bar : rows - bar] = True
    else:
        bar = (columns - int(width * (rows / height))) // 2
        mask[:, bar : columns - bar] = True
    return mask
