# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The perceiver resampler: a fixed number of learned queries reads the patches of one region of an image."""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration import XGenMMConfig


class XGenMMResamplerAttention(nn.Module):
    """The queries attend to the patches and to each other."""

    def __init__(self, config: XGenMMConfig):
        super().__init__()
        width, self.head_dim = config.vision_config.hidden_size, config.resampler_head_dim
        inner = config.resampler_heads * config.resampler_head_dim
        self.norm_patches = nn.LayerNorm(width)
        self.norm_queries = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.kv_proj = nn.Linear(width, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def forward(self, queries: torch.Tensor, patches: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        queries = self.norm_queries(queries)
        key, value = self.kv_proj(torch.cat([self.norm_patches(patches), queries], dim=1)).chunk(2, dim=-1)
        seen = torch.cat([seen, seen.new_ones(queries.shape[:2])], dim=1)
        states = nn.functional.scaled_dot_product_attention(
            self._heads(self.q_proj(queries)), self._heads(key), self._heads(value), attn_mask=seen[:, None, None]
        )
        return self.out_proj(states.transpose(1, 2).flatten(2))


class XGenMMResamplerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward layer, each with a residual connection."""

    def __init__(self, config: XGenMMConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.attention = XGenMMResamplerAttention(config)
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width, bias=False)
        self.fc2 = nn.Linear(4 * width, width, bias=False)

    def forward(self, queries: torch.Tensor, patches: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        queries = queries + self.attention(queries, patches, seen)
        return queries + self.fc2(nn.functional.gelu(self.fc1(self.norm(queries))))


class XGenMMResampler(nn.Module):
    """Regions of images -> image tokens."""

    def __init__(self, config: XGenMMConfig):
        super().__init__()
        width = config.vision_config.hidden_size
        self.queries = nn.Parameter(torch.empty(config.num_image_tokens, width))
        self.layers = nn.ModuleList(XGenMMResamplerLayer(config) for _ in range(config.resampler_layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, patches: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """
        Args:
            patches (`torch.Tensor`):
                [regions, patches, vision hidden].
            seen (`torch.Tensor`):
                Patches that are not padding, bool [regions, patches].

        Returns:
            Image tokens [regions, num_image_tokens, text hidden].
        """
        queries = self.queries.expand(len(patches), -1, -1)
        for layer in self.layers:
            queries = layer(queries, patches, seen)
        return self.projection(self.norm(queries))
