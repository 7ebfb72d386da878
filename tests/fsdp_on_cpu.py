# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""For scripts that tests launch: accelerate's FSDP2 on a CPU."""

import os

from accelerate import DistributedType, PartialState


def shard_on_cpu() -> None:
    """
    Let accelerate take its FSDP2 path on a CPU, where it takes DDP's; to be called once the configuration is there.

    It looks for FSDP only where processes have GPUs. This says that they have, and no more: the process group is gloo's,
    and what shards, gathers, clips, saves and loads is accelerate's and torch's own.
    """
    state = PartialState()
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        assert state.distributed_type == DistributedType.MULTI_CPU
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
