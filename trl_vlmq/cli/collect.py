# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq collect`: behaviours or a model play, and the episodes are stored."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

from trl_vlmq.env_record import load_environment
from trl_vlmq.env_worker import EnvironmentFailureError
from trl_vlmq.envs import BehaviorUnavailableError, PromptBuilder
from trl_vlmq.hardware import use_all_cores
from trl_vlmq.logs import collect_logs, describe_logs, logs_table, parse_mixture
from trl_vlmq.policies import BehaviorPolicy, VLMPolicy
from trl_vlmq.storage import load_episodes

from .errors import UserError, require_at_least, user_errors
from .parsing import CommandParser
from .tasks import PlayArguments, check_env, choose_env_kwargs, load_agent, model_errors, prompt_note


@dataclass
class CollectArguments:
    """What to play and where to store it."""

    env: str = field(metadata={"help": "Gymnasium id, e.g. trl_vlmq/BabyAI-GoToLocalS6N2-v0, or my_module:MyEnv-v0."})
    output: str = field(metadata={"help": "Parquet file to write."})
    env_kwargs: str | None = field(
        default=None, metadata={"help": "Arguments of the environment as YAML or JSON, e.g. '{max_steps: 10}'."}
    )
    behaviors: str | None = field(
        default=None,
        metadata={"help": "Scripted behaviors that act, with relative weights: expert:2,wrong_goal:4,random:1."},
    )
    model: str | None = field(
        default=None, metadata={"help": "Model that acts instead: folder or Hub id of a model or adapter."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of the model; 0 is greedy."})
    max_new_tokens: int = field(
        default=32, metadata={"help": "Limit of the length of the model's actions, in tokens."}
    )
    episodes: int = field(default=1000, metadata={"help": "Episodes to play."})
    seed: int = field(default=0, metadata={"help": "Seed of the run: the same seed gives the same episodes."})
    history: int | None = field(
        default=None,
        metadata={"help": "Past actions that a prompt recalls. Default: what is recorded with the model, else 0."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the output file if it exists."})

    def __post_init__(self):
        if (self.behaviors is None) == (self.model is None):
            raise ValueError("say who acts: either --behaviors or --model")
        require_at_least(self, episodes=1, seed=0, max_new_tokens=1, temperature=0, history=0)


EXAMPLES = """examples:
  trl-vlmq collect --env trl_vlmq/BabyAI-GoToLocalS6N2-v0 --env_kwargs '{max_steps: 10}' \\
      --behaviors expert:2,wrong_goal:4,random:1 --episodes 1000 --output episodes.parquet
  trl-vlmq collect --env trl_vlmq/BabyAI-GoToLocalS6N2-v0 --model agent --episodes 200 --output own.parquet"""


def main(argv: list[str]) -> None:
    """Run `trl-vlmq collect`."""
    parser = CommandParser(
        "collect",
        [CollectArguments, PlayArguments],
        {
            "what to play": ["env", "env_kwargs", "episodes", "seed", "history"],
            "who acts": ["behaviors", "model", "temperature", "max_new_tokens"],
            "the rest": ["output", "overwrite", "num_envs", "step_timeout", "max_lost_share"],
        },
        usage="--env ENV (--behaviors MIXTURE | --model MODEL) --output FILE [options]",
        description="Play episodes in an environment and store them as a Parquet file, one row per turn, ready for "
        "`trl-vlmq train`. The file records the environment and how its prompts were made.",
        examples=EXAMPLES,
    )
    arguments, how = parser.parse(argv)
    if PartialState().is_main_process:
        collect(arguments, how)


def collect(arguments: CollectArguments, how: PlayArguments) -> None:
    """Play, store, and print what was stored."""
    output = Path(arguments.output)
    if output.is_dir():
        raise UserError(f"{output} is a folder; name a file in it, such as {output / 'episodes.parquet'}.")
    if output.exists() and not arguments.overwrite:
        raise UserError(f"{output} exists already; choose another --output, or say --overwrite.")
    recorded = {}
    if arguments.model is not None:
        with model_errors(arguments.model):
            recorded[arguments.model] = load_environment(arguments.model)
    kwargs = choose_env_kwargs(arguments.env, arguments.env_kwargs, recorded)
    with user_errors(ValueError):
        mixture = parse_mixture(arguments.behaviors) if arguments.behaviors else {}
    check_env(arguments.env, kwargs, behaviors=list(mixture))
    use_all_cores()
    if mixture:
        policy = BehaviorPolicy(mixture)
        builder = PromptBuilder(history=arguments.history or 0)
        note = prompt_note(builder)
    else:
        backbone, builder, note = load_agent(arguments.model, arguments.history)
        policy = VLMPolicy(backbone, arguments.temperature, arguments.max_new_tokens)
    print(note)
    with user_errors(BehaviorUnavailableError, EnvironmentFailureError, OSError):
        collect_logs(
            output, arguments.env, policy, arguments.episodes,
            seed=arguments.seed, env_kwargs=kwargs, prompt_builder=builder, **asdict(how),
        )  # fmt: skip
    print(logs_table(describe_logs(load_episodes(output))))
    print(f"\nEpisodes: {output}")
