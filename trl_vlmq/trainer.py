# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""AFSFTTrainer: VLM Q-Learning on logs of episodes."""

import json
import logging
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin, Trainer, TrainerCallback
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from .actor_critic import VLMActorCritic
from .averaging import WeightAverage
from .building import build_actor_critic, build_buffer
from .callbacks import InterruptCallback, PolicyEvaluationCallback, StepHooks
from .checkpoints import newest_checkpoint
from .collator import TokenTDCollator
from .config import AFSFTConfig
from .hardware import ReturnFreeMemory
from .launch import refuse_data_parallel, refuse_empty_saves
from .non_finite import FiniteGuard
from .online import OnlineRolloutCallback
from .pushing import PushesAgents
from .replay import ReplayBuffer
from .schedules import FILTER_STATE, FilterState
from .sharding import gather_for, gathered_for_generation, load_fsdp_optimizer, prepare_for_fsdp
from .signatures import FailureSignatureCallback
from .token_metrics import explained_variance, summarise_tokens, token_columns


logger = logging.getLogger(__name__)


class AFSFTTrainer(PushesAgents, Trainer):
    """
    Trainer for VLM Q-Learning: a token-level critic learns by temporal differences, and the actor imitates only the
    tokens whose value beats its own average (advantage-filtered SFT; arXiv 2505.03181).

    Example:

    ```python
    from datasets import load_dataset
    from peft import LoraConfig
    from trl_vlmq import AFSFTConfig, AFSFTTrainer

    trainer = AFSFTTrainer(
        model="HuggingFaceTB/SmolVLM-256M-Instruct",
        args=AFSFTConfig(output_dir="agent"),
        train_dataset=load_dataset("parquet", data_files="episodes.parquet", split="train"),
        peft_config=LoraConfig(r=16),
    )
    trainer.train()
    ```

    Args:
        model (`str`, `Path`, [`~transformers.PreTrainedModel`], [`~peft.PeftModel`] or [`VLMActorCritic`]):
            Model to train: a Hub id or folder of a base model or of an adapter that this trainer saved (its critic is
            loaded as well), or a loaded model.
        args ([`AFSFTConfig`], *optional*):
            Configuration; defaults to `AFSFTConfig("afsft_output")`.
        train_dataset ([`~datasets.Dataset`], *optional*):
            One row per turn, as the dataset page describes. It is validated before anything else happens.
        eval_dataset ([`~datasets.Dataset`], *optional*):
            Held-out episodes for held-out losses.
        processing_class ([`~transformers.ProcessorMixin`] or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            Processor; needed if `model` is a loaded model, else loaded with it.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Adapter to train. Without `target_modules` it covers the linear layers of the language model and spares
            the vision tower. `None` trains whatever parameters of the model require gradients.
        callbacks (`list[~transformers.TrainerCallback]`, *optional*):
            Further callbacks.
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            Optimiser and learning-rate scheduler.

    Raises:
        EpisodeValidationError: names row, column and cure of what is wrong with the data.
        ValueError: if a prompt does not fit into the context, the model has no language head, or the adapter sits on
            the language head.
        NonFiniteLossError: during training, after saving the last good state.
    """

    # compute_loss divides by the action tokens of the whole accumulation window.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | os.PathLike | PreTrainedModel | VLMActorCritic,
        args: AFSFTConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: ProcessorMixin | PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        args = args if args is not None else AFSFTConfig("afsft_output")
        refuse_data_parallel(args)
        actor_critic = build_actor_critic(model, args, processing_class, peft_config)
        backbone = actor_critic.backbone
        self._interrupt = InterruptCallback()
        self._guard = FiniteGuard(self)
        self._hooks = StepHooks(self)
        evals = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
        evals = {name: build_buffer(data, name, actor_critic, args) for name, data in evals.items()}
        on_cpu = [ReturnFreeMemory()] if args.device.type == "cpu" else []
        super().__init__(
            model=actor_critic,
            args=args,
            data_collator=TokenTDCollator(backbone, with_bootstrap=actor_critic.objective.needs_critic),
            train_dataset=build_buffer(train_dataset, "train_dataset", actor_critic, args),
            eval_dataset=evals if isinstance(eval_dataset, dict) else evals["eval_dataset"],
            processing_class=backbone.processor,
            callbacks=[*(callbacks or []), self._interrupt, self._hooks, *on_cpu],
            optimizers=optimizers,
        )
        refuse_empty_saves(self.accelerator)
        prepare_for_fsdp(self.model, self.accelerator)
        gather_for(self.model.head_reader, self.model.head_weights)
        self.add_callback(FailureSignatureCallback(self.train_dataset))
        for callback in self.callback_handler.callbacks:
            self._attach(callback)
        # The collator's labels are aligned with the states; action tokens of the window are counted from them.
        self.model_accepts_loss_kwargs = True
        self.label_names = ["labels"]
        self.filter_schedule = args.filter_schedule()
        self._log_tokens: list[torch.Tensor] = []
        self._eval_tokens: list[torch.Tensor] = []
        self._window: list[torch.Tensor] = []
        self._last_log_time = time.perf_counter()

    def add_callback(self, callback) -> None:
        """See [`~transformers.Trainer.add_callback`]."""
        super().add_callback(callback)
        added = self.callback_handler.callbacks[-1]
        if isinstance(added, OnlineRolloutCallback):
            self.callback_handler.callbacks.remove(self._hooks)
            self.callback_handler.callbacks.append(self._hooks)  # an epoch begins once its episodes are there
        self._attach(added)

    def _attach(self, callback: TrainerCallback) -> None:
        """Callbacks of this package know their trainer."""
        if isinstance(callback, OnlineRolloutCallback):
            self._prepare_for_online(callback)
        if isinstance(callback, (OnlineRolloutCallback, PolicyEvaluationCallback)):
            callback.attach(self)

    def _prepare_for_online(self, callback: OnlineRolloutCallback) -> None:
        if not self.model.objective.needs_critic:
            logger.warning("actor_objective='sft' with critic_coef=0 imitates the agent's own episodes, good and bad.")
        if self.train_dataset is None:
            if callback.start_epoch:
                raise ValueError(
                    f"There are no logs to train on before start_epoch={callback.start_epoch}: pass train_dataset, or "
                    "leave start_epoch at 0."
                )
            self.train_dataset = ReplayBuffer(None, **self.args.replay_kwargs())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model) if model is not None else super().create_optimizer()
        if self.args.critic_learning_rate is not None and self.model.critic is not None:
            critic = {id(p) for p in self.model.critic.parameters()}
            for group in list(optimizer.param_groups):
                moved = [p for p in group["params"] if id(p) in critic]
                if moved:
                    group["params"] = [p for p in group["params"] if id(p) not in critic]
                    settings = {k: v for k, v in group.items() if k != "params"}
                    optimizer.add_param_group({**settings, "params": moved, "lr": self.args.critic_learning_rate})
        return optimizer

    # ---- Training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Main training entry point; see [`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint, or `True` for the newest complete one in the output folder.

        Raises:
            KeyboardInterrupt: after Ctrl-C, once a checkpoint has been saved.
        """
        if self.train_dataset is None:
            raise ValueError("There is nothing to train on: pass `train_dataset` or an OnlineRolloutCallback.")
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir} to go on from.")
        self.model.filter_state = FilterState()  # of this run; a checkpoint brings its own
        self.model.backbone.trainability_changed()  # who made the trainer may have frozen or thawed weights since
        self._average = WeightAverage(self.model)
        self._last_log_time = time.perf_counter()
        self._log_tokens.clear()
        self._window.clear()
        self._guard.forget()
        try:
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self._interrupt.restore()
        state, gate = self.model.filter_state, self.args.filter_min_explained_variance
        if self.model.critic is not None and gate is not None and state.started is None:
            logger.warning(
                "The filter never started: the critic explains %.2f of its targets' variance, "
                "filter_min_explained_variance=%s. Train longer, or look at what the model can see.",
                state.explained_variance, gate,
            )  # fmt: skip
        if self._interrupt.interrupted:
            folder = os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")
            if not os.path.isdir(folder):  # the last step was over, or save_total_limit kept only the best model
                self._save_checkpoint(self.model, trial=None)
            raise KeyboardInterrupt(f"Saved {folder}; go on with trainer.train(resume_from_checkpoint=True).")
        if not self.args.load_best_model_at_end:
            self._average.apply()
        return result

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ):
        with self.accelerator.autocast():  # FSDP2 does not bring its own
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = outputs["loss"]
        if model.training:
            self._guard.check_loss(loss, inputs["row"])
            self._window.append(outputs["tokens"])
            self._note_td_errors(inputs, outputs["tokens"])
        else:
            # With the batch's loss beside each of its tokens, the mean over all tokens is the loss of all tokens.
            batch_loss = loss.detach().float().expand(len(outputs["tokens"]), 1)
            self._eval_tokens.append(torch.cat([outputs["tokens"], batch_loss], dim=1).cpu())
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _note_td_errors(self, inputs: dict, tokens: torch.Tensor) -> None:
        if self.args.replay_priority != "td_error" or self.model.critic is None:
            return
        column = token_columns(tokens)
        lengths = (inputs["labels"] != -100).sum(1).tolist()
        errors = [part.mean().item() for part in (column["q"] - column["target"]).abs().split(lengths)]
        self.train_dataset.record_td_errors(inputs["row"].cpu().numpy(), np.asarray(errors))

    def _after_optimizer_step(self) -> None:
        """Target critic, filter and the weights' mean move once per optimiser step, not per micro-batch."""
        tokens = self._gather(torch.cat(self._window))
        self._window.clear()
        self._guard.forget()
        self._log_tokens.append(tokens)
        progress = (self.state.global_step + 1) / self.state.max_steps
        if progress > 1 - self.args.weight_averaging_ratio:
            self._average.update()
        if self.model.critic is None:
            return
        self.model.target_critic.update(self.model.critic, self.args.target_tau)
        column = token_columns(tokens)
        unsure = column["confident"] == 0
        kept_unsure = column["kept"][unsure].mean().item() if unsure.any() else 1.0
        self.model.filter_state.update(
            self.filter_schedule,
            progress,
            column["advantage"][unsure],
            column["kept"].mean().item(),
            kept_unsure,
            explained_variance(column["q"], column["target"]),
        )

    def _gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Rows of all processes."""
        if self.accelerator.num_processes == 1:
            return tokens
        padded = self.accelerator.pad_across_processes(tokens, dim=0, pad_index=float("nan"))
        gathered = self.accelerator.gather(padded)
        return gathered[~gathered.isnan().all(1)]

    def unsharded(self) -> AbstractContextManager[None]:
        """All weights on every process, to play or to look at them; more than nothing under ZeRO-3 and FSDP2.

        Every process enters and leaves together; inside, they need not wait for each other.
        """
        return gathered_for_generation(self.model_wrapped, self.accelerator)

    # ---- Metrics ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._log_tokens:
            tokens = torch.cat(self._log_tokens)
            self._log_tokens.clear()
            now = time.perf_counter()
            logs |= summarise_tokens(tokens, self.model.critic is not None)
            logs["action_tokens_per_second"] = len(tokens) / (now - self._last_log_time)
            self._last_log_time = now
            if self.model.critic is not None:
                logs["beta"] = self.model.filter_state.beta
                logs["kept_share"] = self.model.filter_state.kept_share
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix: str = "eval", **kwargs):
        """Held-out losses and values over all action tokens of the dataset, beside the Trainer's own metrics."""
        self._eval_tokens.clear()
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        tokens = self._gather(torch.cat(self._eval_tokens).to(self.args.device))
        self._eval_tokens.clear()
        metrics = summarise_tokens(tokens[:, :-1], self.model.critic is not None)
        metrics["loss"] = tokens[:, -1].double().mean().item()  # the Trainer's own counts every batch alike
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    # ---- Saving ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder, state_dict)
        self.processing_class.save_pretrained(folder)
        (folder / FILTER_STATE).write_text(json.dumps(self.model.filter_state.to_dict(), indent=2) + "\n")
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n")

    def _save_rng_state(self, output_dir: str) -> None:
        """What every process saves; `trainer_state.json` is written after it and makes the checkpoint complete."""
        super()._save_rng_state(output_dir)
        save_file(self.train_dataset.state_dict(), Path(output_dir, f"replay_{self.args.process_index}.safetensors"))
        self._average.save(output_dir, write=self.args.should_save)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.model.load_weights(resume_from_checkpoint)
        self._load_progress(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str) -> None:
        if self.is_fsdp_enabled:
            load_fsdp_optimizer(checkpoint, self.model, self.optimizer, self.lr_scheduler)
            return
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.is_deepspeed_enabled:  # it has read the weights by itself, and what is ours is still to be read
            self._load_progress(checkpoint)

    def _load_progress(self, folder: str) -> None:
        """Filter, mean of the weights and replay buffer, as they were."""
        self._average.load(folder)
        self.model.filter_state = FilterState(**json.loads(Path(folder, FILTER_STATE).read_text()))
        replay = Path(folder, f"replay_{self.args.process_index}.safetensors")
        if replay.is_file():  # not if there were fewer processes then
            self.train_dataset.load_state_dict(load_file(replay))

    def _load_best_model(self) -> None:
        if self._interrupt.interrupted:
            return  # training is not over: what it goes on from is the newest state
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
            self._load_progress(self.state.best_model_checkpoint)
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)
