# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Prompts become the tensors that the processor makes of them, and actions the tokens that the model would write."""

import copy
import errno
import io
import os

import PIL.Image
import pytest
import torch

from trl_vlmq.backbones import make_backbone
from trl_vlmq.backbones.cache import ByteLRU, SpillingLRU


def stored(image: PIL.Image.Image) -> dict:
    """As `datasets` stores an image."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(params=["llava", "idefics3", "llama", "qwen2", "phi"])
def family(request, families):
    """Two templates of models that see, and one of models that read."""
    return families(request.param)


SIZES = ([], [(16, 16)], [(16, 16), (40, 24)], [(24, 40), (16, 16), (70, 70)])


@pytest.mark.parametrize("sizes", SIZES, ids=len)
def test_pixels_and_text_encoded_apart_equal_one_call_of_the_processor(vision_family, picture, sizes):
    if vision_family.needs_image and not sizes:
        pytest.skip("its processor refuses prompts without an image")
    backbone = vision_family.make()
    images = [picture(seed, size) for seed, size in enumerate(sizes)]
    content = [{"type": "image"}] * len(images) + [{"type": "text", "text": "What now?"}]
    messages = [{"role": "user", "content": content}]
    whole = vision_family.own_inputs(backbone, messages, images)
    whole.pop("attention_mask")
    for given in (images, [stored(image) for image in images], images):  # the last time from the cache
        prompt = backbone.encode(messages, given)
        encoded = prompt.vision | {name: values[None] for name, values in prompt.tokens.items()}
        assert encoded.keys() == whole.keys()
        assert all(torch.equal(encoded[name], value) for name, value in whole.items())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_any_mode_are_shown_in_colour(vision_family, picture, mode):
    backbone = vision_family.make()
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    image = picture(3).convert(mode)
    expected = backbone.encode(messages, [image.convert("RGB")]).vision["pixel_values"]
    assert torch.equal(backbone.encode(messages, [image]).vision["pixel_values"], expected)
    assert torch.equal(backbone.encode(messages, [stored(image)]).vision["pixel_values"], expected)


def test_the_text_of_an_image_part_may_be_null_as_a_dataset_stores_it(family, observe):
    backbone = family.make()
    messages, images = observe("Go.", int(family.has_vision))
    null = [
        {
            "role": "user",
            "content": [{"type": part["type"], "text": part.get("text")} for part in messages[0]["content"]],
        }
    ]
    assert torch.equal(
        backbone.encode(null, images).tokens["input_ids"], backbone.encode(messages, images).tokens["input_ids"]
    )


def test_a_system_message_and_earlier_turns_are_rendered(family):
    backbone = family.make()

    def part(text: str) -> list[dict]:
        return [{"type": "text", "text": text}]

    messages = [
        {"role": "system", "content": part("Be brief.")},
        {"role": "user", "content": part("Hello?")},
        {"role": "assistant", "content": part("Yes.")},
        {"role": "user", "content": part("Again?")},
    ]
    text = backbone.tokenizer.decode(backbone.encode(messages, []).tokens["input_ids"])
    found = [text.index(word) for word in ("Be brief.", "Hello?", "Yes.", "Again?")]
    assert found == sorted(found)


# ---- Actions ----


def test_the_token_that_ends_a_turn_is_found_in_the_chat_template(family):
    backbone = family.make()
    assert backbone.stop_token_id == backbone.tokenizer.convert_tokens_to_ids(family.turn_ends_with)
    assert backbone.stop_token_ids == sorted({backbone.stop_token_id, backbone.tokenizer.eos_token_id})


def test_without_such_a_token_eos_ends_a_turn(tiny_llm):
    make, tokenizer = tiny_llm
    template = tokenizer.chat_template
    tokenizer.chat_template = template.replace("<end>", "\n")
    try:
        assert make_backbone(make(), tokenizer).stop_token_id == tokenizer.eos_token_id
    finally:
        tokenizer.chat_template = template


def test_further_stop_tokens_of_the_generation_config_end_an_action_too(tiny_llm):
    make, tokenizer = tiny_llm
    model = make()
    model.generation_config.eos_token_id = [0, 5]
    assert make_backbone(model, tokenizer).stop_token_ids == [0, 1, 5]


@pytest.mark.parametrize("text", ['{"action": "turn left"}', "naïve 🙂", " leading", "trailing ", "two\nlines", ""])
def test_the_tokens_of_an_action_are_those_of_the_chat_template(family, text):
    backbone = family.make()
    prompt = [{"role": "user", "content": [{"type": "text", "text": "Go."}]}]
    ids = backbone.completion_ids(text)
    assert ids[-1] == backbone.stop_token_id and backbone.decode(ids) == text
    if not text:
        assert ids == [backbone.stop_token_id]
        return
    answer = [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
    rendered = backbone.render(prompt) + family.answer_begins_with + text + family.turn_ends_with
    template = backbone._apply_template(prompt + answer)
    assert template.startswith(rendered)
    whole = backbone.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    assert backbone.encode(prompt, []).tokens["input_ids"].tolist() + ids == whole


def test_an_action_is_appended_to_the_prompt_without_its_last_token(family, observe):
    backbone = family.make()
    prompts = [backbone.encode(*observe(text)) for text in ("a", "a longer one")]
    batch = backbone.collate(prompts, [[7, 8, 9], [1]])
    pad, widths = backbone.pad_token_id, [len(prompt) for prompt in prompts]
    assert batch["input_ids"].shape == (2, widths[1] + 2)
    assert batch["input_ids"][0].tolist() == [pad] * 11 + prompts[0].tokens["input_ids"].tolist() + [7, 8]
    assert batch["input_ids"][1].tolist() == prompts[1].tokens["input_ids"].tolist() + [pad, pad]
    assert batch["attention_mask"].tolist() == [[0] * 11 + [1] * (widths[0] + 2), [1] * widths[1] + [0, 0]]
    assert batch["position_ids"][0, 11:].tolist() == list(range(widths[0] + 2))
    assert batch["position_ids"][1, : widths[1]].tolist() == list(range(widths[1]))


def test_a_text_model_refuses_pictures(families, observe):
    with pytest.raises(ValueError, match="Qwen2ForCausalLM reads text only, but the prompt holds 2 image"):
        families("qwen2").make().encode(*observe("Look.", 2))


def test_a_prompt_with_more_placeholders_than_pictures_is_refused(vision_family, observe):
    messages, images = observe("Look.", 2)
    with pytest.raises(ValueError):
        backbone = vision_family.make()
        prompt = backbone.encode(messages, images[:1])
        backbone.forward(backbone.collate([prompt]), keep=1)


# ---- The cache ----


def test_equal_pictures_are_processed_once(vision_family, picture, monkeypatch):
    backbone = vision_family.make()
    opened, real = [], backbone.open_image
    monkeypatch.setattr(backbone, "open_image", lambda image: opened.append(image.tobytes()) or real(image))
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    for seed in (1, 2, 1, 1, 2):
        backbone.encode(messages, [picture(seed)])
    assert [opened.count(picture(seed).tobytes()) for seed in (1, 2)] == [1, 1]


def test_pictures_that_differ_in_one_pixel_are_told_apart(vision_family, picture):
    backbone = vision_family.make()
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    other = picture(1)
    other.putpixel((3, 3), (0, 0, 0))
    seen = [backbone.encode(messages, [image]).vision["pixel_values"] for image in (picture(1), other)]
    assert not torch.equal(*seen)


def test_the_cache_keeps_to_its_limit_and_forgets_the_oldest():
    cache, made = ByteLRU(limit=100), []

    def entry(key: str):
        return cache.get(key, lambda: made.append(key) or {"x": torch.zeros(10)})  # 40 bytes

    for key in ("a", "b", "a", "c", "a", "b"):
        entry(key)
    assert made == ["a", "b", "c", "b"] and cache.size == 80


def test_an_entry_larger_than_the_limit_is_still_returned():
    cache = ByteLRU(limit=10)
    assert cache.get("a", lambda: {"x": torch.ones(100)})["x"].sum() == 100
    assert cache.get("b", lambda: {"x": torch.ones(2)})["x"].sum() == 2 and cache.size == 8


def feature(seed: int) -> dict[str, torch.Tensor]:
    """64 bytes of three dtypes and a shape of none."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(3, 4, generator=generator).mT,
        "rounded": torch.randn(4, generator=generator).bfloat16(),
        "size": torch.tensor(seed),
    }


def test_what_leaves_memory_comes_back_from_the_file_as_it_was():
    cache, made = SpillingLRU(limit=130, file_limit=10_000), []
    for round_ in range(3):
        for key in range(10):
            entry = cache.get(key, lambda key=key: made.append(key) or feature(key))
            for name, tensor in feature(key).items():
                assert entry[name].dtype == tensor.dtype and torch.equal(entry[name], tensor), (round_, key, name)
    assert made == list(range(10)) and cache.size <= 130


def test_a_file_that_is_full_takes_no_more_and_loses_nothing():
    cache, made = SpillingLRU(limit=64, file_limit=3 * 64), []
    for _ in range(2):
        for key in range(6):
            cache.get(key, lambda key=key: made.append(key) or feature(key))
    assert sorted(made) == sorted([*range(6), 3, 4, 5])


def test_a_disk_that_is_full_stops_no_training(monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache, made = SpillingLRU(limit=64, file_limit=10_000), []
    cache.get("a", lambda: feature(1)), cache.get("b", lambda: feature(2))  # "a" is in the file
    monkeypatch.setattr(os, "pwrite", refuse)
    for key in ("c", "d", "b", "a"):
        cache.get(key, lambda key=key: made.append(key) or feature(3))
    assert made == ["c", "d", "b"]


def test_a_copy_of_a_cache_has_a_file_of_its_own():
    cache = SpillingLRU(limit=64, file_limit=10_000)
    cache.get("a", lambda: feature(1)), cache.get("b", lambda: feature(2))
    other = copy.deepcopy(cache)
    assert (other.limit, other.file_limit, other.size) == (64, 10_000, 0)
    other.get("a", lambda: feature(3)), other.get("b", lambda: feature(4))
    assert cache.get("a", lambda: feature(5))["size"] == 1 and other.get("a", lambda: feature(5))["size"] == 3


def test_a_file_is_forgotten_with_its_cache():
    cache = SpillingLRU(limit=64, file_limit=10_000)
    cache.get("a", lambda: feature(1)), cache.get("b", lambda: feature(2))
    cache.clear()
    assert cache.get("a", lambda: feature(3))["size"] == 3
    cache.get("b", lambda: feature(4))
    assert cache.get("a", lambda: feature(5))["size"] == 3


def test_a_worker_process_neither_reads_nor_spoils_the_file_of_its_parent():
    cache = SpillingLRU(limit=64, file_limit=10_000)
    cache.get("a", lambda: feature(1)), cache.get("b", lambda: feature(2))
    child = os.fork()
    if not child:
        for seed in range(5, 9):
            cache.get(seed, lambda seed=seed: feature(seed))
        right = all(cache.get(seed, lambda: feature(0))["size"] == seed for seed in range(5, 9))
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(cache.get("a", lambda: feature(0))["features"], feature(1)["features"])
