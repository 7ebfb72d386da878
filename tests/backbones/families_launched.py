# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A short training of every family of the table, as a script that launchers start."""

import argparse
import json
import sys
from pathlib import Path


sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parent)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenizer", required=True, help="the byte tokenizer of the tests")
    parser.add_argument("--output_dir", required=True)
    args = parser.parse_args()

    import numpy as np
    import PIL.Image
    import torch
    from accelerate import PartialState
    from fsdp_on_cpu import shard_on_cpu
    from peft import LoraConfig
    from tiny_families import LAUNCHED_FAMILIES
    from torch.distributed.fsdp import FSDPModule
    from transformers import AutoTokenizer

    from trl_vlmq import AFSFTConfig, AFSFTTrainer
    from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
    from trl_vlmq.launch import end_processes

    def episodes(has_vision: bool):
        """As many turns with pictures for every process: those that look at one gather weights together."""

        def turn(number: int, index: int) -> Turn:
            pixels = np.random.default_rng(3 * number + index).integers(0, 255, (24, 40, 3), dtype=np.uint8)
            pictures = [PIL.Image.fromarray(pixels)] if has_vision else []
            content = [{"type": "image"}] * has_vision + [{"type": "text", "text": f"Turn {index}."}]
            prompt = [{"role": "user", "content": content}]
            return Turn(prompt, pictures, "go" * (index + 1), float(index == 2), index == 2, False)

        return episodes_to_dataset(Episode(f"e{n}", [turn(n, index) for index in range(3)]) for n in range(4))

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    families = {name: make(tokenizer) for name, make in LAUNCHED_FAMILIES.items()}
    models = {name: family.make_model() for name, family in families.items()}  # before ZeRO-3 makes models in parts
    data = {has_vision: episodes(has_vision) for has_vision in (True, False)}
    report = {}
    for name, family in families.items():
        folder = Path(args.output_dir, name)
        config = AFSFTConfig(
            str(folder), max_steps=2, per_device_train_batch_size=2 // PartialState(cpu=True).num_processes,
            segment_length=2, learning_rate=1e-2, logging_steps=1, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        shard_on_cpu()
        torch.manual_seed(0)
        trainer = AFSFTTrainer(
            models[name],
            config,
            data[family.has_vision],
            processing_class=family.processor,
            peft_config=LoraConfig(r=2),
        )
        trainer.train()
        trainer.save_model()
        units = [type(module).__name__ for module in trainer.model.modules() if isinstance(module, FSDPModule)]
        report[name] = {"log": trainer.state.log_history, "units": units}
    if PartialState().is_main_process:
        Path(args.output_dir, "report.json").write_text(json.dumps(report))
    end_processes()


if __name__ == "__main__":
    main()
