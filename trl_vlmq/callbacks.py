# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Callbacks of the trainer."""

import logging
import signal
import threading

from transformers import TrainerCallback


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
        logger.warning("Interrupted: saving a checkpoint at the end of this step. Press Ctrl-C again to leave at once.")
