# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pictures -> the whole image and its local crops, as either generation of MoonDream2 cuts them. PIL and torch only.

Deviations from the original code: pixels are normalised in float32, not in half precision, and pictures of 2025 are
always resized by PIL, which the original does where pyvips is not installed.
"""

import math

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images


class MoonDream2ImageProcessor(BaseImageProcessor):
    """Cuts images into crops of one size.

    Args:
        image_size (`int`, *optional*, defaults to `378`):
            Pixels per side of a crop.
        patch_size (`int`, *optional*, defaults to `14`):
            Pixels per side of a patch.
        overlap_margin (`int`, *optional*, defaults to `4`):
            Patches by which a crop reaches into its neighbours on each side. 0 cuts as in 2024: one crop, or two or
            four adjacent ones of an image whose longer side has at least 512 pixels.
        max_crops (`int`, *optional*, defaults to `12`):
            Limit of the local crops of an image, if they overlap.
    """

    model_input_names = ["pixel_values", "image_grids"]

    def __init__(
        self, image_size: int = 378, patch_size: int = 14, overlap_margin: int = 4, max_crops: int = 12, **kwargs
    ):
        super().__init__(**kwargs)
        self.image_size = image_size
        self.patch_size = patch_size
        self.overlap_margin = overlap_margin
        self.max_crops = max_crops

    def preprocess(self, images, return_tensors: str | None = None, **kwargs) -> BatchFeature:
        """Images of any mode -> `pixel_values`, float32 [crops, 3, image_size, image_size], and `image_grids`, int64
        [images, 2]: rows and columns of local crops. Of each image the whole one comes first; its local crops, row by
        row, follow if there are several, since a single one is the whole image again.
        """
        cut = self._overlapping if self.overlap_margin else self._adjacent
        opened = [image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)) for image in
                  make_flat_list_of_images(images)]  # fmt: skip
        crops, grids = zip(*[cut(image.convert("RGB")) for image in opened], strict=True)
        data = {"pixel_values": torch.cat(crops), "image_grids": torch.tensor(grids)}
        return BatchFeature(data, tensor_type=return_tensors)

    # ---- 2024 ----

    def _adjacent(self, image: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
        size = self.image_size
        rows, columns = self._adjacent_grid(*image.size)
        pixels = _pixels(image.resize((columns * size, rows * size), Image.Resampling.BICUBIC))
        whole = torch.nn.functional.interpolate(pixels[None], (size, size), mode="bilinear")
        if (rows, columns) == (1, 1):
            return whole, (1, 1)
        local = pixels.view(3, rows, size, columns, size).permute(1, 3, 0, 2, 4).reshape(-1, 3, size, size)
        return torch.cat([whole, local]), (rows, columns)

    def _adjacent_grid(self, width: int, height: int) -> tuple[int, int]:
        """The grid whose aspect ratio is nearest; of several, the nearest in size."""
        size = self.image_size
        if max(width, height) * 378 < 512 * size:
            return (1, 1)

        def distance(grid: tuple[int, int]) -> tuple[float, int]:
            rows, columns = grid
            # The original subtracts widths from heights here, which matters between grids of equal aspect ratio.
            return abs(columns / rows - width / height), abs(rows * size - width) + abs(columns * size - height)

        return min(((1, 1), (1, 2), (2, 1), (2, 2)), key=distance)

    # ---- 2025 ----

    def _overlapping(self, image: Image.Image) -> tuple[torch.Tensor, tuple[int, int]]:
        size, margin = self.image_size, self.overlap_margin * self.patch_size
        window = size - 2 * margin
        rows, columns = self._overlapping_grid(image.height - 2 * margin, image.width - 2 * margin, window)
        whole = _pixels(image.resize((size, size), Image.Resampling.LANCZOS))[None]
        if (rows, columns) == (1, 1):
            return whole, (1, 1)
        resized = (columns * window + 2 * margin, rows * window + 2 * margin)
        pixels = _pixels(image.resize(resized, Image.Resampling.LANCZOS))
        local = pixels.unfold(1, size, window).unfold(2, size, window)  # [3, rows, columns, size, size]
        return torch.cat([whole, local.permute(1, 2, 0, 3, 4).reshape(-1, 3, size, size)]), (rows, columns)

    def _overlapping_grid(self, height: int, width: int, window: int) -> tuple[int, int]:
        """As many crops as the limit allows, in the proportions of the image; one if a side fits into one window."""
        if height <= window or width <= window:
            return (1, 1)
        least_rows, least_columns = math.ceil(height / window), math.ceil(width / window)
        if least_rows * least_columns > self.max_crops:
            ratio = math.sqrt(self.max_crops / (least_rows * least_columns))
            return max(1, math.floor(least_rows * ratio)), max(1, math.floor(least_columns * ratio))
        rows = max(math.floor(math.sqrt(self.max_crops * height / width)), least_rows)
        columns = max(math.floor(math.sqrt(self.max_crops * width / height)), least_columns)
        if rows * columns > self.max_crops:
            if columns > rows:
                columns = self.max_crops // rows
            else:
                rows = self.max_crops // columns
        return max(1, rows), max(1, columns)


def _pixels(image: Image.Image) -> torch.Tensor:
    """float32 [3, height, width] in [-1, 1]."""
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
