# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Gym Cards: the paper's games, from logs of poor play with a share of actions that nobody can read.

1. Collects logs of a game: random play by default, a share of whose actions is spoiled so that the game cannot read it.
2. Trains objectives on them (`sft` and `afsft` by default), for as many steps from the same base, from pixels, with LoRA
   and a frozen vision tower.
3. Plays held-out episodes and writes a table, figures, the results as JSON and the adapters with the critic. EZPoints and
   Points24 are also played with "new deals", combinations of values that the logs never show: many in Points24, and one
   (3 and 9) in EZPoints, which has seven in all.
4. In Blackjack, reads Q(hit) - Q(stand) of the same hands while it trains, beside the exact values, and draws the strategy
   of each agent beside the best one, with the share of games that it wins exactly.

    accelerate launch examples/train_gym_cards.py                    # Blackjack: about half an hour on two cores
    accelerate launch examples/train_gym_cards.py --game NumberLine
    accelerate launch examples/train_gym_cards.py --quick            # a minute or two: does everything work?
    accelerate launch examples/train_gym_cards.py --objectives afsft,sft,random_filter,epg,awr    # the paper's ablation
    accelerate launch examples/train_gym_cards.py --invalid_share 0.8

The base is the embedded `tiny-cards`, which has learned to describe pictures of cards and has never seen an action. Scaled
down from the paper: a model of 1.4 million parameters instead of billions, pictures of 112 pixels instead of 300.
"""

import json
from dataclasses import dataclass, field

from accelerate import PartialState
from blackjack_chart import chart
from comparison import Comparison, ComparisonArguments, ComparisonTrainingArguments
from transformers import TrainerCallback
from trl import TrlParser
from watch_blackjack import BlackjackCritic

from trl_vlmq import AFSFTConfig, BehaviorPolicy, SloppyPolicy
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.hardware import use_all_cores
from trl_vlmq.launch import end_processes
from trl_vlmq.logs import describe_logs, parse_mixture, split_episodes
from trl_vlmq.model_arguments import ModelArguments


@dataclass(frozen=True)
class Recipe:
    """What differs from game to game.

    Args:
        behaviors (`str`): who acts in the logs.
        num_log_episodes (`int`): episodes to collect.
        reward_scale (`float`): of the critic's targets, so that Q spreads over a few units.
        new_deals (`bool`): whether the logs leave out a part of the deals, to be played afterwards.
    """

    behaviors: str
    num_log_episodes: int
    reward_scale: float
    new_deals: bool = False


GAMES = {
    "Blackjack": Recipe("random", 16_750, 2.0),  # about 28,800 actions, as many as in the paper
    "NumberLine": Recipe("random", 5_000, 1.0),
    "EZPoints": Recipe("random", 10_000, 0.4, new_deals=True),
    "Points24": Recipe("expert:2,forgetful:1,noisy_expert:1,random:1", 10_000, 0.4, new_deals=True),
}


OUTPUT_DIR = "outputs/<game>"


@dataclass
class TaskArguments:
    """The game and its logs."""

    game: str = field(default="Blackjack", metadata={"help": "The game.", "choices": list(GAMES)})
    image_size: int = field(default=112, metadata={"help": "Pixels per side; tiny-cards sees 112."})
    behaviors: str | None = field(
        default=None, metadata={"help": "Who acts in the logs, with relative weights. Default: depends on the game."}
    )
    num_log_episodes: int | None = field(
        default=None, metadata={"help": "Episodes to collect. Default: depends on the game."}
    )
    invalid_share: float = field(
        default=0.2, metadata={"help": "Share of the actions in the logs that the game cannot read."}
    )
    episodes_path: str | None = field(
        default=None, metadata={"help": "Parquet file of episodes to train on; by default they are collected."}
    )
    quick: bool = field(default=False, metadata={"help": "A short run that shows that everything works."})

    def __post_init__(self):
        if self.game not in GAMES:
            raise ValueError(f"game={self.game!r}: choose one of {', '.join(GAMES)}.")
        recipe = GAMES[self.game]
        self.behaviors = self.behaviors or recipe.behaviors
        self.num_log_episodes = self.num_log_episodes or recipe.num_log_episodes


@dataclass
class TrainingArguments(ComparisonTrainingArguments):
    """AFSFTConfig with the defaults of this example."""

    output_dir: str | None = field(default=OUTPUT_DIR, metadata={"help": "Folder for everything."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Segments per step."})
    gamma: float = field(default=1.0, metadata={"help": "Discount per turn: none, a late loss is a loss."})
    reward_scale: float | None = field(
        default=None,
        metadata={"help": "Multiplies rewards before the critic sees them. Default: depends on the game."},
    )
    critic_learning_rate: float | None = field(default=1e-3, metadata={"help": "Learning rate of the critic's head."})
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={"help": "Schedule of the learning rate; to 0, since the outcomes of games are noisy."},
    )
    filter_warmup_ratio: float = field(default=0.2, metadata={"help": "Share of training with beta = -inf."})
    filter_ramp_ratio: float = field(default=0.2, metadata={"help": "Share over which the filter tightens."})


def shrink(task: TaskArguments, settings: ComparisonArguments, args: AFSFTConfig) -> None:
    """The settings of --quick."""
    settings.eval_episodes, settings.curve_episodes, settings.curve_points = 50, 20, 2
    task.num_log_episodes, args.max_steps, args.per_device_train_batch_size = 300, 20, 16


def main() -> None:
    parser = TrlParser((TaskArguments, ComparisonArguments, TrainingArguments, ModelArguments))
    task, settings, args, model_args = parser.parse_args_and_config()
    recipe = GAMES[task.game]
    if args.reward_scale is None:
        args.reward_scale = recipe.reward_scale
    if args.output_dir == OUTPUT_DIR:
        args.output_dir = f"outputs/{task.game.lower()}"
    model_args.model_name_or_path = model_args.model_name_or_path or "tiny-cards"
    if task.quick:
        shrink(task, settings, args)
    use_all_cores()

    env_kwargs = {"image_size": task.image_size, "list_actions": False}
    variants = {"": {}}
    if recipe.new_deals:
        env_kwargs["deals"] = "train"
        variants[", new deals"] = {"deals": "held_out"}
    env = {
        "make_env": f"trl_vlmq/{task.game}-v0",
        "env_kwargs": env_kwargs,
        "prompt_builder": PromptBuilder(),
    }
    comparison = Comparison(settings, args, model_args, env, variants)
    policy = SloppyPolicy(BehaviorPolicy(parse_mixture(task.behaviors)), task.invalid_share)
    dataset = comparison.collect_or_load(task.episodes_path, policy, task.num_log_episodes)
    logs = describe_logs(dataset)
    print(json.dumps(logs, indent=2))

    looks: dict[str, BlackjackCritic] = {}

    def watch(objective: str) -> list[TrainerCallback]:
        if task.game != "Blackjack" or objective == "sft":
            return []
        looks[objective] = BlackjackCritic(env, every_steps=max(1, args.max_steps // settings.curve_points))
        return [looks[objective]]

    comparison.play_behaviors(["random", "expert"])
    comparison.train(*split_episodes(dataset), watch)
    if not PartialState().is_main_process:
        return
    for objective, look in looks.items():
        look.plot(comparison.out / f"{objective}_hands.png")
    if task.game == "Blackjack":
        for objective in comparison.curves:
            figure = comparison.out / f"{objective}_strategy.png"
            scores = chart(str(comparison.out / objective), figure, objective.upper())
            comparison.critics.setdefault(objective, {})["exact"] = {h: s._asdict() for h, s in scores.items()}
    comparison.report(f"{task.game} ({task.invalid_share:.0%} of the logs' actions invalid)", logs)


if __name__ == "__main__":
    main()
    end_processes()
