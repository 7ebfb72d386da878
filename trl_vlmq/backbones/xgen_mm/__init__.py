# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""xGen-MM (BLIP-3), release r-v1.5: SigLIP, a perceiver resampler and Phi-3-mini, known to transformers' `Auto` classes."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from .configuration import XGenMMConfig
from .image_processing import XGenMMImageProcessorPil
from .modeling import XGenMMForConditionalGeneration
from .processing import XGenMMProcessor


AutoConfig.register(XGenMMConfig.model_type, XGenMMConfig)
AutoModelForImageTextToText.register(XGenMMConfig, XGenMMForConditionalGeneration)
AutoImageProcessor.register(XGenMMConfig, image_processor_classes={"pil": XGenMMImageProcessorPil})
AutoProcessor.register(XGenMMConfig, XGenMMProcessor)

__all__ = ["XGenMMConfig", "XGenMMForConditionalGeneration", "XGenMMImageProcessorPil", "XGenMMProcessor"]
