# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A short training, as a script that launchers start."""

import argparse
import json
import sys
from pathlib import Path


sys.path.append(str(Path(__file__).parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--episodes", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--resume", help="a checkpoint")
    parser.add_argument("--keep_best", action="store_true", help="evaluate, and load the best checkpoint at the end")
    args = parser.parse_args()

    from accelerate import PartialState
    from fsdp_on_cpu import shard_on_cpu
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    from trl_vlmq import AFSFTConfig, AFSFTTrainer, load_episodes
    from trl_vlmq.launch import end_processes

    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    best |= {"eval_strategy": "steps", "eval_steps": 3, "per_device_eval_batch_size": 2}
    config = AFSFTConfig(
        args.output_dir, max_steps=6, per_device_train_batch_size=4 // PartialState(cpu=True).num_processes,
        segment_length=2, learning_rate=5e-3, logging_steps=1, save_steps=3, report_to="none", disable_tqdm=True,
        use_cpu=True, bf16=args.bf16, filter_warmup_ratio=0.3, filter_ramp_ratio=0.5, weight_averaging_ratio=0.7,
        critic_hidden_size=512,  # large enough for ZeRO-3 to shard it
        **best if args.keep_best else {},
    )  # fmt: skip
    shard_on_cpu()
    data = load_episodes(args.episodes)
    trainer = AFSFTTrainer(args.model, config, data, eval_dataset=data if args.keep_best else None)
    streamed = []
    trainer.model.head_reader.register_forward_hook(lambda *_: streamed.append(True))
    trainer.train(resume_from_checkpoint=args.resume)
    trainer.save_model()
    weights = {
        name: [p.to_local().numel() if isinstance(p, DTensor) else p.numel(), p.numel()]
        for name, p in trainer.model.named_parameters()
    }
    units = [type(module).__name__ for module in trainer.model.modules() if isinstance(module, FSDPModule)]
    held = Path(args.output_dir, f"held-{trainer.args.process_index}.json")
    held.write_text(json.dumps({"weights": weights, "units": units, "streamed": len(streamed)}))
    if trainer.is_world_process_zero():
        Path(args.output_dir, "log.json").write_text(json.dumps(trainer.state.log_history))
    end_processes()


if __name__ == "__main__":
    main()
