# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A lamp to switch on; and, run as a script, a whole online run of its own, for the tests that kill or multiply it."""

import argparse
import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from trl_vlmq.envs import TextActionEnv, image_space


sys.path.append(str(Path(__file__).parents[1]))


class FirstLetter:
    """What a text means hangs on its first letter, so that a random language model says something now and then."""

    def format(self, action: str) -> str:
        return {"off": "d", "on": "e"}[action]

    def parse(self, text: str) -> str | None:
        if not text or not text[0].isalpha() or text[0] == "s":
            return None
        return "on" if ord(text[0]) % 2 else "off"

    def describe(self) -> str:
        return "Say something."


class Lamp(TextActionEnv):
    """Three turns to say "on", which is success; "off" and nonsense are not."""

    def __init__(self, max_steps: int = 3):
        super().__init__(FirstLetter(), image_space(16, 16), max_steps=max_steps)

    def _reset(self, seed, options):
        self.color = int(self.np_random.integers(256))

    def _observe(self):
        return np.full((16, 16, 3), self.color, np.uint8), f"Turn {self.elapsed_steps}."

    def _execute(self, action):
        on = action == "on"
        return float(on), on, False, on, on

    def legal_actions(self):
        return ["off", "on"]


def digest(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """A fingerprint of each tensor's bits."""
    return {
        name: hashlib.sha256(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, tensor in sorted(tensors.items())
        if tensor.numel()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--uneven", action="store_true", help="the first process's episodes are longer than the other's"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--save_steps", type=int, default=3)
    parser.add_argument("--vllm", help="address of a server to play on")
    parser.add_argument("--curve", action="store_true", help="evaluate on the way")
    args = parser.parse_args()

    from accelerate import PartialState
    from fsdp_on_cpu import shard_on_cpu
    from peft import LoraConfig
    from safetensors.numpy import load_file
    from transformers import TrainerCallback

    from trl_vlmq import (
        AFSFTConfig,
        AFSFTTrainer,
        BehaviorPolicy,
        LinearSchedule,
        OnlineRolloutCallback,
        PolicyEvaluationCallback,
        VLLMClient,
        VLMPolicy,
        episodes_to_dataset,
        evaluate_policy,
        play_episodes,
    )  # fmt: skip
    from trl_vlmq.checkpoints import newest_checkpoint

    class Ready(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            print("ready", flush=True)

    config = AFSFTConfig(
        args.output_dir, num_train_epochs=args.epochs, segments_per_epoch=16, per_device_train_batch_size=2, segment_length=2,
        learning_rate=1e-2, logging_steps=1, save_steps=args.save_steps, save_total_limit=3, report_to="none", disable_tqdm=True,
        use_cpu=True, filter_warmup_ratio=0.2, replay_priority="td_error", replay_capacity_turns=600,
    )  # fmt: skip
    shard_on_cpu()
    rank = PartialState().process_index

    def make():
        return Lamp(max_steps=6 if args.uneven and rank == 0 else 2 if args.uneven else 3)

    make.__name__ = "lamp"
    callback = OnlineRolloutCallback(
        make, episodes_per_round=24, num_envs=4, start_epoch=1, epsilon=LinearSchedule(0.6, 0.1, 3), max_new_tokens=3,
        vllm=VLLMClient(args.vllm) if args.vllm else None,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = AFSFTTrainer(
        args.base,
        config,
        train_dataset=episodes_to_dataset(play_episodes(Lamp, BehaviorPolicy("random"), 20, seed=1)),
        peft_config=LoraConfig(r=4, lora_alpha=8),
        callbacks=[callback, Ready()],
    )
    evaluate = functools.partial(evaluate_policy, Lamp, num_episodes=12, num_envs=4, progress=None)
    curve = PolicyEvaluationCallback(evaluate, VLMPolicy(trainer.model.backbone, max_new_tokens=3), every_steps=8)
    if args.curve:
        trainer.add_callback(curve)
    resume = args.resume and newest_checkpoint(args.output_dir) is not None
    trainer.train(resume_from_checkpoint=resume or None)
    rounds = [
        {name: value for name, value in entry.items() if not name.endswith("_per_second")}
        for entry in trainer.state.log_history
        if "rollout_episodes" in entry
    ]
    # Of the last checkpoint: a run that was killed after it has nothing left to do, and its buffer stays empty.
    replay = load_file(Path(newest_checkpoint(args.output_dir), f"replay_{rank}.safetensors"))
    result = {
        "step": trainer.state.global_step,
        "online_turns": trainer.train_dataset.online_turns,
        "rounds": rounds,
        "curve": curve.curve,
        "replay": {name: values.tobytes().hex() for name, values in replay.items()},
    }
    if not trainer.is_deepspeed_enabled and not trainer.is_fsdp_enabled:
        optimizer = {
            f"{i}.{name}": value
            for i, entry in trainer.optimizer.state_dict()["state"].items()
            for name, value in entry.items()
            if isinstance(value, torch.Tensor)
        }
        result |= {
            "weights": digest(dict([*trainer.model.named_parameters(), *trainer.model.named_buffers()])),
            "optimizer": digest(optimizer),
            "filter": trainer.model.filter_state.to_dict(),
        }
    Path(args.output_dir, f"result-{rank}.json").write_text(json.dumps(result))
    trainer.save_model()


if __name__ == "__main__":
    main()
