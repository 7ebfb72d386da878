# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Does a real vLLM server act as this process does? A run that plays there, then the same situations asked here and there.

VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve FOLDER_OF_TINY_BABYAI --enable-lora --max-lora-rank 64 --dtype float32
python benchmarks/vllm_play.py --url http://localhost:8000
"""

import argparse
import tempfile
import time
from collections import Counter

import gymnasium as gym
from peft import LoraConfig

from trl_vlmq import (
    AFSFTConfig,
    AFSFTTrainer,
    BehaviorPolicy,
    LinearSchedule,
    OnlineRolloutCallback,
    VLLMClient,
    VLMPolicy,
    episodes_to_dataset,
    play_episodes,
    tiny_model_path,
)
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.policies import Situation
from trl_vlmq.vllm_policy import ServedAdapter


ENV = "trl_vlmq/BabyAI-GoToLocalS6N2-v0"


def first_turn(seed: int) -> Situation:
    env = gym.make(ENV)
    return Situation(seed, 0, *PromptBuilder().build(env.reset(seed=seed)[0]), env)


def train(client: VLLMClient, folder: str) -> AFSFTTrainer:
    """Three rounds of play on the server, and 60 steps on an expert's logs and on them."""
    play = OnlineRolloutCallback(
        ENV, episodes_per_round=16, num_envs=16, epsilon=LinearSchedule(0.1, 0.1, 3), vllm=client
    )
    args = AFSFTConfig(
        folder, num_train_epochs=3, segments_per_epoch=160, per_device_train_batch_size=8, learning_rate=2e-3,
        filter_warmup_ratio=0.9, report_to="none", save_strategy="no", use_cpu=True, logging_steps=20,
    )  # fmt: skip
    logs = episodes_to_dataset(play_episodes(ENV, BehaviorPolicy("expert"), 60, seed=1))
    lora = LoraConfig(r=32, lora_alpha=64)
    trainer = AFSFTTrainer(
        tiny_model_path("tiny-babyai"), args, train_dataset=logs, peft_config=lora, callbacks=[play]
    )
    trainer.train()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000", help="the server, which holds tiny-babyai")
    args = parser.parse_args()
    client = VLLMClient(args.url)
    with tempfile.TemporaryDirectory() as folder:
        trainer = train(client, folder)
        backbone, served = trainer.model.backbone, ServedAdapter(client, f"{folder}/vllm")
        served.update(backbone)
        for entry in trainer.state.log_history:
            if "rollout_success" in entry:
                print(f"round: success {entry['rollout_success']:.0%}, syntax {entry['rollout_syntax_accuracy']:.0%}")

        situations = [first_turn(seed) for seed in range(64)]
        here, there = VLMPolicy(backbone), served.policy(backbone)
        there.act(situations[:1])
        seconds, answers = [], []
        for policy in (here, there):
            start = time.perf_counter()
            answers.append(policy.act(situations))
            seconds.append(time.perf_counter() - start)
        same = sum(a.ids == b.ids for a, b in zip(*answers, strict=True))
        apart = max(abs(a.logp - b.logp) for a, b in zip(*answers, strict=True))
        print(f"greedy: {same} of {len(situations)} actions are the same, log-probabilities at most {apart:.1e} apart")
        print(f"time there / here: {seconds[1] / seconds[0]:.1f}")

        sampled = served.policy(backbone, temperature=1.0)
        together = sampled.act(situations)
        in_fours = [a for i in range(0, len(situations), 4) for a in sampled.act(situations[i : i + 4])]
        same = sum(a.ids == b.ids for a, b in zip(together, in_fours, strict=True))
        print(f"sampled all at once and four at a time: {same} of {len(situations)} are the same")

        one = situations[0]
        often = [Situation(seed, 0, one.prompt, one.images, one.env) for seed in range(300)]
        for name, policy in (("here", VLMPolicy(backbone, temperature=1.0)), ("there", sampled)):
            counts = Counter(action.text for action in policy.act(often))
            print(f"300 samples of one situation, {name}: {counts.most_common(3)}")


if __name__ == "__main__":
    main()
