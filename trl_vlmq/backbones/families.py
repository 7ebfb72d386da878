# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Backbones of the transformers library: image-text-to-text models and text-only causal models."""

import inspect
from collections.abc import Sequence

import torch
from PIL import Image
from transformers import PreTrainedModel

from .base import Backbone, EncodedPrompt


_LINEAR = "(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv_proj|gate_up_proj|dense|fc1|fc2)"


class ImageTextBackbone(Backbone):
    """Any `AutoModelForImageTextToText` whose processor aligns its image tokens with the text."""

    # Families whose prompt tokens depend on the sizes of images alone, so that text and images are cached apart.
    _SEPARABLE = ("llava", "moondream2", "xgen_mm")

    def _features_are_constant(self) -> bool:
        return self.config.model_type in self._SEPARABLE and not any(
            p.requires_grad
            for name, p in self.model.named_parameters()
            if "language_model" not in name and "lm_head" not in name
        )

    @property
    def lora_target_modules(self) -> str:
        return rf".*(language_model|text_model)\.layers\..*\.{_LINEAR}"

    @property
    def image_token_ids(self) -> list[int]:
        names = (
            "image_token_id",
            "image_token_index",
            "image_placeholder_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
            "boi_token_index",
            "eoi_token_index",
        )
        ids = {getattr(self.config, name, None) for name in names}
        ids |= set(getattr(self.processor, "image_token_ids", ()))  # what begins, ends and divides images
        return sorted(i for i in ids if isinstance(i, int))

    @property
    def passes_position_ids(self) -> bool:
        # Multimodal rotary positions (Qwen-VL) are derived by the model from the grid of image tokens.
        return not any(hasattr(m, "get_rope_index") for m in (self._base, getattr(self._base, "model", None)))

    @property
    def action_fill(self) -> dict[str, int]:
        # In a PaliGemma, type 0 sees what comes after it: the prompt would read the action that it is asked for.
        return {"token_type_ids": 1} if self.config.model_type == "paligemma" else {}

    def encode(self, prompt: list[dict], images: Sequence[Image.Image | dict]) -> EncodedPrompt:
        settings = str(vars(self.processor.image_processor))  # a picture processed in another way is another one
        keys = tuple((self.image_key(image), settings) for image in images)
        if self.config.model_type not in self._SEPARABLE:
            key = (self.prompt_key(prompt), keys)
            return self._split(self._prompts.get(key, lambda: self._process(prompt, images)))
        cache = self._features if self.caches_features else self._pixels
        pixels = [
            cache.get(key, lambda image=image: self._process_image(image))
            for key, image in zip(keys, images, strict=True)
        ]
        sizes = tuple(tuple(entry["original_size"].tolist()) for entry in pixels)
        tokens = self._prompts.get((self.prompt_key(prompt), sizes), lambda: self._process_text(prompt, sizes))
        names = [name for name in (pixels[0] if pixels else {}) if name != "original_size"]
        return EncodedPrompt(dict(tokens), {name: torch.cat([entry[name] for entry in pixels]) for name in names})

    def _process(self, prompt: list[dict], images: Sequence[Image.Image | dict]) -> dict[str, torch.Tensor]:
        text = self.render(prompt)
        opened = [self.open_image(image) for image in images]
        bos = self.tokenizer.bos_token
        kwargs = {"add_special_tokens": False} if bos is not None and text.startswith(bos) else {}
        features = self.processor(text=[text], images=[opened] if opened else None, return_tensors="pt", **kwargs)
        return {name: value for name, value in features.items() if name not in ("attention_mask", "labels")}

    def _process_image(self, image: Image.Image | dict) -> dict[str, torch.Tensor]:
        opened = self.open_image(image)
        vision = dict(self.processor.image_processor(images=[opened], return_tensors="pt"))
        if self.caches_features:
            vision = {"image_features": self.image_features(vision)}
        return {**vision, "original_size": torch.tensor(opened.size)}

    @torch.no_grad()
    def image_features(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the decoder reads in place of image tokens, [image tokens, hidden_size], for processed images."""
        with torch.autocast(self.model.device.type, enabled=False):
            output = self.model.get_image_features(**vision, return_dict=True)
        return torch.cat(list(output.pooler_output))

    def _model_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if "image_features" not in inputs:
            return inputs
        inputs = dict(inputs)
        features, ids = inputs.pop("image_features"), inputs["input_ids"]
        embeds = self.model.get_input_embeddings()(ids.clamp(max=self.n_logits - 1))
        where = (ids == self.config.image_token_id)[..., None].expand_as(embeds)
        return inputs | {"inputs_embeds": embeds.masked_scatter(where, features.to(embeds.dtype))}

    def _process_text(self, prompt: list[dict], sizes: tuple[tuple[int, int], ...]) -> dict[str, torch.Tensor]:
        blanks = [Image.new("RGB", size) for size in sizes]
        return self._split(self._process(prompt, blanks)).tokens

    @staticmethod
    def _split(features: dict[str, torch.Tensor]) -> EncodedPrompt:
        shape = features["input_ids"].shape
        tokens = {name: value[0] for name, value in features.items() if value.shape == shape}
        return EncodedPrompt(tokens, {name: value for name, value in features.items() if name not in tokens})

    def _collate_vision(self, prompts: Sequence[EncodedPrompt]) -> dict[str, torch.Tensor]:
        names = {name for prompt in prompts for name in prompt.vision}
        batch = {}
        for name in sorted(names):
            parts = [prompt.vision[name] for prompt in prompts if name in prompt.vision]
            # Image counts and sizes differ between samples: zero padding, which these models mask or drop. A prompt
            # without images needs no row: images are matched with their tokens in the order in which they come.
            sizes = [max(part.shape[d] for part in parts) for d in range(1, parts[0].dim())]
            batch[name] = torch.cat([_grow(part, sizes) for part in parts])
        return batch


class TextBackbone(Backbone):
    """Any `AutoModelForCausalLM`: a text-only agent."""

    @property
    def lora_target_modules(self) -> str:
        return rf".*\.layers\..*\.{_LINEAR}"

    @property
    def image_token_ids(self) -> list[int]:
        return []

    @property
    def passes_position_ids(self) -> bool:
        return "position_ids" in inspect.signature(self._base.forward).parameters

    def encode(self, prompt: list[dict], images: Sequence[Image.Image | dict]) -> EncodedPrompt:
        if images:
            raise ValueError(
                f"{type(self._base).__name__} reads text only, but the prompt holds {len(images)} image(s). Use a "
                "vision-language model, or prompts without images."
            )
        return EncodedPrompt(dict(self._prompts.get(self.prompt_key(prompt), lambda: self._process(prompt))))

    def _process(self, prompt: list[dict]) -> dict[str, torch.Tensor]:
        text = self.render(prompt)
        bos = self.tokenizer.bos_token
        special = not (bos is not None and text.startswith(bos))
        return {"input_ids": self.tokenizer(text, add_special_tokens=special, return_tensors="pt")["input_ids"][0]}

    def _apply_template(self, messages: list[dict], **kwargs) -> str:
        flat = [{**message, "content": _text_of(message["content"])} for message in messages]
        return self.processor.apply_chat_template(flat, tokenize=False, **kwargs)

    def _collate_vision(self, prompts: Sequence[EncodedPrompt]) -> dict[str, torch.Tensor]:
        return {}


def make_backbone(model: PreTrainedModel, processor) -> Backbone:
    """The adapter that fits a model.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            An image-text-to-text or causal language model.
        processor ([`~transformers.ProcessorMixin`] or [`~transformers.PreTrainedTokenizerBase`]):
            Its processor (tokenizer for a text-only model).

    Raises:
        ValueError: if the model has no language head, or the processor does not fit it.
    """
    has_vision = getattr(model.config, "vision_config", None) is not None
    if has_vision and not hasattr(processor, "image_processor"):
        raise ValueError(
            f"{type(model).__name__} reads images, but its processor {type(processor).__name__} does not. Pass "
            "`processing_class=AutoProcessor.from_pretrained(...)`."
        )
    return (ImageTextBackbone if has_vision else TextBackbone)(model, processor)


def _grow(tensor: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Zero-pad every dimension but the first, at the end, to `sizes`."""
    pads = [pad for have, want in zip(tensor.shape[1:], sizes, strict=True) for pad in (want - have, 0)]
    return torch.nn.functional.pad(tensor, pads[::-1]) if any(pads) else tensor


def _text_of(content: str | list[dict]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
