# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""trl_vlmq: VLM Q-Learning as a trainer of the Hugging Face stack."""

import importlib


__version__ = "0.1.0"

# Public name -> module; imported on first use, so that `import trl_vlmq` costs nothing.
_PUBLIC = {
    "AFSFTConfig": "config",
    "AFSFTTrainer": "trainer",
    "NonFiniteLossError": "non_finite",
    "OnlineRolloutCallback": "online",
    "LinearSchedule": "schedules",
    "VLMActorCritic": "actor_critic",
    "TokenCritic": "critic",
    "TokenTDCollator": "collator",
    "ReplayBuffer": "replay",
    "Turn": "episodes",
    "Episode": "episodes",
    "episodes_to_dataset": "episodes",
    "dataset_to_episodes": "episodes",
    "save_episodes": "storage",
    "load_episodes": "storage",
    "import_logs": "importing",
    "FieldMapping": "importing",
    "ImportReport": "importing",
    "HubError": "hub",
    "EpisodeValidationError": "validation",
    "validate_episodes": "validation",
    "load_backbone": "backbones",
    "make_backbone": "backbones",
    "merge_adapter": "merging",
    "tiny_model_path": "backbones",
    "PolicyEvaluationCallback": "callbacks",
    "VLMPolicy": "policies",
    "VLLMClient": "vllm_client",
    "VLLMError": "vllm_client",
    "VLLMPolicy": "vllm_policy",
    "EpsilonGreedyPolicy": "policies",
    "BehaviorPolicy": "policies",
    "SloppyPolicy": "policies",
    "play_episodes": "rollout",
    "EvaluationResult": "evaluation",
    "evaluate_policy": "evaluation",
    "estimate_memory": "memory",
    "MemoryEstimate": "memory",
    "TurnShape": "memory",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
