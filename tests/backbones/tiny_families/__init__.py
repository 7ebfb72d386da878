# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The table of families that the contract is tested with: a tiny random model and a processor for each.

To add one, write a function from the byte tokenizer of the tests to a [`Family`] and name it in the table of its file.
"""

from .family import PADDED_ROWS, Family
from .moondream2_family import moondream2
from .text_families import TEXT_FAMILIES
from .vision_families import VISION_FAMILIES


# All that are trained: by one process, on a base in 4 bits, by every launcher.
LAUNCHED_FAMILIES = VISION_FAMILIES | {"moondream2": moondream2} | TEXT_FAMILIES

__all__ = ["LAUNCHED_FAMILIES", "PADDED_ROWS", "TEXT_FAMILIES", "VISION_FAMILIES", "Family"]
