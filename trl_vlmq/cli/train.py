# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq train`: episodes in, agent out."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import set_seed
from trl import get_peft_config

from trl_vlmq.callbacks import PolicyEvaluationCallback
from trl_vlmq.checkpoints import newest_checkpoint
from trl_vlmq.config import AFSFTConfig
from trl_vlmq.critic import find_critic, load_critic
from trl_vlmq.env_record import environment_of_episodes
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.evaluation import evaluate_policy
from trl_vlmq.hardware import choose_cpu_precision, use_all_cores
from trl_vlmq.hub import HubError
from trl_vlmq.launch import end_processes
from trl_vlmq.logs import describe_logs, logs_table, split_episodes
from trl_vlmq.model_arguments import ModelArguments
from trl_vlmq.non_finite import NonFiniteLossError
from trl_vlmq.policies import VLMPolicy
from trl_vlmq.prompt_record import agree_on_prompt, prompt_of_episodes, save_prompt
from trl_vlmq.storage import load_episodes
from trl_vlmq.trainer import AFSFTTrainer
from trl_vlmq.validation import validate_episodes

from .errors import UserError, require_at_least, user_errors
from .parsing import CommandParser
from .tasks import check_env, choose_env_kwargs, model_errors, prompt_note


@dataclass
class DataArguments:
    """Episodes to train on, and episodes to play on the way."""

    dataset: str = field(metadata={"help": "Episodes: a Parquet file, a folder of them, or a dataset's Hub id."})
    eval_share: float = field(
        default=0.05, metadata={"help": "Share of the episodes that is held out for losses; 0 holds out none."}
    )
    env: str | None = field(
        default=None, metadata={"help": "Gymnasium id to play in while training, for a curve of the success rate."}
    )
    env_kwargs: str | None = field(
        default=None, metadata={"help": "Arguments of the environment as YAML or JSON, e.g. '{max_steps: 20}'."}
    )
    curve_episodes: int = field(default=100, metadata={"help": "Held-out episodes of each point of the curve."})
    curve_steps: int = field(default=100, metadata={"help": "Optimiser steps between points of the curve."})
    history: int | None = field(
        default=None,
        metadata={"help": "Past actions in the prompts of the episodes. Default: what is recorded in them, else 0."},
    )

    def __post_init__(self):
        if not 0 <= self.eval_share < 1:
            raise ValueError("--eval_share must be at least 0 and below 1")
        require_at_least(self, curve_episodes=1, curve_steps=1, history=0)


@dataclass
class TrainingArguments(AFSFTConfig):
    """`AFSFTConfig`, on the command line."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for adapter, critic and metrics (required)."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Go on from this checkpoint; 'true': from the newest one in --output_dir."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("the following arguments are required: --output_dir")
        if self.actor_objective == "sft":
            self.critic_coef = 0.0  # exactly SFT, without a critic
        choose_cpu_precision(self)
        super().__post_init__()


SECTIONS = {
    "data": ["dataset", "eval_share", "history"],
    "success curve while training": ["env", "env_kwargs", "curve_episodes", "curve_steps"],
    "model": [
        "model_name_or_path", "dtype", "use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules",
        "load_in_4bit", "load_in_8bit",
    ],
    "VLM Q-Learning": [
        "actor_objective", "gamma", "reward_scale", "td_horizon", "critic_learning_rate", "filter_warmup_ratio",
        "filter_ramp_ratio", "filter_min_explained_variance", "filter_beta", "filter_keep_fraction", "segment_length",
    ],
    "training": [
        "output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
        "learning_rate", "lr_scheduler_type", "warmup_steps", "seed", "bf16", "activation_checkpointing",
        "logging_steps", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "save_total_limit",
        "resume_from_checkpoint", "report_to", "push_to_hub", "hub_model_id",
    ],
}  # fmt: skip

EXAMPLES = """examples:
  trl-vlmq train --dataset episodes.parquet --output_dir agent --max_steps 800
  trl-vlmq train --dataset episodes.parquet --output_dir sft --max_steps 800 --actor_objective sft
  trl-vlmq train --config train.yaml --learning_rate 1e-4
  accelerate launch -m trl_vlmq.cli train --config train.yaml"""


def main(argv: list[str]) -> None:
    """Run `trl-vlmq train`."""
    parser = CommandParser(
        "train",
        [DataArguments, TrainingArguments, ModelArguments],
        SECTIONS,
        usage="--dataset DATA --output_dir FOLDER [--model_name_or_path MODEL] [options]",
        description="Train an agent on episodes by VLM Q-Learning: imitate only what a critic finds better than "
        "average. Without --model_name_or_path it trains the embedded tiny-babyai, on a CPU if need be.",
        examples=EXAMPLES,
    )
    data, args, model = parser.parse(argv)
    try:
        train(data, args, model)
    except KeyboardInterrupt as interrupt:
        checkpoint = newest_checkpoint(args.output_dir)
        if checkpoint is None:
            raise KeyboardInterrupt("there is no checkpoint yet") from interrupt
        raise KeyboardInterrupt(f"go on with --resume_from_checkpoint {checkpoint}") from interrupt


def train(data: DataArguments, args: TrainingArguments, model: ModelArguments) -> None:
    """Train, evaluate the losses on held-out episodes, and save."""
    checkpoint = _checkpoint(args)
    if Path(args.output_dir).is_file():
        raise UserError(f"--output_dir {args.output_dir} is a file.")
    with user_errors(OSError, ValueError):
        played = environment_of_episodes(data.dataset)
    env_kwargs = {}
    if data.env is not None:
        env_kwargs = choose_env_kwargs(data.env, data.env_kwargs, {data.dataset: played})
        check_env(data.env, env_kwargs)
    use_all_cores()
    with model_errors(model.base):
        backbone = model.load()
    dataset, builder = _read(data)
    with user_errors(ValueError):
        train_dataset, eval_dataset = (dataset, None)
        if data.eval_share:
            train_dataset, eval_dataset = split_episodes(dataset, data.eval_share)

    set_seed(args.seed)
    with user_errors(ValueError, OSError):
        adapted = isinstance(backbone.model, PeftModel)
        trainer = AFSFTTrainer(
            model=backbone.model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=backbone.processor,
            peft_config=None if adapted else get_peft_config(model),
        )
        if trainer.model.critic is not None and (critic := find_critic(model.base)) is not None:
            load_critic(critic, trainer.model.critic, trainer.model.target_critic)
    if data.env is not None:
        trainer.add_callback(_curve(data, env_kwargs, builder, trainer))
    if trainer.is_world_process_zero():
        with user_errors(OSError):
            save_prompt(builder, args.output_dir)
            if played is not None:
                played.save(args.output_dir)

    with user_errors(NonFiniteLossError):
        result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(_internal_call=True)  # without a push, which comes last
    trainer.save_state()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    if eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if args.push_to_hub:
        with user_errors(HubError):
            trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print(f"\nAgent: {args.output_dir}")
    end_processes()


def _checkpoint(args: TrainingArguments) -> str | None:
    given = args.resume_from_checkpoint
    if given is None or given.lower() == "false":
        return None
    if given.lower() == "true":
        newest = newest_checkpoint(args.output_dir)
        if newest is None:
            raise UserError(f"There is no checkpoint in {args.output_dir} to go on from.")
        return newest
    if not Path(given, "trainer_state.json").is_file():
        raise UserError(f"{given} is not a checkpoint of a training run (it has no trainer_state.json).")
    return given


def _read(data: DataArguments) -> tuple[Dataset, PromptBuilder]:
    """The episodes, and how their prompts were made; the main process says what they are."""
    with user_errors(OSError, ValueError), PartialState().main_process_first():
        dataset = load_episodes(data.dataset)
        recorded = prompt_of_episodes(data.dataset)
        builder = agree_on_prompt(recorded, data.history)
        if PartialState().is_main_process:
            validate_episodes(dataset)  # here, so that the rows it names are those of the file
            print(logs_table(describe_logs(dataset)))
            print(f"\n{prompt_note(builder, found=recorded is not None)}")
    return dataset, builder


def _curve(data: DataArguments, env_kwargs: dict, builder: PromptBuilder, trainer: AFSFTTrainer):
    """Plays sampled, held-out episodes while training."""
    evaluate = partial(
        evaluate_policy, data.env,
        num_episodes=data.curve_episodes, seed=2_000_000, env_kwargs=env_kwargs, prompt_builder=builder, progress=None,
    )  # fmt: skip
    policy = VLMPolicy(trainer.model.backbone, temperature=1.0)
    return PolicyEvaluationCallback(evaluate, policy, every_steps=data.curve_steps)
