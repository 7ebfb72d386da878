# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The README.md of a trained agent: what it is, what it reaches, how to use it, how it was made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel
from transformers import ProcessorMixin

from .backbones import TINY_MODELS, embedded_name
from .env_record import load_environment
from .hub import is_repo_id


TAGS = ("trl_vlmq", "vlm-q-learning", "generated_from_trainer")
OBJECTIVES = {
    "afsft": "advantage-filtered SFT: it imitates the tokens of its logs whose value beats its own average",
    "sft": "supervised fine-tuning: it imitates its logs",
    "random_filter": "SFT on a random part of its logs, as large as the advantage filter's (an ablation)",
    "epg": "expected policy gradient: it maximises the critic's expected value (an ablation)",
    "awr": "advantage-weighted regression: it imitates its logs, weighted by advantage",
}
SETTINGS = (
    "actor_objective", "gamma", "td_horizon", "reward_scale", "filter_beta", "filter_warmup_ratio", "filter_ramp_ratio",
    "filter_keep_fraction", "learning_rate", "critic_learning_rate", "lr_scheduler_type", "per_device_train_batch_size",
    "gradient_accumulation_steps", "segment_length", "seed",
)  # fmt: skip
PACKAGES = ("trl_vlmq", "transformers", "trl", "peft", "torch", "datasets", "gymnasium")
CITATION = """```bibtex
@article{grigsby2025vlmq,
  title   = {VLM Q-Learning: Aligning Vision-Language Models for Interactive Decision-Making},
  author  = {Grigsby, Jake and Zhu, Yuke and Ryoo, Michael and Niebles, Juan Carlos},
  journal = {arXiv preprint arXiv:2505.03181},
  year    = {2025}
}
```"""


@dataclass
class AgentFacts:
    """
    What a card is written from.

    Args:
        name (`str`):
            Of the agent, for people.
        repo_id (`str`):
            From where it is loaded: a Hub id, or the name.
        base (`str`, *optional*):
            Hub id of the model that it was trained from, or the name of an embedded one; `None` if it has neither.
        is_adapter (`bool`):
            Whether it is a PEFT adapter rather than a full model.
        sees (`bool`):
            Whether it reads images.
        has_critic (`bool`):
            Whether the critic lies beside it.
        settings (`Mapping`):
            Training arguments.
        steps (`int`):
            Optimiser steps.
        dataset (`str`, *optional*):
            Hub id of its logs.
        env_id (`str`, *optional*), env_kwargs (`Mapping`):
            Where it acts.
        success (`Mapping`, *optional*):
            Newest evaluation while training: `policy_success_rate`, `policy_success_low`, `policy_success_high`,
            `policy_episodes`, `policy_syntax_accuracy`, `step`.
        tags (`Sequence[str]`):
            Beside `TAGS`.
    """

    name: str
    repo_id: str
    base: str | None
    is_adapter: bool
    sees: bool
    has_critic: bool
    settings: Mapping[str, Any]
    steps: int
    dataset: str | None = None
    env_id: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    success: Mapping[str, float] | None = None
    tags: Sequence[str] = ()


def agent_facts(trainer, model_name: str | None, dataset_name: str | None, tags: Sequence[str]) -> AgentFacts:
    """
    What a trainer knows of its agent; the environment from `environment.json` in its output folder.

    Args:
        trainer ([`AFSFTTrainer`]):
            After training.
        model_name, dataset_name, tags:
            As in [`AFSFTTrainer.create_model_card`].
    """
    args, model = trainer.args, trainer.model
    settings = args.to_dict()
    name = model_name or Path(args.output_dir).name
    is_adapter = isinstance(model.model, PeftModel)
    base = model.model.active_peft_config.base_model_name_or_path if is_adapter else model.config._name_or_path
    record = load_environment(args.output_dir)
    played = [entry for entry in trainer.state.log_history if "policy_success_low" in entry]
    return AgentFacts(
        name=name,
        repo_id=trainer.hub_model_id or args.hub_model_id or name,
        base=_known_to_strangers(base),
        is_adapter=is_adapter,
        sees=isinstance(trainer.processing_class, ProcessorMixin),
        has_critic=model.critic is not None,
        settings={name: settings[name] for name in SETTINGS},
        steps=trainer.state.global_step,
        dataset=dataset_name,
        env_id=record.env_id if record else None,
        env_kwargs=record.env_kwargs if record else {},
        success=played[-1] if played else None,
        tags=tags,
    )


def _known_to_strangers(base: str | None) -> str | None:
    """Not the path of a folder: that would tell strangers about this machine, and lead them nowhere."""
    base = embedded_name(base)
    return base if base and not Path(base).is_dir() and is_repo_id(base) else None


def build_model_card(facts: AgentFacts) -> ModelCard:
    """
    The card of an agent, with the metadata that the Hub reads.

    Args:
        facts ([`AgentFacts`]):
            What to write.
    """
    objective = facts.settings["actor_objective"]
    data = ModelCardData(
        base_model=None if facts.base in TINY_MODELS else facts.base,
        datasets=facts.dataset,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="image-text-to-text" if facts.sees else "text-generation",
        tags=list(dict.fromkeys((*TAGS, objective, *facts.tags))),
        model_name=facts.name,
        eval_results=_eval_results(facts),
    )
    base = f"[{facts.base}](https://huggingface.co/{facts.base})" if facts.base else "a model that is not on the Hub"
    if facts.base in TINY_MODELS:
        base = f"`{facts.base}` (embedded in the package)"
    logs = f" on [{facts.dataset}](https://huggingface.co/datasets/{facts.dataset})" if facts.dataset else ""
    parts = [
        f"# {facts.name}",
        f"An agent trained from {base}{logs} with `trl_vlmq`, by {OBJECTIVES[objective]} "
        "([VLM Q-Learning, arXiv 2505.03181](https://arxiv.org/abs/2505.03181)).",
        *_results(facts),
        "## Use",
        *_usage(facts),
        f"## Training\n\n{facts.steps} optimiser steps.",
        _table(("argument", "value"), [(name, facts.settings.get(name)) for name in SETTINGS]),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in _versions().items()) + ".",
        f"## Citation\n\n{CITATION}",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _eval_results(facts: AgentFacts) -> list[EvalResult] | None:
    if facts.success is None:
        return None
    where = facts.env_id or "its environment"
    return [
        EvalResult(
            task_type="reinforcement-learning", task_name="acting", dataset_type=where, dataset_name=where,
            metric_type="success_rate", metric_value=round(facts.success["policy_success_rate"], 4),
        )
    ]  # fmt: skip


def _results(facts: AgentFacts) -> list[str]:
    if facts.success is None:
        return ["No episodes were played while training: how good it is, is not known."]
    found = facts.success
    row = (
        f"`{facts.env_id}`" if facts.env_id else "that of the training",
        f"{found['policy_success_rate']:.1%}",
        f"{found['policy_success_low']:.1%} to {found['policy_success_high']:.1%}",
        found["policy_episodes"],
        f"{found['policy_syntax_accuracy']:.1%}",
        found["step"],
    )
    names = ("environment", "success", "95% interval", "episodes", "valid actions", "at step")
    return ["## Results", "The last evaluation while training.", _table(names, [row])]


def _usage(facts: AgentFacts) -> list[str]:
    repo = json.dumps(facts.repo_id)
    act = ["from trl_vlmq import VLMPolicy, evaluate_policy, load_backbone", ""]
    act += [f"policy = VLMPolicy(load_backbone({repo}), temperature=0.0)"]
    if facts.env_id:
        act += [
            f"print(evaluate_policy({json.dumps(facts.env_id)}, policy, env_kwargs={dict(facts.env_kwargs)!r}).summary())"
        ]
    parts = ["It acts and is evaluated with `trl_vlmq`:", _python(act)]
    if facts.is_adapter:
        parts += _plain_peft(facts)
    if facts.has_critic:
        more = ["from trl_vlmq import AFSFTTrainer", "", f"trainer = AFSFTTrainer({repo}, train_dataset=episodes)"]
        parts += ["Its critic lies beside it, for further training:", _python(more)]
    return parts


def _plain_peft(facts: AgentFacts) -> list[str]:
    """How to load the adapter without this package, as far as its base can be had."""
    repo = json.dumps(facts.repo_id)
    if facts.base is None:
        return [
            "Its base is not on the Hub. Whoever has it says where: "
            f"`load_backbone({repo}, base=...)`, or `PeftModel.from_pretrained(base, {repo})` with plain `peft`."
        ]
    auto = "AutoModelForImageTextToText" if facts.sees else "AutoModelForCausalLM"
    code = ["from peft import PeftModel", f"from transformers import {auto}", ""]
    base, text = json.dumps(facts.base), "The adapter alone needs nothing but `peft`:"
    if facts.base in TINY_MODELS:
        code.insert(2, "from trl_vlmq import tiny_model_path")
        base, text = f"tiny_model_path({base})", "With plain `peft`, on the base that comes with `trl_vlmq`:"
    code += [f"base = {auto}.from_pretrained({base})", f"model = PeftModel.from_pretrained(base, {repo})"]
    return [text, _python(code)]


def _python(lines: Sequence[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            continue
    return found
