# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Callbacks of the trainer."""

import logging
import signal
import threading
from collections.abc import Callable

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback

from .evaluation import EvaluationResult
from .policies import VLMPolicy


logger = logging.getLogger(__name__)


class InterruptCallback(TrainerCallback):
    """Turns the first Ctrl-C into a checkpoint at the end of the current step; the second one interrupts at once."""

    def __init__(self):
        self.interrupted = False
        self._previous = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.interrupted = False
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)

    def on_step_end(self, args, state, control, **kwargs):
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self.restore()

    def restore(self) -> None:
        """Give Ctrl-C back to whoever had it before training."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, signum, frame):
        if self.interrupted:
            self.restore()
            raise KeyboardInterrupt
        self.interrupted = True
        logger.warning(
            "Interrupted: saving a checkpoint at the end of this step. Press Ctrl-C again to leave at once."
        )


class PolicyEvaluationCallback(TrainerCallback):
    """Plays held-out episodes every so many optimiser steps, logs the outcome and keeps it for a learning curve.

    The first process plays, the others wait for it.

    Args:
        evaluate (`Callable[..., EvaluationResult]`):
            Plays the episodes of its argument `policy`, e.g. a partial of [`evaluate_policy`].
        policy ([`VLMPolicy`]):
            Acts with the model that is being trained.
        every_steps (`int`):
            Optimiser steps between evaluations; the untrained policy and the last step are evaluated as well.
    """

    def __init__(self, evaluate: Callable[..., EvaluationResult], policy: VLMPolicy, every_steps: int):
        self.evaluate = evaluate
        self.policy = policy
        self.every_steps = every_steps
        self.curve: list[tuple[int, float, float, float]] = []  # step, success rate and its 95% interval

    def attach(self, trainer: Trainer) -> None:
        """Called by [`AFSFTTrainer`] when the callback is added to it."""
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._play(state)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every_steps == 0 or state.global_step == state.max_steps:
            self._play(state)

    def _play(self, state) -> None:
        with self._trainer.unsharded():
            if state.is_world_process_zero and not (self.curve and self.curve[-1][0] == state.global_step):
                self._add_point(state)
        self._trainer.accelerator.wait_for_everyone()

    def _add_point(self, state) -> None:
        result = self.evaluate(policy=self.policy)
        self.curve.append((state.global_step, result.success_rate, *result.success_interval))
        low, high = result.success_interval
        state.log_history.append(
            {
                "step": state.global_step,
                "policy_success_rate": result.success_rate,
                "policy_success_low": low,
                "policy_success_high": high,
                "policy_episodes": len(result.success),
                "policy_syntax_accuracy": result.syntax_accuracy,
                "policy_return": float(result.returns.mean()),
                "policy_length": float(result.lengths.mean()),
            }
        )
        tqdm.write(
            f"step {state.global_step}: success {result.success_rate:.1%} ({low:.1%} to {high:.1%}), "
            f"syntax {result.syntax_accuracy:.1%}"
        )


class StepHooks(TrainerCallback):
    """Calls the trainer before and after the optimiser's step, where no method of Trainer can be overridden."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._trainer.train_dataset.begin_epoch(int(state.epoch + 1e-6))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._trainer._guard.check_gradients()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._trainer._after_optimizer_step()
