# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""MoonDream2 of 2024 and 2025, known to the auto classes of transformers once this package is imported."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from .configuration import MoonDream2Config
from .image_processing import MoonDream2ImageProcessor
from .modeling import MoonDream2ForConditionalGeneration, MoonDream2Model
from .processing import MoonDream2Processor, question_template


AutoConfig.register("moondream2", MoonDream2Config)
AutoModelForImageTextToText.register(MoonDream2Config, MoonDream2ForConditionalGeneration)
AutoImageProcessor.register(MoonDream2Config, image_processor_classes={"pil": MoonDream2ImageProcessor})
AutoProcessor.register(MoonDream2Config, MoonDream2Processor)

__all__ = [
    "MoonDream2Config",
    "MoonDream2ForConditionalGeneration",
    "MoonDream2ImageProcessor",
    "MoonDream2Model",
    "MoonDream2Processor",
    "question_template",
]
