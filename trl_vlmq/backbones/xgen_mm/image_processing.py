# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An image becomes a small picture of the whole of it, and crops of it at a higher resolution."""

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature, get_patch_output_size
from transformers.image_transforms import divide_to_patches
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from .any_resolution import choose_grid


class XGenMMImageProcessorKwargs(ImagesKwargs, total=False):
    """
    image_grids (`list[list[int]]`, *optional*):
        Rows and columns of the grids of crops that an image may be cut into.
    """

    image_grids: list[list[int]]


class XGenMMImageProcessorPil(PilBackend):
    """Image processor of [`XGenMMForConditionalGeneration`]; PIL and NumPy only.

    Args:
        size (`dict[str, int]`, *optional*, defaults to `{"height": 384, "width": 384}`):
            Pixels of a crop, which is a square.
        image_grids (`list[list[int]]`, *optional*, defaults to `[[2, 1], [1, 2], [2, 2], [1, 3], [3, 1]]`):
            Rows and columns of the grids of crops that an image may be cut into. `[]` shows the whole of it only, as
            the published base checkpoint was evaluated: fewer image tokens, fewer details.
    """

    model_input_names = ["pixel_values", "image_sizes", "image_grids"]
    valid_kwargs = XGenMMImageProcessorKwargs

    resample = PILImageResampling.BICUBIC
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"height": 384, "width": 384}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    image_grids = [[2, 1], [1, 2], [2, 2], [1, 3], [3, 1]]

    def __init__(self, **kwargs: Unpack[XGenMMImageProcessorKwargs]):
        super().__init__(**kwargs)
        if self.size["height"] != self.size["width"]:
            raise ValueError(f"A crop is a square, but size is {dict(self.size)}.")

    def _crops(
        self, image: np.ndarray, grid: tuple[int, int], side: int, resample: PILImageResampling
    ) -> list[np.ndarray]:
        """Crops [3, side, side] of an image: the whole of it, squashed, and the grid of it, between black bars."""
        whole = self.resize(image, SizeDict(height=side, width=side), resample)
        rows, columns = grid
        if rows * columns == 0:
            return [whole]
        target = (rows * side, columns * side)
        height, width = get_patch_output_size(image, target, input_data_format=ChannelDimension.FIRST)
        fitted = self.resize(image, SizeDict(height=height, width=width), resample)
        canvas = np.zeros((3, *target), dtype=image.dtype)
        top, left = (target[0] - height) // 2, (target[1] - width) // 2
        canvas[:, top : top + height, left : left + width] = fitted
        return [whole, *divide_to_patches(canvas, side)]

    def _preprocess(
        self,
        images: list[np.ndarray],
        size: SizeDict,
        resample: PILImageResampling,
        image_grids: list[list[int]],
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        return_tensors: str | None,
        **kwargs,
    ) -> BatchFeature:
        sizes = [image.shape[-2:] for image in images]
        grids = [choose_grid(image_size, image_grids, size.height) for image_size in sizes]
        crops = []
        for image, grid in zip(images, grids, strict=True):
            for crop in self._crops(image, grid, size.height, resample):
                if do_rescale:
                    crop = self.rescale(crop, rescale_factor)
                if do_normalize:
                    crop = self.normalize(crop, image_mean, image_std)
                crops.append(crop)
        return BatchFeature(
            {"pixel_values": crops, "image_sizes": sizes, "image_grids": grids}, tensor_type=return_tensors
        )
