# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A loss or gradient that is not finite stops training before it spoils the weights."""

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the state before it has been saved, if that one is finite."""


class FiniteGuard:
    """Looks at the losses and gradients of an optimiser step, and remembers the rows that they come from.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer. Its `train_dataset` describes rows; a state that is still good goes into its `output_dir`.
    """

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._rows: list[torch.Tensor] = []

    def forget(self) -> None:
        """The step is over, or a new training begins."""
        self._rows.clear()

    def check_loss(self, loss: torch.Tensor, rows: torch.Tensor) -> None:
        """
        Called once per micro-batch.

        Args:
            loss (`torch.Tensor`):
                Loss of the micro-batch, scalar.
            rows (`torch.Tensor`):
                Its rows of the dataset, int64 [B].

        Raises:
            NonFiniteLossError: on every process, if the loss of any is not finite.
        """
        self._rows.append(rows)
        finite = torch.isfinite(loss)
        # All processes stop together; one that raised alone would leave the others waiting for it.
        if not self._trainer.accelerator.gather(finite.reshape(1)).all():
            self._stop("loss", rows[:0] if finite else rows)

    def check_gradients(self) -> None:
        """
        Called before the optimiser's step.

        Raises:
            NonFiniteLossError: if a gradient is not finite.
        """
        if self._trainer.accelerator.scaler is not None:
            return  # float16: overflows are part of the scaler's search, and it skips their steps
        gradients = [p.grad for p in self._trainer.model.parameters() if p.grad is not None]
        if gradients and not torch.isfinite(nn.utils.get_total_norm(gradients)):
            self._stop("gradient", torch.cat(self._rows))

    def _stop(self, what: str, rows: torch.Tensor) -> None:
        trainer = self._trainer
        folder, step = trainer.args.output_dir, trainer.state.global_step
        if all(p.isfinite().all() for p in trainer.model.parameters() if p.requires_grad):
            trainer._save_checkpoint(trainer.model, trial=None)
            saved = f"The state before it is saved in {folder}/checkpoint-{step}."
        else:
            saved = "The weights had gone bad before it, so they are not saved; go on from an earlier checkpoint."
        rows = gather_object(rows.tolist())
        named = ", ".join(trainer.train_dataset.describe(row) for row in rows[:8])
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        raise NonFiniteLossError(
            f"The {what} of step {step + 1} is not finite; its batch: {named}{more}. {saved} Look at "
            "these rows (rewards, image contents), lower learning_rate or reward_scale, or train in float32."
        )
