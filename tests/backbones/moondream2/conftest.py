# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Synthetic MoonDream2 checkpoints with the published names, in sizes that a test can afford."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PhiConfig, SiglipVisionConfig

from trl_vlmq.backbones import Backbone, MoonDream2Config, load_backbone
from trl_vlmq.backbones.moondream2.convert import convert_checkpoint


GENERATIONS = (2024, 2025)


def _published_shapes(config: MoonDream2Config, generation: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published checkpoint, written down here from the original code and from nowhere else."""
    vision, text = config.vision_config, config.text_config
    positions, patch = (vision.image_size // vision.patch_size) ** 2, 3 * vision.patch_size**2
    v, t, vocabulary, projector = vision.hidden_size, text.hidden_size, text.vocab_size, config.projector_hidden_size
    if generation == 2024:
        tower, decoder = "vision_encoder.encoder.model.visual.", "text_model."
        tensors = {f"{tower}pos_embed": (1, positions, v), f"{decoder}transformer.embd.wte.weight": (vocabulary, t)}
        tensors["region_model.size_features.weight"] = (4, 2)
        linears = {
            f"{tower}patch_embed.linear": (v, patch),
            "vision_encoder.projection.mlp.fc1": (projector, 2 * v),
            "vision_encoder.projection.mlp.fc2": (t, projector),
            f"{decoder}lm_head.linear": (vocabulary, t),
            "region_model.size_decoder": (2, t),
        }
        norms = {f"{tower}norm": v, f"{decoder}lm_head.ln": t}
        tower, decoder = f"{tower}blocks", f"{decoder}transformer.h"
        first, second, qkv, out = "norm1", "norm2", "mixer.Wqkv", "mixer.out_proj"
    else:
        tensors = {"model.vision.pos_emb": (1, positions, v), "model.text.wte": (vocabulary, t)}
        tensors["model.region.size_features"] = (2, 4)
        linears = {
            "model.vision.patch_emb": (v, patch),
            "model.vision.proj_mlp.fc1": (projector, 2 * v),
            "model.vision.proj_mlp.fc2": (t, projector),
            "model.text.lm_head": (vocabulary, t),
            "model.region.size_decoder.fc1": (2, t),
        }
        norms = {"model.vision.post_ln": v, "model.text.post_ln": t}
        tower, decoder = "model.vision.blocks", "model.text.blocks"
        first, second, qkv, out = "ln1", "ln2", "attn.qkv", "attn.proj"
    for i in range(vision.num_hidden_layers):
        linears |= {f"{tower}.{i}.attn.qkv": (3 * v, v), f"{tower}.{i}.attn.proj": (v, v)}
        linears |= {f"{tower}.{i}.mlp.fc1": (vision.intermediate_size, v)}
        linears |= {f"{tower}.{i}.mlp.fc2": (v, vision.intermediate_size)}
        norms |= {f"{tower}.{i}.{first}": v, f"{tower}.{i}.{second}": v}
    for i in range(text.num_hidden_layers):
        linears |= {f"{decoder}.{i}.{qkv}": (3 * t, t), f"{decoder}.{i}.{out}": (t, t)}
        linears |= {f"{decoder}.{i}.mlp.fc1": (text.intermediate_size, t)}
        linears |= {f"{decoder}.{i}.mlp.fc2": (t, text.intermediate_size)}
        norms |= {f"{decoder}.{i}.ln": t}
    for name, (rows, columns) in linears.items():
        tensors |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name, size in norms.items():
        tensors |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return tensors


def _formula_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that look random and are the same everywhere, float32."""
    phase = zlib.crc32(name.encode()) % 10007
    x = np.sin(np.arange(1, np.prod(shape) + 1) * 12.9898 + phase * 78.233) * 43758.5453
    uniform = (x - np.floor(x) - 0.5).reshape(shape)
    if len(shape) > 1:
        uniform *= (12 / shape[-1]) ** 0.5
    else:
        uniform = uniform / 2 + name.endswith("weight")
    return torch.from_numpy(uniform).float()


def _synthetic_checkpoint(config: MoonDream2Config, generation: int) -> dict[str, torch.Tensor]:
    return {name: _formula_tensor(name, shape) for name, shape in _published_shapes(config, generation).items()}


def _tiny_config(generation: int) -> MoonDream2Config:
    """16 positions of an image; 2 + 2 layers; 257 tokens and 7 rows without a token."""
    return MoonDream2Config(
        vision_config=SiglipVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
            layer_norm_eps=1e-5,
            vision_use_head=False,
        ),
        text_config=PhiConfig(
            vocab_size=265,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
        ),
        projector_hidden_size=24,
        **({"overlap_margin": 0, "bidirectional_prefix": False} if generation == 2024 else {"overlap_margin": 1}),
    )


def _byte_tokenizer(first: tuple[str, ...] = (), last: tuple[str, ...] = ()) -> Tokenizer:
    """One token a byte, with others before and after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*first, *alphabet, *last])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*first, *last])
    return tokenizer


@pytest.fixture(scope="session")
def published_shapes() -> Callable[[MoonDream2Config, int], dict[str, tuple[int, ...]]]:
    return _published_shapes


@pytest.fixture(scope="session")
def synthetic_checkpoint() -> Callable[[MoonDream2Config, int], dict[str, torch.Tensor]]:
    """`synthetic_checkpoint(config, generation)`: the tensors of a published checkpoint."""
    return _synthetic_checkpoint


@pytest.fixture(scope="session")
def tiny_config() -> Callable[[int], MoonDream2Config]:
    return _tiny_config


@pytest.fixture(scope="session")
def byte_tokenizer() -> Callable[..., Tokenizer]:
    return _byte_tokenizer


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Callable[[int], Path]:
    """`published(generation)`: folder of a tiny checkpoint as it would be downloaded."""
    folders: dict[int, Path] = {}

    def make(generation: int) -> Path:
        if generation not in folders:
            folder = folders[generation] = tmp_path_factory.mktemp(f"published_{generation}")
            save_file(_synthetic_checkpoint(_tiny_config(generation), generation), folder / "model.safetensors")
            _byte_tokenizer(last=("<|endoftext|>",)).save(str(folder / "tokenizer.json"))
        return folders[generation]

    return make


@pytest.fixture(scope="session")
def converted(published, tmp_path_factory) -> Callable[[int], Path]:
    """`converted(generation)`: the folder that the converter makes of it."""
    folders: dict[int, Path] = {}

    def make(generation: int) -> Path:
        if generation not in folders:
            folders[generation] = tmp_path_factory.mktemp(f"converted_{generation}")
            convert_checkpoint(published(generation), folders[generation], config=_tiny_config(generation))
        return folders[generation]

    return make


@pytest.fixture(params=GENERATIONS)
def generation(request) -> int:
    return request.param


@pytest.fixture
def backbone(generation, converted) -> Backbone:
    backbone = load_backbone(str(converted(generation)))
    backbone.model.eval()
    return backbone
