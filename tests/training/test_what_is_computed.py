# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What training pays for, counted: rows through the trunk, and pictures through the vision tower."""

from collections import Counter

import PIL.Image
import pytest
import torch

from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.replay import ReplayBuffer


class TrunkRows:
    """Rows and width of every forward of a decoder, with gradient and without."""

    def __init__(self, trainer):
        self.trained, self.untrained = [], []
        layers = [m for m in trainer.model.model.modules() if type(m).__name__ == "LlamaDecoderLayer"]
        layers[0].register_forward_pre_hook(self.count)

    def count(self, layer, args):
        (self.trained if torch.is_grad_enabled() else self.untrained).append(tuple(args[0].shape[:2]))


@pytest.mark.parametrize("streamed_head", [True, False])
@pytest.mark.parametrize("segment_length", [1, 2, 4])
def test_k_turns_cost_k_rows_with_gradient_and_one_without_unless_the_episode_ends(
    make_trainer, episodes, segment_length, streamed_head
):
    trainer = make_trainer(streamed_head=streamed_head)
    model, collate = trainer.model.train(), TokenTDCollator(trainer.model.backbone)
    segments = list(ReplayBuffer(episodes, segment_length))
    batch = collate(segments[:1])
    model(**batch)  # the first forward looks for the formula of the head
    rows, ended = TrunkRows(trainer), Counter()
    for segment in segments:
        batch = collate([segment])
        rows.trained.clear(), rows.untrained.clear()
        model(**batch)["loss"].backward()
        assert rows.trained == [(len(segment.rows), batch["inputs"]["input_ids"].shape[1])]
        if segment.rows[-1]["terminated"]:
            assert rows.untrained == []
        else:  # the following observation alone, without an action after it
            following = model.backbone.encode(segment.next_prompt, segment.next_images)
            assert rows.untrained == [(1, len(following))]
        ended[segment.rows[-1]["terminated"]] += 1
    assert min(ended.values()) >= 3, "the segments do not end in both ways"


def test_segments_of_a_batch_share_their_forwards(make_trainer, episodes):
    trainer = make_trainer()
    model, collate = trainer.model.train(), TokenTDCollator(trainer.model.backbone)
    segments = list(ReplayBuffer(episodes, 4))
    batch = collate(segments)
    model(**batch)
    rows = TrunkRows(trainer)
    model(**batch)["loss"].backward()
    followed = sum(not segment.rows[-1]["terminated"] for segment in segments)
    assert [count for count, _ in rows.trained] == [len(episodes)]
    assert [count for count, _ in rows.untrained] == [followed]
    assert 0 < followed < len(segments)


# ---- The vision tower ----


def pictures(episodes) -> set[bytes]:
    """What the pictures of a dataset show, each once."""
    shown = [image for name in ("images", "final_images") for images in episodes[name] for image in images or []]
    return {image.tobytes() for image in shown}


def count_tower(trainer) -> list[int]:
    """Pictures of every forward of the vision tower, from now on."""
    passed = []
    tower = trainer.model.backbone._base.model.vision_tower
    tower.register_forward_pre_hook(
        lambda m, args, kwargs: passed.append(len(kwargs.get("pixel_values", *args))), with_kwargs=True
    )
    return passed


def test_each_picture_passes_a_frozen_tower_once_in_a_run(make_trainer, episodes):
    trainer = make_trainer(max_steps=-1, num_train_epochs=2, segment_length=1)
    passed = count_tower(trainer)
    trainer.train()
    assert trainer.state.epoch == 2
    assert sum(passed) == len(passed) == len(pictures(episodes)) == 8


def test_remembered_pictures_train_as_those_that_pass_the_tower_each_time(make_trainer, trajectory, monkeypatch):
    remembering = make_trainer()
    remembering.train()
    monkeypatch.setattr("trl_vlmq.backbones.base.Backbone.caches_features", False)
    looking = make_trainer()
    passed = count_tower(looking)
    looking.train()
    assert sum(passed) > 8
    for ours, theirs in zip(trajectory(remembering), trajectory(looking), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_a_tower_that_is_trained_sees_every_picture_every_time(make_trainer):
    trainer = make_trainer(lora=False)
    passed = count_tower(trainer)
    trainer.train()
    assert sum(passed) > 2 * 8


def test_a_tower_thawed_after_the_trainer_was_made_is_trained(make_trainer, snapshot):
    trainer = make_trainer()
    trainer.train()
    tower = trainer.model.backbone._base.model.vision_tower
    before = snapshot(tower)
    tower.requires_grad_(True)
    passed = count_tower(trainer)
    trainer.optimizer = trainer.lr_scheduler = None  # made anew, with the tower
    trainer.train()
    assert sum(passed) > 2 * 8
    assert any(not torch.equal(before[name], tensor) for name, tensor in snapshot(tower).items())


def test_pictures_are_processed_anew_once_the_processor_was_changed(make_trainer):
    backbone = make_trainer().model.backbone
    picture = PIL.Image.effect_noise((16, 16), 80).convert("RGB")
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Go."}]}]
    before = backbone.encode(prompt, [picture]).vision["image_features"]
    backbone.processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    after = backbone.encode(prompt, [picture]).vision["image_features"]
    assert not torch.equal(before, after)
