# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Adapters between pretrained models and the token-level view of them."""

from .base import Backbone, EncodedPrompt, GeneratedAction
from .families import ImageTextBackbone, TextBackbone, make_backbone
from .language_head import LanguageHead
from .loading import base_of_adapter, is_adapter, load_backbone
from .moondream2 import MoonDream2Config, MoonDream2ForConditionalGeneration, MoonDream2Processor
from .tiny import TINY_MODELS, embedded_name, resolve_model, tiny_model_path
from .xgen_mm import XGenMMConfig, XGenMMForConditionalGeneration, XGenMMImageProcessorPil, XGenMMProcessor


__all__ = [
    "TINY_MODELS",
    "Backbone",
    "EncodedPrompt",
    "GeneratedAction",
    "ImageTextBackbone",
    "LanguageHead",
    "MoonDream2Config",
    "MoonDream2ForConditionalGeneration",
    "MoonDream2Processor",
    "TextBackbone",
    "XGenMMConfig",
    "XGenMMForConditionalGeneration",
    "XGenMMImageProcessorPil",
    "XGenMMProcessor",
    "base_of_adapter",
    "embedded_name",
    "is_adapter",
    "load_backbone",
    "make_backbone",
    "resolve_model",
    "tiny_model_path",
]
