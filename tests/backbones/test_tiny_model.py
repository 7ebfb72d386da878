# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from trl_vlmq.backbones import TINY_MODELS, tiny_model_path
from trl_vlmq.envs.babyai_view import place, visible_objects


REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_embedded_model_is_small_and_loads_like_any_other(name):
    folder = Path(tiny_model_path(name))
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model) is LlavaForConditionalGeneration
    assert sum(p.numel() for p in model.parameters()) <= 3_000_000
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")


def test_an_unknown_embedded_model_names_the_known_ones():
    with pytest.raises(ValueError, match="tiny-babyai"):
        tiny_model_path("tiny-chess")


@pytest.mark.parametrize(
    "text", ['{"action": "turn left"}', "naïve 日本語 🙂", "two  spaces\nand a line\t", "<0x41> <|user|x", ""]
)
def test_any_text_survives_the_tokenizer(text):
    tokenizer = AutoProcessor.from_pretrained(tiny_model_path()).tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_tiny_vlm_sees_where_things_are():
    """Greedy answers about unseen layouts; a blind model answers "not in view" or guesses among some 20 places."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_path())
    processor = AutoProcessor.from_pretrained(tiny_model_path())
    env = gym.make("BabyAI-GoToLocalS6N2-v0")
    asked = []
    for seed in range(70_000, 70_060):
        env.reset(seed=seed)
        seen = visible_objects(env)
        names = [thing.name for thing in seen]
        for thing in seen[:2]:
            if names.count(thing.name) == 1:
                image = Image.fromarray(env.unwrapped.get_pov_render(tile_size=16))
                asked.append((image, f"Where is the {thing.name}?", place(thing.forward, thing.right)))
    prompts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q}]}] for _, q, _ in asked]
    inputs = processor(
        text=processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False),
        images=[[image] for image, _, _ in asked],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    right = sum(answer == truth for answer, (_, _, truth) in zip(answers, asked, strict=True))
    assert len(asked) >= 50
    assert right / len(asked) > 0.9, f"{right} of {len(asked)} right"


def test_it_has_never_seen_an_action():
    """Tokens that no caption uses keep their initial rows, up to length: no row of an action word was trained."""
    folder = tiny_model_path()
    report = json.loads(Path(folder, "pretraining.json").read_text())
    assert report["continued"] and report["where_accuracy"] > 0.9
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    weights = load_file(Path(folder, "model.safetensors"))
    head = torch.nn.functional.normalize(next(v for k, v in weights.items() if "lm_head" in k), dim=1)
    ids = tokenizer('{"action": "turn toggle drop pick up"}', add_special_tokens=False)["input_ids"]
    rows = head[ids]
    similarity = rows @ rows.T - torch.eye(len(ids))
    # Random directions in 128 dimensions; rows pushed away together by a softmax would be nearly parallel.
    assert similarity.abs().max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["babyai", "cards"])
def test_the_pretraining_script_is_reproducible(tmp_path, domain):
    digests = []
    for run in ("a", "b"):
        command = [
            sys.executable, "examples/pretrain_tiny_vlm.py", "--output_dir", str(tmp_path / run),
            "--domain", domain, "--num_layouts", "8", "--steps", "2", "--batch_size", "4", "--held_out", "6",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, capture_output=True)
        digests.append((tmp_path / run / "model.safetensors").read_bytes())
    assert digests[0] == digests[1]
    assert np.isfinite(json.loads((tmp_path / "a" / "pretraining.json").read_text())["loss"])
