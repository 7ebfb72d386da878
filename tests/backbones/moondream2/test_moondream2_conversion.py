# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Published checkpoints of both generations become the model that the original code computes."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PhiConfig, SiglipVisionConfig

from trl_vlmq.backbones import MoonDream2Config, MoonDream2ForConditionalGeneration, load_backbone
from trl_vlmq.backbones.moondream2 import MoonDream2ImageProcessor, convert
from trl_vlmq.backbones.safetensors_folder import SafetensorsFolder


# ---- Names and shapes ----


def test_a_checkpoint_of_the_published_size_fills_the_model_exactly(generation, published_shapes):
    config = convert.published_config(generation)
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in published_shapes(config, generation).items()}
        model = MoonDream2ForConditionalGeneration(config)
    weights = convert.convert_weights(tensors, config)
    assert {name: w.shape for name, w in weights.items()} == {n: w.shape for n, w in model.state_dict().items()}
    assert 1.8e9 < sum(w.numel() for w in weights.values()) < 1.9e9
    assert weights["model.vision_tower.embeddings.patch_embedding.weight"].shape == (1152, 3, 14, 14)
    assert (config.overlap_margin, config.bidirectional_prefix) == {2024: (0, False), 2025: (4, True)}[generation]
    assert config.text_config.max_position_embeddings == 2048
    assert {config.vision_config.layer_norm_eps, config.text_config.layer_norm_eps} == {1e-5}


def test_a_fused_projection_is_query_key_value(generation, synthetic_checkpoint, tiny_config):
    tensors = synthetic_checkpoint(tiny_config(generation), generation)
    weights = convert.convert_weights(tensors, tiny_config(generation))
    fused = {2024: "text_model.transformer.h.1.mixer.Wqkv", 2025: "model.text.blocks.1.attn.qkv"}[generation]
    for kind in ("weight", "bias"):
        parts = [weights[f"model.language_model.layers.1.self_attn.{name}_proj.{kind}"] for name in "qkv"]
        assert torch.equal(torch.cat(parts), tensors[f"{fused}.{kind}"])


def test_missing_and_unexpected_tensors_are_named(generation, synthetic_checkpoint, tiny_config):
    config = tiny_config(generation)
    tensors = synthetic_checkpoint(config, generation)
    name = {2024: "text_model.transformer.h.1.mixer.Wqkv.bias", 2025: "model.text.blocks.1.attn.qkv.bias"}[generation]
    with pytest.raises(ValueError, match=f"misses {name}"):
        convert.convert_weights({k: v for k, v in tensors.items() if k != name}, config)
    packed = name.replace("bias", "weight.packed")
    with pytest.raises(ValueError, match=f"holds unexpected {packed}"):
        convert.convert_weights(tensors | {packed: torch.zeros(1)}, config)


def test_a_tensor_of_another_shape_is_named(generation, synthetic_checkpoint, tiny_config):
    config = tiny_config(generation)
    tensors = synthetic_checkpoint(config, generation)
    name = {2024: "vision_encoder.projection.mlp.fc1.weight", 2025: "model.vision.proj_mlp.fc1.weight"}[generation]
    tensors[name] = tensors[name][:, :16]  # as before there were local crops
    with pytest.raises(ValueError, match=rf"{name} has the shape \(24, 16\).* into \(24, 32\).*2024-05-20"):
        convert.convert_weights(tensors, config)


def test_another_models_checkpoint_is_refused(tiny_config):
    with pytest.raises(ValueError, match="no checkpoint of MoonDream2.*model.layers.0"):
        convert.convert_weights({"model.layers.0.weight": torch.zeros(1)}, tiny_config(2025))


def test_names_that_compilation_left_behind_are_understood(generation, synthetic_checkpoint, tiny_config):
    config = tiny_config(generation)
    tensors = synthetic_checkpoint(config, generation)
    compiled = {name.replace("blocks.", "blocks._orig_mod."): tensor for name, tensor in tensors.items()}
    assert compiled.keys() != tensors.keys()
    expected = convert.convert_weights(tensors, config)
    for name, weight in convert.convert_weights(compiled, config).items():
        assert torch.equal(weight, expected[name])


# ---- Files ----


def test_shards_are_read_as_one_checkpoint(published, generation, tmp_path):
    tensors = load_file(published(generation) / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with SafetensorsFolder(tmp_path) as read:
        assert set(read) == set(names) and all(torch.equal(read[name], tensors[name]) for name in names)


def test_missing_files_are_named(published, tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json is missing"):
        convert.convert_checkpoint(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="lacks safetensors files"):
        convert.convert_checkpoint(tmp_path, tmp_path / "out", tokenizer=published(2025))


def test_a_checkpoint_that_was_not_converted_says_so(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "moondream1"}))
    with pytest.raises(ValueError, match="python -m trl_vlmq.backbones.moondream2.convert"):
        load_backbone(str(tmp_path))


def test_the_dtype_of_the_checkpoint_is_kept(published, tmp_path, tiny_config):
    tensors = load_file(published(2025) / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    convert.convert_checkpoint(tmp_path, tmp_path / "out", published(2025), tiny_config(2025))
    assert load_backbone(str(tmp_path / "out")).model.dtype == torch.bfloat16


def test_the_command_line_passes_its_folders_on(monkeypatch):
    given = []
    monkeypatch.setattr(convert, "convert_checkpoint", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(sys, "argv", ["convert", "there", "here", "--tokenizer", "words"])
    convert.main()
    assert given == [("there", "here", "words")]


# ---- Prompts ----


def test_prompts_of_june_2025_are_made_of_tokens(tmp_path, byte_tokenizer, tiny_config):
    """1, 15381, 2, question, 3, 3: as the original writes them, though the strings of its tokenizer are others."""
    specials = ("<stop>", *(f"<s{i}>" for i in range(1, 10)))
    filler = tuple(f"<filler{i}>" for i in range(15381 - 10 - 256))
    byte_tokenizer(first=specials, last=(*filler, "query")).save(str(tmp_path / "tokenizer.json"))
    processor = convert.make_processor(tmp_path / "tokenizer.json", tiny_config(2025))
    assert processor.tokenizer.eos_token_id == processor.tokenizer.bos_token_id == 0
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = processor(text=[text], images=[Image.new("RGB", (20, 20))])["input_ids"][0]
    question = processor.tokenizer("Why?", add_special_tokens=False)["input_ids"]
    assert ids == [0, *[processor.image_token_id] * 16, 1, 15381, 2, *question, 3, 3]
    messages.append({"role": "assistant", "content": "No."})
    answered = processor.apply_chat_template(messages, tokenize=False)
    assert answered == text + "No." + "<stop>"


# ---- The original's numbers ----


# Computed by the original code with the weights of `formula_tensor`, for the picture and the tokens below: logits of
# the first six tokens after the last one. Which revisions: docs/backbones.md.
GOLDEN = {
    (2024, (600, 420)): [-0.625076, 0.759198, 1.186535, 1.192755, 0.517183, -1.06587],
    (2024, (200, 150)): [0.266056, 0.065427, 1.167186, 1.005048, 0.326066, -1.22875],
    (2024, (1000, 300)): [-0.4767, 0.621914, 1.218733, 1.173578, 0.584166, -1.413159],
    (2025, (600, 420)): [-0.801526, -1.934009, -3.05892, -0.071123, -0.39851, -0.824376],
    (2025, (200, 150)): [-0.838203, -1.903777, -3.117416, 0.083242, -0.230606, -0.823364],
}
TOKENS = {
    2024: [11, 20, 12, 33, 44, 55, 13, 14, 40, 41, 42, 9],
    2025: [1, 20, 2, 33, 44, 55, 3, 3, 40, 41, 42, 9],
}


def golden_config(generation: int) -> MoonDream2Config:
    """Narrow, but with the 729 positions, the crops and the prefix of the real one. The original of 2025 takes the number
    of its vision layers for the side of its grid, and turns 32 numbers of a head of 64."""
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"hidden_size": 64, "intermediate_size": 80, "num_attention_heads": 4}
    if generation == 2025:
        vision = {"hidden_size": 16, "num_hidden_layers": 27, "num_attention_heads": 2}
        text = {"hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 2}
    geometry = {"image_size": 378, "patch_size": 14, "layer_norm_eps": 1e-5, "vision_use_head": False}
    return MoonDream2Config(
        vision_config=SiglipVisionConfig(intermediate_size=24, **vision, **geometry),
        text_config=PhiConfig(vocab_size=96, num_hidden_layers=2, **text),
        image_token_id=96,
        projector_hidden_size=48,
        **({"overlap_margin": 0, "bidirectional_prefix": False} if generation == 2024 else {}),
    )


def formula_picture(width: int, height: int) -> Image.Image:
    y, x, channel = np.mgrid[:height, :width, :3]
    return Image.fromarray(((x * 3 + y * 5 + channel * 60 + x * y // 40) % 256).astype(np.uint8))


@torch.no_grad()
@pytest.mark.parametrize(("generation", "size"), GOLDEN)
def test_the_logits_are_those_of_the_original_code(generation, size, synthetic_checkpoint):
    config = golden_config(generation)
    model = MoonDream2ForConditionalGeneration(config).eval()
    model.load_state_dict(convert.convert_weights(synthetic_checkpoint(config, generation), config))
    seen = MoonDream2ImageProcessor(overlap_margin=config.overlap_margin)(formula_picture(*size), return_tensors="pt")
    ids = torch.tensor([[0] + [config.image_token_id] * 729 + TOKENS[generation]])
    logits = model(input_ids=ids, **seen, logits_to_keep=1).logits[0, 0]
    torch.testing.assert_close(logits[:6], torch.tensor(GOLDEN[generation, size]), rtol=0, atol=2e-5)
