# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import pytest

from trl_vlmq.envs import PromptBuilder


def observation(value, n_images=1):
    images = tuple(np.full((2, 3, 3), value, np.uint8) for _ in range(n_images))
    return {"image": images if n_images != 1 else images[0], "text": f"Step {value}."}


HISTORY = [(observation(0), '{"action": "a"}'), (observation(1), "rubbish\n <image>  "), (observation(2), "")]


def placeholders(messages):
    return sum(part["type"] == "image" for message in messages for part in message["content"])


def test_the_prompt_is_one_user_message_with_its_image_before_its_text():
    messages, images = PromptBuilder().build(observation(3), HISTORY)
    assert messages == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Step 3."}]}]
    assert [(image.size, image.mode, image.getpixel((0, 0))) for image in images] == [((3, 2), "RGB", (3, 3, 3))]


def test_history_lists_the_newest_actions_oldest_first():
    messages, images = PromptBuilder(history=2).build(observation(3), HISTORY)
    assert messages[-1]["content"][-1]["text"] == "Earlier: rubbish (image); (nothing)\nStep 3."
    assert len(images) == placeholders(messages) == 1


def test_a_placeholder_that_the_agent_once_wrote_is_not_taken_for_an_image():
    messages, _ = PromptBuilder(history=3).build(observation(3), HISTORY)
    assert "<image>" not in messages[-1]["content"][-1]["text"]


def test_past_images_come_before_the_current_ones():
    messages, images = PromptBuilder(history=2, history_images=True).build(observation(3, n_images=2), HISTORY)
    assert [image.getpixel((0, 0))[0] for image in images] == [1, 2, 3, 3]
    assert [part["type"] for part in messages[0]["content"]] == ["image"] * 4 + ["text"]


def test_the_first_turn_has_no_history_to_list():
    assert PromptBuilder(history=3).build(observation(3))[0] == PromptBuilder().build(observation(3))[0]


def test_a_system_message_comes_first():
    messages, _ = PromptBuilder(system="Be brief.").build(observation(3))
    assert messages[0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert [message["role"] for message in messages] == ["system", "user"]


def test_a_text_only_model_gets_no_images():
    messages, images = PromptBuilder(history=2, images=False).build(observation(3), HISTORY)
    assert images == [] and placeholders(messages) == 0


def test_images_do_not_change_when_the_observation_does():
    seen = observation(3)
    _, images = PromptBuilder().build(seen)
    seen["image"][:] = 0
    assert images[0].getpixel((0, 0)) == (3, 3, 3)


def test_a_checkpoint_can_record_the_settings():
    builder = PromptBuilder(history=4, history_images=True, system="Be brief.")
    assert PromptBuilder.from_dict(json.loads(json.dumps(builder.to_dict()))) == builder


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="history=-1"):
        PromptBuilder(history=-1)
    with pytest.raises(ValueError, match="history_images=True needs history"):
        PromptBuilder(history_images=True)
    with pytest.raises(ValueError, match=r"Unknown prompt settings \['window'\]"):
        PromptBuilder.from_dict({"window": 2})
