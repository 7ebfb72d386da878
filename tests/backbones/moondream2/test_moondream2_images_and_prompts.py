# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pictures are cut, and prompts written, as MoonDream2 was trained on them."""

import numpy as np
import pytest
import torch

from trl_vlmq.backbones.moondream2 import MoonDream2ImageProcessor


@pytest.fixture
def cut(picture):
    def of(overlap_margin: int, *size: int):
        processor = MoonDream2ImageProcessor(overlap_margin=overlap_margin)
        return processor(picture(7, size), return_tensors="pt")

    return of


# ---- Images ----

# Width, height -> rows, columns of local crops, as the original cuts them.
ADJACENT = {
    (200, 150): (1, 1), (511, 200): (1, 1), (512, 512): (1, 1), (600, 420): (1, 1), (600, 600): (2, 2),
    (750, 500): (2, 2), (500, 750): (2, 1), (1000, 300): (1, 2), (300, 520): (2, 1),
}  # fmt: skip
OVERLAPPING = {
    (200, 150): (1, 1), (378, 378): (1, 1), (391, 391): (3, 3), (600, 420): (2, 4), (1000, 300): (1, 1),
    (1500, 900): (2, 4),
}  # fmt: skip


@pytest.mark.parametrize(("margin", "grids"), [(0, ADJACENT), (4, OVERLAPPING)], ids=["2024", "2025"])
def test_pictures_are_cut_into_as_many_crops_as_by_the_original(cut, margin, grids):
    for size, grid in grids.items():
        seen = cut(margin, *size)
        assert tuple(seen["image_grids"][0].tolist()) == grid, size
        count = 1 + grid[0] * grid[1] if grid != (1, 1) else 1
        assert seen["pixel_values"].shape == (count, 3, 378, 378)
        assert seen["pixel_values"].min() >= -1 and seen["pixel_values"].max() <= 1


def test_neighbouring_crops_show_the_same_where_they_overlap(cut):
    crops = cut(4, 600, 420)["pixel_values"][1:].view(2, 4, 3, 378, 378)
    assert torch.equal(crops[:, :-1, ..., 266:], crops[:, 1:, ..., :112])
    assert torch.equal(crops[:-1, ..., 266:, :], crops[1:, ..., :112, :])


def test_adjacent_crops_are_the_picture_cut_without_a_gap(picture):
    image = picture(3, (756, 378))
    seen = MoonDream2ImageProcessor(overlap_margin=0)(image, return_tensors="pt")
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    assert seen["image_grids"].tolist() == [[1, 2]]
    torch.testing.assert_close(torch.cat([*seen["pixel_values"][1:]], dim=2), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_any_mode_and_arrays_are_read(picture, mode):
    processor = MoonDream2ImageProcessor()
    image = picture(3).convert(mode)
    expected = processor(image.convert("RGB"))["pixel_values"]
    assert torch.equal(processor(image)["pixel_values"], expected)
    assert torch.equal(processor([np.array(image.convert("RGB"))])["pixel_values"], expected)


# ---- Prompts ----


def test_a_question_is_asked_in_the_originals_words(backbone, observe):
    prompt, pictures = observe("What now?", 1)
    text = backbone.render(prompt)
    assert text == "<|endoftext|><image>\n\nQuestion: What now?\n\nAnswer:"
    ids = backbone.encode(prompt, pictures).tokens["input_ids"].tolist()
    image = backbone.config.image_token_id
    words = backbone.tokenizer(text.split("<image>")[1], add_special_tokens=False)["input_ids"]
    assert ids == [256] + [image] * 16 + words
    assert backbone.decode(backbone.completion_ids("Go on.")) == "Go on."
    spelled = backbone.tokenizer.decode(backbone.completion_ids("Go on."))
    assert spelled == " Go on.<|endoftext|>"


def test_earlier_answers_and_a_system_message_are_rendered_and_the_image_comes_first(backbone):
    def message(role: str, text: str, images: int = 0) -> dict:
        return {"role": role, "content": [{"type": "text", "text": text}] + [{"type": "image"}] * images}

    messages = [message("system", "Be brief."), message("user", "A?"), message("assistant", "Yes."),
                message("user", "B?", 1)]  # fmt: skip
    expected = "<|endoftext|><image>\n\nBe brief.\n\nQuestion: A?\n\nAnswer: Yes.\n\nQuestion: B?\n\nAnswer:"
    assert backbone.render(messages) == expected
    assert backbone._apply_template([*messages, message("assistant", "No.")]) == expected + " No.<|endoftext|>"
    assert backbone.render([{**m, "content": m["content"][0]["text"]} for m in messages]) == expected.replace(
        "<image>", ""
    )


def test_it_stops_at_the_end_of_the_text(backbone):
    assert backbone.stop_token_ids == [backbone.tokenizer.convert_tokens_to_ids("<|endoftext|>")] == [256]


def test_rows_without_a_token_and_the_image_token_are_no_actions(backbone):
    excluded = (~backbone.valid_token_mask()).nonzero()[:, 0].tolist()
    assert backbone.n_logits == 265 and excluded == list(range(257, 265))
    assert backbone.image_token_ids == [257]


def test_two_pictures_in_a_prompt_are_refused(backbone, observe):
    with pytest.raises(ValueError, match="one image per prompt, but this one holds 2.*history window of 1"):
        backbone.encode(*observe("Look.", 2))


def test_a_picture_in_the_midst_of_a_prompt_is_refused(backbone, picture):
    with pytest.raises(ValueError, match="reads the image first"):
        backbone.processor(text=["<|endoftext|>Look: <image>"], images=[picture(0)])


def test_a_batch_of_texts_is_padded_with_its_image_types(backbone, picture):
    texts = ["<|endoftext|><image>\n\nQuestion: a", "<|endoftext|>\n\nQuestion: a longer one"]
    batch = backbone.processor(text=texts, images=[picture(0)], padding=True, padding_side="left", return_tensors="pt")
    assert torch.equal(batch["mm_token_type_ids"] == 1, batch["input_ids"] == backbone.config.image_token_id)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 1 + 16 + len("\n\nQuestion: a"))
