# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Signs of a training that goes wrong, watched while it runs: each is a warning that names the cure. Ours.

Every sign is a function of what has been logged so far; [`FailureSignatureCallback`] says it once. They follow the failure
signatures that the paper's readers ask about.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import TrainerCallback

from .replay import ReplayBuffer


logger = logging.getLogger(__name__)

# Falls of a success rate that a few hundred episodes can tell from noise.
FALL, DIP = 0.15, 0.1
LOW_SYNTAX = 0.9
RECENT = 3  # log entries that must agree
WATCHED = {
    "critic_loss", "kept_unsure_choice", "policy_success_rate", "policy_syntax_accuracy", "q_p10", "q_p90",
    "rollout_success", "rollout_syntax_accuracy",
}  # fmt: skip


@dataclass
class History:
    """What the signs look at.

    Args:
        metrics (`dict[str, list[tuple[int, float]]]`): name of each metric of the trainer's log -> (step, value), oldest first.
        filter_started (`int`, *optional*): step at which the filter started; `None` before.
        filter_closed (`bool`, *optional*, defaults to `False`): whether its ramp is over.
        return_range (`tuple[float, float]`, *optional*): least and greatest return that the rewards allow, scaled.
        second_half (`bool`, *optional*, defaults to `False`): whether more than half of the training is over.
    """

    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    filter_started: int | None = None
    filter_closed: bool = False
    return_range: tuple[float, float] | None = None
    second_half: bool = False

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric."""
        found = self.metrics.get(name, [])
        return [step for step, _ in found], [value for _, value in found]

    def recent(self, name: str) -> list[tuple[int, float]]:
        """The newest values that must agree; fewer, and so nothing to say, at the beginning."""
        return self.metrics.get(name, [])[-RECENT:]


def critic_says_nothing(history: History) -> str | None:
    """The critic's loss is flat while success falls: the filter follows noise."""
    steps, success = history.series("policy_success_rate")
    if history.filter_started is None or len(success) < 2:
        return None
    best = int(np.argmax(success))
    fall = success[best] - success[-1]
    losses = [loss for step, loss in zip(*history.series("critic_loss"), strict=True) if step > steps[best]]
    if fall < FALL or len(losses) < 4:
        return None
    early, late = np.mean(losses[: len(losses) // 2]), np.mean(losses[len(losses) // 2 :])
    if abs(late - early) > 0.1 * early:
        return None
    return (
        f"Success fell from {success[best]:.0%} (step {steps[best]}) to {success[-1]:.0%} while the critic's loss stays at "
        f"{late:.3g}: the filter may be following noise. Give the critic longer (filter_warmup_ratio, "
        "filter_min_explained_variance), a larger filter_keep_fraction, or more data; look at eval_explained_variance and "
        "trl_vlmq.diagnostics.rank_actions."
    )


def syntax_is_low(history: History) -> str | None:
    """Actions do not parse although the time to learn it is over."""
    names = ("policy_syntax_accuracy", "rollout_syntax_accuracy")
    newest = max((history.metrics[name][-1] for name in names if name in history.metrics), default=None)
    late = history.filter_closed or history.second_half
    if not late or newest is None or newest[1] >= LOW_SYNTAX:
        return None
    return (
        f"Only {newest[1]:.0%} of the actions are valid (step {newest[0]}). Make invalid actions cost something "
        "(invalid_penalty of the environment), keep confident tokens (filter_keep_confident below 1), train longer "
        "before the filter starts (filter_warmup_ratio), or see to it that the data holds valid actions; kept_syntax tells "
        "whether the filter drops them."
    )


def q_is_impossible(history: History) -> str | None:
    """Q lies outside of the returns that the data's rewards allow."""
    if history.return_range is None:
        return None
    low, high = history.return_range
    margin = 0.1 * (high - low)
    p10, p90 = ([value for _, value in history.recent(name)] for name in ("q_p10", "q_p90"))
    if len(p90) < RECENT:
        return None
    if min(p90) > high + margin or max(p10) < low - margin:
        step, _ = history.recent("q_p90")[-1]
        return (
            f"Q lies at {p10[-1]:.3g} to {p90[-1]:.3g} (p10 to p90, step {step}), but the rewards of the logs allow "
            f"returns from {low:.3g} to {high:.3g} only (scaled and discounted): the critic diverges. Lower "
            "critic_learning_rate, target_tau or gamma."
        )
    return None


def filter_keeps_all_or_nothing(history: History) -> str | None:
    """The closed filter does not choose."""
    recent = history.recent("kept_unsure_choice")
    if not history.filter_closed or len(recent) < RECENT:
        return None
    step, kept = recent[-1][0], [value for _, value in recent]
    if max(kept) < 0.005:
        return (
            f"The filter keeps none of the choices that the policy is not sure of (step {step}): nothing is learned "
            "from them any more. Lower filter_beta or set filter_keep_fraction above 0."
        )
    if min(kept) > 0.995:
        return (
            f"The filter keeps all of the choices that the policy is not sure of (step {step}), as SFT would: the "
            "critic finds no difference between them. Look at advantage_choice_std; raise reward_scale or "
            "filter_beta, lower filter_keep_fraction, or train the critic longer."
        )
    return None


def online_dip(history: History) -> str | None:
    """Success falls when the agent's own episodes come in."""
    rounds, _ = history.series("rollout_success")
    steps, success = history.series("policy_success_rate")
    before = [value for step, value in zip(steps, success, strict=True) if rounds and step <= rounds[0]]
    after = [(step, value) for step, value in zip(steps, success, strict=True) if rounds and step > rounds[0]]
    if not before or not after or before[-1] - after[-1][1] < DIP:
        return None
    return (
        f"Success fell from {before[-1]:.0%} before the switch to online to {after[-1][1]:.0%} (step {after[-1][0]}). Lower "
        "online_share (0.1 cured it in our stress test), epsilon or the learning rate, or begin with more logs."
    )


SIGNS: tuple[Callable[[History], str | None], ...] = (
    critic_says_nothing, syntax_is_low, q_is_impossible, filter_keeps_all_or_nothing, online_dip,
)  # fmt: skip


def possible_returns(
    reward: Sequence[float], terminated: Sequence[bool], longest: int, gamma: float
) -> tuple[float, float]:
    """
    The least and the greatest discounted return of episodes of at most `longest` turns whose rewards are like these.

    Args:
        reward (`Sequence[float]`):
            Rewards of turns.
        terminated (`Sequence[bool]`):
            Whether each of them ended its task: such a reward comes once, the others may come again and again.
        longest (`int`):
            Most turns of an episode.
        gamma (`float`):
            Discount of a turn.
    """
    reward, terminated = np.asarray(reward, dtype=np.float64), np.asarray(terminated, dtype=bool)
    bounds = []
    for extreme in (np.min, np.max):
        again = extreme(reward[~terminated], initial=0.0)
        last = extreme(reward[terminated], initial=0.0)
        before = again * np.cumsum(np.concatenate([[0.0], gamma ** np.arange(longest)]))
        bounds.append(float(extreme(np.concatenate([before, before[:-1] + last * gamma ** np.arange(longest)]))))
    return bounds[0], bounds[1]


class FailureSignatureCallback(TrainerCallback):
    """Warns, once each, of the signs in `SIGNS`. [`AFSFTTrainer`] has one.

    Args:
        logs ([`ReplayBuffer`], *optional*):
            Training data, whose rewards say what Q can be.

    Attributes:
        warnings (`dict[str, str]`):
            Name of each sign that was seen -> what was said.
    """

    def __init__(self, logs: ReplayBuffer | None = None):
        self.logs = logs
        self.warnings: dict[str, str] = {}
        self._return_range: tuple[float, float] | None = None
        self._metrics: dict[str, list[tuple[int, float]]] = {}
        self._read = 0  # entries of the log

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.warnings.clear()
        self._metrics.clear()
        self._read = 0
        if self.logs is not None and len(self.logs.logged("reward")):
            reward, terminated, turn = (self.logs.logged(name) for name in ("reward", "terminated", "turn"))
            low, high = possible_returns(reward, terminated, int(turn.max()) + 1, model.objective.gamma)
            self._return_range = model.objective.reward_scale * low, model.objective.reward_scale * high

    def on_log(self, args, state, control, model=None, **kwargs):
        if model.critic is None or not state.is_world_process_zero:
            return
        for entry in state.log_history[self._read :]:  # each once: a long run has many
            for name in WATCHED & entry.keys():
                self._metrics.setdefault(name, []).append((entry["step"], entry[name]))
        self._read = len(state.log_history)
        progress = state.global_step / max(1, state.max_steps)
        started = model.filter_state.started
        history = History(
            metrics=self._metrics,
            filter_started=None if started is None else math.ceil(started * state.max_steps),
            filter_closed=started is not None and progress > started + args.filter_ramp_ratio,
            return_range=self._return_range,
            second_half=progress > 0.5,
        )
        for sign in SIGNS:
            if sign.__name__ not in self.warnings and (warning := sign(history)) is not None:
                self.warnings[sign.__name__] = warning
                logger.warning("%s: %s", sign.__name__.replace("_", " "), warning)
