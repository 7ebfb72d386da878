# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq evaluate`: models and behaviours play held-out episodes; success with its interval."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

from trl_vlmq.backbones import resolve_model
from trl_vlmq.diagnostics import comparison_table
from trl_vlmq.env_record import load_environment
from trl_vlmq.env_worker import EnvironmentFailureError
from trl_vlmq.envs import BehaviorUnavailableError
from trl_vlmq.evaluation import EvaluationResult, evaluate_policy
from trl_vlmq.hardware import use_all_cores
from trl_vlmq.policies import BehaviorPolicy, VLMPolicy
from trl_vlmq.statistics import paired_bootstrap

from .errors import UserError, require_at_least, user_errors
from .parsing import CommandParser
from .tasks import PlayArguments, check_env, choose_env_kwargs, load_agent, model_errors


EMBEDDED = "tiny-babyai (untrained)"


@dataclass
class EvaluateArguments:
    """Who plays what."""

    env: list[str] = field(metadata={"help": "One or several Gymnasium ids, e.g. trl_vlmq/BabyAI-GoToLocalS6N2-v0."})
    env_kwargs: str | None = field(
        default=None,
        metadata={
            "help": "Arguments of the environments as YAML or JSON, e.g. '{max_steps: 20}'. Default: what is "
            "recorded with the models."
        },
    )
    model: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folders or Hub ids of adapters or models. With several, each is compared to the first on the same "
            "episodes. Without --model and --behavior the embedded, untrained model plays."
        },
    )
    behavior: list[str] | None = field(default=None, metadata={"help": "Scripted behaviors of the environments."})
    episodes: int = field(default=200, metadata={"help": "Episodes in each environment."})
    seed: int = field(
        default=1_000_000, metadata={"help": "Seed of the episodes; the default is held out from collected ones."}
    )
    temperature: float = field(default=0.0, metadata={"help": "Sampling temperature of the models; 0 is greedy."})
    max_new_tokens: int = field(default=32, metadata={"help": "Limit of the length of an action, in tokens."})
    history: int | None = field(
        default=None,
        metadata={"help": "Past actions that a prompt recalls. Default: what is recorded with each model, else 0."},
    )
    output: str | None = field(default=None, metadata={"help": "JSON file to write the results to."})

    def __post_init__(self):
        for name in ("env", "model", "behavior"):
            given = getattr(self, name) or []
            if len(set(given)) < len(given):
                raise ValueError(f"--{name} names something twice")
        require_at_least(self, episodes=1, seed=0, max_new_tokens=1, temperature=0, history=0)


EXAMPLES = """examples:
  trl-vlmq evaluate --model agent --env trl_vlmq/BabyAI-GoToLocalS6N2-v0 --output results.json
  trl-vlmq evaluate --model sft afsft --env trl_vlmq/BabyAI-GoToLocalS6N2-v0 --episodes 1000
  trl-vlmq evaluate --behavior random expert --env trl_vlmq/BabyAI-GoToLocalS6N2-v0"""


def main(argv: list[str]) -> None:
    """Run `trl-vlmq evaluate`."""
    parser = CommandParser(
        "evaluate",
        [EvaluateArguments, PlayArguments],
        {
            "what to play": ["env", "env_kwargs", "episodes", "seed", "history"],
            "who acts": ["model", "behavior", "temperature", "max_new_tokens"],
            "the rest": ["output", "num_envs", "step_timeout", "max_lost_share"],
        },
        usage="--env ENV [--model MODEL ...] [--behavior NAME ...] [options]",
        description="Play held-out episodes and report success (with its 95% Wilson interval), return, syntax accuracy "
        "and turns. A model is asked in the way it was trained with, if that is recorded beside it.",
        examples=EXAMPLES,
    )
    arguments, how = parser.parse(argv)
    if PartialState().is_main_process:
        evaluate(arguments, how)


def evaluate(arguments: EvaluateArguments, how: PlayArguments) -> None:
    """Play, print tables, and write them as JSON."""
    output = None if arguments.output is None else Path(arguments.output)
    if output is not None and output.is_dir():
        raise UserError(f"{output} is a folder; name a file in it, such as {output / 'results.json'}.")
    recorded = {}
    for model in arguments.model or ():
        with model_errors(model):
            recorded[model] = load_environment(resolve_model(model))
    env_kwargs = {env: choose_env_kwargs(env, arguments.env_kwargs, recorded) for env in arguments.env}
    for env in arguments.env:
        check_env(env, env_kwargs[env], behaviors=arguments.behavior or ())
    use_all_cores()
    results: dict[str, dict[str, EvaluationResult]] = {env: {} for env in arguments.env}

    def play(name: str, policy, builder=None) -> None:
        for env in arguments.env:
            with user_errors(BehaviorUnavailableError, EnvironmentFailureError, TimeoutError):
                results[env][name] = evaluate_policy(
                    env, policy, arguments.episodes,
                    seed=arguments.seed, env_kwargs=env_kwargs[env], prompt_builder=builder, progress=name, **asdict(how),
                )  # fmt: skip

    prompts = {}
    models = arguments.model or ([] if arguments.behavior else [None])
    for model in models:
        backbone, builder, note = load_agent(model, arguments.history)
        name = model or EMBEDDED
        prompts[name] = builder.to_dict()
        print(f"{name}: {note}")
        play(name, VLMPolicy(backbone, arguments.temperature, arguments.max_new_tokens), builder)
    for name in arguments.behavior or ():
        play(name, BehaviorPolicy(name))

    differences = {env: _differences(results[env], arguments.model or []) for env in arguments.env}
    for env in arguments.env:
        print(
            f"\n{env}, {arguments.episodes} episodes, seed {arguments.seed}, temperature {arguments.temperature:g}\n"
        )
        print(comparison_table(results[env]))
        for name, gap in differences[env].items():
            print(f"{name}: {gap['difference']:+.1%} (paired bootstrap 95%: {gap['low']:+.1%} to {gap['high']:+.1%})")
    if output is not None:
        summary = {
            "arguments": asdict(arguments) | asdict(how),
            "env_kwargs": env_kwargs,
            "prompts": prompts,
            "results": {e: {name: r.summary() for name, r in results[e].items()} for e in arguments.env},
            "differences": differences,
        }
        with user_errors(OSError):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(summary, indent=2) + "\n")
        print(f"\nResults: {output}")


def _differences(results: dict[str, EvaluationResult], models: list[str]) -> dict[str, dict[str, float]]:
    """Success of each further model minus that of the first, on the episodes that they share."""
    gaps = {}
    for model in models[1:]:
        difference, low, high = paired_bootstrap(results[model].success, results[models[0]].success)
        gaps[f"{model} - {models[0]}"] = {"difference": difference, "low": low, "high": high}
    return gaps
