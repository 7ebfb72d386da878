# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The agent acts through a vLLM server, which is given its adapter and nothing else."""

import base64
import hashlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, PeftModel
from PIL import Image

from .backbones import Backbone, GeneratedAction
from .episodes import encode_image
from .policies import Situation, VLMPolicy
from .vllm_client import VLLMClient, VLLMError


class ServedAdapter:
    """
    The adapter of a model in training, as a vLLM server last read it.

    It is written beside the run and read from there; base model and critic stay where they are. Each version has a name and a
    folder that were never used before, since the server remembers prompts by them.

    Args:
        client ([`VLLMClient`]):
            The server.
        folder (`str` or `Path`):
            Where versions are written, readable for the server under the same path. What lies there is deleted.
    """

    def __init__(self, client: VLLMClient, folder: str | Path):
        self.client, self.folder = client, Path(folder).absolute()
        # Names of this run begin alike: a run that was killed and goes on has the server forget what it left there.
        self._prefix = f"trl_vlmq-{hashlib.blake2b(str(self.folder).encode(), digest_size=6).hexdigest()}-"
        self._name: str | None = None

    def update(self, backbone: Backbone) -> None:
        """
        Have the server act with these weights from now on. Every process calls this; the first one does it.

        Args:
            backbone ([`Backbone`]):
                The model, whose weights this process holds whole.

        Raises:
            ValueError: if what is trained is not a LoRA adapter alone.
            VLLMError: if the server cannot read it.
        """
        check_adapter(backbone)
        version = [uuid.uuid4().hex[:12]]
        broadcast_object_list(version)
        self._name, path = self._prefix + version[0], self.folder / version[0]
        try:
            if PartialState().is_main_process:
                self._load(backbone, path)
        finally:
            PartialState().wait_for_everyone()  # before the others ask for it; they learn of a failure by asking

    def _load(self, backbone: Backbone, path: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        weights = {name: weight.detach() for name, weight in backbone.model.named_parameters() if "lora_" in name}
        backbone.model.save_pretrained(path, state_dict=weights, save_embedding_layers=False)
        self.client.load_adapter(self._name, str(path))
        for name in self.client.models():
            if name.startswith(self._prefix) and name != self._name:
                self.client.unload_adapter(name)

    def policy(self, backbone: Backbone, **settings: Any) -> "VLLMPolicy":
        """Who acts with the version of the moment; `settings` as [`VLLMPolicy`] takes them."""
        return VLLMPolicy(backbone, self.client, self._name, **settings)


def check_adapter(backbone: Backbone) -> None:
    """
    Can a vLLM server be given what is trained here?

    Raises:
        ValueError: if what is trained is not a LoRA adapter alone.
    """
    config = backbone.model.active_peft_config if isinstance(backbone.model, PeftModel) else None
    if not isinstance(config, LoraConfig):
        raise ValueError(
            "vLLM is given a LoRA adapter, and this model has none: pass a peft_config, or play without vllm."
        )
    for name, value in (
        ("modules_to_save", config.modules_to_save),
        ("bias", config.bias != "none"),
        ("use_dora", config.use_dora),
    ):
        if value:
            raise ValueError(
                f"vLLM does not take adapters with {name}={getattr(config, name)!r}: leave it at its default."
            )


class VLLMPolicy(VLMPolicy):
    """A [`VLMPolicy`] on a vLLM server: one request a turn, as many at once as there are environments.

    Args:
        backbone ([`Backbone`]):
            The same model here. It gives tokens and templates, and acts on nothing.
        client ([`VLLMClient`]):
            The server.
        model (`str`):
            Name of the model or adapter there.
        temperature (`float`, *optional*, defaults to `0.0`):
            0 is greedy.
        max_new_tokens (`int`, *optional*, defaults to `32`):
            Limit of an action's length.
        label (`str`, *optional*, defaults to `"policy"`):
            Behaviour label of its episodes.
        mask_invalid_tokens (`bool`, *optional*, defaults to `True`):
            Never sample padded rows of the head or image tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        client: VLLMClient,
        model: str,
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        label: str = "policy",
        mask_invalid_tokens: bool = True,
    ):
        super().__init__(backbone, temperature, max_new_tokens, label, mask_invalid_tokens)
        self.client, self.model = client, model
        forbidden = (~backbone.valid_token_mask()).nonzero()[:, 0].tolist() if mask_invalid_tokens else []
        vocabulary = backbone.config.get_text_config().vocab_size  # vLLM's logits end there
        self._bias = {str(token): -100.0 for token in forbidden if token < vocabulary}
        self._checked = False

    def act(self, situations: Sequence[Situation]) -> list[GeneratedAction]:
        with ThreadPoolExecutor(max_workers=max(1, len(situations))) as threads:
            answers = list(threads.map(self.client.chat, map(self._request, situations)))
        if not self._checked and situations:
            self._check_prompt(situations[0], answers[0])
            self._checked = True
        return [self._action(answer["choices"][0]) for answer in answers]

    def _request(self, situation: Situation) -> dict[str, Any]:
        images = iter(situation.images)
        seed = np.random.SeedSequence([situation.seed, situation.turn, 5]).generate_state(1)[0]
        request = {
            "model": self.model,
            "messages": [
                message
                if isinstance(message["content"], str)
                else {**message, "content": [_part(part, images) for part in message["content"]]}
                for message in situation.prompt
            ],
            "max_completion_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": int(seed),
            # What a checkpoint's generation_config would otherwise set: the policy is the model's logits and nothing else.
            "top_p": 1.0, "top_k": 0, "min_p": 0.0,
            "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "stop_token_ids": self.backbone.stop_token_ids,
            "logprobs": True,
            "return_token_ids": True,
        }  # fmt: skip
        return request | ({"logit_bias": self._bias} if self._bias else {})

    def _check_prompt(self, situation: Situation, answer: dict[str, Any]) -> None:
        """The critic learns of states that this process encodes: the server's must be the same."""
        here = self.backbone.encode(situation.prompt, situation.images).tokens["input_ids"].tolist()
        there = answer.get("prompt_token_ids")
        if there is None:
            raise VLLMError(
                f"{self.client.base_url} does not return token ids, as newer versions of vLLM do: update it."
            )
        if here != there:
            place = next(
                (i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), min(len(here), len(there))
            )
            decode = self.backbone.tokenizer.decode
            raise VLLMError(
                f"The server reads a prompt otherwise than training does: {len(there)} tokens there, {len(here)} here, apart "
                f"from token {place} on ({decode(there[place : place + 8])!r} there, {decode(here[place : place + 8])!r} here). "
                "Serve the checkpoint that is trained, with its own chat template and image processor."
            )

    def _action(self, choice: dict[str, Any]) -> GeneratedAction:
        ids = list(choice["token_ids"])
        stopped = bool(ids) and ids[-1] in self.backbone.stop_token_ids
        logp = sum(token["logprob"] for token in choice["logprobs"]["content"])
        return GeneratedAction(self.backbone.decode(ids), ids, stopped, logp)


def _part(part: dict[str, Any], images: Iterator[Image.Image]) -> dict[str, Any]:
    """A part of a message as the API wants it."""
    if part["type"] != "image":
        return {"type": "text", "text": part["text"]}
    png = base64.b64encode(encode_image(next(images))).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}
