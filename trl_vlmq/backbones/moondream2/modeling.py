# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""MoonDream2 as a native class: SigLIP and Phi of transformers, joined as the published checkpoints join them.

An image is seen whole and, if it is large, in local crops. The crops' features are stitched together and pooled to the
size of one crop; both views are concatenated and projected to (image_size / patch_size)^2 positions of the decoder.
Positions of input and output line up: `input_ids` hold one image token for each of them.

Deviations from the original code: attention and normalisation of the pixels run in the dtype of the model (the original
normalises in half precision), the two identical views of a small image are encoded once, and batches may be padded.
The heads for points and boxes are left out: an action is text.
"""

import torch
from torch import nn
from transformers import Cache, GenerationMixin, PhiModel, PreTrainedModel, SiglipVisionModel
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .configuration import MoonDream2Config


class MoonDream2Projector(nn.Module):
    """Global and local features side by side, [images, positions, 2 x vision width], to the decoder's width."""

    def __init__(self, config: MoonDream2Config):
        super().__init__()
        self.linear_1 = nn.Linear(2 * config.vision_config.hidden_size, config.projector_hidden_size)
        self.act = ACT2FN["gelu_pytorch_tanh"]
        self.linear_2 = nn.Linear(config.projector_hidden_size, config.text_config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))


class MoonDream2PreTrainedModel(PreTrainedModel):
    config: MoonDream2Config
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["PhiDecoderLayer", "SiglipEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True


class MoonDream2Model(MoonDream2PreTrainedModel):
    """MoonDream2 without its language head.

    Args:
        config ([`MoonDream2Config`]):
            Sizes and generation.
    """

    def __init__(self, config: MoonDream2Config):
        super().__init__(config)
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.multi_modal_projector = MoonDream2Projector(config)
        self.language_model = PhiModel(config.text_config)
        self.post_init()

    def get_image_features(
        self, pixel_values: torch.Tensor, image_grids: torch.Tensor, **kwargs
    ) -> BaseModelOutputWithPooling:
        """What the decoder reads in place of image tokens.

        Args:
            pixel_values (`torch.Tensor`):
                Crops of all images, [crops, 3, image_size, image_size]: of each image the whole one first, then, if it
                has more than one, its local crops row by row.
            image_grids (`torch.Tensor`):
                Rows and columns of local crops, int64 [images, 2].

        Returns:
            Features of the crops in `last_hidden_state`, [crops, positions, vision width], and in `pooler_output` one
            tensor [positions, hidden_size] per image.

        Raises:
            ValueError: if the crops are not as many as the grids say.
        """
        grids = [tuple(grid) for grid in image_grids.tolist()]
        counts = [1 + rows * columns if rows * columns > 1 else 1 for rows, columns in grids]
        if sum(counts) != len(pixel_values):
            raise ValueError(f"image_grids {grids} ask for {sum(counts)} crops, but there are {len(pixel_values)}.")
        crops = self.vision_tower(pixel_values).last_hidden_state
        views = [self._views(part, grid) for part, grid in zip(crops.split(counts), grids, strict=True)]
        projected = self.multi_modal_projector(torch.stack(views))
        return BaseModelOutputWithPooling(last_hidden_state=crops, pooler_output=list(projected))

    def _views(self, crops: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Crops of one image [crops, positions, width] -> global and local features [positions, 2 x width]."""
        if len(crops) == 1:
            return torch.cat([crops[0], crops[0]], dim=-1)
        rows, columns = grid
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        tiles = crops[1:].view(rows, columns, side, side, -1)
        stitched = torch.cat(
            [
                torch.cat(
                    [tiles[i, j][self._own(i, rows, side), self._own(j, columns, side)] for j in range(columns)], 1
                )
                for i in range(rows)
            ]
        )
        pooled = nn.functional.adaptive_avg_pool2d(stitched.permute(2, 0, 1), (side, side))
        return torch.cat([crops[0], pooled.flatten(1).T], dim=-1)

    def _own(self, index: int, count: int, side: int) -> slice:
        """Patches along one axis that a crop keeps for itself: its overlap only where it has no neighbour."""
        margin = self.config.overlap_margin
        return slice(0 if index == 0 else margin, side if index == count - 1 else side - margin)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """States [B, L, hidden_size]; arguments as of [`MoonDream2ForConditionalGeneration.forward`]."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        if kwargs.get("cache") is not None:
            past_key_values = kwargs.pop("cache")  # as transformers calls it from 5.24 on
        empty = past_key_values is None or past_key_values.get_seq_length() == 0
        if inputs_embeds is None:
            is_image = input_ids == self.config.image_token_id
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
            features = []
            if pixel_values is not None:
                features = self.get_image_features(pixel_values, image_grids).pooler_output
            positions = sum(len(image) for image in features)
            if empty and positions != is_image.sum():
                raise ValueError(f"{is_image.sum()} image tokens for {positions} positions of images.")
            if features:
                inputs_embeds = inputs_embeds.masked_scatter(
                    is_image[..., None], torch.cat(features).to(inputs_embeds)
                )
            if mm_token_type_ids is None:
                mm_token_type_ids = is_image
        if self.config.bidirectional_prefix and empty:
            if mm_token_type_ids is None:
                raise ValueError("inputs_embeds do not tell where the image is: pass mm_token_type_ids too.")
            attention_mask = create_causal_mask(
                config=self.config.text_config,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                block_sequence_ids=_prefix(mm_token_type_ids == 1).long() - 1,  # 0 in the block, -1 outside
            )
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )


class MoonDream2ForConditionalGeneration(MoonDream2PreTrainedModel, GenerationMixin):
    """MoonDream2 with its language head.

    Args:
        config ([`MoonDream2Config`]):
            Sizes and generation.
    """

    def __init__(self, config: MoonDream2Config):
        super().__init__(config)
        self.model = MoonDream2Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=True)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, image_grids: torch.Tensor, **kwargs):
        """See [`MoonDream2Model.get_image_features`]."""
        return self.model.get_image_features(pixel_values, image_grids, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_token_type_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits [B, kept, vocab_size] of a batch as [`MoonDream2Processor`] makes it.

        Args:
            input_ids (`torch.LongTensor`, *optional*):
                Tokens [B, L], one image token for each position of an image. Or `inputs_embeds`.
            pixel_values (`torch.Tensor`, *optional*):
                Crops [crops, 3, image_size, image_size].
            image_grids (`torch.LongTensor`, *optional*):
                Rows and columns of local crops, int64 [images, 2].
            mm_token_type_ids (`torch.LongTensor`, *optional*):
                1 on image tokens, [B, L]; read from `input_ids` if absent, needed beside `inputs_embeds` in models with
                a bidirectional prefix.
            labels (`torch.LongTensor`, *optional*):
                Tokens [B, L] to compute the usual language modelling loss of, -100 where there is none.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to `0`):
                Number of last columns, or indices of columns, to compute logits of; 0 means all.

        Raises:
            ValueError: if image tokens and images do not match, or the prefix cannot be told.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grids=image_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_token_type_ids=mm_token_type_ids,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _prefix(is_image: torch.Tensor) -> torch.Tensor:
    """Everything up to the last image token of its row, bool [B, L]: BOS and the image."""
    return is_image.flip(1).cumsum(1).flip(1) > 0
