# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""OnlineRolloutCallback: the agent plays between epochs, and what it lived through enters the replay buffer."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

from .env_record import EnvironmentRecord
from .env_worker import EnvironmentFailureError, FaultTolerance
from .envs import PromptBuilder, check_text_action_env
from .episodes import Episode, episodes_to_dataset
from .lengths import check_lengths
from .policies import EpsilonGreedyPolicy, Policy, Situation, VLMPolicy, random_valid_action
from .prompt_record import prompt_metadata, save_prompt
from .rollout import MakeEnv, environment_maker, play_numbered_episodes, rollout_settings
from .rollout_report import RoundStatistics, log_samples, show_samples
from .schedules import LinearSchedule
from .shards import EpisodeShards, ShardRecord, read_shard


if TYPE_CHECKING:
    from .vllm_client import VLLMClient
    from .vllm_policy import ServedAdapter


logger = logging.getLogger(__name__)

EXPLORATIONS = ("actions", "tokens")

# Episodes to a file: what a process that is killed has to play again at most, beside those in progress.
_EPISODES_PER_FILE = 64


class OnlineRolloutCallback(TrainerCallback):
    """
    Before each epoch the agent plays episodes with the weights of the moment; from then on training sees them, too.

    One round is played before each epoch from `start_epoch` on, every process playing its share with its own seeds.
    The episodes are written to `folder` file by file, so a run that is killed and resumed finds those that are there
    and plays only the rest. Which of them training draws, and how often, is up to [`AFSFTConfig`] (`online_share`,
    `replay_capacity_turns`, `replay_priority`, `segments_per_epoch`).

    Example:

    ```python
    trainer = AFSFTTrainer(
        model, args, train_dataset=logs, ...,
        callbacks=[OnlineRolloutCallback("trl_vlmq/BabyAI-GoToLocal-v0", start_epoch=4)],
    )
    ```

    Args:
        envs (`str`, `Callable` or `Mapping[str, str | Callable]`):
            A Gymnasium id, a function that makes an environment of the text-action contract, or several of them by
            name: a round's episodes are shared out among them.
        episodes_per_round (`int`, *optional*, defaults to `64`):
            Episodes of a round, of all processes together.
        num_envs (`int`, *optional*):
            Environments at once in each process, and so the batch size of generation. By default what
            [`RolloutSettings`] of the environment say, or else 32.
        start_epoch (`int`, *optional*, defaults to `0`):
            The epoch before which the first round is played; until then training is offline.
        env_kwargs (`Mapping`, *optional*):
            Arguments for `gymnasium.make`, for environments given by id.
        prompt_builder ([`PromptBuilder`], *optional*):
            From observations to prompts: the one of the logs.
        epsilon ([`LinearSchedule`], *optional*):
            Rounds since `start_epoch` -> probability of a random action. Defaults to 1.0 -> 0.1 over 300 rounds (the
            paper's values); logs good enough to start from want far less.
        explore_over (`str`, *optional*, defaults to `"actions"`):
            `"actions"`: a random action is one that the environment calls legal, once a turn. `"tokens"`: each token
            is random with probability epsilon. (The paper does not say; ours.)
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the policy; 0 is greedy.
        max_new_tokens (`int`, *optional*, defaults to `32`):
            Limit of an action's length.
        step_timeout (`float`, *optional*):
            Seconds a step of an environment may take before the episode is dropped. By default what [`RolloutSettings`]
            of the environment say: mostly no limit.
        max_lost_share (`float`, *optional*, defaults to `0.1`):
            Share of a round's episodes that may be lost to environments that raise or hang; more stop the training.
        show_episodes (`int`, *optional*, defaults to `0`):
            Sample episodes of each round to print, and to log with their images where the tracker (TensorBoard,
            Weights & Biases) can show them.
        folder (`str` or `Path`, *optional*):
            Where the episodes go; defaults to `episodes` in the output folder.
        vllm ([`VLLMClient`], *optional*):
            A vLLM server that acts. Before each round it is given the adapter of the moment; model and critic stay here.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(
        self,
        envs: MakeEnv | Mapping[str, MakeEnv],
        *,
        episodes_per_round: int = 64,
        num_envs: int | None = None,
        start_epoch: int = 0,
        env_kwargs: Mapping[str, Any] | None = None,
        prompt_builder: PromptBuilder | None = None,
        epsilon: LinearSchedule | None = None,
        explore_over: str = "actions",
        temperature: float = 1.0,
        max_new_tokens: int = 32,
        step_timeout: float | None = None,
        max_lost_share: float = 0.1,
        show_episodes: int = 0,
        folder: str | Path | None = None,
        vllm: "VLLMClient | None" = None,
    ):
        # The rows of a mapping have its names; else those of the tasks that were played.
        self._named = isinstance(envs, Mapping)
        self.envs = dict(envs) if self._named else {_name(envs): envs}
        self.episodes_per_round, self.num_envs, self.start_epoch = episodes_per_round, num_envs, start_epoch
        self.env_kwargs = dict(env_kwargs or {})
        self.prompt_builder = prompt_builder or PromptBuilder()
        self.epsilon = epsilon or LinearSchedule(1.0, 0.1, 300)
        self.explore_over, self.temperature, self.max_new_tokens = explore_over, temperature, max_new_tokens
        self.step_timeout, self.max_lost_share = step_timeout, max_lost_share
        self.show_episodes, self.folder, self.vllm = show_episodes, folder, vllm
        if explore_over not in EXPLORATIONS:
            raise ValueError(f"explore_over={explore_over!r}: choose one of {', '.join(EXPLORATIONS)}.")
        for name, low in (("episodes_per_round", 1), ("num_envs", 1), ("start_epoch", 0), ("show_episodes", 0)):
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {low}.")
        if not self.envs:
            raise ValueError("envs is empty: name at least one environment.")
        if not (0 <= self.epsilon.start <= 1 and 0 <= self.epsilon.end <= 1):
            raise ValueError(f"epsilon={self.epsilon}: probabilities lie in [0, 1].")
        if not 0 <= max_lost_share < 1:
            raise ValueError(f"max_lost_share={max_lost_share} lies outside of [0, 1).")
        if vllm is not None and explore_over == "tokens":
            raise ValueError(
                'explore_over="tokens" needs the logits of each token, which a vLLM server keeps: use "actions".'
            )
        self._trainer: Trainer | None = None
        self._served: ServedAdapter | None = None
        self.env_steps = 0  # of all rounds and processes so far

    # ---- Trainer ----

    def attach(self, trainer: Trainer) -> None:
        """Called by [`AFSFTTrainer`] when the callback is added to it."""
        if trainer.args.dataloader_persistent_workers:
            raise ValueError("Persistent workers never see new episodes: set dataloader_persistent_workers=False.")
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        accelerator = self._trainer.accelerator
        folder = Path(self.folder or Path(args.output_dir, "episodes"))
        share = self.episodes_per_round // accelerator.num_processes
        if share < len(self.envs):
            raise ValueError(
                f"episodes_per_round={self.episodes_per_round} is too few for {len(self.envs)} environment(s) in "
                f"{accelerator.num_processes} process(es): every one plays at least one."
            )
        self._shards = EpisodeShards(folder, accelerator.process_index, accelerator.num_processes)
        self._trainer.train_dataset.clear_online()
        self._added_rounds = 0
        self.env_steps = 0
        if accelerator.is_main_process:
            self._check_environments()
            self._check_folder(args, resumed=state.global_step > 0)
            save_prompt(self.prompt_builder, args.output_dir)
            record = EnvironmentRecord.of(next(iter(self.envs.values())), self.env_kwargs)
            if len(self.envs) == 1 and record is not None:
                record.save(args.output_dir)
        if self.vllm is not None:
            from .vllm_policy import ServedAdapter

            self._served = ServedAdapter(self.vllm, Path(args.output_dir, "vllm"))
            self._together("The vLLM server's check", self._check_vllm)
        accelerator.wait_for_everyone()

    def on_epoch_begin(self, args, state, control, **kwargs):
        epoch = int(state.epoch + 1e-6)
        last = epoch - self.start_epoch
        resumed_midway = state.epoch - epoch > 1e-6
        for round_ in range(self._added_rounds, last + 1):
            # When a run is resumed, the rounds before the checkpoint are on disk and in the log.
            self._run_round(round_, is_due=round_ == last and not resumed_midway)
        self._added_rounds = max(self._added_rounds, last + 1)

    # ---- A round ----

    def _run_round(self, round_: int, is_due: bool) -> None:
        """Plays a round that is due; any round is read and handed to the buffer."""
        trainer, buffer = self._trainer, self._trainer.train_dataset
        epsilon = self.epsilon(round_)
        started, played = time.perf_counter(), 0
        if is_due:
            played = self._together(f"Round {round_}", lambda: self._play(round_, epsilon))
        seconds = time.perf_counter() - started
        statistics = RoundStatistics(lost=sum(record.lost for record, _ in self._shards.own_parts(round_)))
        for path in self._shards.dealt(round_):
            dataset = read_shard(path)
            statistics.add(dataset)
            buffer.add_online(dataset, self.start_epoch + round_)
        if round_ not in self._shards.rounds():
            logger.warning("The episodes of round %d are gone from %s; training goes on without them.", round_, self._shards.folder)  # fmt: skip
        merged = RoundStatistics.merged(gather_object([statistics]))
        self.env_steps += merged.env_steps
        if not is_due:
            return
        logs = merged.summary(list(self.envs))
        logs |= {"rollout_epsilon": epsilon, "rollout_total_env_steps": self.env_steps}
        total_played = sum(gather_object([played]))
        if total_played:
            logs["rollout_env_steps_per_second"] = total_played / seconds
            logs["rollout_tokens_per_second"] = merged.generated_tokens / seconds
        logs |= {"replay_online_turns": buffer.online_turns, "replay_online_bytes": buffer.online_bytes}
        trainer.log(logs)

    def _together(self, what: str, work: Callable[[], int | None]) -> int | None:
        """Every process does this with all weights at hand; if one of them fails, all do."""
        result, failure = None, None
        with self._trainer.unsharded():
            try:
                result = work()
            except Exception as error:
                failure = error
        failed = any(gather_object([failure is not None]))  # one that raised alone would leave the others waiting
        if failure is not None:
            raise failure
        if failed:
            raise EnvironmentFailureError(f"{what} failed in another process, whose message says why.")
        return result

    def _play(self, round_: int, epsilon: float) -> int:
        """Plays what is missing of this process's share of a round, and returns the number of turns played."""
        accelerator = self._trainer.accelerator
        if self._served is not None:
            self._served.update(self._trainer.model.backbone)
        rank, processes = accelerator.process_index, accelerator.num_processes
        share = self.episodes_per_round // processes + (rank < self.episodes_per_round % processes)
        seed = int(np.random.SeedSequence([self._trainer.args.seed, round_, rank, 4]).generate_state(1)[0])
        parts = self._shards.own_parts(round_)
        done, part = (parts[-1][0].stop if parts else 0), len(parts)
        lost_before = sum(record.lost for record, _ in parts)
        faults = FaultTolerance(max_lost=self.max_lost_share * share - lost_before)
        policy = self._policy(epsilon)
        metadata = prompt_metadata(self.prompt_builder)
        turns, bounds = 0, [share * i // len(self.envs) for i in range(len(self.envs) + 1)]
        for (name, make), low, high in zip(self.envs.items(), bounds[:-1], bounds[1:], strict=True):
            if done >= high:
                continue
            numbered = play_numbered_episodes(
                make, policy, high - max(low, done), env_kwargs=self.env_kwargs,
                seed=seed, first_episode=max(low, done), num_envs=self.num_envs or rollout_settings(make).num_envs or 32,
                prompt_builder=self.prompt_builder, step_timeout=self.step_timeout, faults=faults,
                progress=f"round {round_}, {name}" if accelerator.is_main_process else None,
            )  # fmt: skip
            pending: list[Episode] = []
            lost = 0
            for index, episode in numbered:
                if episode is None:
                    lost += 1
                else:
                    episode.episode_id = f"online-{round_:06d}-{rank:04d}-{index:06d}"
                    if self._named:
                        for turn in episode.turns:
                            turn.env_id = name
                    pending.append(episode)
                if (index + 1 - low) % _EPISODES_PER_FILE == 0 or index + 1 == high:
                    dataset = episodes_to_dataset(pending)
                    check_lengths(dataset, self._trainer.model.backbone)
                    self._shards.write(round_, part, dataset, ShardRecord(done, index + 1, lost), metadata)
                    self._present(round_, pending[: self.show_episodes] if part == 0 else [])
                    done, part, turns = index + 1, part + 1, turns + len(dataset)
                    pending, lost = [], 0
        return turns

    def _policy(self, epsilon: float) -> Policy:
        settings = {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "label": f"online, epsilon {epsilon:.2f}",
            "mask_invalid_tokens": self._trainer.model.mask_invalid_tokens,
        }
        backbone = self._trainer.model.backbone
        if self.explore_over == "tokens":
            return VLMPolicy(backbone, token_epsilon=epsilon, **settings)
        policy = VLMPolicy(backbone, **settings) if self._served is None else self._served.policy(backbone, **settings)
        return EpsilonGreedyPolicy(policy, epsilon)

    def _present(self, round_: int, episodes: list[Episode]) -> None:
        if episodes and self._trainer.accelerator.is_main_process:
            show_samples(round_, episodes)
            log_samples(round_, episodes, self._trainer.callback_handler.callbacks, self._trainer.state.global_step)

    # ---- Checks ----

    def _check_environments(self) -> None:
        """Before hours of offline training: are they what they should be, and do prompts fit?"""
        backbone = self._trainer.model.backbone
        for name, make in self.envs.items():
            env = environment_maker(make, self.env_kwargs)()
            try:
                check_text_action_env(env, episodes=1, steps=3)
                observation, _ = env.reset(seed=0)
                if self.explore_over == "actions":
                    random_valid_action(env, np.random.default_rng(0))
                prompt = backbone.encode(*self.prompt_builder.build(observation))
                backbone.check_length(prompt, self.max_new_tokens, f"the first prompt of {name}")
            finally:
                env.close()

    def _check_vllm(self) -> None:
        """Before hours of offline training: does the server take the adapter, and read prompts as training does?"""
        self._served.update(self._trainer.model.backbone)
        env = environment_maker(next(iter(self.envs.values())), self.env_kwargs)()
        try:
            prompt, images = self.prompt_builder.build(env.reset(seed=0)[0])
            self._policy(0.0).act([Situation(0, 0, prompt, images, env)])
        finally:
            env.close()

    def _check_folder(self, args, resumed: bool) -> None:
        """The episodes that lie there must be those of this run."""
        builder = self.prompt_builder.to_dict()
        settings: dict[str, Any] = {
            "envs": {name: make if isinstance(make, str) else _name(make) for name, make in self.envs.items()},
            "env_kwargs": {key: repr(value) for key, value in self.env_kwargs.items()},
            "prompt": builder,
            "seed": args.seed,
            "episodes_per_round": self.episodes_per_round,
            "start_epoch": self.start_epoch,
        }
        training = {name: getattr(args, name) for name in _WHAT_MAKES_A_RUN if hasattr(args, name)}
        training |= {"epsilon": repr(self.epsilon), "explore_over": self.explore_over, "temperature": self.temperature}
        settings["training"] = json.loads(json.dumps(training, default=str))
        record = self._shards.folder / "run.json"
        if record.is_file() and self._shards.rounds():
            self._compare(json.loads(record.read_text()), settings, resumed)
        record.write_text(json.dumps(settings, indent=2) + "\n")

    def _compare(self, found: dict[str, Any], settings: dict[str, Any], resumed: bool) -> None:
        pairs = [(key, found.get(key), value) for key, value in settings.items() if key != "training"]
        if not resumed:  # a resumed run may have been given another learning rate on purpose
            there = found["training"]
            pairs += [(key, there.get(key), value) for key, value in settings["training"].items()]
        for key, there, here in pairs:
            if there != here:
                raise ValueError(
                    f"{self._shards.folder} holds the episodes of another run ({key}: {there!r} there, {here!r} here). "
                    "Choose another output_dir, or delete that folder to play anew."
                )
        if not resumed:
            logger.warning(
                "%s holds episodes of this very run, which was cut off before its first checkpoint: they are used "
                "instead of being played again.", self._shards.folder,
            )  # fmt: skip


# Settings of the trainer that decide what the agent does after some steps.
_WHAT_MAKES_A_RUN = (
    "actor_objective", "actor_coef", "actor_normalizer", "advantage_baseline", "critic_coef", "critic_learning_rate",
    "critic_hidden_size", "critic_trunk_gradient", "num_critics", "gamma", "token_gamma", "td_horizon", "reward_scale",
    "target_tau", "filter_beta", "filter_warmup_ratio", "filter_ramp_ratio", "filter_min_explained_variance", "filter_keep_fraction",
    "filter_keep_confident", "segment_length", "segments_per_epoch", "online_share", "online_share_epochs",
    "replay_capacity_turns", "replay_capacity_bytes", "replay_priority", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "max_grad_norm", "optim",
    "max_steps", "num_train_epochs", "bf16", "fp16",
)  # fmt: skip


def _name(make: MakeEnv) -> str:
    return make if isinstance(make, str) else getattr(make, "__name__", type(make).__name__)
