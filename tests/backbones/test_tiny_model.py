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

from trl_vlmq.backbones import TINY_MODELS, load_backbone, resolve_model, tiny_model_path
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


def test_an_embedded_model_is_known_by_its_name_but_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    assert resolve_model("tiny-cards") == tiny_model_path("tiny-cards")
    assert resolve_model("HuggingFaceTB/SmolVLM-256M-Instruct") == "HuggingFaceTB/SmolVLM-256M-Instruct"
    hand = Image.new("RGB", (112, 112))
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is your total?"}]}]
    by_name, by_path = load_backbone("tiny-cards"), load_backbone(tiny_model_path("tiny-cards"))
    for one, other in zip(by_name.model.parameters(), by_path.model.parameters(), strict=True):
        assert torch.equal(one, other)
    one, other = by_name.encode(prompt, [hand]), by_path.encode(prompt, [hand])
    assert one.tokens["input_ids"].tolist() == other.tokens["input_ids"].tolist()
    (tmp_path / "tiny-cards").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("tiny-cards") == "tiny-cards"


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


@torch.no_grad()
def answers_to(name: str, asked: list[tuple[Image.Image, str]], max_new_tokens: int) -> list[str]:
    """Greedy answers of an embedded model to questions about pictures."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_model_path(name))
    processor = AutoProcessor.from_pretrained(tiny_model_path(name))
    answers = []
    for start in range(0, len(asked), 100):
        chunk = asked[start : start + 100]
        prompts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": q}]}] for _, q in chunk]
        inputs = processor(
            text=processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False),
            images=[[image] for image, _ in chunk],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answers += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def test_the_tiny_vlm_sees_where_things_are():
    """Greedy answers about unseen layouts; a blind model answers "not in view" or guesses among some 20 places."""
    env = gym.make("BabyAI-GoToLocalS6N2-v0")
    asked, truth = [], []
    for seed in range(70_000, 70_060):
        env.reset(seed=seed)
        seen = visible_objects(env)
        names = [thing.name for thing in seen]
        for thing in seen[:2]:
            if names.count(thing.name) == 1:
                asked.append(
                    (Image.fromarray(env.unwrapped.get_pov_render(tile_size=16)), f"Where is the {thing.name}?")
                )
                truth.append(place(thing.forward, thing.right))
    right = np.mean([answer == fact for answer, fact in zip(answers_to("tiny-babyai", asked, 12), truth, strict=True)])
    assert len(asked) >= 50
    assert right > 0.9


def test_the_tiny_vlm_reads_the_hands_deals_and_lines_of_real_games():
    """What random play comes by, on seeds that neither pre-training nor logs use: at least 99% without any mistake."""
    asked, truth = [], []
    for game, episodes in (("Blackjack", 200), ("NumberLine", 20), ("EZPoints", 60), ("Points24", 60)):
        env = gym.make(f"trl_vlmq/{game}-v0", image_size=112).unwrapped
        for seed in range(70_000, 70_000 + episodes):
            observation, _ = env.reset(seed=seed)
            behavior = env.make_behavior("random", np.random.default_rng([seed, 1]))
            over = False
            while not over:
                asked.append((Image.fromarray(observation["image"]), "Describe what you see."))
                truth.append(env.describe())
                observation, _, terminated, truncated, _ = env.step(behavior.act())
                over = terminated or truncated or game.endswith(("Points", "24"))  # their pictures do not change
    wrong = [pair for pair in zip(truth, answers_to("tiny-cards", asked, 60), strict=True) if pair[0] != pair[1]]
    assert len(asked) > 500
    assert len(wrong) <= 0.01 * len(asked), wrong


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("tiny-babyai", '{"action": "turn toggle drop pick up"}'),
        ("tiny-cards", '{"action": "hit stand"}'),
        ("tiny-miniwob", "click('fill',noop()select_')"),
    ],
)
def test_it_has_never_seen_an_action(name, actions):
    """Tokens that no caption uses keep their initial rows, up to length: no row of an action word was trained."""
    folder = tiny_model_path(name)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    weights = load_file(Path(folder, "model.safetensors"))
    head = torch.nn.functional.normalize(next(v for k, v in weights.items() if "lm_head" in k), dim=1)
    ids = tokenizer(actions, add_special_tokens=False)["input_ids"]
    ids = sorted(set(ids) - set(tokenizer(":", add_special_tokens=False)["input_ids"]))
    rows = head[ids]
    similarity = rows @ rows.T - torch.eye(len(ids))
    # Random directions in 128 dimensions; rows pushed away together by a softmax would be nearly parallel.
    assert len(ids) >= 6 and similarity.abs().max() < 0.5


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
