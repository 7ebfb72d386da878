# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A converted xGen-MM computes what the published one does; what does not fit is named.

The numbers here come from the original code; docs/backbones.md says which and how they were compared.
"""

import json
import math
import sys
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import LlamaTokenizer

from trl_vlmq import load_backbone
from trl_vlmq.backbones import XGenMMConfig, XGenMMForConditionalGeneration
from trl_vlmq.backbones.xgen_mm import conversion
from trl_vlmq.backbones.xgen_mm.conversion import convert_config, convert_state_dict
from trl_vlmq.backbones.xgen_mm.convert import convert_checkpoint, main


TOWER = "google/siglip-so400m-patch14-384"
TINY_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 18,  # as in the original, no multiple of the patch size
    "patch_size": 4,
}
N_TOKENS, N_ROWS = 293, 304  # of the tokenizer, and of the published embedding and head, which are padded
TINY_CONFIG = {
    "model_type": "xgenmm",
    "vision_encoder_config": {"image_aspect_ratio": "anyres", "anyres_patch_sampling": True},
    "vision_tokenizer_config": {"num_vis_tokens": 3},
    "text_config": {
        "model_type": "phi3",
        "initial_tokenizer_len": N_TOKENS,
        "vocab_size": N_ROWS,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "original_max_position_embeddings": 512,
        "sliding_window": 11,
        "torch_dtype": "bfloat16",
        "eos_token_id": 287,
    },
}


def published_shapes(*, rows: int, hidden: int, mlp: int, layers: int, queries: int, tower: dict) -> dict:
    """Names and shapes of a published checkpoint, as its index and its code have them."""
    vision, positions = tower["hidden_size"], (tower["image_size"] // tower["patch_size"]) ** 2
    shapes = {
        "lang_model.lm_head.weight": [rows, hidden],
        "lang_model.lm_head.bias": [rows],
        "lang_model.lm_head.additional_fc.weight": [3, hidden],
        "lang_model.lm_head.additional_fc.bias": [3],
        "lang_model.model.embed_tokens.weight": [rows, hidden],
        "lang_model.model.embed_tokens.additional_embedding.weight": [3, hidden],
        "lang_model.model.norm.weight": [hidden],
        "vision_encoder.embeddings.patch_embedding.weight": [vision, 3, tower["patch_size"], tower["patch_size"]],
        "vision_encoder.embeddings.patch_embedding.bias": [vision],
        "vision_encoder.embeddings.position_embedding.weight": [positions, vision],
        "vision_encoder.head.probe": [1, 1, vision],
        "vision_encoder.head.attention.in_proj_weight": [3 * vision, vision],
        "vision_tokenizer.latents": [queries, vision],
        "vision_tokenizer.projection.weight": [hidden, vision],
        "vision_tokenizer.projection.bias": [hidden],
    }
    norms = ["vision_encoder.post_layernorm", "vision_tokenizer.norm"]
    for i in range(layers):
        layer = f"lang_model.model.layers.{i}."
        shapes |= {
            layer + "self_attn.qkv_proj.weight": [3 * hidden, hidden],
            layer + "self_attn.o_proj.weight": [hidden, hidden],
            layer + "mlp.gate_up_proj.weight": [2 * mlp, hidden],
            layer + "mlp.down_proj.weight": [hidden, mlp],
            layer + "input_layernorm.weight": [hidden],
            layer + "post_attention_layernorm.weight": [hidden],
        }
    for i in range(tower["num_hidden_layers"]):
        layer, inner = f"vision_encoder.encoder.layers.{i}.", tower["intermediate_size"]
        linears = {f"self_attn.{part}_proj": [vision, vision] for part in ("q", "k", "v", "out")}
        linears |= {"mlp.fc1": [inner, vision], "mlp.fc2": [vision, inner]}
        for name, shape in linears.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        norms += [layer + "layer_norm1", layer + "layer_norm2"]
    for i in range(6):
        layer = f"vision_tokenizer.layers.{i}."
        shapes |= {
            layer + "0.to_q.weight": [16 * 96, vision],
            layer + "0.to_kv.weight": [2 * 16 * 96, vision],
            layer + "0.to_out.weight": [vision, 16 * 96],
            layer + "1.1.weight": [4 * vision, vision],
            layer + "1.3.weight": [vision, 4 * vision],
        }
        norms += [layer + "0.norm_media", layer + "0.norm_latents", layer + "1.0"]
    shapes |= {f"{norm}.{part}": [vision] for norm in norms for part in ("weight", "bias")}
    return {f"vlm.{name}": shape for name, shape in shapes.items()}


TINY_SHAPES = published_shapes(rows=N_ROWS, hidden=32, mlp=48, layers=2, queries=3, tower=TINY_TOWER)


def weight(name: str, shape: list[int]) -> torch.Tensor:
    """Numbers that look random and are the same everywhere, at the scale that their place asks for."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    numbers = (torch.sin(places * 12.9898 + zlib.crc32(name.encode()) % 1000) * 43758.5453).frac().view(shape)
    if len(shape) == 1:
        return (0.1 * numbers + (not name.endswith("bias"))).float()
    if not any(part in name for part in ("embed_tokens", "latents", "position_embedding")):
        numbers = numbers * (3 / math.prod(shape[1:])) ** 0.5
    return numbers.float()


def picture(width: int, height: int) -> PIL.Image.Image:
    y, x, channel = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return PIL.Image.fromarray(((x * 7 + y * 13 + channel * 29 + (x * y) % 17 * 5) % 256).astype(np.uint8))


def tokenizer() -> LlamaTokenizer:
    """With what a conversation needs, and settings as published."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "go"]
    made = LlamaTokenizer(
        {piece: i for i, piece in enumerate(pieces)},
        [("g", "o")],
        eos_token="<|endoftext|>",
        pad_token="<pad>",
        legacy=False,
        padding_side="left",
    )
    turns = [AddedToken(f"<|{name}|>", rstrip=True, special=True) for name in ("assistant", "system", "end", "user")]
    made.add_tokens(turns, special_tokens=True)
    return made


@pytest.fixture
def published(tmp_path, monkeypatch):
    """`published(files=1, **changes)`: a folder like that of a published checkpoint, some tensors changed or left out."""
    monkeypatch.setitem(conversion.VISION_TOWERS, TOWER, TINY_TOWER)

    def write(files: int = 1, **changes: torch.Tensor | None):
        folder = tmp_path / "published"
        tokenizer().save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(TINY_CONFIG))
        tensors = {name: weight(name, shape) for name, shape in TINY_SHAPES.items()} | changes
        tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        if files == 1:
            save_file(tensors, folder / "model.safetensors")
            return folder
        names, index = sorted(tensors), {}
        for i in range(files):
            file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
            save_file({name: tensors[name] for name in names[i::files]}, folder / file)
            index |= dict.fromkeys(names[i::files], file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return folder

    return write


PARTS = [{"type": "text", "text": "look "}, {"type": "image"}, {"type": "image"}, {"type": "text", "text": "go on"}]
CONVERSATION = [{"role": "user", "content": PARTS}]
PICTURES = [picture(40, 12), picture(30, 48)]


@torch.no_grad()
@pytest.mark.parametrize("files", [1, 3])
def test_a_converted_checkpoint_gives_the_numbers_of_the_original(published, tmp_path, files):
    """Conversation and pictures in, through processor, tower, resampler and a window of 12 tokens, to the logits."""
    convert_checkpoint(published(files), tmp_path / "converted")
    backbone = load_backbone(str(tmp_path / "converted"))
    prompt = backbone.encode(CONVERSATION, PICTURES)
    assert len(prompt) == 198 and (prompt.tokens["input_ids"] == N_TOKENS).sum() == 12 + 15
    states, logits = backbone.forward(backbone.collate([prompt]), keep=198)

    def close(ours: torch.Tensor, theirs: list[float]) -> None:
        torch.testing.assert_close(ours, torch.tensor(theirs), rtol=0, atol=1e-4)

    close(backbone.image_features(prompt.vision)[[0, 5, -1], 0], [-0.99107, -0.78093, -0.44626])
    close(states[0, -1, :6], [-0.43105, 1.61445, 0.34689, -0.74421, 0.60824, -0.39723])
    close(states.abs().mean(), 0.83054)
    close(logits[0, -1, :6], [0.24526, 2.39824, 1.47363, -0.02174, -1.7764, -1.54855])
    close(logits[0, -1, -3:], [0.22593, -0.944, -2.46531])  # of the added tokens
    close(logits.abs().mean(), 0.79022)


def test_every_published_tensor_is_read_and_every_weight_is_filled():
    """At the published sizes, without their numbers."""
    tower = {**conversion.VISION_TOWERS[TOWER]}
    shapes = published_shapes(rows=32064, hidden=3072, mlp=8192, layers=32, queries=128, tower=tower)
    published = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = convert_config({"model_type": "xgenmm"})
    converted = convert_state_dict(published, config)
    with torch.device("meta"):
        wanted = XGenMMForConditionalGeneration(XGenMMConfig()).state_dict()
    assert {name: t.shape for name, t in converted.items()} == {name: t.shape for name, t in wanted.items()}
    assert converted["lm_head.weight"].shape == (32015, 3072)


def test_a_converted_model_stops_where_the_published_one_does(published, tmp_path):
    convert_checkpoint(published(), tmp_path / "converted")
    backbone = load_backbone(str(tmp_path / "converted"))
    names = ["<|end|>", "<|endoftext|>"]
    assert backbone.stop_token_ids == sorted(backbone.tokenizer.convert_tokens_to_ids(names))
    assert backbone.n_logits == N_TOKENS + 3
    excluded = (~backbone.valid_token_mask()).nonzero()[:, 0].tolist()
    assert excluded == backbone.tokenizer.convert_tokens_to_ids(["<image>", "<image placeholder>"])


def test_an_action_has_the_tokens_that_it_has_in_a_conversation(published, tmp_path):
    """Llama's tokenizer would put a space before text that stands alone, and the policy would learn other tokens."""
    convert_checkpoint(published(), tmp_path / "converted")
    backbone = load_backbone(str(tmp_path / "converted"))
    prompt = backbone.encode(CONVERSATION, PICTURES).tokens["input_ids"].tolist()
    assert backbone.tokenizer.convert_ids_to_tokens(prompt[:2]) == ["▁", "<|system|>"]
    answered = [*CONVERSATION, {"role": "assistant", "content": [{"type": "text", "text": "go up"}]}]
    text = backbone.processor.apply_chat_template(answered)
    whole = backbone.processor(text=[text], images=[PICTURES])["input_ids"][0]
    assert whole == prompt + backbone.completion_ids("go up")
    assert backbone.decode(backbone.completion_ids("go up")) == "go up"


def test_the_window_of_attention_counts_as_in_the_original():
    """Transformers 4 let a token see `sliding_window` others and itself, transformers 5 itself among them."""
    config = convert_config({"model_type": "xgenmm", "text_config": {"sliding_window": 2047}})
    assert config.text_config.sliding_window == XGenMMConfig().text_config.sliding_window == 2048
    assert (
        convert_config({"model_type": "xgenmm", "text_config": {"sliding_window": None}}).text_config.sliding_window
        is None
    )


def test_the_dtype_asked_for_is_written(published, tmp_path, monkeypatch):
    command = ["convert", str(published()), str(tmp_path / "converted"), "--dtype", "bfloat16"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    model = load_backbone(str(tmp_path / "converted")).model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# ---- What does not fit ----

LATENTS = "vlm.vision_tokenizer.latents"


def test_missing_tensors_are_named(published, tmp_path):
    folder = published(**{LATENTS: None, "vlm.lang_model.lm_head.additional_fc.bias": None})
    with pytest.raises(ValueError, match=f"lacks vlm.lang_model.lm_head.additional_fc.bias, {LATENTS}"):
        convert_checkpoint(folder, tmp_path / "converted")


def test_tensors_that_do_not_belong_there_are_named(published, tmp_path):
    folder = published(**{"vlm.vision_tokenizer.frame_embs": torch.zeros(2, 16)})
    with pytest.raises(ValueError, match="beside an xGen-MM r-v1.5, vlm.vision_tokenizer.frame_embs"):
        convert_checkpoint(folder, tmp_path / "converted")


def test_a_tensor_of_the_wrong_shape_is_named(published, tmp_path):
    folder = published(**{LATENTS: torch.zeros(4, 16)})
    with pytest.raises(ValueError, match=rf"{LATENTS} has the shape \[4, 16\], .* where \[3, 16\] is needed"):
        convert_checkpoint(folder, tmp_path / "converted")


def test_a_missing_file_is_named(published, tmp_path):
    folder = published(3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks model-00002-of-00003.safetensors"):
        convert_checkpoint(folder, tmp_path / "converted")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava"}, "model type 'llava'"),
        ({"vision_encoder_config": {"model_name": "google/siglip-base"}}, "Unknown vision tower 'google/siglip-base'"),
        ({"text_config": {"initial_tokenizer_len": 200}}, "is 200, but the tokenizer has 293 tokens"),
    ],
)
def test_another_models_configuration_is_refused(published, tmp_path, changes, message):
    folder = published()
    (folder / "config.json").write_text(json.dumps(TINY_CONFIG | changes))
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(folder, tmp_path / "converted")


def test_a_checkpoint_that_was_not_converted_says_so(published):
    with pytest.raises(ValueError, match="python -m trl_vlmq.backbones.xgen_mm.convert"):
        load_backbone(str(published()))
