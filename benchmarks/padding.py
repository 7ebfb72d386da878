# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
What share of the positions that go through the model is padding, in batches of the examples' logs.

Plays episodes of the scripted behaviours, draws segments as training does and collates them with the embedded models;
"sorted" is what batches of turns of one length would have left.

    python benchmarks/padding.py --episodes 500
"""

import argparse

import torch
from training_steps import BABYAI, BLACKJACK

from trl_vlmq import BehaviorPolicy, ReplayBuffer, episodes_to_dataset, play_episodes
from trl_vlmq.backbones import load_backbone, tiny_model_path
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.logs import parse_mixture


# name, environment, behaviours, embedded model, turns recalled in the prompt, segments in a batch (the examples')
LOGS = (
    ("BabyAI", BABYAI, "expert:1,wrong_goal:1,random:1", "tiny-babyai", 0, 32),
    ("BabyAI, 3 turns recalled", BABYAI, "expert:1,wrong_goal:1,random:1", "tiny-babyai", 3, 32),
    ("Blackjack", BLACKJACK, "random", "tiny-cards", 0, 64),
)


def padding(masks: list[torch.Tensor]) -> float:
    """Share of zeros in attention masks."""
    return 1 - sum(mask.sum().item() for mask in masks) / sum(mask.numel() for mask in masks)


def best(masks: list[torch.Tensor]) -> float:
    """The same, had the rows of all masks been sorted by length before they were batched."""
    lengths = torch.cat([mask.sum(1) for mask in masks]).sort().values
    batches = lengths.split(max(len(mask) for mask in masks))
    return 1 - lengths.sum().item() / sum(len(batch) * batch.max().item() for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--batches", type=int, default=20)
    args = parser.parse_args()
    print("| logs | turns a segment | rows a batch | positions a row | padding | sorted |")
    print("|---|---|---|---|---|---|")
    for name, env, behaviors, model, history, size in LOGS:
        policy, builder = BehaviorPolicy(parse_mixture(behaviors)), PromptBuilder(history=history)
        dataset = prepare_episodes(
            episodes_to_dataset(
                play_episodes(policy=policy, num_episodes=args.episodes, prompt_builder=builder, **env)
            )
        )
        collate = TokenTDCollator(load_backbone(tiny_model_path(model)))
        for length in (1, 4):
            buffer = ReplayBuffer(dataset, length, segments_per_epoch=size * args.batches)
            batches = [collate([buffer[b * size + i] for i in range(size)]) for b in range(args.batches)]
            masks = [
                batch[part]["attention_mask"]
                for batch in batches
                for part in ("inputs", "bootstrap_inputs")
                if part in batch
            ]
            rows = sum(len(mask) for mask in masks) / args.batches
            width = sum(mask.numel() for mask in masks) / sum(len(mask) for mask in masks)
            print(
                f"| {name} | {length} | {rows:.0f} | {width:.0f} | {padding(masks):.1%} | {best(masks):.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
