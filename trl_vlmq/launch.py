# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Ways to launch a training that would end in tears, refused before it begins; and how its processes end."""

import logging
import os
import time

from accelerate import Accelerator, PartialState
from torch.distributed.fsdp import StateDictType
from transformers import TrainingArguments


logger = logging.getLogger(__name__)


def refuse_data_parallel(args: TrainingArguments) -> None:
    """
    One process with several GPUs: Trainer would wrap the model into `torch.nn.DataParallel`.

    Raises:
        ValueError: says how to launch instead.
    """
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs, which would mean torch.nn.DataParallel; start one process for each "
            "with `accelerate launch`, or choose one with CUDA_VISIBLE_DEVICES."
        )


def refuse_empty_saves(accelerator: Accelerator) -> None:
    """
    Settings with which weights are not gathered to save them: nothing would be saved, or adapters without a single tensor.

    Raises:
        ValueError: names the setting.
    """
    _refuse_other_fsdp(accelerator)
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        return
    if not plugin.hf_ds_config.get_value("zero_optimization.stage3_gather_16bit_weights_on_model_save", False):
        raise ValueError(
            "Under ZeRO-3 every process holds a part of the weights, and with these settings adapters would be saved "
            "empty. Set `zero3_save_16bit_model: true` in accelerate's configuration (`accelerate launch "
            "--zero3_save_16bit_model true`), or `stage3_gather_16bit_weights_on_model_save` in DeepSpeed's."
        )


def _refuse_other_fsdp(accelerator: Accelerator) -> None:
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            logger.warning("FSDP needs GPUs: on CPUs accelerate trains with DDP, and every process holds all weights.")
        return
    if plugin.fsdp_version != 2:
        raise ValueError(
            "Of FSDP only the second version is supported: set `fsdp_version: 2` in accelerate's configuration."
        )
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        raise ValueError(
            "Under FSDP2 every process holds a part of the weights, and with these settings nothing but checkpoints would be "
            "saved. Set `fsdp_state_dict_type: FULL_STATE_DICT` in accelerate's configuration."
        )


def end_processes() -> None:
    """
    The last call of a script that may run in several processes: waits for all of them and destroys the process group.

    The threads of gloo let go of a collective's tensors only after it has returned. They need the interpreter for that, and
    if it is shutting down by then they abort a process whose work is done (exit code -6). The wait gives them the time.
    """
    state = PartialState()
    if state.num_processes > 1:
        state.wait_for_everyone()
        time.sleep(0.1)
    state.destroy_process_group()
