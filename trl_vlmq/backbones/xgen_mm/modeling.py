# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""xGen-MM: SigLIP looks at crops, a resampler makes image tokens of them, Phi-3 reads them among the text.

Deviations from the original, none of which changes a number:

1. The text holds as many `<image>` tokens as the image becomes, where the original splices many into the place of one;
   so inputs and outputs line up.
2. The rows that the original keeps apart for its three added tokens are rows of the embedding and of the head.
3. SigLIP's pooling head, which nothing reads, is left out.
4. The vision tower is not cut off from the gradient. Freeze it to train as the original does.
"""

import torch
from torch import nn
from transformers import GenerationMixin, Phi3Model, PreTrainedModel, SiglipVisionModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast

from .any_resolution import image_regions
from .configuration import XGenMMConfig
from .resampler import XGenMMResampler


class XGenMMPreTrainedModel(PreTrainedModel):
    """What the two models below share with others of transformers."""

    config_class = XGenMMConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipEncoderLayer", "XGenMMResamplerLayer", "Phi3DecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, XGenMMResampler):
            init.normal_(module.queries)


class XGenMMModel(XGenMMPreTrainedModel):
    """The model without its language head."""

    def __init__(self, config: XGenMMConfig):
        super().__init__(config)
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
        self.resampler = XGenMMResampler(config)
        self.language_model = Phi3Model._from_config(config.text_config)
        self.post_init()

    def get_image_features(
        self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, image_grids: torch.Tensor, **kwargs
    ) -> BaseModelOutputWithPooling:
        """What the language model reads in place of `<image>` tokens.

        Args:
            pixel_values (`torch.Tensor`):
                Crops of all images, [crops, 3, height, width]: of each image the whole, then its grid row by row.
            image_sizes (`torch.Tensor`):
                Height and width of each image before it was resized, [images, 2].
            image_grids (`torch.Tensor`):
                Rows and columns of its crops, [images, 2].

        Returns:
            An output whose `pooler_output` is a list of tensors [image tokens, hidden], one per image.
        """
        output = self.vision_tower(pixel_values.to(self.vision_tower.dtype), **{**kwargs, "return_dict": True})
        grids = image_grids.tolist()
        counts = [1 + rows * columns for rows, columns in grids]
        if sum(counts) != len(pixel_values):
            raise ValueError(f"pixel_values holds {len(pixel_values)} crops, but image_grids asks for {sum(counts)}.")
        parts = output.last_hidden_state.split(counts)
        regions, seen = zip(*map(image_regions, parts, image_sizes.tolist(), grids), strict=True)
        tokens = self.resampler(torch.cat(regions), torch.cat(seen))
        output.pooler_output = [part.flatten(0, 1) for part in tokens.split(counts)]
        return output

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """As in transformers' LLaVA; the images as [`XGenMMModel.get_image_features`] takes them.

        Raises:
            ValueError: if not exactly one of `input_ids` and `inputs_embeds` is given, or if the `<image>` tokens are
                not as many as the images become.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            if input_ids is None:
                raise ValueError("pixel_values need input_ids: the places of images are those of <image> tokens.")
            features = torch.cat(self.get_image_features(pixel_values, image_sizes, image_grids).pooler_output)
            where = input_ids == self.config.image_token_id
            if where.sum() != len(features):
                raise ValueError(
                    f"The text holds {where.sum()} <image> tokens, but the images become {len(features)}. Use the "
                    "processor, which writes as many as are needed."
                )
            inputs_embeds = inputs_embeds.masked_scatter(where[..., None], features.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **{**kwargs, "return_dict": True},
        )


class XGenMMForConditionalGeneration(XGenMMPreTrainedModel, GenerationMixin):
    """xGen-MM with its language head, which has a bias.

    Example:

    ```python
    import trl_vlmq.backbones  # registers the class
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained("xgen-mm-converted")
    processor = AutoProcessor.from_pretrained("xgen-mm-converted")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[image], text=[text], return_tensors="pt")
    print(processor.decode(model.generate(**inputs, max_new_tokens=20)[0]))
    ```
    """

    def __init__(self, config: XGenMMConfig):
        super().__init__(config)
        self.model = XGenMMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=True)
        self.post_init()

    def get_image_features(self, *args, **kwargs) -> BaseModelOutputWithPooling:
        """See [`XGenMMModel.get_image_features`]."""
        return self.model.get_image_features(*args, **kwargs)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_grids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As in transformers' LLaVA; see [`XGenMMModel.forward`]."""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            image_grids=image_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
