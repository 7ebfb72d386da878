# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A trained agent goes to the Hub: with its card, its critic, and nothing lost if the Hub does not take it."""

import logging
import shutil
from pathlib import Path

import huggingface_hub
from peft import PeftModel
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from .hub import hub_errors
from .model_card import agent_facts, build_model_card
from .schedules import FILTER_STATE


logger = logging.getLogger(__name__)

# What of a checkpoint is the agent; the rest is there to go on from.
AGENT_FILES = (
    "adapter_*",
    "model*",
    "config.json",
    "generation_config.json",
    "critic*",
    FILTER_STATE,
    "training_args.json",
)


class PushesAgents:
    """The part of [`AFSFTTrainer`] that uploads; goes before [`~transformers.Trainer`]."""

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write README.md into the output folder; called by `push_to_hub`.

        Args:
            model_name (`str`, *optional*):
                Name of the agent; by default that of the output folder.
            dataset_name (`str`, *optional*):
                Hub id of the logs.
            tags (`str` or `list[str]`, *optional*):
                Tags beside `trl_vlmq` and `vlm-q-learning`.
        """
        if not self.is_world_process_zero():
            return
        facts = agent_facts(self, model_name, dataset_name, [tags] if isinstance(tags, str) else tags or [])
        build_model_card(facts).save(Path(self.args.output_dir, "README.md"))

    def push_to_hub(self, *args, **kwargs):
        """Save the agent and upload it with its card; see [`~transformers.Trainer.push_to_hub`].

        Args:
            args, kwargs:
                Those of [`~transformers.Trainer.push_to_hub`] and of `create_model_card`.

        Raises:
            HubError: if the Hub does not take it. It has been saved in the output folder before.
        """
        self.save_model(_internal_call=True)  # first of all: making the repository may fail, too
        folder, repo = self.args.output_dir, self._repo()
        if isinstance(self.model.model, PeftModel):
            base = self.model.model.active_peft_config.base_model_name_or_path
            if base and Path(base).is_dir():
                logger.warning(
                    "The adapter names the folder %s as its base, which nobody else has: push that model, too, and write its "
                    "id into base_model_name_or_path of adapter_config.json.", base,
                )  # fmt: skip
        kept = (
            f"The agent lies whole in {folder}: call trainer.push_to_hub() again, or `hf upload {repo} {folder} "
            "--exclude 'checkpoint-*/*'`."
        )
        with hub_errors("Uploading the agent to", repo, kept=kept):
            return super().push_to_hub(*args, **kwargs)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, if there is none; see [`~transformers.Trainer.init_hf_repo`].

        Raises:
            HubError: if the Hub refuses.
        """
        with hub_errors("Making the repository", self._repo()):
            super().init_hf_repo(token=token, private=private)

    def _repo(self) -> str:
        return self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the agent of a checkpoint while training goes on.

        Trainer's own leaves the critic behind, and uploads a pickle of the arguments, the token among them.
        """
        args = self.args
        if not self.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None:
            if not self.push_in_progress.is_done() and not args.hub_always_push:
                return
            self._finish_current_push()
        self.callback_handler.on_push_begin(args, self.state, self.control)
        for pattern in AGENT_FILES:
            for file in Path(checkpoint_folder).glob(pattern):
                shutil.copy(file, args.output_dir)
        self.processing_class.save_pretrained(args.output_dir)
        self.create_model_card(model_name=self.hub_model_id.split("/")[-1])
        upload = {
            "repo_id": self.hub_model_id, "token": args.hub_token, "revision": args.hub_revision, "run_as_future": True,
            "commit_message": f"Training in progress, step {self.state.global_step}",
        }  # fmt: skip
        patterns = ["_*", "checkpoint-*"]
        jobs = [huggingface_hub.upload_folder(folder_path=args.output_dir, ignore_patterns=patterns, **upload)]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if args.hub_strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            jobs.append(huggingface_hub.upload_folder(folder_path=checkpoint_folder, path_in_repo=name, **upload))
        self.push_in_progress = PushInProgress(jobs)

    def _finish_current_push(self) -> None:
        """Wait for the uploads of a checkpoint; one that failed does not end a training."""
        super()._finish_current_push()
        push, self.push_in_progress = getattr(self, "push_in_progress", None), None
        for job in push.jobs if push is not None else ():
            try:
                with hub_errors("Uploading a checkpoint to", self.hub_model_id):
                    job.result()
            except Exception as error:
                logger.warning("%s Training goes on; the next upload brings what is missing.", error)
