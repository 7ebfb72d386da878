# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The table of families that the contract is tested with: a tiny random model and a processor for each.

To add one, write a function from the byte tokenizer of the tests to a [`Family`] and name it in the table of its file.
"""

from .family import PADDED_ROWS, Family
from .text_families import TEXT_FAMILIES
from .vision_families import VISION_FAMILIES


__all__ = ["PADDED_ROWS", "TEXT_FAMILIES", "VISION_FAMILIES", "Family"]
