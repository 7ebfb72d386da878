# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What is peculiar to xGen-MM: crops at any resolution, images among the text, a window of attention.

What it shares with other families is tested with them.
"""

from copy import deepcopy

import pytest
import torch

from trl_vlmq.backbones import XGenMMForConditionalGeneration, XGenMMImageProcessorPil, XGenMMProcessor, make_backbone
from trl_vlmq.backbones.xgen_mm.any_resolution import choose_grid, image_regions


GRIDS = XGenMMImageProcessorPil.image_grids


@pytest.fixture
def backbone(families):
    return families("xgen_mm").make()


def user(*parts: str) -> list[dict]:
    content = [{"type": "image"} if part == "image" else {"type": "text", "text": part} for part in parts]
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((480, 640), (2, 2)),
        ((300, 1000), (1, 3)),
        ((1000, 300), (3, 1)),
        ((700, 301), (2, 1)),
        ((84, 84), (2, 1)),  # small: no grid keeps more of it than another, nor wastes less than the first
        ((1199, 1200), (2, 2)),
    ],
)
def test_the_grid_of_crops_follows_the_shape_of_the_picture(picture, size, grid):
    height, width = size
    assert choose_grid(size, GRIDS, 384) == grid
    vision = XGenMMImageProcessorPil()(images=[picture(0, (width, height))], return_tensors="pt")
    assert vision["image_grids"].tolist() == [list(grid)] and vision["image_sizes"].tolist() == [list(size)]
    assert vision["pixel_values"].shape == (1 + grid[0] * grid[1], 3, 384, 384)


def test_crops_are_the_picture_between_black_bars(picture):
    image = picture(1, (24, 8))
    processor = XGenMMImageProcessorPil(size={"height": 8, "width": 8})
    crops = processor(images=[image], return_tensors="pt")["pixel_values"]
    expected = torch.tensor(list(image.getdata())).view(8, 24, 3).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(torch.cat(list(crops[1:]), dim=2), expected)
    wide = processor(images=[image.resize((24, 6))], return_tensors="pt")["pixel_values"]
    assert (wide[1:, :, [0, -1]] == -1).all() and (wide[1:, :, 1:-1] > -1).any()


def test_regions_are_read_line_by_line_and_bars_are_not_seen():
    """Two crops side by side, 2 x 2 patches each, of a picture whose upper and lower quarter would be bars."""
    features = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]])[..., None]
    regions, seen = image_regions(features, (10, 20), (1, 2))
    assert regions[:, :, 0].tolist() == [[0, 0, 0, 0], [1, 2, 5, 6], [3, 4, 7, 8]] and seen.all()
    _, seen = image_regions(features.repeat(1, 4, 1), (10, 40), (1, 2))
    assert seen.tolist() == [[True] * 16, [False] * 8 + [True] * 8, [True] * 8 + [False] * 8]


@torch.no_grad()
def test_what_the_bars_hold_changes_nothing(backbone):
    resampler, generator = backbone.model.model.resampler, torch.Generator().manual_seed(0)
    regions, seen = image_regions(torch.randn(4, 16, 16, generator=generator), (10, 60), (1, 3))
    assert seen.any(1).all() and not seen[1:].all()
    tokens, noise = resampler(regions, seen), torch.randn(regions.shape, generator=generator)
    torch.testing.assert_close(resampler(torch.where(seen[..., None], regions, noise), seen), tokens)
    changed = resampler(torch.where(seen[..., None], noise, regions), seen)
    assert (changed - tokens).abs().amax((1, 2)).min() > 1e-3


@torch.no_grad()
def test_pictures_stand_where_they_are_mentioned(backbone, picture):
    """Several of them in a turn, each of another number of crops; turning them round is another prompt."""
    pictures = [picture(1, (40, 12)), picture(2, (16, 16)), picture(3, (40, 40))]
    messages = user("first ", "image", "then ", "image", "image", "Which?")
    prompt = backbone.encode(messages, pictures)
    ids = prompt.tokens["input_ids"].tolist()
    text = backbone.tokenizer.decode(ids)
    counts = [2 * (1 + rows * columns) for rows, columns in ((1, 3), (2, 1), (2, 2))]
    runs = ["<image>" * count for count in counts]
    assert f"first {runs[0]}\nthen {runs[1]}\n{runs[2]}\nWhich?<|end|>" in text
    logits = backbone.forward(backbone.collate([prompt]), keep=1)[1]
    turned = backbone.forward(backbone.collate([backbone.encode(messages, pictures[::-1])]), keep=1)[1]
    assert (logits - turned).abs().max() > 1e-3


def test_the_published_system_message_is_there_unless_another_is_given(backbone):
    published = "A chat between a curious user and an artificial intelligence assistant."
    assert backbone.render(user("Hi.")).startswith(f" <|system|>\n{published}")
    own = backbone.render([{"role": "system", "content": "Be brief."}, *user("Hi.")])
    assert own == " <|system|>\nBe brief.<|end|>\n<|user|>\nHi.<|end|>\n<|assistant|>\n"


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 8])
def test_acting_has_the_log_probabilities_of_training(families, observe, window):
    """With the cache of keys and values and left padding, also where the prompt is longer than the window."""
    family = families("xgen_mm")
    model = family.make_model()
    config = deepcopy(model.config)
    config.text_config.sliding_window = window
    windowed = XGenMMForConditionalGeneration(config).eval()
    windowed.load_state_dict(model.state_dict())
    backbone = make_backbone(windowed, family.processor)
    prompts = [backbone.encode(*observe("Look.", 2, 1)), backbone.encode(*observe("A longer one.", 0, 2))]
    actions = backbone.generate(prompts, max_new_tokens=6)
    inputs = backbone.collate(prompts, [action.ids for action in actions])
    _, logits = backbone.forward(inputs, keep=max(len(action.ids) for action in actions))
    logp = logits.masked_fill(~backbone.valid_token_mask(), float("-inf")).log_softmax(-1)
    for row, action in enumerate(actions):
        chosen = logp[row, range(len(action.ids)), action.ids].sum().item()
        assert chosen == pytest.approx(action.logp, abs=1e-4)
    if window:
        whole = make_backbone(model, family.processor).forward(inputs, keep=1)[1]
        assert (whole - logits[:, -1:]).abs().max() > 1e-3, "the window shows"


@torch.no_grad()
def test_without_grids_a_picture_is_seen_as_a_whole_only(families, picture):
    family = families("xgen_mm")
    image_processor = XGenMMImageProcessorPil(size={"height": 16, "width": 16}, image_grids=[])
    backbone = make_backbone(family.make_model(), XGenMMProcessor(image_processor, family.processor.tokenizer, 2))
    prompt = backbone.encode(user("image", "What?"), [picture(1, (40, 12))])
    assert (prompt.tokens["input_ids"] == backbone.config.image_token_id).sum() == 2
    assert backbone.forward(backbone.collate([prompt]), keep=1)[1].isfinite().all()


def test_images_and_text_that_do_not_fit_are_refused(families, picture):
    model, processor = families("xgen_mm").make_model(), families("xgen_mm").processor
    inputs = processor(text=["<image>"], images=[[picture(1)]], return_tensors="pt")
    with pytest.raises(ValueError, match="holds 5 <image> tokens, but the images become 6"):
        model(**inputs | {"input_ids": inputs["input_ids"][:, 1:], "attention_mask": None})
    with pytest.raises(ValueError, match="holds 2 crops, but image_grids asks for 3"):
        model(**inputs | {"pixel_values": inputs["pixel_values"][:2]})
    with pytest.raises(ValueError, match="A crop is a square"):
        XGenMMImageProcessorPil(size={"height": 16, "width": 24})
