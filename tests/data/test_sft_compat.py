# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An episode dataset must train TRL's own trainer as it is."""

import numpy as np
import PIL.Image
import pytest
import torch
from trl import SFTConfig, SFTTrainer

from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.storage import load_episodes, save_episodes


@pytest.fixture
def dataset():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)

    def turn(index: int, image_count: int, last: bool) -> Turn:
        content = [{"type": "image"}] * image_count + [{"type": "text", "text": f"Observation {index}."}]
        system = {"role": "system", "content": [{"type": "text", "text": "You walk."}]}
        prompt = [system, {"role": "user", "content": content}]
        images = [PIL.Image.fromarray(pixels[(index + i) % 8]) for i in range(image_count)]
        completion = "" if index == 1 else '{"action": "go forward"}'
        return Turn(prompt, images, completion, 1.0, False, last, prompt if last else None, images if last else None)

    return episodes_to_dataset(Episode(str(i), [turn(j, 1 + i % 2, j == 3) for j in range(4)]) for i in range(2))


def test_sft_trainer_trains_on_an_episode_dataset_unchanged(dataset, tiny_vlm, tmp_path):
    save_episodes(dataset, tmp_path / "episodes.parquet")
    make, processor = tiny_vlm
    model = make()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "sft"),
            max_steps=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            max_length=None,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=load_episodes(tmp_path / "episodes.parquet"),
        processing_class=processor,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    image_tokens = (batch["input_ids"] == processor.image_token_id).sum().item()
    assert image_tokens == 4 * batch["pixel_values"].shape[0] >= 16
    learned = processor.tokenizer.batch_decode([row[row != -100] for row in batch["labels"]])
    assert set(learned) <= {'{"action": "go forward"}<end>', "<end>"}

    trainer.train()
    assert np.isfinite(trainer.state.log_history[-1]["train_loss"])
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert any("language_model" in name for name in moved)
    assert any("projector" in name for name in moved), "the images did not reach the loss"
